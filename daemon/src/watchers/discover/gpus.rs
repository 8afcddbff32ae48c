//! The GPUs of discovered runs: nobody declares them, so they are found by what the processes of a run have open. The sensors of GPUs
//! find those that it uses.
//!
//! ```text
//! every 5 s, within a budget: processes of a run ─► links of open files ─► /dev/nvidiaN, major 195 ─► UUID ─► engine, audit log
//!                             first process with such a variable ─► environment ─► what it claims, for people
//! ```
//! Invariants: a number is turned into the UUID of the GPU that has it now, and only the UUID is kept; a GPU is the run's by an open file
//! only if one process had it open at two looks, no other run uses it, and it is not known which GPUs the run uses (`runs::gpus`); nothing
//! is decided by the environment, because the run chooses it. Nobody waits for this thread: what it reads may have to wait for the
//! memory of a process.

use crate::{
    node::NodeView,
    pipeline::{Message, Sender},
    platform::{ProcFs, clock, device::character_device, sched},
    runs::{LiveRun, Registry, gpus::ClaimedGpus},
};
use failsafe_core::{GpuId, Input, MonoTime, RunId, discover::is_discovered, visible::clean};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, read_dir, read_link},
    io::Read,
    path::Path,
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
/// Links of open files that one pass reads at most, and those of one process.
const LINKS: usize = 16_384;
const OF_A_PROCESS: usize = 4_096;
/// How long the processes of a run are listed at most.
const LISTED: Duration = Duration::from_millis(50);
/// Major number of NVIDIA's devices; `/dev/nvidiactl` has minor 255.
const NVIDIA: u32 = 195;
/// How often the environment of a run is looked for, and that of how many processes each time. The first ones may be a runtime's.
const TRIES: u32 = 24;
const ENVIRONMENTS: usize = 8;
/// Bytes of an environment that are read, and of a value that are kept.
const ENVIRONMENT: u64 = 256 << 10;
const VALUE: usize = 256;
/// Variables that say which GPUs a process is given, the most exact ones first, and whether a number in them is that of the driver. In
/// `CUDA_VISIBLE_DEVICES` it counts what the process sees, in an order of CUDA's.
const VARIABLES: [(&str, bool); 4] = [
    ("NVIDIA_VISIBLE_DEVICES", true),
    ("SLURM_STEP_GPUS", true),
    ("SLURM_JOB_GPUS", true),
    ("CUDA_VISIBLE_DEVICES", false),
];

/// The thread's state.
pub struct Finder {
    registry: Weak<Registry>,
    node: Arc<Mutex<NodeView>>,
    pipeline: Sender,
    files: OpenFiles,
    looks: Looks,
    /// How often the environment of a run was looked for.
    tried: BTreeMap<RunId, u32>,
    /// The run that was looked at last: the next pass begins behind it.
    last: Option<RunId>,
}

/// The GPUs of the node: UUID, index, minor number.
type Listed = Vec<(GpuId, u32, Option<u32>)>;

impl Finder {
    /// Nothing is looked at yet.
    pub fn new(registry: &Arc<Registry>, node: Arc<Mutex<NodeView>>, pipeline: Sender) -> Finder {
        let files = OpenFiles { proc: ProcFs::default(), device: character_device };
        let (looks, tried) = Default::default();
        Finder { registry: Arc::downgrade(registry), node, pipeline, files, looks, tried, last: None }
    }

    /// Works until `stop`, or until the daemon ends.
    pub fn work(mut self, stop: &AtomicBool) {
        sched::background();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
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
        let all = registry.live();
        let mut runs: Vec<&Arc<LiveRun>> = all.iter().filter(|live| is_discovered(&live.run.labels)).collect();
        let ids: BTreeSet<RunId> = runs.iter().map(|live| live.run.id).collect();
        self.looks.retain(&ids);
        self.tried.retain(|run, _| ids.contains(run));
        if listed.is_empty() {
            return;
        }
        // Those behind the last one of the pass before come first.
        runs.sort_by_key(|live| (self.last.is_some_and(|last| live.run.id <= last), live.run.id));
        let mut left = LINKS;
        for live in runs {
            if left == 0 {
                break;
            }
            self.last = Some(live.run.id);
            // One that is being ended has no processes.
            let Ok(members) = live.cgroup.procs_until(Instant::now() + LISTED) else { continue };
            self.claims(live, &members.ids, &listed);
            self.opened(live, &members.ids, &listed, &all, &mut left);
        }
    }

    /// GPUs of which processes of the run have the device file open.
    fn opened(&mut self, live: &LiveRun, pids: &[u32], listed: &Listed, all: &[Arc<LiveRun>], left: &mut usize) {
        let mut open = BTreeSet::new();
        for pid in pids {
            let minors = self.files.of(*pid, left);
            // The number may have become another process's meanwhile.
            if !minors.is_empty() && self.is_in(live, *pid) {
                open.extend(minors.into_iter().map(|minor| (*pid, minor)));
            }
        }
        let mut changed = false;
        for (pid, minor) in self.looks.again(live.run.id, open) {
            let Some((gpu, ..)) = listed.iter().find(|(.., of)| *of == Some(minor)) else { continue };
            let others = || all.iter().filter(|other| other.run.id != live.run.id);
            if !others().any(|other| other.status().holds_gpu(gpu)) {
                changed |= live.status().opens_gpu(gpu, pid);
            }
        }
        if changed {
            let gpus = live.status().gpus.clone();
            let input = Input::RunGpus { run: live.run.id, gpus, at: MonoTime(clock::monotonic_ns()) };
            // A closed queue means that the pipeline has ended.
            let _closed = self.pipeline.send(Message::Input(input));
        }
    }

    fn is_in(&self, live: &LiveRun, pid: u32) -> bool {
        self.files.proc.cgroup(pid).ok().flatten().is_some_and(|path| live.cgroup.contains(&path))
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
        let mut pids = pids.to_vec();
        pids.sort_unstable();
        for pid in pids.into_iter().take(ENVIRONMENTS) {
            let mut environment = Vec::new();
            let file = File::open(self.files.proc.path(pid, "environ"));
            // One that has ended, or of the kernel.
            if file.is_ok_and(|file| file.take(ENVIRONMENT).read_to_end(&mut environment).is_ok())
                && let Some(claimed) = claimed(&environment, pid, listed)
                && self.is_in(live, pid)
            {
                live.status().claimed_gpus = Some(claimed);
                return;
            }
        }
    }
}

/// Which GPUs processes have open.
struct OpenFiles {
    proc: ProcFs,
    /// The numbers of a device.
    device: fn(&Path) -> Option<(u32, u32)>,
}

impl OpenFiles {
    /// The minor numbers of the GPUs that the process has open.
    fn of(&self, pid: u32, left: &mut usize) -> BTreeSet<u32> {
        let mut minors = BTreeSet::new();
        // One that has ended has nothing open.
        let open = read_dir(self.proc.path(pid, "fd")).into_iter().flatten().flatten();
        for file in open.take(OF_A_PROCESS) {
            let Some(rest) = left.checked_sub(1) else { break };
            *left = rest;
            // The name sorts out nearly all; what the file is, the numbers say.
            let named = |to: &Path| to.to_str().and_then(|to| to.strip_prefix("/dev/nvidia")?.parse::<u32>().ok());
            if read_link(file.path()).is_ok_and(|to| named(&to).is_some())
                && let Some((NVIDIA, minor)) = (self.device)(&file.path())
            {
                minors.insert(minor);
            }
        }
        minors
    }
}

/// What was open at the last look. A tool that lists the GPUs opens all of them for a moment.
#[derive(Default)]
struct Looks(BTreeMap<RunId, BTreeSet<(u32, u32)>>);

impl Looks {
    /// What was open at the look before too: process and minor number.
    fn again(&mut self, run: RunId, open: BTreeSet<(u32, u32)>) -> Vec<(u32, u32)> {
        let before = self.0.insert(run, open.clone()).unwrap_or_default();
        open.intersection(&before).copied().collect()
    }

    fn retain(&mut self, runs: &BTreeSet<RunId>) {
        self.0.retain(|run, _| runs.contains(run));
    }
}

/// What an environment says of GPUs: the first variable that names some of them, or else one that names all.
fn claimed(environment: &[u8], pid: u32, listed: &Listed) -> Option<ClaimedGpus> {
    let of = |name: &str| {
        let mut all = environment.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok());
        all.find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
    };
    let found = || VARIABLES.iter().filter_map(|(name, is_index)| Some((*name, *is_index, of(name)?)));
    // Images of CUDA set `NVIDIA_VISIBLE_DEVICES=all`, whatever the container gets.
    let (name, is_index, value) = found().find(|(.., value)| *value != "all").or_else(|| found().next())?;
    let gpus = meant(value, is_index, listed);
    let value = clean(&value[..value.floor_char_boundary(VALUE)]);
    Some(ClaimedGpus { variable: name.to_owned(), value, gpus, pid })
}

/// The UUIDs of what a list names: by UUID, or its beginning; by index, where that is the driver's.
fn meant(value: &str, is_index: bool, listed: &Listed) -> BTreeSet<GpuId> {
    if value == "all" {
        return listed.iter().map(|(gpu, ..)| gpu.clone()).collect();
    }
    let one = |item: &str| {
        let by_uuid = |gpu: &GpuId| item.len() >= "GPU-0".len() && item.starts_with("GPU-") && gpu.0.starts_with(item);
        let index = item.parse::<u32>().ok().filter(|_| is_index);
        let mut fits = listed.iter().filter(|(gpu, at, _)| by_uuid(gpu) || index == Some(*at));
        fits.next().filter(|_| fits.next().is_none()).map(|(gpu, ..)| gpu.clone())
    };
    value.split(',').filter_map(|item| one(item.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn listed() -> Listed {
        let gpu = |name: &str, index, minor| (GpuId(name.into()), index, Some(minor));
        // Their minor numbers are in another order.
        vec![gpu("GPU-aaaa-1", 0, 3), gpu("GPU-aabb-2", 1, 0)]
    }

    fn names(claimed: Option<ClaimedGpus>) -> (String, Vec<String>) {
        let claimed = claimed.unwrap();
        (claimed.variable, claimed.gpus.into_iter().map(|gpu| gpu.0).collect())
    }

    #[test]
    fn an_environment_names_gpus_by_uuid_and_by_the_drivers_index() {
        let read = |text: &str| names(claimed(text.replace(' ', "\0").as_bytes(), 7, &listed()));
        let gpus = |name: &str, gpus: &[&str]| (name.to_owned(), gpus.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(read("A=1 SLURM_JOB_GPUS=1 B=2"), gpus("SLURM_JOB_GPUS", &["GPU-aabb-2"]));
        assert_eq!(read("NVIDIA_VISIBLE_DEVICES=0,1"), gpus("NVIDIA_VISIBLE_DEVICES", &["GPU-aaaa-1", "GPU-aabb-2"]));
        assert_eq!(read("CUDA_VISIBLE_DEVICES=GPU-aab"), gpus("CUDA_VISIBLE_DEVICES", &["GPU-aabb-2"]));
        // An index of CUDA's is of what the process sees; a beginning that fits two names none.
        for unknown in ["0", "GPU-aa", "GPU-", "MIG-1", "", "NoDevFiles", "-1", "7"] {
            assert_eq!(
                read(&format!("CUDA_VISIBLE_DEVICES={unknown}")),
                gpus("CUDA_VISIBLE_DEVICES", &[]),
                "{unknown}"
            );
        }
        let both = "NVIDIA_VISIBLE_DEVICES=all SLURM_STEP_GPUS=0";
        assert_eq!(read(both), gpus("SLURM_STEP_GPUS", &["GPU-aaaa-1"]), "what names all says least");
        assert_eq!(read("NVIDIA_VISIBLE_DEVICES=all").1.len(), 2);
        assert_eq!(claimed(b"XCUDA_VISIBLE_DEVICES=0\0PATH=/bin", 7, &listed()), None);
        let long = format!("CUDA_VISIBLE_DEVICES={}", "\u{1b}0,".repeat(1_000));
        let value = claimed(long.as_bytes(), 7, &listed()).unwrap().value;
        assert!(!value.contains('\u{1b}') && value.len() < 2_000, "{value}");
    }

    #[test]
    fn open_files_are_gpus_by_their_numbers_and_not_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("7/fd");
        fs::create_dir_all(&folder).unwrap();
        let links = ["/dev/nvidia0", "/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/null", "/tmp/nvidia1"];
        for (fd, to) in links.iter().enumerate() {
            symlink(to, folder.join(fd.to_string())).unwrap();
        }
        // `/dev/nvidia0` is a plain file here, as a user can make one in a mount namespace.
        let device = |path: &Path| match read_link(path).unwrap().to_str().unwrap() {
            "/dev/nvidia3" => Some((NVIDIA, 3)),
            "/dev/nvidia0" => None,
            other => panic!("{other} is asked for"),
        };
        let files = OpenFiles { proc: ProcFs::new(root.path()), device };
        let mut left = 100;
        assert_eq!((files.of(7, &mut left), left), ([3].into(), 94));
        assert_eq!((files.of(8, &mut left), left), ([].into(), 94), "it has ended");
        let mut left = 2;
        files.of(7, &mut left);
        assert_eq!(left, 0);
    }

    #[test]
    fn what_is_open_for_a_moment_does_not_count() {
        let (mut looks, run) = (Looks::default(), RunId(uuid::Uuid::from_u128(1)));
        assert!(looks.again(run, [(7, 0), (7, 1)].into()).is_empty());
        assert_eq!(looks.again(run, [(7, 1), (8, 0)].into()), [(7, 1)]);
        looks.retain(&BTreeSet::new());
        assert!(looks.again(run, [(7, 1)].into()).is_empty());
    }
}
