//! Receives metrics that processes of runs report as OTLP or statsd, over unix sockets, and reports them to failsafed.
//!
//! ```text
//! process of a run ──► socket ──► otlp, statsd (read) ──► reporter ──lines, and the connection itself──► failsafed
//! ```
//! Invariants: it does not say, or know, of which run a value is; connections are bounded, for each user too; a connection has
//! one request at a time, and only one of all connections is decoded at a time, so that the memory of requests is bounded.

mod otlp;
mod reporter;
mod statsd;

use crate::{config, count::Counts};
use anyhow::{Context, Result, bail};
use failsafe_files::socket::replace_stale;
use failsafe_intake::histogram::Earlier;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use otlp::Client;
use reporter::Reporter;
use std::{
    convert::Infallible,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore},
};

/// After an error of accept, such as no descriptor being left, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// Requests that wait for failsafed, decoded: each takes up to 5 MB, and the unit has 256 MB.
const REPORTING: usize = 16;
/// Bytes of a request that a client may send before they are read (HTTP/2).
const WINDOW: u32 = 64 << 10;

/// The receiver.
pub struct Server {
    sockets: Vec<Socket>,
    shared: Arc<Shared>,
}

/// What is read from a socket.
#[derive(Debug, Clone, Copy)]
enum Format {
    Otlp,
    Statsd,
}

/// A socket, removed when it is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    format: Format,
}

struct Shared {
    /// failsafed's metrics socket for streams.
    daemon: PathBuf,
    connections: Counts<u32>,
    decoding: Arc<Semaphore>,
    reporting: Arc<Semaphore>,
    idle: Duration,
}

impl Server {
    /// Binds the sockets. One that nobody listens on is replaced.
    ///
    /// # Errors
    /// One cannot be bound.
    pub fn bind(config: &config::Receive) -> Result<Server> {
        let statsd = config.statsd_socket.as_ref().map(|path| ("statsd_socket", path, Format::Statsd));
        let mut sockets = Vec::new();
        for (key, path, format) in [("socket", &config.socket, Format::Otlp)].into_iter().chain(statsd) {
            let listener = bind(path).with_context(|| format!("receive.{key}: cannot bind {}", path.display()))?;
            sockets.push(Socket { listener, path: path.clone(), format });
        }
        let most = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let mut daemon = config.metrics_socket.clone().into_os_string();
        daemon.push(".stream");
        let shared = Shared {
            daemon: daemon.into(),
            connections: Counts::new(most(config.connections), most(config.connections_per_user)),
            decoding: Arc::new(Semaphore::new(1)),
            reporting: Arc::new(Semaphore::new(REPORTING)),
            idle: Duration::from_secs(config.idle_s),
        };
        for socket in &sockets {
            tracing::info!(socket = %socket.path.display(), format = ?socket.format, "metrics of runs are received");
        }
        Ok(Server { sockets, shared: Arc::new(shared) })
    }

    /// Serves. It does not end by itself.
    ///
    /// # Errors
    /// A task ended.
    pub async fn serve(self) -> Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for socket in self.sockets {
            let shared = self.shared.clone();
            tasks.spawn(async move { socket.accept(shared).await });
        }
        tasks.join_next().await.context("there is no socket")??;
        bail!("a socket is no longer served")
    }
}

impl Socket {
    async fn accept(self, shared: Arc<Shared>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (shared, format) = (shared.clone(), self.format);
                    tokio::spawn(async move {
                        if let Err(error) = shared.serve_one(stream, format).await {
                            tracing::debug!(error = format!("{error:#}"), "a connection for metrics of runs ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics of runs cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    async fn serve_one(&self, stream: UnixStream, format: Format) -> Result<()> {
        let uid = stream.peer_cred()?.uid();
        let Some(_counted) = self.connections.take(&uid) else {
            tracing::warn!(uid, "a connection for metrics of runs is closed: the limit of connections is reached");
            return Ok(());
        };
        let own = stream.as_fd().try_clone_to_owned()?;
        let reporter = Reporter::new(self.daemon.clone(), own);
        match format {
            Format::Otlp => self.otlp(stream, reporter).await,
            Format::Statsd => statsd::serve(stream, reporter, self.idle).await,
        }
    }

    async fn otlp(&self, stream: UnixStream, reporter: Reporter) -> Result<()> {
        let (decoding, reporting) = (self.decoding.clone(), self.reporting.clone());
        let state = Mutex::new((reporter, Earlier::default()));
        let client = Arc::new(Client { state, decoding, reporting });
        let requests = AtomicU64::new(0);
        let service = service_fn(|request| {
            requests.fetch_add(1, Ordering::Relaxed);
            let client = client.clone();
            async move { Ok::<_, Infallible>(client.answer(request).await) }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(self.idle).max_buf_size(HEAD);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEAD as u32);
        let served = server.serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        loop {
            let before = requests.load(Ordering::Relaxed);
            match tokio::time::timeout(self.idle, served.as_mut()).await {
                Ok(done) => return done.map_err(|error| anyhow::anyhow!("{error}")),
                Err(_) if requests.load(Ordering::Relaxed) == before => bail!("it was idle for too long"),
                Err(_) => {}
            }
        }
    }
}

/// Everybody may connect: failsafed decides whose values count.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    replace_stale(path, std::os::unix::net::UnixStream::connect(path).map(drop))?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
