//! A connection to the control socket, and who made it.
//!
//! The maker's cgroup is read when the connection is accepted: later its process may have ended and its id be another's.

use crate::platform::ProcFs;
use std::{
    io,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixStream, unix::UCred},
};
use tonic::transport::server::Connected;

/// Who made a connection.
#[derive(Debug, Clone)]
pub struct Maker {
    /// By the kernel's word when it connected, see `SO_PEERCRED` in unix(7).
    pub credentials: Option<UCred>,
    /// Its cgroup as `/proc/PID/cgroup` had it; `None`: it had ended by then, or there is no such hierarchy.
    pub cgroup: Option<PathBuf>,
}

/// A connection and its maker.
pub struct Connection {
    stream: UnixStream,
    maker: Maker,
}

impl Connection {
    /// Looks up who made it.
    pub fn new(stream: UnixStream) -> Connection {
        let credentials = stream.peer_cred().ok();
        let pid = credentials.and_then(|peer| u32::try_from(peer.pid()?).ok());
        let cgroup = pid.and_then(|pid| ProcFs::default().cgroup(pid).ok().flatten());
        Connection { stream, maker: Maker { credentials, cgroup } }
    }
}

impl Connected for Connection {
    type ConnectInfo = Maker;

    fn connect_info(&self) -> Maker {
        self.maker.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
