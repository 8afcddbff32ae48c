//! Processes on AMD GPUs: those that have one open and use it.
//!
//! ```text
//! pids of runs, then all others ─► which have /dev/dri open (seldom, within a budget) ─► their fdinfo (every pass)
//! ```
//! Owns what was found of each process. Invariants: a pass reads at most [`LINKS`] links; what several processes share, as after a
//! fork, is counted once, with the first of them. ROCm opens every GPU of the node: one that holds no memory of a GPU and never
//! worked there is not on it. Not yet run on a real AMD GPU.

use super::fdinfo::{self, Client};
use crate::{
    platform::ProcFs,
    sensors::nvml::{GpuProcess, ProcessKind},
};
use failsafe_core::{MonoTime, time::Span};
use std::collections::{BTreeMap, BTreeSet};

/// Links of open files that one pass reads at most.
const LINKS: usize = 4_096;
/// The open files of a run's process are listed this often,
const RUNS_EVERY: Span = Span::from_secs(5);
/// and those of others.
const OTHERS_EVERY: Span = Span::from_secs(30);

/// What is known of the node's processes.
#[derive(Debug)]
pub(super) struct Processes {
    proc: ProcFs,
    links: usize,
    /// All pids, when they were listed last.
    listed: Option<(MonoTime, BTreeSet<u32>)>,
    looked: BTreeMap<u32, Looked>,
    /// How long the engines had worked for a process on a GPU, and when.
    worked: BTreeMap<(u32, String), (u64, MonoTime)>,
}

/// What was found of a process.
#[derive(Debug)]
struct Looked {
    at: MonoTime,
    /// Open files below `/dev/dri`.
    open: Vec<u32>,
}

/// One process on one GPU.
#[derive(Debug, Default)]
struct Use {
    memory: Option<u64>,
    worked_ns: Option<u64>,
    /// It holds memory or has worked there, shared with others or not.
    there: bool,
}

impl Processes {
    pub(super) fn new(proc: ProcFs) -> Processes {
        Processes { proc, links: LINKS, listed: None, looked: BTreeMap::new(), worked: BTreeMap::new() }
    }

    /// The processes on each GPU, by its PCI address.
    pub(super) fn read(&mut self, of_runs: &BTreeSet<u32>, at: MonoTime) -> BTreeMap<String, Vec<GpuProcess>> {
        self.list(of_runs, at);
        self.look(of_runs, at);
        let mut uses: BTreeMap<(u32, String), Use> = BTreeMap::new();
        let mut counted: BTreeSet<(String, u64)> = BTreeSet::new();
        for (pid, looked) in &self.looked {
            for fd in &looked.open {
                // One that was closed meanwhile, or has gone with its process.
                let Ok(Some(bytes)) = self.proc.read(*pid, &format!("fdinfo/{fd}")) else { continue };
                let Some(Client { pci, id, memory, worked_ns }) = fdinfo::parse(&bytes) else { continue };
                let it = uses.entry((*pid, pci.clone())).or_default();
                it.there |= memory.unwrap_or(0) > 0 || worked_ns.unwrap_or(0) > 0;
                let first = counted.insert((pci, id));
                it.memory = sum(it.memory, if first { memory } else { memory.map(|_| 0) });
                it.worked_ns = sum(it.worked_ns, if first { worked_ns } else { worked_ns.map(|_| 0) });
            }
        }
        uses.retain(|_, it| it.there);
        let before = std::mem::take(&mut self.worked);
        let mut found: BTreeMap<String, Vec<GpuProcess>> = BTreeMap::new();
        for ((pid, pci), it) in uses {
            let key = (pid, pci.clone());
            let sm = it.worked_ns.and_then(|now| share(before.get(&key).copied(), (now, at)));
            if let Some(now) = it.worked_ns {
                self.worked.insert(key, (now, at));
            }
            let (kind, memory) = (ProcessKind::Compute, it.memory);
            let process = GpuProcess { pid, memory, kind, gpu_instance: None, compute_instance: None, sm };
            found.entry(pci).or_default().push(process);
        }
        found
    }

    /// Lists the node's pids where that is due, and forgets those that are gone.
    fn list(&mut self, of_runs: &BTreeSet<u32>, at: MonoTime) {
        if self.listed.as_ref().is_none_or(|(listed, _)| at.since(*listed) >= OTHERS_EVERY) {
            let entries = std::fs::read_dir(self.proc.root()).into_iter().flatten().flatten();
            let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
            self.listed = Some((at, pids));
        }
        let all = self.listed.as_ref().map(|(_, pids)| pids);
        self.looked.retain(|pid, _| of_runs.contains(pid) || all.is_some_and(|all| all.contains(pid)));
    }

    /// Lists the open files of those whose turn it is, the runs' first, until the budget is spent.
    fn look(&mut self, of_runs: &BTreeSet<u32>, at: MonoTime) {
        let others = self.listed.iter().flat_map(|(_, pids)| pids).filter(|pid| !of_runs.contains(*pid));
        let wanted =
            of_runs.iter().map(|pid| (false, *pid, RUNS_EVERY)).chain(others.map(|pid| (true, *pid, OTHERS_EVERY)));
        let mut due: Vec<(bool, Option<MonoTime>, u32)> = wanted
            .map(|(other, pid, every)| (other, self.looked.get(&pid).map(|looked| looked.at), pid, every))
            .filter(|(_, looked, _, every)| looked.is_none_or(|looked| at.since(looked) >= *every))
            .map(|(other, looked, pid, _)| (other, looked, pid))
            .collect();
        due.sort_unstable();
        let mut left = self.links;
        for (_, _, pid) in due {
            if left == 0 {
                return;
            }
            let open = self.open(pid, &mut left);
            self.looked.insert(pid, Looked { at, open });
        }
    }

    /// The process's open files below `/dev/dri`.
    fn open(&self, pid: u32, left: &mut usize) -> Vec<u32> {
        let mut open = Vec::new();
        // One that has ended has nothing open.
        for entry in std::fs::read_dir(self.proc.path(pid, "fd")).into_iter().flatten().flatten() {
            let Some(rest) = left.checked_sub(1) else { break };
            *left = rest;
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with("/dev/dri")) {
                open.push(fd);
            }
        }
        open
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}

/// Percent of the time between two readings that the engines worked; of several at once, 100 at most.
fn share(before: Option<(u64, MonoTime)>, (now, at): (u64, MonoTime)) -> Option<u32> {
    let (before, since) = before?;
    let time = at.since(since).0;
    let percent = u128::from(now.saturating_sub(before)) * 100 / u128::from(time.max(1));
    (time > 0).then(|| u32::try_from(percent.min(100)).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    const FDINFO: &str = include_str!("../../../../tests/fixtures/amdgpu/fdinfo-6.13");

    fn at(seconds: u64) -> MonoTime {
        MonoTime((100 + seconds) * 1_000_000_000)
    }

    fn client(pci: &str, id: u64, gib: u64, worked_ns: u64) -> String {
        FDINFO
            .replace("0000:c1:00.0", pci)
            .replace("client-id:\t57", &format!("client-id:\t{id}"))
            .replace("resident-vram:\t20 GiB", &format!("resident-vram:\t{gib} GiB"))
            .replace("4000000000 ns", &format!("{worked_ns} ns"))
    }

    /// Has the process hold a file open, with what the kernel says of it.
    fn opens(proc: &Path, pid: u32, fd: u32, to: &str, info: &str) {
        for folder in ["fd", "fdinfo"] {
            fs::create_dir_all(proc.join(format!("{pid}/{folder}"))).unwrap();
        }
        let link = proc.join(format!("{pid}/fd/{fd}"));
        let _none_before = fs::remove_file(&link);
        symlink(to, link).unwrap();
        fs::write(proc.join(format!("{pid}/fdinfo/{fd}")), info).unwrap();
    }

    const A: &str = "0000:c1:00.0";
    const B: &str = "0000:c2:00.0";
    const NODE: &str = "/dev/dri/renderD128";

    #[test]
    fn processes_are_found_with_their_memory_and_what_they_did() {
        let proc = tempfile::tempdir().unwrap();
        let path = proc.path();
        opens(path, 10, 3, "/dev/null", "pos:\t0\n");
        opens(path, 10, 7, NODE, &client(A, 1, 20, 0));
        // The same file twice, as by dup, and another of the same GPU.
        opens(path, 10, 8, NODE, &client(A, 1, 20, 0));
        opens(path, 10, 9, NODE, &client(A, 2, 1, 1_000_000_000));
        // ROCm opens the GPUs that it does not use as well.
        opens(path, 10, 11, "/dev/dri/renderD129", &client(B, 1, 0, 0));
        // A child that has its parent's file.
        opens(path, 12, 7, NODE, &client(A, 1, 20, 0));
        opens(path, 20, 4, "/dev/dri/renderD129", &client(B, 9, 3, 0));
        opens(path, 21, 4, NODE, &FDINFO.replace("amdgpu", "i915"));
        fs::create_dir_all(path.join("self")).unwrap();
        let mut processes = Processes::new(ProcFs::new(path));
        let listed = |found: &BTreeMap<String, Vec<GpuProcess>>, pci: &str| -> Vec<(u32, Option<u64>, Option<u32>)> {
            found.get(pci).into_iter().flatten().map(|it| (it.pid, it.memory, it.sm)).collect()
        };
        let found = processes.read(&[10].into(), at(0));
        assert_eq!(listed(&found, A), [(10, Some(21 << 30), None), (12, Some(0), None)]);
        assert_eq!(listed(&found, B), [(20, Some(3 << 30), None)]);
        opens(path, 10, 9, NODE, &client(A, 2, 1, 1_500_000_000));
        opens(path, 20, 4, "/dev/dri/renderD129", &client(B, 9, 3, 9_000_000_000));
        let found = processes.read(&[10].into(), at(1));
        assert_eq!(listed(&found, A), [(10, Some(21 << 30), Some(50)), (12, Some(0), Some(0))]);
        assert_eq!(listed(&found, B), [(20, Some(3 << 30), Some(100))], "two engines at once");
        fs::remove_dir_all(path.join("10")).unwrap();
        assert_eq!(
            listed(&processes.read(&BTreeSet::new(), at(2)), A),
            [(12, Some(20 << 30), Some(0))],
            "its parent ended"
        );
    }

    #[test]
    fn one_that_opens_a_gpu_later_is_found_a_runs_process_soon() {
        let proc = tempfile::tempdir().unwrap();
        for pid in [10, 20] {
            opens(proc.path(), pid, 3, "/dev/null", "pos:\t0\n");
        }
        let mut processes = Processes::new(ProcFs::new(proc.path()));
        assert!(processes.read(&[10].into(), at(0)).is_empty());
        for (pid, id) in [(10, 1), (20, 2)] {
            opens(proc.path(), pid, 4, NODE, &client(A, id, 1, 0));
        }
        // A run's new process is looked at with the next pass.
        opens(proc.path(), 30, 4, NODE, &client(A, 3, 1, 0));
        let mut pids = |runs: &[u32], seconds| -> Vec<u32> {
            let found = processes.read(&runs.iter().copied().collect(), at(seconds));
            found.get(A).into_iter().flatten().map(|it| it.pid).collect()
        };
        assert_eq!(pids(&[10, 30], 1), [30]);
        assert_eq!(pids(&[10, 30], 5), [10, 30]);
        assert_eq!(pids(&[10, 30], 30), [10, 20, 30]);
    }

    #[test]
    fn a_pass_reads_no_more_links_than_its_budget_and_comes_to_all_in_the_end() {
        let proc = tempfile::tempdir().unwrap();
        for pid in 1..=6 {
            for fd in 0..4 {
                opens(proc.path(), pid, fd, NODE, &client(A, u64::from(pid), 1, 0));
            }
        }
        let mut processes = Processes::new(ProcFs::new(proc.path()));
        processes.links = 8;
        let mut found = Vec::new();
        for second in 0..3 {
            found.push(processes.read(&[6].into(), at(second)).get(A).map_or(0, Vec::len));
        }
        assert_eq!(found, [2, 4, 6]);
        assert!(processes.looked[&6].at == at(0), "the run's own came first");
    }
}
