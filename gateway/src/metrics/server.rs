//! The HTTP server: one request a connection. Connections are counted and timed, so that slow and idle ones end.

use super::{
    FRESH,
    families::Families,
    notifications,
    push::{Counts, Push},
    snapshot,
};
use crate::{
    config,
    daemon::Daemon,
    notify::Seen,
    remote::{Expiries, Refused},
};
use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
};

/// After an error of accept, such as no descriptor being left, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request, in bytes.
const HEAD: usize = 8_192;
/// The text format that is served.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics server.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<Semaphore>,
    timeout: Duration,
    scraped: Arc<Scraped>,
    push: Option<Push>,
}

/// What other parts of the gateway count.
#[derive(Default)]
pub struct Shown {
    /// When certificates end.
    pub certificates: Expiries,
    /// What is refused to remote clients.
    pub refused: Option<Refused>,
    /// Notifications.
    pub notifications: Option<Arc<Seen>>,
}

/// What all connections share, and what is sent to a collector.
pub(super) struct Scraped {
    daemon: Daemon,
    shown: Shown,
    /// Runs that have series of their own.
    runs: usize,
    patience: Duration,
    last: Mutex<Option<(Instant, Bytes)>>,
    pushed: Option<Arc<Counts>>,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn bind(config: &config::Metrics, socket: PathBuf, shown: Shown) -> Result<Server> {
        let wanted = config.address;
        let listener =
            TcpListener::bind(wanted).await.with_context(|| format!("metrics.address: cannot bind {wanted}"))?;
        if !wanted.ip().is_loopback() {
            tracing::warn!(address = %wanted, "metrics are served without TLS to everybody who reaches this address");
        }
        let timeout = Duration::from_secs(config.timeout_s);
        let push = Push::open(config).map_err(|wrong| anyhow::anyhow!("{}: {}", wrong.field, wrong.message))?;
        let scraped = Scraped {
            daemon: Daemon::new(socket),
            shown,
            runs: usize::try_from(config.runs).unwrap_or(usize::MAX),
            patience: timeout / 2,
            last: Mutex::default(),
            pushed: push.as_ref().map(Push::counts),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        let connections = Arc::new(Semaphore::new(usize::try_from(config.connections)?));
        Ok(Server { address: listener.local_addr()?, listener, connections, timeout, scraped: Arc::new(scraped), push })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is counted of the requests to a collector.
    #[cfg(test)]
    pub(super) fn pushed(&self) -> Option<Arc<Counts>> {
        self.scraped.pushed.clone()
    }

    /// Serves, and sends. It does not end by itself.
    ///
    /// # Errors
    /// The task that sends ended.
    pub async fn serve(mut self) -> Result<()> {
        let Some(push) = self.push.take() else { return self.accept().await };
        let scraped = self.scraped.clone();
        tokio::select! {
            served = self.accept() => served,
            () = push.serve(scraped) => bail!("metrics are no longer sent"),
        }
    }

    async fn accept(self) -> Result<()> {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.connections.clone().try_acquire_owned() else {
                self.scraped.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (scraped, timeout) = (self.scraped.clone(), self.timeout);
            tokio::spawn(async move {
                let _counted = permit;
                if tokio::time::timeout(timeout, scraped.serve_one(stream, timeout)).await.is_err() {
                    tracing::debug!("a connection for metrics took too long: closed");
                }
            });
        }
    }
}

impl Scraped {
    async fn serve_one(self: Arc<Scraped>, stream: TcpStream, timeout: Duration) {
        let service = service_fn(|request| {
            let scraped = self.clone();
            async move { Ok::<_, Infallible>(scraped.answer(&request).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(HEAD).keep_alive(false);
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection for metrics ended with an error");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let plain = |status: StatusCode, text: &'static str| {
            let mut answer = Response::new(Full::from(text));
            *answer.status_mut() = status;
            answer
        };
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => match self.text().await {
                Ok(text) => {
                    let mut answer = Response::new(Full::from(text));
                    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
                    answer
                }
                Err(error) => {
                    tracing::error!(%error, "the metrics cannot be written");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
                }
            },
            (_, "/metrics") => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            _ => plain(StatusCode::NOT_FOUND, "not found: metrics are at /metrics\n"),
        }
    }

    /// The text, of an answer of failsafed that is at most [`FRESH`] old.
    async fn text(&self) -> Result<Bytes, prometheus::Error> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        *last = None;
        let asked = Instant::now();
        let (families, started_ns) = self.families().await;
        let text: Bytes = families.text()?.into();
        if started_ns.is_some() {
            *last = Some((asked, text.clone()));
        }
        Ok(text)
    }

    /// All families, and when failsafed started, nanoseconds since the epoch; `None`: it does not answer.
    pub(super) async fn families(&self) -> (Families, Option<u64>) {
        let asked = Instant::now();
        let answer = self.daemon.snapshot(self.patience).await;
        if let Err(status) = &answer {
            self.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(code = ?status.code(), why = status.message(), "failsafed gives no metrics");
        }
        let own = snapshot::Own {
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            took: asked.elapsed(),
            certificates: self.shown.certificates.get(),
            remote: self.shown.refused.iter().flat_map(Refused::totals).collect(),
        };
        let mut families = snapshot::families(answer.as_ref().ok(), &own, self.runs);
        if let Some(seen) = &self.shown.notifications {
            notifications::add(&mut families, seen);
        }
        if let Some(counts) = &self.pushed {
            counts.add(&mut families);
        }
        let started_ns = answer.ok().map(|answer| u64::try_from(answer.started_ns).unwrap_or(0));
        (families, started_ns)
    }
}
