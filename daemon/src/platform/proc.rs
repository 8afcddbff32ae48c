//! Facts about processes, from `/proc` (proc(5)).
//!
//! Owns nothing but the root path. Invariants:
//! - a process that vanishes at any moment gives `None`, never an error;
//! - a pid alone never identifies a process: [`ProcessId`] carries its start time;
//! - names and arguments are bytes chosen by the watched process. Here they become text with replacement
//!   characters, and are bounded; they are never parsed for meaning.

use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A process for the length of a boot: its number and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process (thread group) number.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of stat).
    pub start_time: u64,
}

/// What `/proc/PID/stat` says of a process or a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcStat {
    /// Number and start time.
    pub id: ProcessId,
    /// The name, at most 15 bytes, not UTF-8 by any rule: replaced where it is not.
    pub comm: String,
    /// State letter: R running, S sleeping, D uninterruptible, T stopped, Z zombie, X dead, I idle.
    pub state: char,
    /// Parent's number.
    pub ppid: u32,
    /// Page faults of the process itself, those that read from a disk and those that did not.
    pub page_faults: u64,
    /// CPU time in user and kernel mode of the process itself, in clock ticks.
    pub cpu_ticks: u64,
    /// Number of threads.
    pub threads: u64,
    /// Resident memory in pages; shared pages count in every process that maps them. Approximate: the kernel keeps
    /// part of the count per processor, up to some hundred kilobytes, so a small process may read zero.
    pub rss_pages: u64,
}

/// A file under `/proc` that could not be read or understood.
#[derive(Debug, thiserror::Error)]
#[error("{op} {path}")]
pub struct ProcError {
    /// `reading` or `parsing`.
    pub op: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

/// A `/proc` mount, or a folder that looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl ProcFs {
    /// Reads below this root.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root that was given.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a process's file.
    #[must_use]
    pub fn path(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(format!("{pid}/{file}"))
    }

    /// The bytes of a process's file; `None` when the process is gone.
    ///
    /// # Errors
    /// Any other failure to read.
    pub fn read(&self, pid: u32, file: &str) -> Result<Option<Vec<u8>>, ProcError> {
        read_bounded(self.path(pid, file), u64::MAX)
    }

    /// `/proc/PID/stat`; `None` when the process is gone.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn stat(&self, pid: u32) -> Result<Option<ProcStat>, ProcError> {
        self.stat_at(pid, "stat")
    }

    /// `/proc/PID/task/TID/stat`: the same of one thread, whose `id.pid` is the thread's number. A thread's number
    /// serves as `pid` too.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn thread_stat(&self, pid: u32, tid: u32) -> Result<Option<ProcStat>, ProcError> {
        self.stat_at(pid, &format!("task/{tid}/stat"))
    }

    fn stat_at(&self, pid: u32, file: &str) -> Result<Option<ProcStat>, ProcError> {
        let Some(bytes) = self.read(pid, file)? else {
            return Ok(None);
        };
        parse_stat(&bytes).map(Some).ok_or_else(|| ProcError {
            op: "parsing",
            path: self.path(pid, file),
            source: ErrorKind::InvalidData.into(),
        })
    }

    /// Bytes of shared memory (tmpfs, System V, shared anonymous mappings) that a process has mapped: `RssShmem` of `/proc/PID/status`.
    /// Read from counters, without the process's memory-map lock. `None` when the process is gone or has no memory.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn shared_memory(&self, pid: u32) -> Result<Option<u64>, ProcError> {
        Ok(self.read(pid, "status")?.and_then(|bytes| kib(&bytes, "RssShmem:")))
    }

    /// Bytes of shared memory of the whole node: `Shmem` of `/proc/meminfo`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all_shared_memory(&self) -> Result<Option<u64>, ProcError> {
        Ok(read_bounded(self.root.join("meminfo"), u64::MAX)?.and_then(|bytes| kib(&bytes, "Shmem:")))
    }

    /// Number and start time of a live process; `None` when it is gone.
    ///
    /// # Errors
    /// As [`ProcFs::stat`].
    pub fn identity(&self, pid: u32) -> Result<Option<ProcessId>, ProcError> {
        Ok(self.stat(pid)?.map(|s| s.id))
    }

    /// The arguments, of which at most `max_bytes` are read (the process chooses their length). Empty for kernel
    /// threads and zombies; `None` when the process is gone.
    ///
    /// # Errors
    /// When the file cannot be read. Reading waits for the process's memory-map lock.
    pub fn cmdline(&self, pid: u32, max_bytes: u64) -> Result<Option<Vec<String>>, ProcError> {
        let Some(bytes) = read_bounded(self.path(pid, "cmdline"), max_bytes)? else {
            return Ok(None);
        };
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()))
    }

    /// The cgroup v2 path of a process, from the line `0::` of `/proc/PID/cgroup`; `None` when the process is gone or
    /// the kernel has no v2 hierarchy. A cgroup removed under a zombie ends in ` (deleted)`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn cgroup(&self, pid: u32) -> Result<Option<PathBuf>, ProcError> {
        Ok(self.read(pid, "cgroup")?.and_then(|b| parse_cgroup(&b)))
    }

    /// The same of one thread.
    ///
    /// # Errors
    /// As [`ProcFs::cgroup`].
    pub fn thread_cgroup(&self, pid: u32, tid: u32) -> Result<Option<PathBuf>, ProcError> {
        Ok(self.read(pid, &format!("task/{tid}/cgroup"))?.and_then(|b| parse_cgroup(&b)))
    }

    /// The same of the calling process.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn own_cgroup(&self) -> Result<Option<PathBuf>, ProcError> {
        Ok(read_bounded(self.root.join("self/cgroup"), u64::MAX)?.and_then(|b| parse_cgroup(&b)))
    }

    /// The kernel function a thread sleeps in, where the kernel says (`0` and an unreadable file give `None`).
    #[must_use]
    pub fn wchan(&self, pid: u32, tid: u32) -> Option<String> {
        let bytes = self.read(pid, &format!("task/{tid}/wchan")).ok()??;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty() && text != "0").then_some(text)
    }
}

fn read_bounded(path: PathBuf, max: u64) -> Result<Option<Vec<u8>>, ProcError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|f| f.take(max).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        // ESRCH: the process ended between open and read.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(source) => Err(ProcError { op: "reading", path, source }),
    }
}

/// `pid (comm) state ppid ...`: comm may hold blanks and brackets, so the last `)` ends it.
fn parse_stat(bytes: &[u8]) -> Option<ProcStat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // Field 3 (state) is at index 0.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcStat {
        id: ProcessId { pid, start_time: number(22)? },
        comm,
        state: fields.first()?.chars().next()?,
        ppid: u32::try_from(number(4)?).ok()?,
        page_faults: number(10)?.saturating_add(number(12)?),
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        threads: number(20)?,
        // Signed in the kernel and may dip below zero for a moment.
        rss_pages: fields.get(24 - 3)?.parse::<i64>().ok()?.max(0).unsigned_abs(),
    })
}

/// The bytes that a line such as `RssShmem:      128 kB` states.
fn kib(bytes: &[u8], name: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

pub(super) fn parse_cgroup(bytes: &[u8]) -> Option<PathBuf> {
    bytes
        .split(|b| *b == b'\n')
        .find_map(|l| l.strip_prefix(b"0::"))
        .map(|p| PathBuf::from(std::ffi::OsStr::from_bytes(p)))
}

/// Microseconds in one clock tick of [`ProcStat::cpu_ticks`].
#[must_use]
pub fn usec_per_tick() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let ticks = ticks.ok().flatten().and_then(|t| u64::try_from(t).ok());
    // 100 is the value of every kernel's user-space ABI on the machines this runs on.
    1_000_000 / ticks.filter(|t| *t > 0).unwrap_or(100)
}

/// Bytes in one page of [`ProcStat::rss_pages`].
#[must_use]
pub fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|s| u64::try_from(s).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(files: &[(&str, &[u8])]) -> (tempfile::TempDir, ProcFs) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let proc = ProcFs::new(dir.path());
        (dir, proc)
    }

    #[test]
    fn a_name_with_brackets_blanks_and_bad_utf8_does_not_shift_fields() {
        let stat = b"42 (a) R (\xff b) D 7 42 42 0 -1 4194304 9 0 2 0 30 12 5 5 20 0 3 0 107847 3133440 414 184\n";
        let (_dir, proc) = fixture(&[("42/stat", stat)]);
        let s = proc.stat(42).unwrap().unwrap();
        assert_eq!(s.comm, "a) R (\u{fffd} b");
        assert_eq!(s.state, 'D');
        assert_eq!(s.ppid, 7);
        assert_eq!(s.page_faults, 11);
        assert_eq!(s.cpu_ticks, 42);
        assert_eq!(s.threads, 3);
        assert_eq!(s.id, ProcessId { pid: 42, start_time: 107_847 });
        assert_eq!(s.rss_pages, 414);
    }

    #[test]
    fn a_vanished_process_is_none_and_a_torn_file_is_an_error() {
        let (_dir, proc) = fixture(&[("5/stat", b"5 (x) R 1")]);
        assert_eq!(proc.stat(6).unwrap(), None);
        let err = proc.stat(5).unwrap_err();
        assert_eq!(err.op, "parsing");
        assert!(err.path.ends_with("5/stat"));
        assert_eq!(proc.cmdline(6, 10).unwrap(), None);
    }

    #[test]
    fn arguments_are_bounded_and_lossy() {
        let (_dir, proc) = fixture(&[("5/cmdline", b"sh\0-c\0\0\xffx\0"), ("6/cmdline", b"")]);
        assert_eq!(proc.cmdline(5, 100).unwrap().unwrap(), ["sh", "-c", "", "\u{fffd}x"]);
        assert_eq!(proc.cmdline(5, 4).unwrap().unwrap(), ["sh", "-"]);
        assert!(proc.cmdline(6, 100).unwrap().unwrap().is_empty());
    }

    #[test]
    fn takes_the_v2_line_of_a_hybrid_host() {
        let (_dir, proc) =
            fixture(&[("5/cgroup", b"4:memory:/process_api/0::/no\n0::/a b/c:d\n"), ("6/cgroup", b"4:memory:/\n")]);
        assert_eq!(proc.cgroup(5).unwrap().unwrap(), Path::new("/a b/c:d"));
        assert_eq!(proc.cgroup(6).unwrap(), None);
        assert_eq!(proc.cgroup(7).unwrap(), None);
    }

    #[test]
    fn a_real_process_ends_between_reads_without_an_error() {
        let proc = ProcFs::default();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let s = proc.stat(child.id()).unwrap().unwrap();
        assert_eq!(s.ppid, std::process::id());
        // The kernel's count is approximate: of a small process it may read zero.
        assert!(proc.stat(std::process::id()).unwrap().unwrap().rss_pages > 0);
        assert!(s.id.start_time > 0);
        let tid = child.id();
        assert!(proc.thread_stat(child.id(), tid).unwrap().is_some());
        // A file opened before the end and read after it gives ESRCH.
        let mut open = std::fs::File::open(proc.path(child.id(), "cmdline")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let late = open.read_to_end(&mut Vec::new());
        assert!(late.is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH)) || proc.stat(tid).unwrap().is_none());
        assert_eq!(proc.stat(tid).unwrap(), None);
        assert_eq!(proc.identity(tid).unwrap(), None);
        assert_eq!(proc.wchan(tid, tid), None);
        assert_eq!(page_size() % 4096, 0);
        assert_eq!(1_000_000 % usec_per_tick(), 0);
    }
}
