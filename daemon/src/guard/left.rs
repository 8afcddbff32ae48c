//! What an earlier daemon left: the runs it guarded, as its pinned maps have them, and the events nobody read.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use failsafe_ebpf::abi;

use super::maps::{place, processes};
use super::totals::{Counted, Total};
use crate::platform::bpf::Pod;

/// A generation of another ABI: no more of it can be read than the names of its pins and, if it has the same form, the latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Version of its ABI.
    pub abi: u32,
    /// Whether the latch could be read. If not, the run is taken to be blocked.
    pub latch: bool,
}

/// What was counted of a run after an earlier daemon last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it last looked, `CLOCK_MONOTONIC`, nanoseconds; `None`: never, and what follows is all that was counted.
    pub since_ns: Option<u64>,
    /// What was counted since.
    pub counted: Total,
    /// Events lost in all the run's life so far, those that were told of included.
    pub lost: u64,
    /// Whether programs that see watched calls stayed attached.
    pub calls: bool,
    /// Set where its programs were of another ABI: then nothing above is known.
    pub foreign: Option<Foreign>,
}

/// A run that an earlier daemon left guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// Generation that guards it; the last, if several do.
    pub generation: u64,
    /// Cgroup id of its root.
    pub root_id: u64,
    /// Its slot then.
    pub slot: u32,
    /// Which occupant of the slot.
    pub epoch: u32,
    /// The kernel bound its cgroup when it was made, and no daemon has registered it.
    pub provisional: bool,
    /// Set where some of what follows could not be read, and is empty.
    pub foreign: Option<Foreign>,
    /// Its latch ([`abi::latch`]): 0 = off.
    pub latch: u32,
    /// Its egress allow-list was enforced.
    pub enforced: bool,
    /// In which modes it was and is ([`abi::mode`]).
    pub modes: u32,
    /// Processes that a stop rule sent SIGSTOP and nobody woke.
    pub stopped: Vec<u32>,
    /// Processes that left it by their own hand, or were made by such, and live.
    pub strays: Vec<u32>,
    /// Bytes spent of its budgets, by class from 0.
    pub spent: Vec<u64>,
    /// Programs that see watched calls were pinned with it.
    pub(super) calls: bool,
    /// Number of the network namespace in which its name servers were believed; 0: not known.
    pub(super) netns: u32,
    /// The numbers of its allow-list.
    pub(super) tables: Vec<u32>,
    /// All that was counted of it.
    pub(super) total: Total,
    /// ... when a daemon last looked, and when that was.
    pub(super) sampled: Option<(Total, u64)>,
}

impl PreviousRun {
    /// Adds what an older generation has of the same run. A daemon that died while it took the run up left two: neither alone need
    /// be complete.
    pub(super) fn join(&mut self, older: Self) {
        self.provisional &= older.provisional;
        self.foreign = self.foreign.or(older.foreign);
        self.latch |= older.latch;
        self.enforced |= older.enforced;
        // What one of two generations refuses is refused.
        let observes = self.modes & older.modes & abi::mode::OBSERVES;
        self.modes = (self.modes | older.modes) & !abi::mode::OBSERVES | observes;
        self.stopped.extend(older.stopped);
        self.strays.extend(older.strays);
        self.spent.resize(self.spent.len().max(older.spent.len()), 0);
        for (spent, before) in self.spent.iter_mut().zip(older.spent) {
            *spent = before.max(*spent);
        }
        self.calls |= older.calls;
        self.netns = if self.netns == 0 { older.netns } else { self.netns };
        self.tables.extend(older.tables);
        self.total = self.total.max(older.total);
        self.sampled = [self.sampled, older.sampled].into_iter().flatten().max_by_key(|(_, at)| *at);
    }

    /// Whether its policy's denials are only observed; `None`: that cannot be read.
    pub fn observes(&self) -> Option<bool> {
        self.foreign.is_none().then_some(self.modes & abi::mode::OBSERVES != 0)
    }

    /// What was counted in all its life.
    pub fn counted(&self) -> Counted {
        let Self { slot, epoch, latch, total, .. } = *self;
        Counted { slot, epoch, latch, total, earlier: Total::NONE }
    }

    /// What was counted after the last daemon's last look.
    pub fn outage(&self) -> Outage {
        let (seen, at) = self.sampled.unwrap_or((Total::NONE, 0));
        Outage {
            since_ns: (at > 0).then_some(at),
            counted: self.total.minus(seen),
            lost: self.total.lost,
            calls: self.calls,
            foreign: self.foreign,
        }
    }
}

/// The maps that a reader of events needs.
pub struct Ring {
    /// The ring buffer.
    pub events: RingBuf<MapData>,
    /// `struct fs_reader`; `None` for a ring that nobody writes to any more.
    pub reader: Option<Array<MapData, Pod<abi::Reader>>>,
}

/// The ring of an earlier daemon: events that nobody read.
pub struct LeftEvents {
    /// The runs that the events are of.
    pub runs: Vec<PreviousRun>,
    /// Nothing more comes once its generation is removed.
    pub ring: Ring,
    leavers: HashMap<MapData, u32, Pod<abi::Leaver>>,
}

impl LeftEvents {
    /// Leavings that the ring had no room for, by process id.
    #[must_use]
    pub fn leavers(&self) -> Vec<(u32, abi::Leaver)> {
        self.leavers.iter().filter_map(Result::ok).map(|(pid, Pod(leaver))| (pid, leaver)).collect()
    }
}

/// The maps of one generation.
struct Maps {
    generation: u64,
    calls: bool,
    runs: HashMap<MapData, u64, Pod<abi::RunCfg>>,
    latches: Array<MapData, u32>,
    stopped: HashMap<MapData, u32, Pod<abi::Occupant>>,
    strays: HashMap<MapData, u32, Pod<abi::Occupant>>,
    budgets: Array<MapData, Pod<abi::Budget>>,
    counters: PerCpuArray<MapData, Pod<abi::Counters>>,
    drops: PerCpuArray<MapData, u64>,
    tallies: HashMap<MapData, u32, Pod<abi::Tally>>,
}

impl Maps {
    fn open(generation: u64, dir: &Path) -> Result<Self, MapError> {
        let map = |name| pinned(dir, name);
        Ok(Self {
            generation,
            calls: sees_calls(dir),
            runs: HashMap::try_from(Map::HashMap(map("runs")?))?,
            latches: Array::try_from(Map::Array(map("latches")?))?,
            stopped: HashMap::try_from(Map::HashMap(map("stopped")?))?,
            strays: HashMap::try_from(Map::HashMap(map("strays")?))?,
            budgets: Array::try_from(Map::Array(map("budgets")?))?,
            counters: PerCpuArray::try_from(Map::PerCpuArray(map("counters")?))?,
            drops: PerCpuArray::try_from(Map::PerCpuArray(map("drops")?))?,
            tallies: HashMap::try_from(Map::HashMap(map("tallies")?))?,
        })
    }

    fn read(&self, root_id: u64, cfg: abi::RunCfg) -> Result<PreviousRun, MapError> {
        let classes = 0..u32::try_from(abi::MAX_BUDGETS).unwrap_or(0);
        let spent = classes.map(|class| {
            let Pod(budget) = self.budgets.get(&place(cfg.slot, class), 0)?;
            Ok(budget.spent)
        });
        let here = Total::read(&self.counters, &self.drops, cfg.slot)?;
        // A daemon that died while it took the run up may not have written it yet.
        let tally = self.tallies.get(&cfg.slot, 0).ok().map(|Pod(tally)| tally);
        let earlier = tally.map_or(Total::NONE, |t| Total { counters: t.earlier, lost: t.earlier_lost });
        let sampled = tally.map(|t| (Total { counters: t.sampled, lost: t.sampled_lost }, t.sampled_ns));
        Ok(PreviousRun {
            generation: self.generation,
            root_id,
            slot: cfg.slot,
            epoch: cfg.epoch,
            provisional: cfg.flags & abi::run_flag::PROVISIONAL != 0,
            foreign: None,
            latch: self.latches.get(&cfg.slot, 0)?,
            enforced: cfg.flags & abi::run_flag::ENFORCE != 0,
            modes: cfg.modes,
            stopped: processes(&self.stopped, |s| (s.slot, s.epoch) == (cfg.slot, cfg.epoch)),
            strays: processes(&self.strays, |s| (s.slot, s.epoch) == (cfg.slot, cfg.epoch)),
            spent: spent.collect::<Result<_, MapError>>()?,
            calls: self.calls,
            netns: cfg.netns,
            tables: vec![cfg.table],
            total: here.plus(earlier),
            sampled,
        })
    }
}

/// The runs of a generation of another ABI, by the names of their links.
pub(super) fn read_foreign(generation: u64, version: u32, dir: &Path) -> Vec<PreviousRun> {
    let latches = pinned(dir, "latches").ok().filter(|map| {
        let is_array = |info: MapInfo| info.map_type().is_ok_and(|kind| kind == MapType::Array);
        map.info().is_ok_and(is_array)
    });
    let latches: Option<Array<_, u32>> = latches.and_then(|map| Array::try_from(Map::Array(map)).ok());
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    let run = |name: OsString| {
        let mut words = name.to_str()?.strip_prefix("link_")?.splitn(3, '_');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    let runs: BTreeSet<(u32, u64)> = names.filter_map(run).collect();
    let read = |(slot, root_id)| {
        let latch = latches.as_ref().and_then(|latches| latches.get(&slot, 0).ok());
        PreviousRun {
            generation,
            root_id,
            slot,
            epoch: 0,
            provisional: false,
            foreign: Some(Foreign { abi: version, latch: latch.is_some() }),
            // Whatever its bits mean there: latched is kept from the network.
            latch: match latch {
                Some(0) => 0,
                Some(bits) => bits | abi::latch::EGRESS,
                None => abi::latch::EGRESS,
            },
            enforced: false,
            modes: abi::mode::UNKNOWN,
            stopped: Vec::new(),
            strays: Vec::new(),
            spent: Vec::new(),
            calls: sees_calls(dir),
            netns: 0,
            tables: Vec::new(),
            total: Total::NONE,
            sampled: None,
        }
    };
    runs.into_iter().map(read).collect()
}

fn sees_calls(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    let mut names = names.filter_map(|name| name.to_str()?.strip_prefix("link_host_").map(str::to_owned));
    names.any(|program| program.starts_with("fs_sys_") || program.starts_with("fs_csys_"))
}

/// A map that is pinned in the folder of a generation.
pub(super) fn pinned(dir: &Path, name: &str) -> Result<MapData, MapError> {
    MapData::from_pin(dir.join(format!("map_{name}")))
}

pub(super) fn read_generation(generation: u64, dir: &Path) -> Result<Vec<PreviousRun>, MapError> {
    let maps = Maps::open(generation, dir)?;
    let runs = maps.runs.iter().map(|item| item.and_then(|(root_id, Pod(cfg))| maps.read(root_id, cfg)));
    runs.collect()
}

pub(super) fn read_run(generation: u64, dir: &Path, root_id: u64) -> Result<Option<PreviousRun>, MapError> {
    let maps = Maps::open(generation, dir)?;
    match maps.runs.get(&root_id, 0) {
        Ok(Pod(cfg)) => maps.read(root_id, cfg).map(Some),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Leaves the programs of a generation without the runs of these roots.
pub(super) fn forget_runs(dir: &Path, gone: impl Fn(u64) -> bool) -> Result<(), MapError> {
    let runs = Map::HashMap(pinned(dir, "runs")?);
    let mut runs: HashMap<_, u64, Pod<abi::RunCfg>> = HashMap::try_from(runs)?;
    let roots = runs.keys().collect::<Result<Vec<_>, _>>()?;
    roots.iter().filter(|root| gone(**root)).try_for_each(|root| runs.remove(root))
}

pub(super) fn read_ring(generation: u64, dir: &Path) -> Result<LeftEvents, MapError> {
    let events = RingBuf::try_from(Map::RingBuf(pinned(dir, "events")?))?;
    let leavers = HashMap::try_from(Map::HashMap(pinned(dir, "leavers")?))?;
    Ok(LeftEvents { runs: read_generation(generation, dir)?, ring: Ring { events, reader: None }, leavers })
}
