//! Datagrams: what older clients send. Who sent is what the kernel put into the credentials (`SCM_CREDENTIALS`, unix(7)) -
//! which a process with CAP_SYS_ADMIN may set to any other's. So a datagram counts for a run only while no other live run belongs
//! to root; else it is refused, counted, and the stream is there.

use super::{
    MetricsError, MetricsEvent, Runs, Shared, failed, flow::Reporter, limit::Limit, open_to_all, parse, replace,
};
use crate::platform::clock;
use failsafe_core::signal::Series;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt},
};
use std::{
    io::IoSliceMut,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::Path,
};

const FORGEABLE: &str = "datagrams do not count while another run on this node belongs to root, which could forge them: use the stream socket";

pub(super) fn bind(path: &Path) -> Result<UnixDatagram, MetricsError> {
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    replace(path, connected)?;
    let socket = UnixDatagram::bind(path).map_err(failed("bind", path))?;
    socket.set_nonblocking(true).map_err(failed("set up", path))?;
    setsockopt(&socket, sockopt::PassCred, &true).map_err(|e| failed("ask credentials of", path)(e.into()))?;
    open_to_all(path)?;
    Ok(socket)
}

pub(super) struct Datagrams {
    socket: UnixDatagram,
    limit: Limit,
    buffer: Vec<u8>,
    /// Metrics of which the sender had ended before its cgroup could be read.
    ended: u64,
}

impl Datagrams {
    pub(super) fn new(socket: UnixDatagram) -> Datagrams {
        Datagrams { socket, limit: Limit::default(), buffer: vec![0; parse::MAX_DATAGRAM], ended: 0 }
    }

    /// Reads what waits; returns now and then, so that a flood keeps nobody else from being read.
    pub(super) fn drain<R: Runs, F: FnMut(MetricsEvent)>(&mut self, shared: &mut Shared<R, F>) {
        for _ in 0..64 {
            let Some((length, credentials, cut)) = self.receive() else { return };
            match credentials {
                Some(credentials) if !cut => self.datagram(length, credentials, shared),
                _ => shared.garbage += 1,
            }
        }
    }

    fn receive(&mut self) -> Option<(usize, Option<UnixCredentials>, bool)> {
        let mut space = cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let message =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
        let credentials = message.cmsgs().ok()?.find_map(|c| match c {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        });
        Some((message.bytes, credentials, message.flags.contains(MsgFlags::MSG_TRUNC)))
    }

    fn datagram<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        length: usize,
        credentials: UnixCredentials,
        shared: &mut Shared<R, F>,
    ) {
        let now = clock::monotonic_ns();
        let Ok(pid) = u32::try_from(credentials.pid()) else { return };
        // A datagram costs a token even if nothing in it is a metric.
        if !self.limit.take(pid, now) {
            return;
        }
        let (lines, garbage) = parse::parse(&self.buffer[..length]);
        shared.garbage += garbage;
        if lines.is_empty() {
            return;
        }
        let identity = shared.proc.identity(pid).ok().flatten();
        let Some((identity, cgroup)) = identity.zip(shared.proc.cgroup(pid).ok().flatten()) else {
            self.ended += lines.len() as u64;
            return;
        };
        let Some(of) = shared.runs.of_cgroup(&cgroup) else {
            shared.garbage += lines.len() as u64;
            return;
        };
        if shared.runs.another_is_roots(of.run) {
            shared.lose(of.run, FORGEABLE, lines.len() as u64);
            return;
        }
        let by = Reporter { pid, start_ticks: identity.start_time, oneshot: false };
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 && !self.limit.take(pid, now) {
                continue;
            }
            let own = Series::Process { pid, start_ticks: by.start_ticks };
            let series = line.rank.clone().unwrap_or(own);
            let _counted = shared.take(&of, &line, &series, by, now);
        }
    }

    pub(super) fn report<R: Runs, F: FnMut(MetricsEvent)>(&mut self, shared: &mut Shared<R, F>) {
        let count = std::mem::take(&mut self.ended);
        if count > 0 {
            tracing::warn!(count, "metrics came from processes that ended at once: their run is not known");
        }
        for (pid, dropped) in self.limit.dropped() {
            let cgroup = shared.proc.cgroup(pid).ok().flatten();
            match cgroup.and_then(|cgroup| shared.runs.of_cgroup(&cgroup)) {
                Some(of) => shared.lose(of.run, &format!("pid {pid} sent more datagrams than its limit"), dropped),
                None => shared.garbage = shared.garbage.saturating_add(dropped),
            }
        }
    }
}
