//! Who is at the other end of a connection: the process that called `connect`, as the kernel noted it then (`SO_PEERCRED`,
//! `SO_PEERPIDFD`; unix(7)). The process cannot choose what is noted, with any capability.

use crate::platform::{ProcFs, pidfd::PidFd};
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};
use std::{os::fd::AsFd, path::PathBuf};

/// The process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub pid: u32,
    pub uid: u32,
    pub start_ticks: u64,
}

impl Peer {
    /// `None` where the process has ended, or is in no process namespace that the daemon sees.
    pub(super) fn of(connection: &impl AsFd, proc: &ProcFs) -> Option<Peer> {
        let noted = getsockopt(connection, sockopt::PeerCredentials).ok()?;
        let pid = u32::try_from(noted.pid()).ok().filter(|pid| *pid > 0)?;
        // From 6.5 on. Before that, a number that passed to another process between `connect` and here is not noticed.
        let held = getsockopt(connection, sockopt::PeerPidfd);
        let start_ticks = proc.identity(pid).ok()??.start_time;
        let lives = match held {
            Ok(fd) => !PidFd::from(fd).has_ended().unwrap_or(true),
            Err(error) => error == Errno::ENOPROTOOPT,
        };
        lives.then(|| Peer { pid, uid: noted.uid(), start_ticks })
    }

    /// Its cgroup now, as `/proc/PID/cgroup` has it; `None` once it has ended.
    pub(super) fn cgroup(&self, proc: &ProcFs) -> Option<PathBuf> {
        let cgroup = proc.cgroup(self.pid).ok()??;
        self.lives(proc).then_some(cgroup)
    }

    pub(super) fn lives(&self, proc: &ProcFs) -> bool {
        lives(proc, self.pid, self.start_ticks)
    }
}

pub(super) fn lives(proc: &ProcFs, pid: u32, start_ticks: u64) -> bool {
    // A process of which the first thread has ended is a zombie with threads.
    let ended = |stat: &crate::platform::proc::ProcStat| stat.state == 'Z' && stat.threads <= 1;
    proc.stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.id.start_time == start_ticks && !ended(&stat)))
}
