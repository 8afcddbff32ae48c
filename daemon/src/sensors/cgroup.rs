//! Memory, CPU, page faults, pressure and OOM kills of a run, from its cgroup's files or else from `/proc`.
//!
//! [`RunReader`] owns what one run's figures need between readings: what processes that have ended had used. Pure
//! reading; nothing is written and nothing judged.
//!
//! Which source is used is said in the result, because they differ:
//! - CPU: `cpu.stat` is there in every v2 cgroup, with or without the controller, and is exact. Only where it is
//!   missing are the processes of `/proc` added up; what one used after the last reading before its end is lost.
//! - memory: `memory.current` is there only where the controller is on v2. The sum of resident sizes counts no page cache or
//!   kernel memory, and counts pages that processes share (after a fork, of files) once per process: neither bound of the
//!   other. Shared memory is counted as at most what the whole node has of it, so that workers with one buffer do not count
//!   it once each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use failsafe_core::Kind;
use serde::{Deserialize, Serialize};

use super::integer;
use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, Members, ProcFs, ProcessId, proc};

/// Levels are read for this long at most: a run may have tens of thousands.
const LEVELS: Duration = Duration::from_millis(50);

/// A run that uses no CPU time is read in full this often. What others make of it (memory that is reclaimed, pressure that decays, a
/// stopped process that is moved in) is seen then. Shorter than the time after which a value is repeated.
const IDLE: Duration = Duration::from_secs(3);

fn complete() -> bool {
    true
}

/// Where a figure came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The cgroup's own files.
    CgroupFiles,
    /// The sum over its processes.
    Proc,
}

/// What a run uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUsage {
    /// Bytes of memory; absent when neither source could be read.
    pub memory_bytes: Option<u64>,
    /// Where `memory_bytes` came from.
    pub memory_source: UsageSource,
    /// CPU time since the run began, microseconds; never goes back between readings of one [`RunReader`].
    pub cpu_usec: Option<u64>,
    /// Where `cpu_usec` came from.
    pub cpu_source: UsageSource,
    /// Live processes, of all levels.
    pub processes: u64,
    /// Whether the run stands still: its cgroup is frozen, or each of its processes is stopped. Looked at while it uses no CPU time.
    #[serde(default)]
    pub suspended: bool,
    /// Whether these are all, or time was over before every level was read.
    #[serde(default = "complete")]
    pub complete: bool,
    /// Pressure of the run, where the kernel has it.
    pub psi: Psi,
    /// Page faults since the run began (`memory.stat`, or summed over its processes); never goes back either.
    pub page_faults: Option<u64>,
    /// OOM kills in the run so far (`memory.events`); absent where the controller is not on v2.
    pub oom_kills: Option<u64>,
}

impl RunUsage {
    /// Its signals, as far as this host has them.
    pub fn values(&self) -> impl Iterator<Item = (Kind, i64)> {
        let psi = |p: Option<Pressure>| p.map(|p| i64::from(p.some_avg10) * 10);
        [
            (Kind::Memory, self.memory_bytes.map(integer)),
            (Kind::CpuTime, self.cpu_usec.map(integer)),
            (Kind::PageFaults, self.page_faults.map(integer)),
            (Kind::OomKills, self.oom_kills.map(integer)),
            (Kind::Processes, self.complete.then(|| integer(self.processes))),
            (Kind::Suspended, Some(i64::from(self.suspended))),
            (Kind::PressureCpu, psi(self.psi.cpu)),
            (Kind::PressureMemory, psi(self.psi.memory)),
            (Kind::PressureIo, psi(self.psi.io)),
        ]
        .into_iter()
        .filter_map(|(kind, value)| Some((kind, value?)))
    }
}

/// Pressure stall information of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Psi {
    /// `cpu.pressure`.
    pub cpu: Option<Pressure>,
    /// `memory.pressure`.
    pub memory: Option<Pressure>,
    /// `io.pressure`.
    pub io: Option<Pressure>,
}

/// One resource's pressure: the share of the last 10 s in which tasks waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task waited; hundredths of a percent.
    pub some_avg10: u32,
    /// All tasks waited; hundredths of a percent. Kernels before 5.13 have no such line for cpu.
    pub full_avg10: Option<u32>,
}

/// Reads one run's usage again and again.
#[derive(Debug, Default)]
pub struct RunReader {
    procfs: ProcFs,
    /// The last totals of each live process; kept only where `/proc` is the source.
    live: BTreeMap<ProcessId, Totals>,
    /// Of those that have ended.
    ended: Totals,
    /// The highest CPU time reported.
    cpu_usec: u64,
    /// The highest number of page faults reported.
    page_faults: u64,
    /// What the last full read of [`RunReader::sample`] found.
    last: Option<Last>,
}

/// A full read.
#[derive(Debug)]
struct Last {
    usage: RunUsage,
    /// The CPU time before it.
    cpu_usec: u64,
    at: Instant,
    /// The run had used no CPU time since the read before it.
    idle: bool,
}

/// What only grows while a process lives, and is lost when it ends.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    cpu_ticks: u64,
    page_faults: u64,
}

impl Totals {
    fn add(self, other: Totals) -> Totals {
        Totals {
            cpu_ticks: self.cpu_ticks.saturating_add(other.cpu_ticks),
            page_faults: self.page_faults.saturating_add(other.page_faults),
        }
    }
}

impl RunReader {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the run, in full only where it has used CPU time since the last full read or that is [`IDLE`] ago: an idle run costs
    /// one small file.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; else when the kernel refuses a read.
    pub fn sample(&mut self, cgroup: &Cgroup, now: Instant) -> Result<RunUsage, CgroupError> {
        let cpu = Self::cpu_now(cgroup)?;
        let last = self.last.take_if(|last| cpu == Some(last.cpu_usec));
        let idle = last.is_some();
        if let Some(mut last) = last.filter(|last| now.duration_since(last.at) < IDLE) {
            if !std::mem::replace(&mut last.idle, true) {
                last.usage.suspended = self.is_suspended(cgroup, &members(cgroup)?)?;
            }
            return Ok(self.last.insert(last).usage.clone());
        }
        let usage = self.full(cgroup, cpu, idle)?;
        // The CPU time before the read: what the run uses during it counts as not yet seen.
        self.last = cpu.map(|cpu_usec| Last { usage: usage.clone(), cpu_usec, at: now, idle });
        Ok(usage)
    }

    /// Whether the run stands still: the kernel has it frozen, or each of its processes is stopped by a signal (as by `scontrol suspend`). A
    /// process that is not looked at in time counts as one that runs. One that a tracer stopped does too: its other threads may run.
    fn is_suspended(&self, cgroup: &Cgroup, members: &Members) -> Result<bool, CgroupError> {
        let events = cgroup.events()?;
        if !events.populated || events.frozen {
            return Ok(events.populated);
        }
        let until = Instant::now() + LEVELS;
        let mut stopped = false;
        for pid in &members.ids {
            if Instant::now() >= until {
                return Ok(false);
            }
            match self.procfs.stat(*pid)? {
                Some(stat) if stat.is_stopped() => stopped = true,
                Some(stat) if stat.has_ended() => {}
                Some(_) => return Ok(false),
                None => {}
            }
        }
        Ok(stopped && members.complete)
    }

    /// CPU time of the run's cgroup as the kernel counts it now, microseconds: one small file. `None` where the kernel does not
    /// count it. While it stands still, no process of the run has done anything.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; else when the kernel refuses the read.
    fn cpu_now(cgroup: &Cgroup) -> Result<Option<u64>, CgroupError> {
        Ok(optional(cgroup, "cpu.stat")?.and_then(|b| parse_field(&b, "usage_usec")))
    }

    /// Reads the run as it is now.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; else when the kernel refuses a read.
    pub fn read(&mut self, cgroup: &Cgroup) -> Result<RunUsage, CgroupError> {
        self.full(cgroup, Self::cpu_now(cgroup)?, false)
    }

    /// All but the CPU time of its cgroup, which was read just before. What stands still uses no CPU time: whether a run that is not
    /// `idle` is suspended is not looked at, whatever the number of its processes.
    fn full(&mut self, cgroup: &Cgroup, cpu_files: Option<u64>, idle: bool) -> Result<RunUsage, CgroupError> {
        let members = members(cgroup)?;
        let suspended = idle && self.is_suspended(cgroup, &members)?;
        let (pids, all) = (members.ids, members.complete);
        let from_files = optional(cgroup, "memory.current")?.and_then(|b| parse_number(&b));
        let faults = optional(cgroup, "memory.stat")?.and_then(|b| parse_field(&b, "pgfault"));
        let complete = from_files.is_some() && cpu_files.is_some() && faults.is_some();
        let sums = if !complete { Some(self.sum(&pids)?) } else { None };
        let now = cpu_files.or(sums.map(|s| s.cpu_usec));
        if let Some(now) = now {
            self.cpu_usec = self.cpu_usec.max(now);
        }
        let faults = faults.or(sums.map(|s| s.page_faults));
        self.page_faults = self.page_faults.max(faults.unwrap_or(0));
        Ok(RunUsage {
            memory_bytes: from_files.or(sums.map(|s| s.rss_bytes)),
            memory_source: source(from_files),
            cpu_usec: now.map(|_| self.cpu_usec),
            cpu_source: source(cpu_files),
            processes: pids.len() as u64,
            suspended,
            complete: all,
            psi: Psi {
                cpu: pressure(cgroup, "cpu.pressure")?,
                memory: pressure(cgroup, "memory.pressure")?,
                io: pressure(cgroup, "io.pressure")?,
            },
            page_faults: faults.map(|_| self.page_faults),
            oom_kills: optional(cgroup, "memory.events")?.and_then(|b| parse_field(&b, "oom_kill")),
        })
    }

    /// The sum of resident sizes, `shared` bytes of which are shared memory: that is as often in it as processes have it mapped. All of
    /// them together have no more of it than the node has.
    fn once(&self, rss: u64, shared: u64) -> Result<u64, CgroupError> {
        if shared == 0 {
            return Ok(rss);
        }
        let all = self.procfs.all_shared_memory()?.unwrap_or(shared);
        Ok(rss.saturating_sub(shared.saturating_sub(all)))
    }

    /// Adds up the processes, and remembers what each has used in case it is gone next time.
    fn sum(&mut self, pids: &[u32]) -> Result<Sums, CgroupError> {
        let (mut rss_pages, mut shared) = (0u64, 0u64);
        let mut live = BTreeMap::new();
        for pid in pids {
            if let Some(stat) = self.procfs.stat(*pid)? {
                rss_pages = rss_pages.saturating_add(stat.rss_pages);
                // Of one process it is counted once anyway.
                if pids.len() > 1 {
                    shared = shared.saturating_add(self.procfs.shared_memory(*pid)?.unwrap_or(0));
                }
                live.insert(stat.id, Totals { cpu_ticks: stat.cpu_ticks, page_faults: stat.page_faults });
            }
        }
        for (who, totals) in &self.live {
            if !live.contains_key(who) {
                self.ended = self.ended.add(*totals);
            }
        }
        self.live = live;
        let now = self.live.values().fold(self.ended, |sum, totals| sum.add(*totals));
        Ok(Sums {
            rss_bytes: self.once(rss_pages.saturating_mul(proc::page_size()), shared)?,
            cpu_usec: now.cpu_ticks.saturating_mul(proc::usec_per_tick()),
            page_faults: now.page_faults,
        })
    }
}

/// The processes of a run, as many as can be listed in time.
fn members(cgroup: &Cgroup) -> Result<Members, CgroupError> {
    cgroup.procs_until(Instant::now() + LEVELS)
}

/// Signals of this sensor that a run in a cgroup below `parent` (a path below the mount) does not have on this node, each with
/// the reason. Memory, page faults and CPU time are summed over `/proc` where the controller is not on v2.
pub fn unavailable(mount: &Path, parent: &Path, proc: &Path) -> BTreeMap<Kind, String> {
    let mut out = BTreeMap::new();
    let has = |path: PathBuf| {
        std::fs::read_to_string(path).ok().map(|text| text.split_whitespace().any(|controller| controller == "memory"))
    };
    let parent = mount.join(parent.strip_prefix("/").unwrap_or(parent));
    let on_v2 = has(mount.join("cgroup.controllers")).unwrap_or(false);
    // Before its first run the parent is not there; its controllers are then those that it will be given.
    let given = has(parent.join("cgroup.subtree_control")).unwrap_or(on_v2);
    if !on_v2 {
        let why = "the memory controller is not on cgroup2 (a v1 mount has it): use a rule on the event `oom`";
        out.insert(Kind::OomKills, why.to_owned());
    } else if !given {
        let why = format!("{} does not enable the memory controller: use a rule on the event `oom`", parent.display());
        out.insert(Kind::OomKills, why);
    }
    for (kind, file) in [(Kind::PressureCpu, "cpu"), (Kind::PressureMemory, "memory"), (Kind::PressureIo, "io")] {
        let path = proc.join("pressure").join(file);
        // With `psi=0` the file is there and cannot be read.
        if let Err(error) = std::fs::read(&path) {
            out.insert(kind, format!("{} cannot be read ({error}): boot with psi=1", path.display()));
        }
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sums {
    rss_bytes: u64,
    cpu_usec: u64,
    page_faults: u64,
}

fn source(files: Option<u64>) -> UsageSource {
    if files.is_some() { UsageSource::CgroupFiles } else { UsageSource::Proc }
}

/// A file that this kernel or this cgroup may not have (EOPNOTSUPP: pressure accounting switched off).
fn optional(cgroup: &Cgroup, name: &str) -> Result<Option<Vec<u8>>, CgroupError> {
    match cgroup.read_file(name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CgroupError::NoSuchFile { .. }) => Ok(None),
        Err(e) if e.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

fn pressure(cgroup: &Cgroup, name: &str) -> Result<Option<Pressure>, CgroupError> {
    Ok(optional(cgroup, name)?.and_then(|b| parse_pressure(&b)))
}

fn parse_number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

fn parse_field(bytes: &[u8], name: &str) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=42`, and the same for `full`.
fn parse_pressure(bytes: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(bytes).ok()?;
    // `procfs` panics on a line shorter than the word, and demands both lines: `cpu.pressure` had no `full` before kernel 5.13.
    let avg10 = |kind: &str| {
        let line = text.lines().find(|line| line.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))?;
        let percent = procfs::parse_pressure_record(line).ok()?.avg10;
        // The kernel writes two digits.
        (0.0..=100.0).contains(&percent).then(|| (percent * 100.0).round() as u32)
    };
    Some(Pressure { some_avg10: avg10("some")?, full_avg10: avg10("full") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_hundredths_of_a_percent() {
        let text =
            b"some avg10=12.34 avg60=0.00 avg300=0.00 total=42\nfull avg10=0.05 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(parse_pressure(text), Some(Pressure { some_avg10: 1234, full_avg10: Some(5) }));
        let old = b"some avg10=100.00 avg60=0.00 avg300=0.00 total=42\n";
        assert_eq!(parse_pressure(old), Some(Pressure { some_avg10: 10000, full_avg10: None }));
        let huge = b"some avg10=99999999999.00 avg60=0.00 avg300=0.00 total=42\n";
        let nan = b"some avg10=nan avg60=0.00 avg300=0.00 total=42\n";
        for bad in [&b"some avg10=1.2 x"[..], b"some", b"some ", b"", b"\xff", huge, nan] {
            assert_eq!(parse_pressure(bad), None);
        }
    }

    #[test]
    fn each_pressure_that_the_kernel_can_write_is_read_exactly() {
        for hundredths in 0..=10_000 {
            let text =
                format!("some avg10={}.{:02} avg60=0.00 avg300=0.00 total=42\n", hundredths / 100, hundredths % 100);
            let expected = Some(Pressure { some_avg10: hundredths, full_avg10: None });
            assert_eq!(parse_pressure(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_a_host_cannot_give_is_named_on_v1_hybrid_and_v2() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, proc) = (dir.path().join("cg"), dir.path().join("proc"));
        std::fs::create_dir_all(mount.join("failsafe")).unwrap();
        std::fs::create_dir_all(proc.join("pressure")).unwrap();
        let write = |file: &str, text: &str| std::fs::write(mount.join(file), text).unwrap();
        let lacking = || unavailable(&mount, Path::new("/failsafe"), &proc).into_keys().collect::<Vec<_>>();
        write("cgroup.controllers", "hugetlb\n");
        let pressure = [Kind::PressureCpu, Kind::PressureMemory, Kind::PressureIo];
        let all: Vec<Kind> = [Kind::OomKills].into_iter().chain(pressure).collect();
        assert_eq!(lacking(), all, "hybrid, without pressure accounting");
        for file in ["cpu", "memory", "io"] {
            std::fs::write(proc.join("pressure").join(file), "some avg10=0.00\n").unwrap();
        }
        assert_eq!(lacking(), [Kind::OomKills]);
        write("cgroup.controllers", "cpu memory pids\n");
        assert!(lacking().is_empty(), "v2, before the parent is made");
        write("failsafe/cgroup.subtree_control", "cpu\n");
        assert_eq!(lacking(), [Kind::OomKills], "v2, not handed on to runs");
        write("failsafe/cgroup.subtree_control", "cpu memory\n");
        assert!(lacking().is_empty());
    }

    /// Every signal of this sensor is read of a real cgroup, or is named as unavailable; none is neither.
    #[test]
    fn each_signal_is_read_on_this_node_or_reported_as_unavailable() {
        let Ok(root) = crate::platform::CgroupRoot::find() else { return };
        let name = format!("failsafe-test-signals-{}", std::process::id());
        let Ok(cgroup) = root.create(Path::new(&name)) else { return };
        let lacking = unavailable(root.mount(), Path::new("/"), Path::new("/proc"));
        let usage = RunReader::new().read(&cgroup);
        let _gone = std::fs::remove_dir(root.mount().join(&name));
        let read: Vec<Kind> = usage.unwrap().values().map(|(kind, _)| kind).collect();
        for kind in Kind::ALL.iter().filter(|kind| kind.source() == failsafe_core::signal::Source::Cgroup) {
            assert_ne!(read.contains(kind), lacking.contains_key(kind), "{kind}: {lacking:?}");
        }
    }

    #[test]
    fn fields_match_whole_names() {
        let text = b"oom_kill_group 9\noom 1\noom_kill 3\n";
        assert_eq!(parse_field(text, "oom_kill"), Some(3));
        assert_eq!(parse_field(text, "oom_k"), None);
        assert_eq!(parse_number(b"4096\n"), Some(4096));
        assert_eq!(parse_number(b"max\n"), None);
    }

    fn fixture(root: &std::path::Path, pid: u32, start: u64, ticks: u64, rss: u64) {
        let dir = root.join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let stat = format!(
            "{pid} (x) S 1 1 1 0 -1 0 {ticks} 0 1 0 {ticks} 0 0 0 20 0 1 0 {start} 0 {rss}{}\n",
            " 0".repeat(28)
        );
        std::fs::write(dir.join("stat"), stat).unwrap();
    }

    #[test]
    fn what_is_summed_from_proc_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = RunReader { procfs: ProcFs::new(dir.path()), ..RunReader::default() };
        fixture(dir.path(), 10, 100, 50, 3);
        fixture(dir.path(), 11, 101, 70, 4);
        let tick = proc::usec_per_tick();
        let first = reader.sum(&[10, 11]).unwrap();
        assert_eq!(first, Sums { rss_bytes: 7 * proc::page_size(), cpu_usec: 120 * tick, page_faults: 122 });
        // 11 ends; its number passes to a newcomer, which has used little.
        fixture(dir.path(), 11, 900, 1, 1);
        let second = reader.sum(&[10, 11]).unwrap();
        assert_eq!((second.cpu_usec, second.page_faults), (121 * tick, 124));
        // 10 vanishes between the listing and the reading.
        std::fs::remove_dir_all(dir.path().join("10")).unwrap();
        let third = reader.sum(&[10, 11]).unwrap();
        assert_eq!(third, Sums { rss_bytes: proc::page_size(), cpu_usec: 121 * tick, page_faults: 124 });
    }

    #[test]
    fn a_buffer_that_workers_share_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let reader = || RunReader { procfs: ProcFs::new(dir.path()), ..RunReader::default() };
        let (page, workers) = (proc::page_size(), [20, 21, 22, 23]);
        for pid in workers {
            // 100 pages each, 80 of them the buffer.
            fixture(dir.path(), pid, 100, 1, 100);
            let status = format!("Name:\tx\nRssAnon:\t   80 kB\nRssShmem:\t {} kB\n", 80 * page / 1_024);
            std::fs::write(dir.path().join(format!("{pid}/status")), status).unwrap();
        }
        let node_has = |pages: u64| {
            let whole = include_str!("../../../tests/fixtures/proc/meminfo-6.18");
            let text = whole.replace(" 8952 kB", &format!(" {} kB", pages * page / 1_024));
            assert_ne!(text, whole);
            std::fs::write(dir.path().join("meminfo"), text).unwrap();
        };
        node_has(80);
        assert_eq!(reader().sum(&workers).unwrap().rss_bytes, (4 * 20 + 80) * page);
        // Others have shared memory too: it is not known how much is the run's, and the sum is an upper bound.
        node_has(100_000);
        assert_eq!(reader().sum(&workers).unwrap().rss_bytes, 4 * 100 * page);
        // Without the total, and for one process, nothing is taken away.
        std::fs::remove_file(dir.path().join("meminfo")).unwrap();
        assert_eq!(reader().sum(&workers).unwrap().rss_bytes, 4 * 100 * page);
        assert_eq!(reader().sum(&[20]).unwrap().rss_bytes, 100 * page);
    }
}
