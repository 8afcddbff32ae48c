//! The other end of a connection, as far as limits go, and the connection as the server reads it: paced, and closed when idle.
//!
//! Invariants: a user's requests beyond its pace wait in its own sockets and cost no time of the lane; a connection that makes no
//! request, or has had none for too long, ends; one that does not read what it asked for is cut off.

use super::{
    connection::{Connection, Maker},
    limits::{Permit, Share},
    pace::{Pace, Paces},
};
use failsafe_proto::ErrorReason;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant as TokioInstant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Status, transport::server::Connected};

/// When a connection ends by itself, and how fast its requests may come.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Without any request.
    pub first_request: Duration,
    /// Without another one.
    pub idle: Duration,
    /// How fast requests may come.
    pub paces: Arc<Paces>,
}

/// Who made a connection, and what it has under way.
#[derive(Debug)]
pub struct Peer {
    share: Share,
    is_gateway: bool,
    open: AtomicUsize,
    /// When the last request began or ended, ms since `since`; 0: none came.
    last_ms: AtomicU64,
    since: Instant,
    pace: Pace,
    cut: CancellationToken,
    timeouts: Timeouts,
    _permit: Permit,
}

impl Peer {
    /// Of a new connection. Only of the gateway's connections are requests counted for the remote identities that they name.
    pub fn new(share: Share, is_gateway: bool, permit: Permit, timeouts: Timeouts) -> Arc<Peer> {
        let since = Instant::now();
        let (pace, cut) = (timeouts.paces.of(share, since), CancellationToken::new());
        let (open, last_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Peer { share, is_gateway, open, last_ms, since, pace, cut, timeouts, _permit: permit })
    }

    /// That of a request.
    ///
    /// # Errors
    /// `INTERNAL`: the gate did not see it.
    pub fn of<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        peer.cloned().ok_or_else(|| ErrorReason::Internal.status("the request came past the limits"))
    }

    /// In which share it is counted.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Whether the gateway made the connection.
    pub fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    /// Closes the connection, whatever is under way on it.
    pub fn cut_off(&self) {
        self.cut.cancel();
    }

    fn note(&self) {
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// A request begins. `identity`: the remote identity for which the gateway asks.
    pub fn begin(self: &Arc<Peer>, identity: Option<&str>) -> UnderWay {
        self.note();
        self.open.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if self.is_gateway {
            self.timeouts.paces.count_for(&self.pace, identity, now);
        }
        self.pace.charge(now);
        UnderWay(self.clone())
    }

    fn debt(&self) -> Duration {
        self.pace.wait(Instant::now())
    }

    /// How long it may still be idle; `None`: it is not.
    fn idle_for(&self) -> Option<Duration> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let end = match self.last_ms.load(Ordering::Relaxed) {
            0 => self.timeouts.first_request,
            last => Duration::from_millis(last) + self.timeouts.idle,
        };
        Some(end.saturating_sub(self.since.elapsed()))
    }
}

/// A request that is not answered wholly; dropped, it is.
#[derive(Debug)]
pub struct UnderWay(Arc<Peer>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.note();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What requests know of their connection.
#[derive(Debug, Clone)]
pub struct Info {
    /// Who made it.
    pub maker: Maker,
    /// Its limits.
    pub peer: Arc<Peer>,
}

/// A connection that was let in.
pub struct Admitted {
    connection: Connection,
    peer: Arc<Peer>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Wakes the reader when its debt is paid, or it may be idle no longer.
    timer: Pin<Box<Sleep>>,
}

impl Admitted {
    /// The connection of `peer`.
    pub fn new(connection: Connection, peer: Arc<Peer>) -> Admitted {
        let cut = Box::pin(peer.cut.clone().cancelled_owned());
        let timer = Box::pin(tokio::time::sleep(peer.timeouts.first_request));
        Admitted { connection, peer, cut, timer }
    }

    /// Whether `after` has passed; if not, the task is woken then.
    fn waited(&mut self, after: Duration, cx: &mut Context<'_>) -> bool {
        if after.is_zero() {
            return true;
        }
        self.timer.as_mut().reset(TokioInstant::now() + after);
        self.timer.as_mut().poll(cx).is_ready()
    }
}

impl Connected for Admitted {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        Info { maker: self.connection.connect_info(), peer: self.peer.clone() }
    }
}

impl AsyncRead for Admitted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let debt = self.peer.debt();
        if !debt.is_zero() && !self.waited(debt, cx) {
            return Poll::Pending;
        }
        if let Poll::Ready(read) = Pin::new(&mut self.connection).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        // While a request is under way nobody is idle: the next look is after as long again.
        let after = self.peer.idle_for();
        let look = after.unwrap_or(self.peer.timeouts.idle);
        let over = self.waited(look, cx);
        // As if the client had closed it: the server has nothing under way, and ends the connection in order.
        if over && after.is_some() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}
