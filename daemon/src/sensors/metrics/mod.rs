//! The metrics socket: a datagram socket anybody may write to. Who wrote is the kernel's word (`SCM_CREDENTIALS`, see
//! unix(7)), never the datagram's; the process is resolved to its cgroup at once, before its id can be another's.
//!
//! ```text
//! datagram + credentials ─► limit by sender ─► parse ─► /proc/PID/cgroup ─► MetricsEvent
//! ```
//!
//! Owns the socket and its thread. Garbage and floods are counted and told at most once a second; they cost the sender's own
//! share only: the kernel's receive queue is shared, but the thread drops what is over the limit before it looks further.

mod limit;
pub mod parse;

use crate::platform::{ProcFs, clock};
use failsafe_core::signal::Series;
use limit::Limit;
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, connect,
            recvmsg, setsockopt, socket, sockopt,
        },
    },
};
use std::{
    io::IoSliceMut,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

/// Garbage and floods are told this often.
const TELL_EVERY_NS: u64 = 1_000_000_000;

/// What arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricsEvent {
    /// A metric.
    Metric {
        /// When it was read, `CLOCK_MONOTONIC` ns.
        mono_ns: u64,
        /// The sender's process id.
        pid: u32,
        /// Its user id.
        uid: u32,
        /// Its cgroup as `/proc/PID/cgroup` has it.
        cgroup: PathBuf,
        /// The metric's name.
        name: String,
        /// Its value.
        value: f64,
        /// The training step, where it was given.
        step: Option<u64>,
        /// Which of the run's series it belongs to.
        series: Series,
    },
    /// Lines that were no metrics, from anybody, in the last second.
    Garbage {
        /// How many.
        count: u64,
    },
    /// Lines over a sender's limit in the last second.
    Flood {
        /// The sender.
        pid: u32,
        /// How many.
        dropped: u64,
    },
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Somebody listens there.
    #[error("another daemon listens on metrics socket {0}")]
    InUse(PathBuf),
    /// The kernel refused.
    #[error("cannot {op} metrics socket {path}")]
    Socket {
        /// What was being done.
        op: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The bound socket.
#[derive(Debug)]
pub struct MetricsSocket {
    fd: OwnedFd,
    path: PathBuf,
}

impl MetricsSocket {
    /// Binds it; everybody may write. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(path: &Path) -> Result<MetricsSocket, MetricsError> {
        let fail = |op| move |source: std::io::Error| MetricsError::Socket { op, path: path.to_owned(), source };
        let os = |op| move |errno: Errno| fail(op)(errno.into());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail("make the folder of"))?;
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let make = || socket(AddressFamily::Unix, SockType::Datagram, flags, None);
        let address = UnixAddr::new(path).map_err(os("name"))?;
        match connect(make().map_err(os("make"))?.as_raw_fd(), &address) {
            Ok(()) => return Err(MetricsError::InUse(path.to_owned())),
            Err(Errno::ENOENT) => {}
            // A file that is no socket gives the same error as a socket without a listener; it is not ours to remove.
            Err(Errno::ECONNREFUSED) if is_socket(path) => {
                std::fs::remove_file(path).map_err(fail("replace the stale"))?
            }
            Err(errno) => return Err(os("replace what is at")(errno)),
        }
        let fd = make().map_err(os("make"))?;
        setsockopt(&fd, sockopt::PassCred, &true).map_err(os("ask credentials of"))?;
        bind(fd.as_raw_fd(), &address).map_err(os("bind"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail("open up"))?;
        Ok(MetricsSocket { fd, path: path.to_owned() })
    }

    /// Reads it on a thread of its own. `sink` must not block for long.
    ///
    /// # Errors
    /// The thread or its event descriptor could not be made.
    pub fn spawn(self, sink: impl FnMut(MetricsEvent) + Send + 'static) -> std::io::Result<Running> {
        let stop = Arc::new(EventFd::from_value(0)?);
        let stopped = stop.clone();
        let path = self.path.clone();
        let reader = Reader {
            fd: self.fd,
            sink,
            limit: Limit::default(),
            garbage: 0,
            ended: 0,
            told_ns: 0,
            proc: ProcFs::default(),
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(move || reader.work(&stopped))?;
        Ok(Running { stop, thread: Some(thread), path })
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// The running reader; dropping it stops it and removes the socket.
#[derive(Debug)]
pub struct Running {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _woken = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics thread panicked");
        }
        let _gone = std::fs::remove_file(&self.path);
    }
}

struct Reader<F> {
    fd: OwnedFd,
    sink: F,
    limit: Limit,
    garbage: u64,
    /// Metrics whose sender had ended before its cgroup could be read.
    ended: u64,
    told_ns: u64,
    proc: ProcFs,
}

impl<F: FnMut(MetricsEvent)> Reader<F> {
    fn work(mut self, stop: &EventFd) {
        let mut buffer = [0; parse::MAX_DATAGRAM];
        loop {
            let mut fds =
                [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            // What was counted is told in time also when nothing more comes.
            match poll(&mut fds, PollTimeout::from(1_000u16)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the metrics socket cannot be waited for");
                    return;
                }
            }
            if fds[1].revents().is_some_and(|r| !r.is_empty()) {
                return;
            }
            self.drain(&mut buffer);
            self.tell(clock::monotonic_ns());
        }
    }

    /// Reads what waits; returns now and then, so that a flood does not keep the thread from stopping.
    fn drain(&mut self, buffer: &mut [u8]) {
        for _ in 0..1_024 {
            let Some((length, credentials, cut)) = self.receive(buffer) else { return };
            let Some(credentials) = credentials else {
                self.garbage += 1;
                continue;
            };
            if cut {
                self.garbage += 1;
            } else {
                self.datagram(&buffer[..length], credentials);
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, Option<UnixCredentials>, bool)> {
        let mut space = cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(self.fd.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
        let credentials = message.cmsgs().ok()?.find_map(|c| match c {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        });
        Some((message.bytes, credentials, message.flags.contains(MsgFlags::MSG_TRUNC)))
    }

    fn datagram(&mut self, bytes: &[u8], credentials: UnixCredentials) {
        let now = clock::monotonic_ns();
        let Ok(pid) = u32::try_from(credentials.pid()) else { return };
        // A datagram costs a token even if nothing in it is a metric.
        if !self.limit.take(pid, now) {
            return;
        }
        let (lines, garbage) = parse::parse(bytes);
        self.garbage += garbage;
        if lines.is_empty() {
            return;
        }
        let sender = self.proc.identity(pid).ok().flatten().zip(self.proc.cgroup(pid).ok().flatten());
        let Some((identity, cgroup)) = sender else {
            self.ended += lines.len() as u64;
            return;
        };
        let start_ticks = identity.start_time;
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 && !self.limit.take(pid, now) {
                continue;
            }
            (self.sink)(MetricsEvent::Metric {
                mono_ns: now,
                pid,
                uid: credentials.uid(),
                cgroup: cgroup.clone(),
                name: line.name.to_owned(),
                value: line.value,
                step: line.step,
                series: line.rank.unwrap_or(Series::Process { pid, start_ticks }),
            });
        }
    }

    fn tell(&mut self, now: u64) {
        if now.saturating_sub(self.told_ns) < TELL_EVERY_NS {
            return;
        }
        self.told_ns = now;
        let count = std::mem::take(&mut self.garbage);
        if count > 0 {
            (self.sink)(MetricsEvent::Garbage { count });
        }
        let count = std::mem::take(&mut self.ended);
        if count > 0 {
            tracing::warn!(
                count,
                "metrics came from processes that ended at once: whose run they were of is not known"
            );
        }
        for (pid, dropped) in self.limit.dropped() {
            (self.sink)(MetricsEvent::Flood { pid, dropped });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixDatagram, sync::mpsc, time::Duration};

    fn running() -> (tempfile::TempDir, Running, mpsc::Receiver<MetricsEvent>) {
        let dir = tempfile::tempdir().unwrap();
        let (tx, rx) = mpsc::channel();
        let socket = MetricsSocket::bind(&dir.path().join("m.sock")).unwrap();
        let running = socket.spawn(move |event| drop(tx.send(event))).unwrap();
        (dir, running, rx)
    }

    fn next(events: &mpsc::Receiver<MetricsEvent>) -> MetricsEvent {
        events.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn the_sender_is_who_the_kernel_says() {
        let (dir, _running, events) = running();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"loss nan 7\n", dir.path().join("m.sock")).unwrap();
        let MetricsEvent::Metric { pid, uid, cgroup, name, value, step, .. } = next(&events) else { panic!() };
        assert_eq!((pid, uid), (std::process::id(), nix::unistd::getuid().as_raw()));
        assert_eq!(Some(cgroup), ProcFs::default().own_cgroup().unwrap());
        assert!(name == "loss" && value.is_nan() && step == Some(7));
    }

    #[test]
    fn a_flood_of_garbage_is_counted_and_what_comes_after_still_arrives() {
        let (dir, _running, events) = running();
        let path = dir.path().join("m.sock");
        let sender = UnixDatagram::unbound().unwrap();
        let big = vec![b'x'; parse::MAX_DATAGRAM + 1];
        for n in 0..1_500 {
            let datagram: &[u8] = if n % 100 == 0 { &big } else { b"\xff\xfe not a metric" };
            sender.send_to(datagram, &path).unwrap();
        }
        sender.send_to(b"ok 1", &path).unwrap();
        let mut garbage = 0;
        loop {
            match next(&events) {
                MetricsEvent::Garbage { count } => garbage += count,
                MetricsEvent::Metric { name, .. } => assert_eq!(name, "ok"),
                MetricsEvent::Flood { .. } => panic!("within the burst"),
            }
            if garbage == 1_500 {
                break;
            }
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let (dir, running, _events) = running();
        let path = dir.path().join("m.sock");
        assert!(matches!(MetricsSocket::bind(&path), Err(MetricsError::InUse(_))));
        drop(running);
        drop(UnixDatagram::bind(&path).unwrap());
        assert!(path.exists());
        MetricsSocket::bind(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(MetricsSocket::bind(&file), Err(MetricsError::Socket { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }
}
