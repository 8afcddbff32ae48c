//! Sends the metrics to a collector, by OTLP over HTTP or gRPC.
//!
//! Invariants: one request at a time, with a limit of time; none is kept and sent again, because the next one has all counts since the
//! start; what fails is counted in the metrics themselves, those of Prometheus too; the headers are read for each request and are not
//! logged.

mod grpc;

use super::{families::Families, otlp, server::Scraped};
use crate::{
    config::{self, Protocol, Wrong},
    notify::http::{self, Read, Url},
    secret::Secret,
};
use anyhow::{Context, Result, ensure};
use hyper::{
    body::Bytes,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use prost::Message;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::ClientConfig;

/// An answer of the collector is waited for as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is quoted of an answer, in characters.
const QUOTED: usize = 200;
/// Headers that say how a request is sent: the gateway sets them, or does not send them.
const OWN: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
];
/// Where OTLP takes metrics, if the endpoint names no path.
const PATH: &str = "/v1/metrics";

/// What came of the requests.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    unclear: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    last_s: AtomicU64,
}

impl Counts {
    /// Adds them.
    pub fn add(&self, families: &mut Families) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let help = "Requests with metrics that were sent to the collector, by result.";
        let mut pushes = families.counters("failsafe_gateway_otlp_pushes_total", help);
        pushes.with(&[("result", "taken")], of(&self.sent));
        pushes.with(&[("result", "unclear")], of(&self.unclear));
        pushes.with(&[("result", "failed")], of(&self.failed));
        drop(pushes);
        let help = "Values that the collector did not take, of requests that it took.";
        families.counter("failsafe_gateway_otlp_refused_points_total", help, of(&self.refused));
        let help = "When the collector last took metrics, seconds since the epoch; 0: never.";
        families.gauge("failsafe_gateway_otlp_last_success_timestamp_seconds", help, of(&self.last_s));
    }
}

/// Sends metrics.
pub struct Push {
    url: Url,
    protocol: Protocol,
    shown: String,
    /// Answers may be quoted: what they can repeat of a request is no secret.
    quotes: bool,
    tls: Option<Arc<ClientConfig>>,
    headers: Option<Secret>,
    every: Duration,
    host: String,
    started: SystemTime,
    counts: Arc<Counts>,
}

impl Push {
    /// Opens what the configuration names. `None`: there is no endpoint.
    ///
    /// # Errors
    /// A value or a file cannot be used, with its field.
    pub fn open(config: &config::Metrics) -> Result<Option<Push>, Wrong> {
        if config.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let wrong = |key: &str, error: String| Wrong::new(format!("metrics.{key}"), error);
        let url = endpoint(config).map_err(|why| wrong("otlp_endpoint", why))?;
        let file = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let headers = file(&config.otlp_headers_file).map(Secret::at);
        if let Some(secret) = &headers {
            read(secret, config.otlp_protocol).map_err(|error| wrong("otlp_headers_file", format!("{error:#}")))?;
        }
        let ca = file(&config.otlp_ca_file);
        let authorities = || http::authorities(ca.as_deref().map(Path::new));
        let tls = url.tls.then(authorities).transpose();
        let tls = tls.map_err(|error| wrong("otlp_ca_file", format!("{error:#}")))?;
        let protocol = config.otlp_protocol;
        let tls = tls.map(|tls| if protocol == Protocol::Grpc { grpc::over_http2(&tls) } else { tls });
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let every = Duration::from_secs(config.otlp_interval_s);
        let (shown, quotes) = (url.shown(), headers.is_none() && (protocol == Protocol::Grpc || url.is_at(PATH)));
        let started = SystemTime::now();
        Ok(Some(Push { url, protocol, shown, quotes, tls, headers, every, host, started, counts: Arc::default() }))
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Sends. It does not end by itself.
    pub async fn serve(self, scraped: Arc<Scraped>) {
        tracing::info!(endpoint = self.shown, every_s = self.every.as_secs(), "metrics are sent by OTLP");
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failing, mut unclear) = (false, false);
        loop {
            ticks.tick().await;
            let (families, daemon_ns) = scraped.families().await;
            match self.send(&families, daemon_ns.unwrap_or(0)).await {
                Ok(None) => {
                    self.counts.unclear.fetch_add(1, Ordering::Relaxed);
                    failing = false;
                    if !std::mem::replace(&mut unclear, true) {
                        let what = "the collector answers with success, but not with an answer of OTLP: what it took is not known";
                        tracing::warn!(endpoint = self.shown, "{what}");
                    }
                }
                Ok(Some((refused, why))) => {
                    unclear = false;
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    self.counts.refused.fetch_add(refused, Ordering::Relaxed);
                    self.counts.last_s.store(since_epoch(SystemTime::now()).as_secs(), Ordering::Relaxed);
                    if refused > 0 {
                        let why = self.quoted(&why);
                        tracing::warn!(endpoint = self.shown, refused, why, "the collector does not take all metrics");
                    }
                    if std::mem::take(&mut failing) {
                        tracing::info!(endpoint = self.shown, "the collector takes metrics again");
                    }
                }
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    // Once for each outage: the count has the rest.
                    if !std::mem::replace(&mut failing, true) {
                        let error = format!("{error:#}");
                        tracing::warn!(endpoint = self.shown, error, "the collector does not take metrics");
                    }
                }
            }
        }
    }

    /// How many values the collector did not take of a request that it took, and why. `None`: its answer does not say it.
    async fn send(&self, families: &Families, daemon_ns: u64) -> Result<Option<(u64, String)>> {
        let ns = |at| u64::try_from(since_epoch(at).as_nanos()).unwrap_or(u64::MAX);
        let times = otlp::Times { now: ns(SystemTime::now()), daemon: daemon_ns, gateway: ns(self.started) };
        let request = otlp::request(families, &self.host, times);
        let headers = self.headers.as_ref().map(|file| read(file, self.protocol)).transpose();
        let headers = headers.context("metrics.otlp_headers_file")?.unwrap_or_default();
        if self.protocol == Protocol::Grpc {
            let answer = grpc::export(&self.url, self.tls.as_ref(), headers, request, PATIENCE).await?;
            let of_collector = |status| anyhow::anyhow!(grpc::shown(&status, |text| self.quoted(text)));
            return answer.map(|answer| Some(otlp::not_taken(answer))).map_err(of_collector);
        }
        let (body, content) = (Bytes::from(request.encode_to_vec()), "application/x-protobuf");
        let answer = http::post(&self.url, self.tls.as_ref(), content, headers, body, PATIENCE, Read::All).await?;
        let text = self.quoted(&answer.text);
        ensure!(answer.status.is_success(), "HTTP {}: {text}", answer.status.as_u16());
        Ok(otlp::refused(&answer.bytes).filter(|_| answer.is_whole))
    }

    /// A server may repeat what it got: the headers, and path and query of the endpoint, which can have keys.
    fn quoted(&self, text: &str) -> String {
        if self.quotes { quoted(text) } else { "not quoted".to_owned() }
    }
}

/// What of the files that the configuration names cannot be used.
pub fn check(config: &config::Metrics) -> Vec<Wrong> {
    Push::open(config).err().into_iter().collect()
}

/// What an administrator should know.
pub fn warnings(config: &config::Metrics) -> Vec<String> {
    let url = endpoint(config).ok().filter(|_| !config.otlp_endpoint.is_empty());
    let is_readable = url.is_some_and(|url| url.is_readable());
    let warning = "metrics.otlp_endpoint: metrics are sent over plain http, and can be read on their way";
    is_readable.then(|| warning.to_owned()).into_iter().collect()
}

/// Where to send to.
///
/// # Errors
/// What was expected.
pub fn endpoint(config: &config::Metrics) -> Result<Url, String> {
    let has_headers = !config.otlp_headers_file.as_os_str().is_empty();
    let example = match config.otlp_protocol {
        Protocol::Http => "https://otel.example.org:4318",
        Protocol::Grpc => "https://otel.example.org:4317",
    };
    let url = Url::parse(&config.otlp_endpoint, has_headers).map_err(|why| {
        why.replace("https://hooks.example.org/failsafe", example).replace("secret_file", "otlp_headers_file")
    })?;
    match (config.otlp_protocol, url.is_root()) {
        // gRPC names its own path.
        (Protocol::Grpc, false) => Err(format!("expected a URL without a path for gRPC, such as {example}")),
        (Protocol::Grpc, true) | (Protocol::Http, false) => Ok(url),
        (Protocol::Http, true) => Ok(url.join(PATH)),
    }
}

/// Lines `NAME: VALUE`.
fn read(file: &Secret, protocol: Protocol) -> Result<HeaderMap> {
    let text = file.read()?;
    let text = std::str::from_utf8(&text).context("expected text in UTF-8")?;
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        // Not quoted: it is a secret.
        let expected = || format!("line {}: expected `NAME: VALUE`", at + 1);
        let (name, value) = line.split_once(':').with_context(expected)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok().with_context(expected)?;
        let is_own = OWN.contains(&name.as_str()) || (protocol == Protocol::Grpc && name.as_str().starts_with("grpc-"));
        ensure!(!is_own, "line {}: the gateway sets {name} itself", at + 1);
        let mut value = HeaderValue::from_str(value.trim()).ok().with_context(expected)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn quoted(text: &str) -> String {
    failsafe_core::visible::clean(&text.chars().take(QUOTED).collect::<String>())
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
