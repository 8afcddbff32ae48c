//! One HTTP request to a target: a connection of its own, over TLS with the authorities of the system or of a file.
//!
//! Invariants: no redirect is followed; the status of an answer decides. Up to [`ANSWER`] bytes of its body are read, for at most
//! [`BODY`], where it is no success, or up to [`EVALUATED`] bytes where the caller wants it. Whether this is all of it is known.

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// What is read of an answer, in bytes: of one that is quoted, and of one that is evaluated.
const ANSWER: usize = 4_096;
const EVALUATED: usize = 64 << 10;
/// How long the body of an answer is read.
pub const BODY: Duration = Duration::from_secs(1);
/// Largest file of authorities, in bytes.
const AUTHORITIES: u64 = 4 << 20;
/// Longest wait that a target can ask for.
const AFTER: u64 = 3_600;

/// Where to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    host: String,
    port: u16,
    /// Path and query, beginning with `/`.
    path: String,
    authority: String,
}

impl Url {
    /// Whether what is sent can be read on the way.
    pub fn is_readable(&self) -> bool {
        !self.tls && !is_this_host(&self.host)
    }

    /// Reads one. With `secret`, what is sent must not be readable on the way.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str, secret: bool) -> Result<Url, String> {
        let expected = || "expected a URL such as https://hooks.example.org/failsafe".to_owned();
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') {
            return Err("expected a URL without a user: a secret belongs into secret_file".into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if secret && !tls && !is_this_host(&host) {
            return Err("expected https: the secret would be sent in plain text".into());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Url { tls, host, port, path, authority: authority.to_string() })
    }

    /// Scheme, host and port: what may be logged. Path and query can have a key.
    pub fn shown(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether path and query are these, which have no key.
    pub fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// Whether it names no path.
    pub fn is_root(&self) -> bool {
        self.path == "/"
    }

    /// The same, with this path added to its own.
    #[must_use]
    pub fn join(mut self, path: &str) -> Url {
        self.path = format!("{}{path}", self.path.trim_end_matches('/'));
        self
    }
}

fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The authorities that servers are trusted by.
///
/// # Errors
/// There are none, or the file cannot be used.
pub fn authorities(file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match file {
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
                bail!("the system has no certificates of authorities (package ca-certificates): {why}");
            }
        }
        Some(path) => {
            let text = failsafe_files::bounded(path, AUTHORITIES);
            let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
            let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
            for authority in all.with_context(|| format!("{}: expected certificates in PEM", path.display()))? {
                roots.add(authority).with_context(|| format!("{}: a certificate cannot be used", path.display()))?;
            }
            if roots.is_empty() {
                bail!("{}: there is no certificate in it", path.display());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// When to try again, where it says so.
    pub after: Option<Duration>,
    /// Its beginning.
    pub text: String,
    /// The same, as it came.
    pub bytes: Vec<u8>,
    /// Whether this is all of it. False also where it was not read.
    pub is_whole: bool,
}

/// Whose body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// That of an answer that is no success, to be quoted.
    Failures,
    /// That of each answer.
    All,
}

/// Sends a POST. Its answer has to begin within `patience`.
///
/// # Errors
/// There is no answer.
pub async fn post(
    url: &Url,
    tls: Option<&Arc<ClientConfig>>,
    content_type: &'static str,
    headers: HeaderMap,
    body: Bytes,
    patience: Duration,
    read: Read,
) -> Result<Answer> {
    let until = Instant::now() + patience;
    let late = || format!("no answer within {} s", patience.as_secs());
    let mut request = Request::post(url.path.as_str()).body(Full::new(body.clone()))?;
    let all = request.headers_mut();
    *all = headers;
    all.insert(HOST, HeaderValue::from_str(&url.authority)?);
    all.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    all.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    all.insert(USER_AGENT, HeaderValue::from_static(concat!("failsafe-gateway/", env!("CARGO_PKG_VERSION"))));
    let stream = timeout_at(until, connect(url, tls)).await.with_context(late)??;
    let (mut sender, connection) =
        timeout_at(until, http1::handshake(TokioIo::new(stream))).await.with_context(late)??;
    let answered = async {
        let answer = timeout_at(until, sender.send_request(request)).await.with_context(late)?.context("no answer")?;
        let (parts, body) = answer.into_parts();
        let after = parts.headers.get(RETRY_AFTER).and_then(retry_after);
        let (bytes, is_whole) = match (read, parts.status.is_success()) {
            (Read::All, _) => beginning(body, EVALUATED).await,
            (Read::Failures, false) => beginning(body, ANSWER).await,
            (Read::Failures, true) => (Vec::new(), false),
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status: parts.status, after, text, bytes, is_whole })
    };
    // The connection ends with the answer: it is driven here, not by a task that could outlive it.
    tokio::pin!(connection);
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // The answer may have arrived before.
        ended = &mut connection => match (answered.await, ended) {
            (Err(_), Err(ended)) => Err(ended).context("the connection ended"),
            (answer, _) => answer,
        },
    }
}

/// Connects to a server, by TLS if the URL says so.
///
/// # Errors
/// It cannot be reached or verified, or speaks none of the protocols that `tls` offers.
pub async fn connect(url: &Url, tls: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.context("cannot connect")?;
    match tls.filter(|_| url.tls) {
        None if url.tls => bail!("there are no authorities to verify the server with"),
        None => Ok(Box::new(stream)),
        Some(config) => {
            let name = ServerName::try_from(url.host.clone())?;
            let stream = TlsConnector::from(config.clone()).connect(name, stream).await.context("TLS")?;
            if !config.alpn_protocols.is_empty() && stream.get_ref().1.alpn_protocol().is_none() {
                bail!("the server does not speak HTTP/2 over TLS (ALPN)");
            }
            Ok(Box::new(stream))
        }
    }
}

/// A connection, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What arrives of a body in time, up to `most` bytes, and whether that is all of it.
async fn beginning(mut body: Incoming, most: usize) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    let all = async {
        loop {
            let frame = match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => frame,
            };
            let data = frame.data_ref().map_or(&[][..], |data| data.as_ref());
            let fits = data.len().min(most - read.len());
            read.extend_from_slice(&data[..fits]);
            if fits < data.len() {
                return false;
            }
        }
    };
    let is_whole = tokio::time::timeout(BODY, all).await.unwrap_or(false);
    (read, is_whole)
}

/// What `Retry-After` asks for: seconds, or a date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    let seconds = value.parse::<u64>().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_second();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(u64::try_from(at).ok()?.saturating_sub(now))
    })?;
    Some(Duration::from_secs(seconds.min(AFTER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_over_tls_or_to_this_host_only() {
        let url = Url::parse("https://hooks.example.org/a?b=c", true).unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("hooks.example.org", 443, "/a?b=c"));
        assert!(Url::parse("http://hooks.example.org/a", true).unwrap_err().contains("https"));
        assert!(Url::parse("http://hooks.example.org/a", false).is_ok());
        for local in ["http://127.0.0.1:9093", "http://[::1]:80/", "http://localhost/"] {
            assert!(Url::parse(local, true).is_ok(), "{local}");
        }
        for bad in ["", "hooks.example.org", "ftp://a/", "https://", "https://user:secret@a/", "/a"] {
            assert!(Url::parse(bad, false).is_err(), "{bad}");
        }
        assert_eq!(Url::parse("http://a:9093/am/", false).unwrap().join("/api/v2/alerts").path, "/am/api/v2/alerts");
    }

    #[test]
    fn a_url_is_shown_without_its_path_and_query() {
        let shown = |text: &str| Url::parse(text, false).unwrap().shown();
        assert_eq!(shown("https://otel.example.org:4318/s3cret/v1?api_key=s3cret"), "https://otel.example.org:4318");
        assert_eq!(shown("http://[::1]/s3cret"), "http://[::1]");
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date_and_is_bounded() {
        let of = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("99999999"), Some(Duration::from_secs(AFTER)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("Sat, 21 Oct 2215 07:28:00 GMT"), Some(Duration::from_secs(AFTER)));
        assert_eq!(of("soon"), None);
    }
}
