//! The network namespace in which a run's name servers are believed: that in which the run was registered. See `ebpf/src/asked.h`.
//!
//! The kernel's programs know a namespace by the number that `/proc/PID/ns/net` has. A number is given anew once its namespace is
//! gone, so the file is held open while the run lives: the run could otherwise leave its namespace, and make another of that number.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::platform::ProcFs;

/// A network namespace.
#[derive(Debug)]
pub(super) struct NetNs {
    /// Its number; 0: not known, and any is believed.
    pub number: u32,
    /// What keeps the number its own. `None`: the daemon's own namespace, or one whose processes are gone.
    _held: Option<File>,
}

impl NetNs {
    /// That of the oldest process in a cgroup or below it; of an empty cgroup the daemon's, as the process that is to be the run asks for
    /// its start from there.
    pub fn of_cgroup(cgroup: &Path) -> Self {
        let proc = ProcFs::default();
        let started = |pid: &u32| proc.stat(*pid).ok().flatten().map_or(u64::MAX, |stat| stat.id.start_time);
        let oldest = members(cgroup).into_iter().min_by_key(started);
        oldest.and_then(|pid| Self::of(&pid.to_string())).or_else(|| Self::of("self")).unwrap_or(Self::UNKNOWN)
    }

    /// The host's own, as far as it can be known.
    pub fn of_host() -> Self {
        Self::of("1").or_else(|| Self::of("self")).unwrap_or(Self::UNKNOWN)
    }

    /// The one of that number, where a process of the cgroup is in it.
    pub fn numbered(number: u32, cgroup: &Path) -> Self {
        let found = members(cgroup).into_iter().filter_map(|pid| Self::of(&pid.to_string()));
        found.into_iter().find(|ns| ns.number == number).unwrap_or(Self { number, _held: None })
    }

    const UNKNOWN: Self = Self { number: 0, _held: None };

    fn of(pid: &str) -> Option<Self> {
        let file = File::open(Path::new("/proc").join(pid).join("ns/net")).ok()?;
        let number = u32::try_from(file.metadata().ok()?.ino()).ok()?;
        let own = fs::metadata("/proc/self/ns/net").is_ok_and(|own| own.ino() == u64::from(number));
        Some(Self { number, _held: (!own).then_some(file) })
    }
}

/// The processes of a cgroup and of all below it, as far as they can be read.
fn members(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![cgroup.to_owned()];
    while let Some(dir) = todo.pop() {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        todo.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}
