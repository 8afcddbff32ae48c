//! Loading the object: each program by itself, and what is known about each afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};
use aya::{Btf, EbpfLoader, VerifierLogLevel};
use failsafe_ebpf::abi;

use super::Error;
use super::handles::{Heartbeat, Latches};
use super::kernel_quota::{KernelQuota, Need, Resource};
use super::left::{LeftEvents, PreviousRun};
use super::pins::{PINNED_MAPS, Pins, SHARED_MAPS};
use super::probe::{FENTRY_PROBE, Group, PROGRAMS, ProgramState, ProgramStatus, Spec};
use super::runs::Live;
use super::syscalls::Watching;
use crate::config::TableShares;
use crate::sensors::ebpf::EventReader;
use failsafe_matchers::keys::NumberKey;

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
            lsm: true,
        }
    }
}

/// The loaded programs and their maps.
pub struct Ebpf {
    pub(super) object: aya::Ebpf,
    pub(super) programs: Vec<ProgramStatus>,
    pub(super) pins: Result<Pins, String>,
    pub(super) runs: BTreeMap<u32, Live>,
    pub(super) next_epoch: u32,
    pub(super) max_runs: u32,
    pub(super) watching: Watching,
    /// Attachments to the whole host; pinned ones are held open besides.
    pub(super) host_links: Vec<FdLink>,
    /// Those of programs that are attached on need, by name.
    pub(super) on_need: BTreeMap<&'static str, FdLink>,
    /// Entries of failsafe's own files.
    pub(super) own: BTreeSet<NumberKey>,
    pub(super) latches: Arc<Latches>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Who has how much of the maps.
    pub(super) quota: KernelQuota,
}

impl Ebpf {
    /// Loads the object, attaches what watches process life, and prepares the pins. A program that the kernel refuses
    /// is a line in [`Ebpf::programs`], not an error.
    ///
    /// # Errors
    /// No BTF, no privilege, or no memory for the maps.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
        let max_runs = config.max_runs.clamp(1, abi::MAX_RUNS);
        let pins = match &config.bpffs {
            Some(path) => Pins::create(path, &config.instance).map_err(|e| chain(&e)),
            None => Err(String::from("bpffs = \"\" in failsafed.toml")),
        };
        let (object, pins) = object_of(failsafe_ebpf::OBJECT, config, &btf, max_runs, pins)?;
        let mut ebpf = Self::of_object(object, pins, max_runs)?;
        ebpf.quota = KernelQuota::new(config.shares, ebpf.sizes()?);
        ebpf.pin_maps();
        ebpf.beat()?;
        for spec in PROGRAMS {
            let status = ebpf.load_one(spec, &btf, config.lsm);
            if status.state == ProgramState::Loaded {
                ebpf.stands_in(spec);
            }
            ebpf.programs.push(status);
        }
        drop(btf);
        trim_heap();
        Ok(ebpf)
    }

    fn of_object(object: aya::Ebpf, pins: Result<Pins, String>, max_runs: u32) -> Result<Self, Error> {
        let (latches, heartbeat) = (Arc::new(Latches::of(&object)?), Arc::new(Heartbeat::of(&object)?));
        Ok(Self {
            object,
            programs: Vec::new(),
            pins,
            runs: BTreeMap::new(),
            next_epoch: 1,
            max_runs,
            watching: Watching::default(),
            host_links: Vec::new(),
            on_need: BTreeMap::new(),
            own: BTreeSet::new(),
            latches,
            heartbeat,
            quota: KernelQuota::default(),
        })
    }

    /// What of the maps is used.
    #[must_use]
    pub fn table_usage(&self) -> Vec<super::kernel_quota::Usage> {
        self.quota.usage()
    }

    /// How many entries each map has room for. The entries of failsafe's own files are a few dozen, which the reserve covers.
    fn sizes(&self) -> Result<Need, Error> {
        let size = |name| match self.map(name)? {
            Map::HashMap(data) | Map::LpmTrie(data) => data.info().map(|i| i.max_entries()).map_err(Error::map(name)),
            _ => Err(Error::Missing(name)),
        };
        Resource::ALL.iter().map(|(resource, name)| Ok((*resource, u64::from(size(name)?)))).collect()
    }

    /// The maps of an object, of which no program is loaded, and nothing is pinned.
    #[cfg(test)]
    pub(super) fn only_maps(object: &[u8]) -> Result<Self, Error> {
        let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
        let config =
            Config { ring_bytes: 4096, max_runs: 2, bpffs: None, instance: String::new(), ..Config::default() };
        let (object, pins) = object_of(object, &config, &btf, config.max_runs, Err(String::from("a test's")))?;
        Self::of_object(object, pins, config.max_runs)
    }

    /// What became of each program, for `doctor`.
    #[must_use]
    pub fn programs(&self) -> &[ProgramStatus] {
        &self.programs
    }

    /// Whether a named program is in the kernel.
    #[must_use]
    pub fn is_loaded(&self, name: &str) -> bool {
        self.programs.iter().any(|p| p.name == name && p.state == ProgramState::Loaded)
    }

    /// Guards of egress that the kernel refused; empty = it can be enforced.
    #[must_use]
    pub fn missing_guards(&self) -> Vec<&'static str> {
        let guards = self.programs.iter().filter(|p| p.group == Group::Guard);
        guards.filter(|p| p.state != ProgramState::Loaded).map(|p| p.name).collect()
    }

    /// Where guards are pinned, or why they are not (they then end with the daemon).
    ///
    /// # Errors
    /// The reason, in words.
    pub fn pin_dir(&self) -> Result<&std::path::Path, &str> {
        self.pins.as_ref().map(Pins::dir).map_err(String::as_str)
    }

    /// Number of this load among those of the instance, if pinned.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.pins.as_ref().ok().map(Pins::generation)
    }

    /// What earlier daemons of this instance left guarded. Add those runs again, then call [`Ebpf::adopt_finish`].
    ///
    /// # Errors
    /// bpffs could not be read.
    pub fn previous_runs(&self) -> Result<Vec<PreviousRun>, Error> {
        self.pins.as_ref().map_or_else(|_| Ok(Vec::new()), Pins::previous)
    }

    /// The events that earlier daemons of this instance left unread. Drain them after [`Ebpf::adopt_finish`], when nothing more
    /// is written.
    #[must_use]
    pub fn left_events(&self) -> Vec<LeftEvents> {
        self.pins.as_ref().map(Pins::left_events).unwrap_or_default()
    }

    /// Unloads everything, pins included: for a daemon that stops on purpose with no runs left. Merely dropping the
    /// value leaves pinned guards in force.
    ///
    /// # Errors
    /// bpffs could not be changed.
    pub fn unload(mut self) -> Result<(), Error> {
        let slots: Vec<u32> = self.runs.keys().copied().collect();
        for slot in slots {
            self.remove_run(slot)?;
        }
        self.pins.as_ref().map_or(Ok(()), Pins::remove_own)
    }

    /// The daemon's sign of life: [`failsafe_matchers::rules::Dead`] counts from the last one.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn beat(&self) -> Result<(), Error> {
        self.heartbeat.beat()
    }

    /// The reader of the ring; there is one, so the second call gives `Missing`.
    ///
    /// # Errors
    /// The ring could not be mapped, or was taken before.
    pub fn event_reader(&mut self) -> Result<EventReader, Error> {
        let map = self.object.take_map("events").ok_or(Error::Missing("events"))?;
        let ring = RingBuf::try_from(map).map_err(Error::map("events"))?;
        let asleep = self.object.take_map("reader").ok_or(Error::Missing("reader"))?;
        Ok(EventReader::new(ring, Some(Array::try_from(asleep).map_err(Error::map("reader"))?)))
    }

    pub(super) fn map(&self, name: &'static str) -> Result<&Map, Error> {
        self.object.map(name).ok_or(Error::Missing(name))
    }

    pub(super) fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.object.map_mut(name).ok_or(Error::Missing(name))
    }

    /// Slot and epoch of every live run.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(slot, live)| (*slot, live.cfg.epoch))
    }

    fn load_one(&mut self, spec: &Spec, btf: &Btf, lsm: bool) -> ProgramStatus {
        let status = |state, detail| ProgramStatus {
            name: spec.name,
            hook: spec.hook,
            group: spec.group,
            state,
            detail,
            verified_insns: None,
            load_time: Duration::ZERO,
        };
        if let Some(first) = spec.instead_of.iter().find(|first| self.is_loaded(first)) {
            return status(ProgramState::Unused, format!("{first} does it"));
        }
        if !lsm && matches!(spec.group, Group::Lsm | Group::LsmOnNeed) {
            return status(ProgramState::Refused, String::from("LSM hooks are not to be taken"));
        }
        let Some(program) = self.object.program_mut(spec.name) else {
            return status(ProgramState::Refused, String::from("not in the object"));
        };
        let begin = Instant::now();
        let mut done = if spec.name == FENTRY_PROBE {
            super::syscalls::probe_fentry(program, btf)
        } else {
            load(program, spec, btf).map_err(|e| chain(&e))
        };
        let verified_insns = program.info().ok().and_then(|info| info.verified_instruction_count());
        if done.is_ok() && matches!(spec.group, Group::Life | Group::Lsm) {
            done = self.attach_host(spec.name).map(|link| self.host_links.push(link)).map_err(|e| chain(&e));
        }
        let status = match done {
            Ok(()) => status(ProgramState::Loaded, String::new()),
            Err(detail) => status(ProgramState::Refused, detail),
        };
        ProgramStatus { verified_insns, load_time: begin.elapsed(), ..status }
    }

    /// Of two for the same, one that the kernel has not is no lack once the other is loaded.
    fn stands_in(&mut self, spec: &Spec) {
        let same = |other: &&mut ProgramStatus| other.group == spec.group && spec.instead_of.contains(&other.name);
        for other in self.programs.iter_mut().filter(same) {
            other.state = ProgramState::Unused;
            other.detail = format!("{} does it: {}", spec.name, other.detail);
        }
    }

    /// Attaches a program to the whole host. Its link is pinned, so that life goes on being followed, and rules in force,
    /// without a daemon.
    pub(super) fn attach_host(&mut self, name: &str) -> Result<FdLink, ProgramError> {
        let link = self.link_host(name)?;
        let Ok(pins) = &self.pins else { return Ok(link) };
        match link.pin(pins.host_link(name)) {
            Ok(pinned) => Ok(pinned.into()),
            // Guards of runs are held by their pins.
            Err(e) if !self.runs.is_empty() => {
                let why = chain(&e);
                tracing::warn!(why, program = name, "a program of the host is not pinned: it ends with this daemon");
                self.link_host(name)
            }
            Err(e) => {
                let why = format!("link of {name}: {}", chain(&e));
                tracing::warn!(why, "a program of the host is not pinned, and none is");
                let _ = pins.remove_own();
                self.pins = Err(why);
                // The link that could not be pinned is gone.
                self.link_host(name)
            }
        }
    }

    /// Takes a program off the whole host, its pin included.
    pub(super) fn detach_host(&mut self, name: &str, link: FdLink) {
        if let Ok(pins) = &self.pins
            && let Err(error) = std::fs::remove_file(pins.host_link(name))
        {
            tracing::warn!(%error, program = name, "a pin of a program that nothing needs stays");
        }
        // Without its pin the link ends with the descriptor.
        drop(link);
    }

    fn link_host(&mut self, name: &str) -> Result<FdLink, ProgramError> {
        match self.object.program_mut(name) {
            Some(Program::BtfTracePoint(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::Lsm(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::FExit(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::FEntry(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    fn pin_maps(&mut self) {
        let Ok(pins) = &self.pins else { return };
        let failed = PINNED_MAPS.iter().find_map(|name| {
            let map = self.object.map(name)?;
            map.pin(pins.map(name)).err().map(|e| format!("map {name}: {}", chain(&e)))
        });
        if let Some(why) = failed {
            let _ = pins.remove_own();
            self.pins = Err(why);
        }
    }
}

/// Creates the maps, the shared ones from those of the last daemon. Where these cannot be pinned, nothing is.
fn object_of(
    bytes: &[u8],
    config: &Config,
    btf: &Btf,
    max_runs: u32,
    pins: Result<Pins, String>,
) -> Result<(aya::Ebpf, Result<Pins, String>), Error> {
    let open = |pins: Option<&Pins>| {
        let mut loader = EbpfLoader::new();
        loader.btf(Some(btf)).verifier_log_level(VerifierLogLevel::DEBUG).map_max_entries("events", config.ring_bytes);
        for map in ["runs", "seqs", "shares", "latches", "drops", "counters", "lives", "births", "tallies"] {
            loader.map_max_entries(map, max_runs);
        }
        loader.map_max_entries("budgets", super::quotas::place(max_runs, 0));
        for map in pins.map_or(&[][..], |_| &SHARED_MAPS[..]) {
            loader.map_pin_path(map, pins.map(|pins| pins.map(map)).unwrap_or_default());
        }
        loader.load(bytes).map_err(|e| Error::Object(Box::new(e)))
    };
    let Ok(pinned) = &pins else { return Ok((open(None)?, pins)) };
    if let Err(error) = pinned.inherit() {
        tracing::warn!(
            error = chain(&error),
            "connections and names that an earlier daemon let through are judged anew"
        );
    }
    match open(Some(pinned)) {
        Ok(object) => Ok((object, pins)),
        Err(error) => {
            let _ = pinned.remove_own();
            Ok((open(None)?, Err(chain(&error))))
        }
    }
}

fn load(program: &mut Program, spec: &Spec, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(p) => p.load(spec.hook.strip_prefix("tp_btf/").unwrap_or(spec.hook), btf),
        Program::Lsm(p) => p.load(spec.hook.strip_prefix("lsm/").unwrap_or(spec.hook), btf),
        // Some kernels refuse these only when they are attached.
        Program::FExit(p) => {
            p.load(spec.hook.strip_prefix("fexit/").unwrap_or(spec.hook), btf)?;
            let link = p.attach()?;
            p.detach(link)
        }
        Program::FEntry(p) => {
            p.load(spec.hook.strip_prefix("fentry/").unwrap_or(spec.hook), btf)?;
            let link = p.attach()?;
            p.detach(link)
        }
        Program::CgroupDevice(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::SockOps(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// An error with its causes, on one line, and without the verifier's log but for its last lines.
pub(super) fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut out = match e.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return format!("{io_error}: {}", tail.join(" | "));
        }
        _ => e.to_string(),
    };
    let mut source = e.source();
    while let Some(s) = source {
        let text = s.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        source = s.source();
    }
    out
}

/// Gives the tens of megabytes that the kernel's types took back to the system: they are needed once, and the daemon
/// stays for months.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes no pointers and is safe to call at any time from any thread.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
