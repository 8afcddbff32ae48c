//! Runs: the registry of those that live, and what of them outlives the daemon.
//!
//! ```text
//! start / register ─► cgroup ─► run.json ─► kernel attachment ─► pipeline ─► (the process moves in)
//! adopt (daemon's start) ─► the same, from run.json and the audit log ─► live, or guarded until that succeeds
//! end: cgroup empty ─► cgroup removed (removal.rs) ─► seen as ended ─► reaper: detach, mark run.json
//! ```
//!
//! Invariants: an id is never used twice; a name belongs to one live or guarded run of each user; a run's attachment is in the kernel before its
//! first process is in the cgroup, and until its end is proved.

pub mod account;
pub mod adopt;
mod adoption;
pub mod bounds;
pub mod canaries;
mod checked;
pub mod claims;
pub mod connections;
pub mod delegation;
mod departed;
mod disk;
pub mod drills;
mod ends;
pub mod entry;
pub mod factors;
#[cfg(test)]
mod faults;
pub mod find;
pub mod frozen;
pub mod gpus;
pub mod grants;
pub mod guarded;
pub mod held;
pub mod lineage;
mod live;
pub mod modes;
mod outage;
pub mod owner;
mod past;
pub mod reaper;
pub mod registrable;
pub mod removal;
mod reobserved;
pub mod retain;
mod retire;
pub mod start;
pub mod started;
pub mod state_files;
pub mod statements;
pub mod stopped;
pub mod store;
pub mod switch;
pub mod touched;
pub mod translate;

use crate::{
    actuators::cgroup::{FreezeOutcome, ThawOutcome, thaw},
    guard::kernel::Kernel,
    platform::{Cgroup, CgroupRoot, clock},
    sensors::{cgroup::RunUsage, ebpf::RunCounters},
};
use entry::Entry;
use failsafe_core::{
    Containment, Policy, RunId,
    containment::ContainmentState,
    decision::IncidentId,
    discover::is_discovered,
    egress::{Account, Tally},
    event::Event,
    input::Run,
};
pub use find::{FindError, FoundRun};
use guarded::GuardedRun;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use store::{EndedRun, Store};

/// The owner of a run of which it is not known: no user has this id.
pub const NO_UID: u32 = u32::MAX;

/// How long releasing an ended run's cgroup may take: nobody is in it.
const RELEASE: Duration = Duration::from_millis(100);

/// How long a stop waits for actuators.
const LAST_JOB: Duration = Duration::from_secs(3);

/// What changes about a live run, for people to read.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What is desired and proved of its containment: the engine's state, which the pipeline publishes after each step.
    /// Nobody else changes it.
    pub containment: Containment,
    /// The open incident.
    pub incident: Option<IncidentId>,
    /// Decisions made.
    pub decisions: u32,
    /// Incidents opened.
    pub incidents: u32,
    /// GPUs, declared and observed.
    pub gpus: BTreeSet<failsafe_core::GpuId>,
    /// Why those are its that it did not declare.
    pub found_gpus: BTreeMap<failsafe_core::GpuId, failsafe_core::record::FoundGpu>,
    /// GPUs of which its processes have the device file open, as far as that is known, and the process: whether they count or not.
    pub opened_gpus: BTreeMap<failsafe_core::GpuId, u32>,
    /// What entries of the audit log say of them. The pipeline changes it.
    pub stated_gpus: BTreeMap<failsafe_core::GpuId, failsafe_core::record::GpuBy>,
    /// What its environment says of its GPUs, where it was read.
    pub claimed_gpus: Option<gpus::ClaimedGpus>,
    /// Last usage.
    pub usage: Option<RunUsage>,
    /// What the kernel counted, at the last sample.
    pub counted: RunCounters,
    /// Why the kernel does not accept the desired freeze or latch. The guard retries until it does.
    pub containment_error: Option<String>,
    /// For how long it has been frozen, in its whole life.
    pub frozen: frozen::FrozenTime,
    /// Levels that another had frozen before failsafe did; `None` while failsafe has not frozen it.
    pub keep_frozen: Option<Vec<u64>>,
    /// Whether every level below the root was told to freeze too.
    pub swept: bool,
    /// What it made of each GPU that it was on, in this daemon's life.
    pub gpu_use: BTreeMap<failsafe_core::GpuId, GpuUse>,
    /// Rules that do not judge, or do not trip again yet, as of the last second.
    pub rules: failsafe_core::engine::RulesView,
    /// Decisions of its policy that contained it, in this daemon's life.
    pub interventions: u32,
    /// Outcomes of its actions, where it is the run of a drill: what proves each step.
    pub drill: Option<Vec<failsafe_core::Outcome>>,
}

/// What a run made of one GPU, as attributed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuUse {
    /// Its part of the GPU's utilisation at the last sample, thousandths of a percent; `None` while it has no process there,
    /// or the GPU does not tell.
    pub utilization: Option<i64>,
    /// Memory of its own processes.
    pub memory_bytes: u64,
    /// Microseconds of the whole GPU; `None` where it tells no utilisation, as in MIG mode.
    pub time_us: Option<u64>,
    /// Millijoules; `None` where the GPU tells none.
    pub energy_mj: Option<u64>,
    /// How the last sample was shared.
    pub sharing: Sharing,
}

/// How what a GPU did is shared among those on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody else is there.
    Alone,
    /// By each one's part of the SMs' time.
    ByUtilization,
    /// By the size of the MIG slices that each one is on.
    BySlices,
    /// Evenly: the GPU does not tell who did how much.
    Even,
}

/// A live run.
#[derive(Debug)]
pub struct LiveRun {
    /// As registered.
    pub run: Run,
    /// The same with what was learnt later: whom it belongs to.
    known: OnceLock<Box<Run>>,
    /// What it is judged by.
    pub policy: Arc<Policy>,
    /// Its cgroup, held open.
    pub cgroup: Cgroup,
    /// Whether it is only watched, in the engine and in the kernel.
    switch: switch::Switch,
    /// Its place in the kernel's maps.
    pub slot: u32,
    /// Which occupant of the slot it is.
    pub epoch: u32,
    /// Whether the daemon made the cgroup, and so removes it.
    pub made: bool,
    /// Number of the daemon's life of this run, for the recording's file name.
    pub part: u32,
    /// Held by whoever looks after its root's `cgroup.freeze`: for microseconds, but by a thaw for as long as that takes. The
    /// pipeline's own write waits for nobody.
    pub gate: Mutex<()>,
    /// Held by whoever freezes or thaws the levels below the root; taken before the gate where both are.
    pub levels: Mutex<()>,
    /// Decisions about it that wait to be carried out.
    pub jobs: Arc<AtomicUsize>,
    /// Whether its first process is in: until then an empty cgroup is no end.
    entry: Entry,
    /// Turns of claims about it.
    pub claims: claims::Claims,
    pub(crate) removal: removal::Removal,
    /// Set once, when it has ended: from then on everybody sees it so, whatever is left to be tidied up.
    ended: OnceLock<Arc<EndedRun>>,
    status: Mutex<Status>,
    /// Destinations of its events. The pipeline adds to it: nobody holds it for longer than a copy takes.
    tally: Mutex<Tally>,
}

impl LiveRun {
    /// Takes an event of it that stands for `repeats` more.
    pub fn count(&self, event: &Event, repeats: u64) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).take(event, repeats);
    }

    /// Its changing part, locked: never held over a system call that can block.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its first process is in: from here on an empty cgroup is the run's end. False: it was withdrawn.
    pub fn enter(&self) -> bool {
        self.entry.enter()
    }

    /// No process is to come in: from here on an empty cgroup is the run's end. False: one is in.
    pub fn withdraw(&self) -> bool {
        self.entry.withdraw()
    }

    /// Whether its first process is in, or is not waited for any more.
    pub fn is_entered(&self) -> bool {
        self.entry.is_settled()
    }

    /// Whether the run is over: its first process was there and nobody is now. Whoever saw the cgroup empty may have looked
    /// before that process came.
    pub fn is_over(&self) -> bool {
        self.is_entered() && self.is_empty()
    }

    /// The run with what is known of it now.
    pub fn known(&self) -> &Run {
        self.known.get().map_or(&self.run, Box::as_ref)
    }

    /// Notes whom a run belongs to that was registered without an owner. The first one counts. False: nothing is new.
    pub fn belongs_to(&self, uid: u32) -> bool {
        let is_new = self.run.owner_uid == NO_UID && uid != NO_UID;
        is_new && self.known.set(Box::new(Run { owner_uid: uid, ..self.run.clone() })).is_ok()
    }

    /// Whether it is proved that nobody is in its cgroup, and nobody comes. What cannot be read proves nothing.
    pub fn is_empty(&self) -> bool {
        match self.cgroup.events() {
            Ok(events) => !events.populated && !is_discovered(&self.run.labels),
            Err(error) => error.is_vanished(),
        }
    }

    /// Marks its end, the first time it is called, and gives what is remembered of it. Takes no lock of the registry.
    pub fn end(&self, wall_ns: i64) -> Arc<EndedRun> {
        let (decisions, frozen_ns, containment) = {
            let status = self.status();
            (status.decisions, status.frozen.total_ns(clock::monotonic_ns()), status.containment.clone())
        };
        let ended = || EndedRun {
            run: self.known().clone(),
            policy_name: self.policy.name.clone(),
            ended_ns: wall_ns,
            unwatched: None,
            decisions,
            part: self.part,
            totals: None,
            frozen_ns: Some(frozen_ns),
            containment,
            unverified: None,
        };
        self.ended.get_or_init(|| Arc::new(ended())).clone()
    }

    /// What is remembered of its end; `None` while it lives.
    pub fn ended(&self) -> Option<&Arc<EndedRun>> {
        self.ended.get()
    }

    /// The gate, where nobody holds it: a thaw or a verification that is under way looks itself.
    pub fn try_gate(&self) -> Option<MutexGuard<'_, ()>> {
        match self.gate.try_lock() {
            Ok(gate) => Some(gate),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Remembers what a freeze found. Only the first one since the last thaw finds what others had frozen; later ones find
    /// what failsafe froze itself.
    pub fn note_freeze(&self, outcome: &FreezeOutcome) {
        if let FreezeOutcome::Frozen { already_frozen, unswept, .. } = outcome {
            let mut status = self.status();
            status.keep_frozen.get_or_insert_with(|| already_frozen.clone());
            status.swept = unswept.is_none();
        }
    }
}

/// The registry.
pub struct Registry {
    root: CgroupRoot,
    kernel: Kernel,
    store: Store,
    live: RwLock<live::Live>,
    guarded: RwLock<BTreeMap<RunId, Arc<GuardedRun>>>,
    /// Ends that are still to be written.
    unmarked: Mutex<Vec<EndedRun>>,
    ended: Mutex<Vec<Arc<EndedRun>>>,
    /// Of runs that have ended, until whoever makes their last statement takes them.
    accounts: Mutex<BTreeMap<RunId, Account>>,
    /// Held while a run is made, so that names stay unique, and while an order to observe is given or ended.
    making: Mutex<()>,
    modes: modes::Modes,
    canaries: canaries::Canaries,
    held: held::HeldEvents,
    /// Why programs of earlier daemons still bind cgroups that nobody registered.
    unretired: Mutex<Option<String>>,
    /// How often a user had too many live runs for another one.
    too_many: AtomicU64,
    touched: touched::Touched,
    gpu_changes: gpus::GpuChanges,
}

impl Registry {
    /// An empty registry; ended runs are read from the store.
    pub fn new(root: CgroupRoot, kernel: Kernel, store: Store) -> Registry {
        Registry {
            root,
            kernel,
            store,
            live: RwLock::default(),
            guarded: RwLock::default(),
            unmarked: Mutex::default(),
            ended: Mutex::default(),
            accounts: Mutex::default(),
            making: Mutex::default(),
            modes: modes::Modes::default(),
            canaries: canaries::Canaries::default(),
            held: held::HeldEvents::default(),
            unretired: Mutex::default(),
            too_many: AtomicU64::default(),
            touched: touched::Touched::default(),
            gpu_changes: gpus::GpuChanges::default(),
        }
    }

    /// The same with these modes.
    #[must_use]
    pub fn with_modes(self, modes: modes::Modes) -> Registry {
        Registry { modes, ..self }
    }

    /// The same with these canaries.
    #[must_use]
    pub fn with_canaries(self, canaries: canaries::Canaries) -> Registry {
        Registry { canaries, ..self }
    }

    /// The canaries of named policies.
    pub fn canaries(&self) -> &canaries::Canaries {
        &self.canaries
    }

    /// How often a user had too many live runs for another one.
    pub fn refused_too_many(&self) -> u64 {
        self.too_many.load(Ordering::Relaxed)
    }

    /// Which runs are bounded, and which are only watched.
    pub fn modes(&self) -> &modes::Modes {
        &self.modes
    }

    /// The runs that may have changed.
    pub fn touched(&self) -> &touched::Touched {
        &self.touched
    }

    /// The kernel side.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The ids of all runs that live or are guarded, also those of which the end is not tidied up.
    pub fn held(&self) -> Vec<RunId> {
        // In this order: a run that is taken up between the two looks is in both, and not in neither.
        let mut held: Vec<RunId> =
            self.guarded.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        held.extend(self.live.read().unwrap_or_else(PoisonError::into_inner).ids());
        held
    }

    fn registered(&self) -> Vec<Arc<LiveRun>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).all().cloned().collect()
    }

    /// The live runs, by id.
    pub fn live(&self) -> Vec<Arc<LiveRun>> {
        let mut live = self.registered();
        live.retain(|run| run.ended().is_none());
        live
    }

    /// The live run of that id.
    pub fn get(&self, id: RunId) -> Option<Arc<LiveRun>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        live.filter(|run| run.ended().is_none())
    }

    /// The live run whose cgroup holds this path of `/proc/PID/cgroup`; the innermost where runs are nested.
    pub fn of_cgroup(&self, path: &std::path::Path) -> Option<Arc<LiveRun>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).of_cgroup(path).cloned()
    }

    /// Ended runs, oldest first; those that are still being tidied up last.
    pub fn ended(&self) -> Vec<Arc<EndedRun>> {
        // In this order: a run that is moved between the two looks is in both, and not in neither.
        let leaving: Vec<Arc<EndedRun>> = self.registered().iter().filter_map(|run| run.ended().cloned()).collect();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let leaving: Vec<_> = leaving.into_iter().filter(|run| !ended.iter().any(|e| e.run.id == run.run.id)).collect();
        ended.extend(leaving);
        ended
    }

    /// The ended run of that id, as in [`Registry::ended`].
    fn ended_of(&self, id: RunId) -> Option<Arc<EndedRun>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        // In this order: a run that is moved between the two looks is in the second one.
        live.and_then(|run| run.ended().cloned()).or_else(|| {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.iter().find(|run| run.run.id == id).cloned()
        })
    }

    fn remember_ended(&self, run: Arc<EndedRun>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.touched.note(run.run.id);
        ended.push(run);
        if ended.len() > store::ENDED_KEPT {
            self.touched.note(ended.remove(0).run.id);
        }
    }

    /// On a stop: lets go of the kernel side, see [`Kernel::close`]. An actuator may be at its last job still, and is waited for.
    pub fn close(mut self: Arc<Registry>) {
        let deadline = Instant::now() + LAST_JOB;
        loop {
            match Arc::try_unwrap(self) {
                Ok(registry) => {
                    registry.drop_unentered();
                    return registry.kernel.close();
                }
                Err(_) if Instant::now() >= deadline => {
                    return tracing::warn!("an actuator has not ended: pins stay, which is safe");
                }
                Err(shared) => self = shared,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// On a stop, when nobody acts any more: of a run that was being started, and that no process entered, nothing is left. The kernel
    /// refuses to remove its cgroup if one did.
    fn drop_unentered(&self) {
        let waited_for = |live: &Arc<LiveRun>| live.made && !live.is_entered();
        for live in self.live().into_iter().filter(waited_for) {
            match live.vacate() {
                Ok(true) => self.kernel.remove(live.slot),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(run = %live.run.id, why, "the cgroup of a run without processes cannot be removed")
                }
            }
        }
    }

    /// The account of a run that has ended, once.
    pub fn take_account(&self, run: RunId) -> Option<Account> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).remove(&run)
    }

    /// Takes a run with a proved end ([`LiveRun::is_vacant`]) out of the kernel and the registry, and reads the kernel's counters for
    /// the last time. May take long: the reaper's.
    pub(crate) fn reap(&self, live: &Arc<LiveRun>) -> (Arc<EndedRun>, Account) {
        let account = self.account(live);
        let totals = account.totals;
        self.kernel.remove(live.slot);
        if !live.made {
            release(live);
        }
        // It is added to the ended runs before it is removed from the live ones: a lookup in between must find the
        // run.
        let ended = Arc::new(EndedRun { totals, ..EndedRun::clone(&live.end(0)) });
        self.remember_ended(ended.clone());
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody takes them while the disk hangs: the oldest are in the audit log.
        if accounts.len() >= store::ENDED_KEPT {
            accounts.pop_first();
        }
        accounts.insert(live.run.id, account.clone());
        drop(accounts);
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(live.run.id);
        (ended, account)
    }
}

/// A cgroup that is somebody else's is not left frozen after its run: what is put into it next would stand still for good.
fn release(live: &LiveRun) {
    // Also where a thaw is decided and not proved.
    let (frozen, keep) = {
        let status = live.status();
        (status.containment.state() != ContainmentState::Running, status.keep_frozen.clone())
    };
    if frozen {
        let outcome = thaw(&live.cgroup, &keep.unwrap_or_default(), Instant::now() + RELEASE);
        if !matches!(outcome, ThawOutcome::Thawed { .. } | ThawOutcome::Vanished) {
            tracing::warn!(run = %live.run.id, ?outcome, "the ended run's cgroup could not be thawed");
        }
    }
}
