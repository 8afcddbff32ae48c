//! Facts about processes, from `/proc` (proc(5)).
//!
//! Owns nothing but the root path. The crate `procfs` parses `stat` and `meminfo`. ADR 0029 lists what this module parses
//! itself, with the measurements: `procfs` refuses a cgroup path or an argument that is not UTF-8, and both are chosen by the
//! watched process. Invariants:
//! - a process that vanishes at any moment gives `None`, never an error;
//! - a pid alone never identifies a process: [`ProcessId`] carries its start time;
//! - names and arguments are bytes chosen by the watched process. Here they become text with replacement
//!   characters, and are bounded; they are never parsed for meaning.

use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use procfs::{FromBufRead, FromRead, Meminfo, process::Stat};
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

impl ProcStat {
    /// From the text of a file `stat`; `None`: it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<ProcStat> {
        parse_stat(bytes)
    }

    /// Whether a signal has stopped it, with all its threads (`proc_pid_stat(5)`, state T).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    /// Whether it has ended, with all its threads: the first one can end before the others.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
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
    /// Each sample reads it of every process of a run, so it looks for one line: `procfs` parses all 60 lines and needs 2.3 times
    /// as long (ADR 0029).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn shared_memory(&self, pid: u32) -> Result<Option<u64>, ProcError> {
        Ok(self.read(pid, "status")?.and_then(|bytes| kib(&bytes, "RssShmem:")))
    }

    /// Bytes of shared memory of the whole node: `Shmem` of `/proc/meminfo`. `None` when the file is missing or cannot be parsed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all_shared_memory(&self) -> Result<Option<u64>, ProcError> {
        let bytes = read_bounded(self.root.join("meminfo"), u64::MAX)?;
        Ok(bytes.and_then(|bytes| Meminfo::from_buf_read(&bytes[..]).ok()?.shmem))
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
    // `procfs` slices the text around the brackets and panics where one of these bytes is missing.
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')').filter(|close| open < *close)?;
    let (Some([b'0'..=b'9', .., b' ']), Some([b' ', b'A'..=b'Z' | b'a'..=b'z', ..])) =
        (bytes.get(..open), bytes.get(close + 1..))
    else {
        return None;
    };
    let stat = Stat::from_read(bytes).ok()?;
    Some(ProcStat {
        id: ProcessId { pid: u32::try_from(stat.pid).ok()?, start_time: stat.starttime },
        comm: stat.comm,
        state: stat.state,
        ppid: u32::try_from(stat.ppid).ok()?,
        page_faults: stat.minflt.saturating_add(stat.majflt),
        cpu_ticks: stat.utime.saturating_add(stat.stime),
        threads: u64::try_from(stat.num_threads).ok()?,
        // Signed in the kernel: a value below zero, which it may have for a moment, is written as a huge one.
        rss_pages: if i64::try_from(stat.rss).is_ok() { stat.rss } else { 0 },
    })
}

/// The bytes that a line such as `RssShmem:      128 kB` states.
fn kib(bytes: &[u8], name: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// The cgroup v2 path in the text of a file `cgroup`, as [`ProcFs::cgroup`] gives it.
#[must_use]
pub fn parse_cgroup(bytes: &[u8]) -> Option<PathBuf> {
    bytes
        .split(|b| *b == b'\n')
        .find_map(|l| l.strip_prefix(b"0::"))
        .map(|p| PathBuf::from(std::ffi::OsStr::from_bytes(p)))
}

/// Microseconds in one clock tick of [`ProcStat::cpu_ticks`].
#[must_use]
pub fn usec_per_tick() -> u64 {
    1_000_000 / procfs::ticks_per_second().max(1)
}

/// Bytes in one page of [`ProcStat::rss_pages`].
#[must_use]
pub fn page_size() -> u64 {
    procfs::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    /// What follows field 24 (rss) on kernel 6.18.
    const REST: &[u8] = b" 18446744073709551615 94258623053824 94258623073705 140729510191120 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 \
        94258623089712 94258623091328 94258989522944 140729510197976 140729510197996 140729510197996 140729510199275 0\n";

    #[test]
    fn a_name_with_brackets_blanks_newline_and_bad_utf8_does_not_shift_fields() {
        let head = b"42 (a) R (\xff\nb) D 7 42 42 0 -1 4194304 9 0 2 0 30 12 5 5 20 0 3 0 107847 3133440 414";
        let (_dir, proc) = fixture(&[("42/stat", &[&head[..], REST].concat())]);
        let s = proc.stat(42).unwrap().unwrap();
        assert_eq!(s.comm, "a) R (\u{fffd}\nb");
        assert_eq!(s.state, 'D');
        assert_eq!(s.ppid, 7);
        assert_eq!(s.page_faults, 11);
        assert_eq!(s.cpu_ticks, 42);
        assert_eq!(s.threads, 3);
        assert_eq!(s.id, ProcessId { pid: 42, start_time: 107_847 });
        assert_eq!(s.rss_pages, 414);
    }

    #[test]
    fn a_negative_resident_size_reads_as_zero() {
        let head = b"42 (a) S 7 42 42 0 -1 4194304 9 0 2 0 30 12 5 5 20 0 3 0 107847 3133440 18446744073709551613";
        let (_dir, proc) = fixture(&[("42/stat", &[&head[..], REST].concat())]);
        assert_eq!(proc.stat(42).unwrap().unwrap().rss_pages, 0);
    }

    proptest! {
        /// `procfs` has slices that panic on a text that is cut or has other bytes at the brackets.
        #[test]
        fn a_stat_that_is_cut_or_changed_never_panics(
            cut in 0..200usize,
            noise in proptest::collection::vec(prop_oneof![Just(b'('), Just(b')'), Just(b' '), Just(0xc3), any::<u8>()], 0..8),
            at in 0..60usize,
        ) {
            let mut bytes = [&b"42 (x) S 7 42 42 0 -1 4194304 9 0 2 0 30 12 5 5 20 0 3 0 107847 3133440 414"[..], REST].concat();
            bytes.truncate(cut);
            let at = at.min(bytes.len());
            bytes.splice(at..at, noise);
            parse_stat(&bytes);
        }
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

    /// The owner of a delegated cgroup names the cgroups below it. `procfs` cannot read this file.
    #[test]
    fn a_cgroup_name_that_is_not_utf8_is_read_byte_by_byte() {
        let text = b"0::/run/\xff\xfe (deleted)/x\n";
        let (_dir, proc) = fixture(&[("5/cgroup", text)]);
        let expected = std::ffi::OsStr::from_bytes(b"/run/\xff\xfe (deleted)/x");
        assert_eq!(proc.cgroup(5).unwrap().unwrap(), Path::new(expected));
        assert!(procfs::ProcessCGroups::from_buf_read(&text[..]).is_err(), "procfs can read it now: see ADR 0029");
    }

    #[test]
    fn the_shared_memory_of_the_node_is_found_in_meminfo() {
        let whole = include_str!("../../../tests/fixtures/proc/meminfo-6.18");
        let (_dir, proc) = fixture(&[("meminfo", whole.as_bytes())]);
        assert_eq!(proc.all_shared_memory().unwrap(), Some(8_952 * 1_024));
        // Kernel 6.1 has neither of these lines.
        let newer = |line: &&str| line.starts_with("SecPageTables") || line.starts_with("Balloon");
        let of_6_1: String = whole.lines().filter(|line| !newer(line)).map(|line| format!("{line}\n")).collect();
        let (_dir, proc) = fixture(&[("meminfo", of_6_1.as_bytes())]);
        assert_eq!(proc.all_shared_memory().unwrap(), Some(8_952 * 1_024));
        let (_dir, proc) = fixture(&[("meminfo", b"Shmem: 5 potatoes\n")]);
        assert_eq!(proc.all_shared_memory().unwrap(), None);
        assert!(ProcFs::default().all_shared_memory().unwrap().is_some());
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
