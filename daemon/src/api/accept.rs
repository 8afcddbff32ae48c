//! Accepting connections: a thread of its own, which looks who connects, counts, and hands the connection to its lane.
//!
//! ```text
//! accept thread: SO_PEERCRED ─► share ─► limit `connections` ─┬─► lane of root and administrators (a thread)
//!                                                             ├─► lane of everybody else        (a thread)
//!                                                             └─► refused: GOAWAY with the limit's name, closed
//! ```
//! Invariants: the thread waits for nobody, so the reserved share always gets in; a descriptor limit that is reached anyway makes
//! it pause, not spin; a refused connection costs a descriptor only while [`Farewells`] have room.

use super::{
    authorize::Authority,
    limits::{Limit, Permit, Quota},
    peer::{Peer, Timeouts},
};
use crate::{platform::peercred, runs::Registry};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use std::{
    io,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc::UnboundedSender;

/// After an error of accept, such as no descriptor being left, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a refused connection may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);
/// Refused connections that are told why at once.
const FAREWELLS: Quota = Quota { per_user: 4, total: 32, reserve: 16 };

/// A connection that was let in.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: UnixStream,
    /// Who made it, and what it may do.
    pub peer: Arc<Peer>,
}

/// What to do with a connection.
#[derive(Debug)]
pub enum Incoming {
    /// It is served.
    Serve(Arrival),
    /// It is refused, and told why.
    Refuse(Refusal),
}

/// A connection that is refused.
#[derive(Debug)]
pub struct Refusal {
    stream: UnixStream,
    why: String,
    _permit: Permit,
}

/// Accepts for the lanes.
pub struct Acceptor {
    /// The socket, which is non-blocking.
    pub listener: UnixListener,
    /// Who is an administrator.
    pub authority: Authority,
    /// Who is inside a run.
    pub registry: Arc<Registry>,
    /// How many connections there may be.
    pub connections: Arc<Limit>,
    /// What else holds for each connection.
    pub timeouts: Timeouts,
    /// The lane of root and the administrators' group.
    pub reserved: UnboundedSender<Incoming>,
    /// The lane of everybody else.
    pub ordinary: UnboundedSender<Incoming>,
    /// Errors of accept.
    pub errors: Arc<AtomicU64>,
}

impl Acceptor {
    /// Accepts until `stop` is written to.
    pub fn work(&self, stop: &EventFd) {
        let farewells = Limit::new("farewells", FAREWELLS);
        loop {
            let mut ready =
                [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return tracing::error!(%error, "the control socket cannot be waited for"),
            }
            if ready[1].any().unwrap_or(true) {
                return;
            }
            if let Err(error) = self.take_all(&farewells) {
                // One line for the first and each thousandth: a flood must not fill the daemon's own log.
                if self.errors.fetch_add(1, Ordering::Relaxed).is_multiple_of(1_000) {
                    tracing::error!(%error, "a connection to the control socket cannot be accepted");
                }
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn take_all(&self, farewells: &Arc<Limit>) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream, farewells),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Of the connection, which its maker has closed again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&self, stream: UnixStream, farewells: &Arc<Limit>) {
        // Without credentials nobody can be held to a limit.
        let Ok(credentials) = peercred::credentials(&stream) else { return };
        let share = self.authority.share(&credentials, &stream, &self.registry);
        let is_gateway = self.authority.is_gateway(&credentials, &self.registry);
        let lane = if share.is_reserved() { &self.reserved } else { &self.ordinary };
        let incoming = match self.connections.take(share) {
            Ok(permit) => {
                let peer = Peer::new(share, is_gateway, permit, self.timeouts.clone());
                Incoming::Serve(Arrival { stream, peer })
            }
            Err(exceeded) => match farewells.take(share) {
                Ok(permit) => Incoming::Refuse(Refusal { stream, why: exceeded.to_string(), _permit: permit }),
                Err(_) => return,
            },
        };
        let _stopping = lane.send(incoming);
    }
}

impl Refusal {
    /// Tells the client why, in HTTP/2's words, and closes when it has read that, or is too slow.
    pub async fn send(self) {
        let said = async {
            self.stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(self.stream.try_clone()?)?;
            stream.writable().await?;
            stream.try_write(&goodbye(&self.why))?;
            // What a client sends first must be read: closing over unread bytes would take ours from it.
            let mut buffer = [0; 4_096];
            loop {
                stream.readable().await?;
                match stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let _gone: Result<io::Result<()>, _> = tokio::time::timeout(FAREWELL, said).await;
    }
}

/// SETTINGS, and GOAWAY with `why` as its debug data (RFC 9113, 6.5 and 6.8).
fn goodbye(why: &str) -> Vec<u8> {
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let why = why.as_bytes().get(..why.len().min(512)).unwrap_or_default();
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u32::try_from(8 + why.len()).unwrap_or(8);
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&0_u32.to_be_bytes());
    bytes.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    bytes.extend_from_slice(why);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goodbye_is_two_frames() {
        let bytes = goodbye("limit `connections`");
        assert_eq!(bytes[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0], "empty SETTINGS");
        assert_eq!(bytes[9..18], [0, 0, 27, 7, 0, 0, 0, 0, 0], "GOAWAY of 8 and 19 bytes on stream 0");
        assert!(bytes.ends_with(b"limit `connections`"));
    }
}
