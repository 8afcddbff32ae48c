//! What outlives the daemon: links and a few maps, pinned in bpffs.
//!
//! ```text
//! <bpffs>/failsafe/<instance>/g<N>_v<ABI>/
//!     map_runs  map_latches  map_counters  map_drops  map_events  map_stopped
//!     map_budgets
//!     link_<slot>_<cgroup id>_<program>    link_host_<program>
//! ```
//! A pinned link keeps its program, and that its maps, in force when the daemon is gone. Each start makes a new
//! generation `N + 1`, attaches it to the runs that live on, and only then removes the older ones
//! ([`super::Ebpf::adopt_finish`]): both are attached for a moment, and a call passes only if both let it.
//! Pinned maps are read, never reused: the ABI version in the path says whether that is possible.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use failsafe_ebpf::abi;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Error;
use super::events::EventReader;
use super::load::Pod;

/// Maps whose content a later daemon may want.
pub(super) const PINNED_MAPS: [&str; 7] = ["runs", "latches", "counters", "drops", "events", "stopped", "budgets"];

/// A run that an earlier daemon left guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// Generation that guards it.
    pub generation: u64,
    /// Cgroup id of its root.
    pub root_id: u64,
    /// Its slot then.
    pub slot: u32,
    /// Which occupant of the slot.
    pub epoch: u32,
    /// Its latch ([`abi::latch`]): 0 = off.
    pub latch: u32,
    /// Its egress allow-list was enforced.
    pub enforced: bool,
    /// Processes that a stop rule sent SIGSTOP and nobody woke.
    pub stopped: Vec<u32>,
    /// Bytes spent of its budgets, by class from 0.
    pub spent: Vec<u64>,
}

/// The ring of an earlier daemon: events that nobody read.
pub struct LeftEvents {
    /// The runs that the events are of.
    pub runs: Vec<PreviousRun>,
    /// The reader; nothing more comes once its generation is removed.
    pub reader: EventReader,
    /// Events that the ring had no room for in its life, by slot.
    pub lost: Vec<(u32, u64)>,
}

/// The directory of one generation, and its siblings.
#[derive(Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    generation: u64,
    dir: PathBuf,
}

impl Pins {
    /// Makes the directory of a new generation.
    pub fn create(bpffs: &Path, instance: &str) -> Result<Self, Error> {
        let fail = |path: &Path, operation, source| Error::Pin { path: path.to_owned(), operation, source };
        match statfs(bpffs) {
            Ok(s) if s.filesystem_type() == BPF_FS_MAGIC => {}
            Ok(_) => {
                return Err(fail(bpffs, "use as a bpf file system", io::ErrorKind::Unsupported.into()));
            }
            Err(e) => return Err(fail(bpffs, "statfs", e.into())),
        }
        let instance = bpffs.join("failsafe").join(instance);
        fs::create_dir_all(&instance).map_err(|e| fail(&instance, "create", e))?;
        let generation = generations(&instance)
            .map_err(|e| fail(&instance, "list", e))?
            .iter()
            .map(|(n, _)| n + 1)
            .max()
            .unwrap_or(1);
        let dir = instance.join(format!("g{generation}_v{}", abi::VERSION));
        fs::create_dir(&dir).map_err(|e| fail(&dir, "create", e))?;
        Ok(Self { instance, generation, dir })
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join(format!("map_{name}"))
    }

    pub fn link(&self, slot: u32, root_id: u64, program: &str) -> PathBuf {
        self.dir.join(format!("link_{slot}_{root_id}_{program}"))
    }

    pub fn host_link(&self, program: &str) -> PathBuf {
        self.dir.join(format!("link_host_{program}"))
    }

    /// What earlier generations guard. Generations of another ABI are left out: their maps cannot be read.
    pub fn previous(&self) -> Result<Vec<PreviousRun>, Error> {
        let mut out = Vec::new();
        for (generation, dir) in self.others()? {
            if dir.ends_with(format!("g{generation}_v{}", abi::VERSION)) {
                out.extend(read_generation(generation, &dir).unwrap_or_default());
            }
        }
        Ok(out)
    }

    /// The rings of earlier generations, of the same ABI.
    pub fn left_events(&self) -> Vec<LeftEvents> {
        let others = self.others().unwrap_or_default().into_iter();
        let same = others.filter(|(n, dir)| dir.ends_with(format!("g{n}_v{}", abi::VERSION)));
        same.filter_map(|(generation, dir)| read_ring(generation, &dir).ok()).collect()
    }

    /// Removes every other generation; what only they kept attached is detached.
    pub fn remove_others(&self) -> Result<usize, Error> {
        let others = self.others()?;
        for (_, dir) in &others {
            remove(dir)?;
        }
        Ok(others.len())
    }

    /// Removes this generation, and the instance's directory if it was the last.
    pub fn remove_own(&self) -> Result<(), Error> {
        remove(&self.dir)?;
        for dir in [Some(self.instance.as_path()), self.instance.parent()].into_iter().flatten() {
            // Not empty: another generation or instance lives there.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    fn others(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let all = generations(&self.instance).map_err(|source| Error::Pin {
            path: self.instance.clone(),
            operation: "list",
            source,
        })?;
        Ok(all.into_iter().filter(|(n, _)| *n != self.generation).collect())
    }
}

fn generations(instance: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(instance)? {
        let entry = entry?;
        let name = entry.file_name();
        let n = name
            .to_str()
            .and_then(|s| s.strip_prefix('g'))
            .and_then(|s| s.split('_').next())
            .and_then(|s| s.parse().ok());
        if let Some(n) = n {
            out.push((n, entry.path()));
        }
    }
    Ok(out)
}

fn remove(dir: &Path) -> Result<(), Error> {
    let fail = |path: &Path, source| Error::Pin { path: path.to_owned(), operation: "remove", source };
    let entries = fs::read_dir(dir).map_err(|e| fail(dir, e))?;
    for entry in entries {
        let path = entry.map_err(|e| fail(dir, e))?.path();
        fs::remove_file(&path).map_err(|e| fail(&path, e))?;
    }
    fs::remove_dir(dir).map_err(|e| fail(dir, e))
}

fn read_ring(generation: u64, dir: &Path) -> Result<LeftEvents, aya::maps::MapError> {
    let runs = read_generation(generation, dir)?;
    let ring = RingBuf::try_from(Map::RingBuf(MapData::from_pin(dir.join("map_events"))?))?;
    let drops = Map::PerCpuArray(MapData::from_pin(dir.join("map_drops"))?);
    let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(&drops)?;
    let mut lost = Vec::new();
    for run in &runs {
        lost.push((run.slot, drops.get(&run.slot, 0)?.iter().sum()));
    }
    Ok(LeftEvents { runs, reader: EventReader::new(ring), lost })
}

fn read_generation(generation: u64, dir: &Path) -> Result<Vec<PreviousRun>, aya::maps::MapError> {
    let runs = Map::HashMap(MapData::from_pin(dir.join("map_runs"))?);
    let latches = Map::Array(MapData::from_pin(dir.join("map_latches"))?);
    let runs: HashMap<_, u64, Pod<abi::RunCfg>> = HashMap::try_from(&runs)?;
    let latches: Array<_, u32> = Array::try_from(&latches)?;
    let stopped = Map::HashMap(MapData::from_pin(dir.join("map_stopped"))?);
    let stopped: HashMap<_, u32, Pod<abi::Stopped>> = HashMap::try_from(&stopped)?;
    let budgets = Map::Array(MapData::from_pin(dir.join("map_budgets"))?);
    let budgets: Array<_, Pod<abi::Budget>> = Array::try_from(&budgets)?;
    let mut out = Vec::new();
    for item in runs.iter() {
        let (root_id, Pod(cfg)) = item?;
        let classes = 0..u32::try_from(abi::MAX_BUDGETS).unwrap_or(0);
        let spent = classes.map(|class| budgets.get(&super::quotas::place(cfg.slot, class), 0).map(|Pod(b)| b.spent));
        out.push(PreviousRun {
            generation,
            root_id,
            slot: cfg.slot,
            epoch: cfg.epoch,
            latch: latches.get(&cfg.slot, 0)?,
            enforced: cfg.flags & abi::run_flag::ENFORCE != 0,
            stopped: stopped
                .iter()
                .filter_map(Result::ok)
                .filter(|(_, Pod(s))| (s.slot, s.epoch) == (cfg.slot, cfg.epoch))
                .map(|(pid, _)| pid)
                .collect(),
            spent: spent.collect::<Result<_, _>>()?,
        });
    }
    Ok(out)
}
