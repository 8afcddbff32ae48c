//! The owner of the loaded object: its programs, its maps, and where they are pinned.
//!
//! It knows no run and no policy. The other files of the guard borrow it for what they write, read or attach; nothing else
//! holds a map of the programs that run, but for the two that containment writes ([`super::handles`]) and the ring buffer.

use std::path::PathBuf;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::Program;
use aya::{Btf, EbpfLoader, VerifierLogLevel};
use failsafe_ebpf::abi;

use super::error::{Error, chain};
use super::kernel_quota::{Need, Resource};
use super::left::Ring;
use super::maps::place;
use super::pins::{PINNED_MAPS, Pins, SHARED_MAPS};
use super::probe::{Group, ProgramState, ProgramStatus, Spec};
use crate::config::TableShares;

/// What may be chosen at load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of the event ring in bytes; rounded up to a power of two of pages. It is mapped twice, and counts twice in
    /// the daemon's resident memory.
    pub ring_bytes: u32,
    /// Slots for runs, at most [`abi::MAX_RUNS`]. Kernel memory: about 200 bytes a slot and CPU.
    pub max_runs: u32,
    /// Where bpffs is mounted, or `None` not to pin anything.
    pub bpffs: Option<PathBuf>,
    /// Keeps daemons of different state folders apart in bpffs; letters, digits, `-` and `_`.
    pub instance: String,
    /// How the room in the maps is shared out.
    pub shares: TableShares,
    /// States of the automaton that binds cgroups when they are made; 0: none is bound so.
    pub early_states: u32,
    /// Take LSM hooks where the kernel grants them. Without, runs are watched as on a kernel that refuses them.
    pub lsm: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ring_bytes: 2 << 20,
            max_runs: abi::MAX_RUNS,
            bpffs: Some(PathBuf::from("/sys/fs/bpf")),
            instance: String::from("default"),
            shares: TableShares::default(),
            early_states: 0,
            lsm: true,
        }
    }
}

/// The programs and maps of the object.
pub(super) struct Object {
    inner: aya::Ebpf,
    programs: Vec<ProgramStatus>,
    pins: Result<Pins, String>,
    max_runs: u32,
}

impl Object {
    /// Makes the maps and pins them. No program is loaded yet.
    pub fn create(bytes: &[u8], config: &Config, btf: &Btf) -> Result<Self, Error> {
        let max_runs = config.max_runs.clamp(1, abi::MAX_RUNS);
        let pins = match &config.bpffs {
            Some(path) => Pins::create(path, &config.instance).map_err(|e| chain(&e)),
            None => Err(String::from("bpffs = \"\" in failsafed.toml")),
        };
        let (inner, pins) = open(bytes, config, btf, max_runs, pins)?;
        let mut object = Self { inner, programs: Vec::new(), pins, max_runs };
        object.pin_maps();
        Ok(object)
    }

    /// The maps of an object, of which no program is loaded, and nothing is pinned.
    #[cfg(test)]
    pub fn only_maps(bytes: &[u8]) -> Result<Self, Error> {
        let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
        let config =
            Config { ring_bytes: 4096, max_runs: 2, bpffs: None, instance: String::new(), ..Config::default() };
        Self::create(bytes, &config, &btf)
    }

    /// Slots for runs.
    pub fn max_runs(&self) -> u32 {
        self.max_runs
    }

    /// What became of each program, for `doctor`.
    pub fn programs(&self) -> &[ProgramStatus] {
        &self.programs
    }

    /// Notes what became of a program.
    pub fn add_status(&mut self, status: ProgramStatus) {
        self.programs.push(status);
    }

    /// Replaces what is noted of a program.
    pub fn replace_status(&mut self, status: ProgramStatus) {
        match self.programs.iter_mut().find(|other| other.name == status.name) {
            Some(other) => *other = status,
            None => self.programs.push(status),
        }
    }

    /// Of two for the same, one that the kernel has not is no lack once the other is loaded.
    pub fn stands_in(&mut self, spec: &Spec) {
        let same = |other: &&mut ProgramStatus| other.group == spec.group && spec.instead_of.contains(&other.name);
        for other in self.programs.iter_mut().filter(same) {
            other.state = ProgramState::Unused;
            other.detail = format!("{} does it: {}", spec.name, other.detail);
        }
    }

    /// Whether a named program is in the kernel.
    pub fn is_loaded(&self, name: &str) -> bool {
        self.programs.iter().any(|p| p.name == name && p.state == ProgramState::Loaded)
    }

    /// Guards of egress that the kernel refused; empty = it can be enforced.
    pub fn missing_guards(&self) -> Vec<&'static str> {
        let guards = self.programs.iter().filter(|p| p.group == Group::Guard);
        guards.filter(|p| p.state != ProgramState::Loaded).map(|p| p.name).collect()
    }

    /// A program by its name.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.inner.program_mut(name)
    }

    /// Where the object is pinned, or why it is not.
    pub fn pins(&self) -> Result<&Pins, &str> {
        self.pins.as_ref().map_err(String::as_str)
    }

    /// Removes the pins of this generation: from here on nothing is pinned.
    pub fn give_up_pins(&mut self, why: String) {
        if let Ok(pins) = &self.pins {
            let _ = pins.remove_own();
        }
        self.pins = Err(why);
    }

    /// The maps of the ring buffer; there is one reader, so the second call gives `Missing`.
    pub fn take_ring(&mut self) -> Result<Ring, Error> {
        let events = self.inner.take_map("events").ok_or(Error::Missing("events"))?;
        let events = RingBuf::try_from(events).map_err(Error::map("events"))?;
        let reader = self.inner.take_map("reader").ok_or(Error::Missing("reader"))?;
        Ok(Ring { events, reader: Some(Array::try_from(reader).map_err(Error::map("reader"))?) })
    }

    /// A map by its name.
    pub fn map(&self, name: &'static str) -> Result<&Map, Error> {
        self.inner.map(name).ok_or(Error::Missing(name))
    }

    /// The same, to be written.
    pub fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.inner.map_mut(name).ok_or(Error::Missing(name))
    }

    /// An array map, to be written.
    pub fn array<V: aya::Pod>(&mut self, name: &'static str) -> Result<Array<&mut MapData, V>, Error> {
        Array::try_from(self.map_mut(name)?).map_err(Error::map(name))
    }

    /// An array map with a value for each CPU, to be written.
    pub fn per_cpu<V: aya::Pod>(&mut self, name: &'static str) -> Result<PerCpuArray<&mut MapData, V>, Error> {
        PerCpuArray::try_from(self.map_mut(name)?).map_err(Error::map(name))
    }

    /// A hash map, to be written.
    pub fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &'static str) -> Result<HashMap<&mut MapData, K, V>, Error> {
        HashMap::try_from(self.map_mut(name)?).map_err(Error::map(name))
    }

    /// A longest-prefix-match trie, to be written.
    pub fn trie<K: aya::Pod, V: aya::Pod>(&mut self, name: &'static str) -> Result<LpmTrie<&mut MapData, K, V>, Error> {
        LpmTrie::try_from(self.map_mut(name)?).map_err(Error::map(name))
    }

    /// How many entries each map has room for. The entries of failsafe's own files are a few dozen, which the reserve covers.
    pub fn sizes(&self) -> Result<Need, Error> {
        let size = |name| match self.map(name)? {
            Map::HashMap(data) | Map::LpmTrie(data) => data.info().map(|i| i.max_entries()).map_err(Error::map(name)),
            _ => Err(Error::Missing(name)),
        };
        Resource::ALL.iter().map(|(resource, name)| Ok((*resource, u64::from(size(name)?)))).collect()
    }

    fn pin_maps(&mut self) {
        let Ok(pins) = &self.pins else { return };
        let failed = PINNED_MAPS.iter().find_map(|name| {
            let map = self.inner.map(name)?;
            map.pin(pins.map(name)).err().map(|e| format!("map {name}: {}", chain(&e)))
        });
        if let Some(why) = failed {
            self.give_up_pins(why);
        }
    }
}

/// Creates the maps, the shared ones from those of the last daemon. Where these cannot be pinned, nothing is.
fn open(
    bytes: &[u8],
    config: &Config,
    btf: &Btf,
    max_runs: u32,
    pins: Result<Pins, String>,
) -> Result<(aya::Ebpf, Result<Pins, String>), Error> {
    let load = |pins: Option<&Pins>| {
        let mut loader = EbpfLoader::new();
        loader.btf(Some(btf)).verifier_log_level(VerifierLogLevel::DEBUG).map_max_entries("events", config.ring_bytes);
        for map in ["runs", "seqs", "shares", "latches", "drops", "counters", "lives", "births", "tallies"] {
            loader.map_max_entries(map, max_runs);
        }
        loader.map_max_entries("budgets", place(max_runs, 0));
        loader.map_max_entries("early_rows", config.early_states.max(1));
        for map in pins.map_or(&[][..], |_| &SHARED_MAPS[..]) {
            loader.map_pin_path(map, pins.map(|pins| pins.map(map)).unwrap_or_default());
        }
        loader.load(bytes).map_err(|e| Error::Object(Box::new(e)))
    };
    let Ok(pinned) = &pins else { return Ok((load(None)?, pins)) };
    if let Err(error) = pinned.inherit() {
        tracing::warn!(
            error = chain(&error),
            "connections and names that an earlier daemon let through are judged anew"
        );
    }
    match load(Some(pinned)) {
        Ok(object) => Ok((object, pins)),
        Err(error) => {
            let _ = pinned.remove_own();
            Ok((load(None)?, Err(chain(&error))))
        }
    }
}
