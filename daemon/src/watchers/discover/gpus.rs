//! The GPUs of discovered runs: nobody declares them, so they are found by what the processes of a run have open. The sensors of GPUs
//! find those that it uses.
//!
//! ```text
//! every 5 s, within a budget: processes of a run ─► open files ─► devices of major 195 ─► UUIDs ─► registry: gives, withdraws
//!                             first process with such a variable ─► environment ─► what it claims, for people
//! ```
//! Invariants: a number is turned into the UUID of the GPU that has it now, and only the UUID is kept; what is given and withdrawn is
//! decided in one place (`runs::gpus`), with what the other runs have; nothing is decided by the environment, because the run chooses
//! it. Nobody waits for this thread: what it reads may have to wait for the memory of a process. Its hang is reported (`alive`).

pub mod alive;
mod environment;
mod open_files;

use super::view::Shared;
use crate::{
    node::NodeView,
    pipeline::{Message, Sender},
    platform::{ProcFs, clock, device::character_device, sched},
    runs::{LiveRun, Registry, gpus::Opened},
};
use environment::claimed;
use failsafe_core::{GpuId, Input, MonoTime, RunId, discover::is_discovered};
use open_files::{AllLooks, OpenDevices, OpenFiles, Progress};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the runs are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How long the thread sleeps.
const LOOK: Duration = Duration::from_secs(1);
/// Processes and links of open files that one pass reads at most.
const LINKS: usize = 16_384;
/// How long the processes of a run are listed at most.
const LISTED: Duration = Duration::from_millis(50);
/// How often the environment of a run is looked for, and that of how many processes each time. The first ones may be a runtime's.
const TRIES: u32 = 24;
const ENVIRONMENTS: usize = 8;
/// Bytes of an environment that are read.
const ENVIRONMENT: u64 = 256 << 10;

/// The thread's state.
pub struct Finder {
    registry: Weak<Registry>,
    node: Arc<Mutex<NodeView>>,
    pipeline: Sender,
    shared: Arc<Shared>,
    files: OpenFiles,
    looks: AllLooks,
    /// How often the environment of a run was looked for.
    tried: BTreeMap<RunId, u32>,
    /// The run that was looked at last: the next pass begins behind it.
    last: Option<RunId>,
    /// The run that gets the next pass's budget first: what was left of this one was too little for one of its processes.
    first: Option<RunId>,
}

/// The GPUs of the node: UUID, index, minor number.
type Listed = Vec<(GpuId, u32, Option<u32>)>;

impl Finder {
    /// Nothing is looked at yet.
    pub fn new(registry: &Arc<Registry>, node: Arc<Mutex<NodeView>>, pipeline: Sender, shared: Arc<Shared>) -> Finder {
        let files = OpenFiles { proc: ProcFs::default(), device: character_device };
        let (looks, tried) = Default::default();
        let (last, first) = (None, None);
        Finder { registry: Arc::downgrade(registry), node, pipeline, shared, files, looks, tried, last, first }
    }

    /// Works until `stop`, or until the daemon ends.
    pub fn work(mut self, stop: &AtomicBool) {
        sched::background();
        let shared = Arc::clone(&self.shared);
        let _working = shared.finder().start(Instant::now());
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            shared.finder().beat(Instant::now());
            if Instant::now() >= next {
                self.pass();
                next = Instant::now() + EVERY;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn pass(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let listed: Listed = {
            let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
            node.gpus.values().map(|gpu| (gpu.uuid.clone(), gpu.index, gpu.minor)).collect()
        };
        let mut runs = registry.live();
        runs.retain(|live| is_discovered(&live.run.labels));
        let ids: BTreeSet<RunId> = runs.iter().map(|live| live.run.id).collect();
        self.looks.retain(&ids);
        self.tried.retain(|run, _| ids.contains(run));
        if listed.is_empty() {
            return;
        }
        let (first, last) = (self.first.take(), self.last);
        // Those behind the last one of the pass before come first.
        runs.sort_by_key(|live| {
            let id = live.run.id;
            (first != Some(id), last.is_some_and(|last| id <= last), id)
        });
        let mut opened = BTreeMap::new();
        let mut left = LINKS;
        for (n, live) in runs.iter().enumerate() {
            if left == 0 {
                break;
            }
            self.last = Some(live.run.id);
            // One that is being ended has no processes.
            let Ok(members) = live.cgroup.procs_until(Instant::now() + LISTED) else { continue };
            self.claims(live, &members.ids, &listed);
            let (files, id) = (&self.files, live.run.id);
            let of = |pid, left: &mut usize| {
                let (minors, is_whole) = files.of(pid, left);
                // The number may have become another process's meanwhile.
                let is_ours = minors.is_empty() || is_in(&files.proc, live, pid);
                (if is_ours { minors } else { BTreeSet::new() }, is_whole)
            };
            match self.looks.of(id).go_on((&members.ids, members.complete), &mut left, of) {
                Progress::Done(seen) => drop(opened.insert(id, gpus_of(&seen, &listed))),
                Progress::Spent => self.first = (n > 0).then_some(id),
            }
        }
        for live in registry.settle_open_gpus(&opened) {
            let gpus = live.status().gpus.clone();
            let input = Input::RunGpus { run: live.run.id, gpus, at: MonoTime(clock::monotonic_ns()) };
            // A closed queue means that the pipeline has ended.
            let _closed = self.pipeline.send(Message::Input(input));
        }
    }

    /// What the environment of its first processes says.
    fn claims(&mut self, live: &LiveRun, pids: &[u32], listed: &Listed) {
        if live.status().claimed_gpus.is_some() || pids.is_empty() {
            return;
        }
        let tried = self.tried.entry(live.run.id).or_default();
        if *tried >= TRIES {
            return;
        }
        *tried += 1;
        for pid in pids.iter().copied().take(ENVIRONMENTS) {
            let mut environment = Vec::new();
            let file = File::open(self.files.proc.path(pid, "environ"));
            // One that has ended, or of the kernel.
            if file.is_ok_and(|file| file.take(ENVIRONMENT).read_to_end(&mut environment).is_ok())
                && let Some(claimed) = claimed(&environment, pid, listed)
                && is_in(&self.files.proc, live, pid)
            {
                live.status().claimed_gpus = Some(claimed);
                return;
            }
        }
    }
}

fn is_in(proc: &ProcFs, live: &LiveRun, pid: u32) -> bool {
    proc.cgroup(pid).ok().flatten().is_some_and(|path| live.cgroup.contains(&path))
}

/// The GPUs that now have the numbers of what was seen. One that is not listed any more stays as it is.
fn gpus_of(seen: &OpenDevices, listed: &Listed) -> Opened {
    let mut out = Opened::default();
    for (gpu, _, minor) in listed {
        let Some(minor) = minor else { continue };
        if let Some(pid) = seen.again.get(minor) {
            out.open.insert(gpu.clone(), *pid);
        } else if seen.is_whole && !seen.open.contains(minor) {
            out.closed.insert(gpu.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_listed_is_neither_open_nor_closed() {
        let gpu = |name: &str| GpuId(name.into());
        // Their minor numbers are in another order than their indices; an AMD GPU has none.
        let listed: Listed =
            vec![(gpu("a"), 0, Some(2)), (gpu("b"), 1, Some(1)), (gpu("c"), 2, Some(0)), (gpu("amd"), 3, None)];
        let seen = |is_whole| OpenDevices { again: [(2, 7), (255, 7)].into(), open: [0, 2, 255].into(), is_whole };
        assert_eq!(gpus_of(&seen(true), &listed), Opened { open: [(gpu("a"), 7)].into(), closed: [gpu("b")].into() });
        assert_eq!(gpus_of(&seen(false), &listed), Opened { open: [(gpu("a"), 7)].into(), closed: [].into() });
    }
}
