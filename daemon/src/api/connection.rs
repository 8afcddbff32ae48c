//! A connection to the control socket: who made it, and whether its bytes are that process's own.
//!
//! ```text
//! accept ─► pidfd of the peer ─► Maker (what requests see)
//! read   ─► the kernel names the sender of these bytes ─► another than the maker: Maker::foreign is set, before they are parsed
//! ```
//!
//! Invariant: a request is never judged as the maker's once another process has sent bytes on its connection. Such a connection
//! is closed a moment later, when its client has read the refusals.

use super::caller::Recent;
use crate::platform::peer::{self, Peer, PeerError, Sender};
use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
    time::Sleep,
};
use tonic::transport::server::Connected;

/// How long a connection that another process uses is left open, so that its refusals are read.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// Who made a connection.
#[derive(Debug, Clone)]
pub struct Maker {
    peer: Arc<Result<Peer, PeerError>>,
    foreign: Arc<OnceLock<Sender>>,
    recent: Arc<Recent>,
}

impl Maker {
    /// The process that connected.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn peer(&self) -> Result<&Peer, &PeerError> {
        self.peer.as_ref().as_ref()
    }

    /// Another process that sent bytes on the connection, inherited or passed.
    pub fn foreign(&self) -> Option<Sender> {
        self.foreign.get().copied()
    }

    /// What the process was found to be lately.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }
}

/// A connection and its maker.
pub struct Connection {
    stream: UnixStream,
    maker: Maker,
    /// Its number, where the maker is known.
    pid: Option<u32>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Looks up who made it.
    pub fn new(stream: UnixStream) -> Connection {
        let peer = Peer::of(stream.as_fd());
        let pid = peer.as_ref().ok().map(|peer| peer.id().pid);
        let maker = Maker { peer: Arc::new(peer), foreign: Arc::default(), recent: Arc::default() };
        Connection { stream, maker, pid, closing: None }
    }

    /// Notes who sent what was just read.
    fn note(&mut self, sender: Sender) {
        let own = self.pid.is_none_or(|pid| sender == Sender::Pid(pid));
        if !own && self.maker.foreign.set(sender).is_ok() {
            tracing::debug!(maker = ?self.pid, ?sender, "another process than its maker sends on a connection: refused");
            self.closing = Some(Box::pin(tokio::time::sleep(CLOSE_AFTER)));
        }
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
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let read = self
                .stream
                .try_io(Interest::READABLE, || peer::receive(self.stream.as_fd(), buf.initialize_unfilled()));
            match read {
                Ok((0, _)) => return Poll::Ready(Ok(())),
                Ok((bytes, sender)) => {
                    self.note(sender);
                    // The timer is to wake this task.
                    if let Some(closing) = &mut self.closing {
                        let _pending = closing.as_mut().poll(cx);
                    }
                    buf.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
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
