//! The loaded programs with all that is known about the runs they guard.
//!
//! Owns the [`Object`], and what borrows it to do its work: what is attached to the host, failsafe's own files, the room in the
//! maps. Adding and removing runs is in [`super::runs`], taking them over in [`super::carry`], latches in [`super::latches`],
//! counters in [`super::counters`].

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::Btf;
use aya::programs::links::FdLink;

use super::error::Error;
use super::handles::{Heartbeat, Latches};
use super::host::Host;
use super::kernel_quota::{KernelQuota, Usage};
use super::left::{LeftEvents, PreviousRun, Ring};
use super::live::Live;
use super::load::load_all;
use super::object::{Config, Object};
use super::own::{Own, OwnFiles};
use super::pins::Pins;
use super::probe::ProgramStatus;
use super::provisional::Early;
use super::refusals::{OnNeed, Sights, refusable_calls};
use super::syscalls::{Via, Watching};

/// The loaded programs and their maps, and the runs that they guard.
pub struct Ebpf {
    pub(super) object: Object,
    pub(super) runs: BTreeMap<u32, Live>,
    pub(super) next_epoch: u32,
    pub(super) latches: Arc<Latches>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Who has how much of the maps.
    pub(super) quota: KernelQuota,
    watching: Watching,
    on_need: OnNeed,
    pub(super) early: Early,
    own: OwnFiles,
    /// Holds attachments to the whole host; pinned ones are held open besides.
    _host_links: Vec<FdLink>,
}

impl Ebpf {
    /// Loads the object, attaches what watches process life, and prepares the pins. A program that the kernel refuses
    /// is a line in [`Ebpf::programs`], not an error.
    ///
    /// # Errors
    /// No BTF, no privilege, or no memory for the maps.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
        let mut object = Object::create(failsafe_ebpf::OBJECT, config, &btf)?;
        let (latches, heartbeat) = (Arc::new(Latches::of(&object)?), Arc::new(Heartbeat::of(&object)?));
        let quota = KernelQuota::new(config.shares, object.sizes()?);
        heartbeat.beat()?;
        let host_links = load_all(&mut object, &btf, config.lsm);
        drop(btf);
        crate::platform::heap::trim();
        Ok(Self {
            object,
            runs: BTreeMap::new(),
            next_epoch: 1,
            latches,
            heartbeat,
            quota,
            watching: Watching::default(),
            on_need: OnNeed::default(),
            early: Early::default(),
            own: OwnFiles::default(),
            _host_links: host_links,
        })
    }

    fn host(&mut self) -> (Host<'_>, &mut Watching, &mut OnNeed) {
        let host = Host { object: &mut self.object, guards_runs: !self.runs.is_empty() };
        (host, &mut self.watching, &mut self.on_need)
    }

    /// What of the maps is used, and how often each had no room for a run.
    #[must_use]
    pub fn table_usage(&self) -> Vec<(Usage, u64)> {
        let with_refused = |usage: Usage| {
            let refused = self.quota.refused(usage.resource);
            (usage, refused)
        };
        self.quota.usage().into_iter().map(with_refused).collect()
    }

    /// What became of each program, for `doctor`.
    #[must_use]
    pub fn programs(&self) -> &[ProgramStatus] {
        self.object.programs()
    }

    /// Whether a named program is in the kernel.
    #[must_use]
    pub fn is_loaded(&self, name: &str) -> bool {
        self.object.is_loaded(name)
    }

    /// Guards of egress that the kernel refused; empty = it can be enforced.
    #[must_use]
    pub fn missing_guards(&self) -> Vec<&'static str> {
        self.object.missing_guards()
    }

    /// Where guards are pinned, or why they are not (they then end with the daemon).
    ///
    /// # Errors
    /// The reason, in words.
    pub fn pin_dir(&self) -> Result<&std::path::Path, &str> {
        self.object.pins().map(Pins::dir)
    }

    /// Number of this load among those of the instance, if pinned.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.object.pins().ok().map(Pins::generation)
    }

    /// What earlier daemons of this instance left guarded. Add those runs again, then call [`Ebpf::adopt_finish`].
    ///
    /// # Errors
    /// bpffs could not be read.
    pub fn previous_runs(&self) -> Result<Vec<PreviousRun>, Error> {
        self.object.pins().map_or_else(|_| Ok(Vec::new()), Pins::previous)
    }

    /// The events that earlier daemons of this instance left unread. Drain them after [`Ebpf::adopt_finish`], when nothing more
    /// is written.
    #[must_use]
    pub fn left_events(&self) -> Vec<LeftEvents> {
        self.object.pins().map(Pins::left_events).unwrap_or_default()
    }

    /// The daemon's sign of life: [`failsafe_matchers::rules::Dead`] counts from the last one.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn beat(&self) -> Result<(), Error> {
        self.heartbeat.beat()
    }

    /// The ring buffer; there is one reader, so the second call gives `Missing`.
    ///
    /// # Errors
    /// The ring could not be mapped, or was taken before.
    pub fn take_ring(&mut self) -> Result<Ring, Error> {
        self.object.take_ring()
    }

    /// Makes exactly the calls of `mask` (the union of all runs' masks) visible, attaching and detaching as needed; with
    /// `entries`, opens, mappings, sockets and user namespaces too, which only `sys_enter` sees where LSM is refused. `None` when
    /// nothing is watched.
    ///
    /// # Errors
    /// The kernel offers neither way; nothing is watched then.
    pub fn require_syscalls(&mut self, mask: u64, entries: bool) -> Result<Option<Via>, Error> {
        let (mut host, watching, _) = self.host();
        watching.require(&mut host, mask, entries)
    }

    /// How calls are seen now.
    #[must_use]
    pub fn watching_via(&self) -> Option<Via> {
        self.watching.via()
    }

    /// Why fentry is not used, if a try has failed.
    #[must_use]
    pub fn fentry_refusal(&self) -> Option<&str> {
        self.watching.fentry_refusal(&self.object)
    }

    /// Calls that loaded LSM programs refuse where a rule says so, as bits of a mask.
    #[must_use]
    pub fn refusable_calls(&self) -> u64 {
        refusable_calls(&self.object)
    }

    /// Attaches what it takes to refuse the calls of `mask` (the union of all runs' masks), and detaches what that does not
    /// need. Programs that the kernel refused are left out: see [`Ebpf::refusable_calls`].
    ///
    /// # Errors
    /// The kernel refuses to attach a program that it took at the start.
    pub fn require_refusals(&mut self, mask: u64) -> Result<(), Error> {
        let (mut host, _, on_need) = self.host();
        on_need.require_refusals(&mut host, mask)
    }

    /// Attaches what sees and stops callers where rules need it, and detaches the rest.
    ///
    /// # Errors
    /// The kernel refuses to attach what sees sockets that begin to listen, io_uring or gains of privilege, which it took at
    /// the start. What stops callers is done without: the daemon freezes them.
    pub fn require_sights(&mut self, needed: Sights) -> Result<(), Error> {
        let (mut host, _, on_need) = self.host();
        on_need.require_sights(&mut host, needed)
    }

    /// Puts failsafe's own files, these and no others, out of the reach of every run that is to keep from them, see
    /// [`failsafe_matchers::rules::Rules::protect`]. To be called again when more of them are there.
    ///
    /// # Errors
    /// One of them cannot be looked at, or the map could not be written; the others are held.
    pub fn guard_own(&mut self, own: &Own) -> Result<(), Error> {
        self.own.guard(&mut self.object, own)
    }

    /// Slot and epoch of every live run.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(slot, live)| (*slot, live.cfg.epoch))
    }
}
