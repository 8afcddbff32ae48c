//! Starting and registering runs.

use super::{
    LiveRun, Registry, Status,
    claims::Claims,
    entry::Entry,
    find::is_like_an_id,
    guarded::GuardedRun,
    removal::Removal,
    store::{KeptRun, StoreError},
    switch::{Prepared, Switch},
};
use crate::{
    guard::{
        Holder,
        kernel::{Compiled, Home, KernelError},
    },
    platform::{Cgroup, CgroupError, ProcFs, clock},
};
use failsafe_core::{
    Containment, GpuId, MonoTime, Policy, RunId,
    canary::LABEL,
    drill::{PREFIX, is_drill, is_reserved},
    input::{Contained, Run},
};
use failsafe_ebpf::abi::latch;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Live runs of one user who is not an administrator.
pub const MAX_RUNS_OF_USER: usize = 64;
/// Its name.
pub const LIMIT: &str = "live-runs";

/// How long registering waits for the end of the run that had the same cgroup.
const REAPED: Duration = Duration::from_secs(5);

/// What a run is to be made of.
#[derive(Debug)]
pub struct Wanted {
    /// Its name; empty: from the policy's.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its policy.
    pub policy: Policy,
    /// Declared GPUs.
    pub gpus: BTreeSet<GpuId>,
    /// Declared MIG devices of them, by UUID.
    pub mig: BTreeMap<GpuId, BTreeSet<String>>,
    /// Whom it belongs to.
    pub owner_uid: u32,
    /// Whether the per-user limit does not hold.
    pub unlimited: bool,
    /// Addresses that hosts of its list have from the first instant, by the hosts' bits: of connections that are kept.
    pub learnt: Vec<(IpAddr, u64)>,
}

/// Where it is to run.
#[derive(Debug)]
pub enum Place {
    /// In a cgroup of its own below this parent (relative to the cgroup2 mount).
    Below(PathBuf),
    /// In this cgroup, which exists.
    Existing(Cgroup),
    /// In this cgroup, which was discovered: it may be empty, and the run ends when it is removed.
    Discovered(Cgroup),
}

/// How a run comes to be entered.
#[derive(Debug)]
pub(super) struct Origin {
    /// The daemon made its cgroup, and removes it.
    pub made: bool,
    /// In which share of the kernel's tables it is counted.
    pub holder: Holder,
    /// How many daemons had it before.
    pub part: u32,
    /// What is known of its containment from before.
    pub recalled: Containment,
}

/// Why a run was not started. Nothing is then left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A live run of that user has the name.
    #[error("a live run of that user is named `{0}` already")]
    NameTaken(String),
    /// It could be taken for an id.
    #[error(
        "name `{0}` reads like the id of a run: expected a name that is not of hexadecimal digits and `-` alone, or is shorter than 8 digits and does not begin with 0"
    )]
    LikeAnId(String),
    /// Names of runs of drills.
    #[error("name `{0}`: names that begin with `{PREFIX}` are those of drills")]
    Reserved(String),
    /// Not a name.
    #[error("name `{0}`: expected 1 to 64 of letters, digits, `-`, `_`, `.`")]
    BadName(String),
    /// Too many labels, or one too long.
    #[error("labels: expected at most 32, each key and value at most 128 bytes")]
    Labels,
    /// The user has too many.
    #[error(
        "limit `{LIMIT}`: uid {uid} has {MAX_RUNS_OF_USER} of {MAX_RUNS_OF_USER} live runs; end some and try again"
    )]
    TooMany {
        /// The user.
        uid: u32,
    },
    /// The cgroup is, holds, or lies in that of a live run.
    #[error("the cgroup overlaps with that of {0}")]
    Overlaps(String),
    /// The cgroup is empty.
    #[error("cgroup {0} holds no process")]
    Empty(PathBuf),
    /// The cgroup.
    #[error("{}", .0.chain())]
    Cgroup(#[from] CgroupError),
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The store.
    #[error("the run cannot be kept: {}", crate::causes::chain(.0))]
    Store(#[from] StoreError),
}

impl Registry {
    /// Makes a run: name, cgroup, kernel attachment, files. The pipeline is told by the caller, before a process moves in.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn make(&self, wanted: Wanted, place: Place, boot_id: &str) -> Result<Arc<LiveRun>, StartError> {
        // Before any lock: it looks at files.
        let mut prepared = self.prepare(&wanted.policy, self.modes.of(&wanted.labels), true)?;
        if let Place::Existing(cgroup) | Place::Discovered(cgroup) = &place {
            self.await_reaped(cgroup);
        }
        let _making = loop {
            let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.modes.of(&wanted.labels);
            if now == prepared.mode {
                break making;
            }
            // The mode of the node changed meanwhile, which is rare.
            drop(making);
            prepared = self.prepare(&wanted.policy, now, true)?;
        };
        let (live, guarded) = self.live_and_guarded();
        let runs: Vec<&Run> = live.iter().map(|run| &run.run).chain(guarded.iter().map(|run| &run.run)).collect();
        let name = name(&wanted, &runs)?;
        let label = |text: &String| text.len() <= 128;
        // The daemon's label of a canary is beyond those that a caller may have.
        let own = wanted.labels.keys().filter(|key| *key != LABEL).count();
        if own > 32 || !wanted.labels.iter().all(|(key, value)| label(key) && label(value)) {
            return Err(StartError::Labels);
        }
        let owned = runs.iter().filter(|run| run.owner_uid == wanted.owner_uid).count();
        // Discovery has limits of its own.
        if !wanted.unlimited && owned >= MAX_RUNS_OF_USER && !matches!(place, Place::Discovered(_)) {
            self.too_many.fetch_add(1, Ordering::Relaxed);
            return Err(StartError::TooMany { uid: wanted.owner_uid });
        }
        let discovered = matches!(place, Place::Discovered(_));
        let id = RunId(Uuid::now_v7());
        let (cgroup, made) = match place {
            Place::Below(parent) => (self.root.create(&parent.join(format!("run-{id}")))?, true),
            Place::Existing(cgroup) => {
                self.alone(&cgroup, &wanted, &guarded)?;
                if !cgroup.events()?.populated {
                    return Err(StartError::Empty(cgroup.path().to_owned()));
                }
                (cgroup, false)
            }
            Place::Discovered(cgroup) => {
                self.alone(&cgroup, &wanted, &guarded)?;
                (cgroup, false)
            }
        };
        let run = Run {
            id,
            name,
            labels: wanted.labels,
            owner_uid: wanted.owner_uid,
            cgroup: cgroup.cgroup_path().strip_prefix("/").unwrap_or(Path::new("")).display().to_string(),
            cgroup_id: cgroup.id(),
            boot_id: boot_id.to_owned(),
            policy: wanted.policy.digest(),
            gpus: wanted.gpus,
            mig: wanted.mig,
            registered: MonoTime(clock::monotonic_ns()),
            registered_wall_ns: clock::wall_ns(),
            decisions: 0,
            incidents: 0,
            contained: Contained::default(),
        };
        prepared.now = prepared.now.with_learnt(wanted.learnt);
        let policy = Arc::new(wanted.policy);
        let holder = match wanted.owner_uid {
            uid if discovered => Holder::Discovered(uid),
            _ if wanted.unlimited => Holder::Administrator,
            uid => Holder::User(uid),
        };
        let origin = Origin { made, holder, part: 0, recalled: Containment::default() };
        let live = self.enter_prepared(run, policy, prepared, cgroup, origin).inspect_err(|_| self.store.forget(id))?;
        if !made {
            live.enter();
        }
        self.canaries.watch(&live);
        Ok(live)
    }

    /// That no run is in the cgroup, or around it.
    fn alone(&self, cgroup: &Cgroup, wanted: &Wanted, guarded: &[Arc<GuardedRun>]) -> Result<(), StartError> {
        let leaving = self.registered();
        let all = leaving.iter().map(|run| &run.run).chain(guarded.iter().map(|run| &run.run));
        overlap(cgroup, wanted, &all.collect::<Vec<_>>())
    }

    /// Whether a run that has ended, and is not tidied up yet, had a cgroup that is, holds, or lies in this one's place.
    pub fn is_left_by(&self, cgroup: &Cgroup) -> bool {
        let leaving = self.registered();
        leaving.iter().filter(|run| run.ended().is_some()).any(|run| overlaps(cgroup, &run.run))
    }

    /// The cgroup of a run that has just ended may be registered anew: waits, not for ever, until it is free.
    fn await_reaped(&self, cgroup: &Cgroup) {
        let deadline = Instant::now() + REAPED;
        let leaving = |run: &Arc<LiveRun>| run.ended().is_some() && run.cgroup.id() == cgroup.id();
        while self.registered().iter().any(leaving) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Compiles a run's policy and enters it.
    pub(super) fn enter(
        &self,
        run: Run,
        policy: Arc<Policy>,
        cgroup: Cgroup,
        origin: Origin,
    ) -> Result<Arc<LiveRun>, StartError> {
        let prepared = self.prepare(&policy, self.modes.of(&run.labels), false)?;
        self.enter_prepared(run, policy, prepared, cgroup, origin)
    }

    /// Attaches a run in the kernel, keeps it, and lists it as live. On failure a cgroup that was made is removed.
    fn enter_prepared(
        &self,
        run: Run,
        policy: Arc<Policy>,
        prepared: Prepared,
        mut cgroup: Cgroup,
        origin: Origin,
    ) -> Result<Arc<LiveRun>, StartError> {
        let Origin { made, part, .. } = origin;
        let Prepared { mode, now: compiled, enforcing } = prepared;
        let containment = origin.recalled.clone().taken_up(run.contained, run.registered);
        // What a freeze needs is open before the run is one.
        let held = cgroup.hold_open().map_err(StartError::from);
        let entered = held.and_then(|()| self.attach(&run, &policy, compiled, &cgroup, &origin, &containment));
        match entered {
            Ok(placed) => {
                let status = Status {
                    containment,
                    decisions: run.decisions,
                    incidents: run.incidents,
                    gpus: run.gpus.clone(),
                    drill: is_drill(&run.labels).then(Vec::new),
                    ..Status::default()
                };
                let (slot, epoch) = (placed.slot, placed.epoch);
                let gate = Mutex::default();
                let live = Arc::new(LiveRun {
                    known: OnceLock::new(),
                    switch: Switch::new(mode, enforcing),
                    run,
                    policy,
                    cgroup,
                    slot,
                    epoch,
                    made,
                    part,
                    gate,
                    levels: Mutex::default(),
                    jobs: Arc::default(),
                    entry: Entry::new(part > 0),
                    claims: Claims::default(),
                    removal: Removal::default(),
                    ended: OnceLock::new(),
                    status: Mutex::new(status),
                    tally: Mutex::default(),
                });
                self.live.write().unwrap_or_else(PoisonError::into_inner).insert(live.clone());
                self.touched.note(live.run.id);
                Ok(live)
            }
            Err(error) => {
                if made && part == 0 {
                    let _gone = cgroup.remove_tree();
                }
                Err(error)
            }
        }
    }

    fn attach(
        &self,
        run: &Run,
        policy: &Policy,
        compiled: Compiled,
        cgroup: &Cgroup,
        origin: &Origin,
        containment: &Containment,
    ) -> Result<crate::guard::kernel::Placed, StartError> {
        let Origin { made, holder, part, .. } = *origin;
        let policy_name = policy.name.clone();
        let kept = KeptRun {
            run: run.clone(),
            made,
            part,
            ended_ns: None,
            policy_name,
            decisions: run.decisions,
            totals: None,
            unwatched: None,
            containment: containment.clone(),
        };
        if part == 0 {
            self.store.keep_policy(policy)?;
        }
        // Before the kernel bounds it: whatever is bounded is on record, and a full disk is no reason to attach and detach.
        self.store.keep(&kept)?;
        let adopted = (part > 0).then_some(if run.contained.blocked { latch::EGRESS } else { 0 });
        let home = Home { cgroup: cgroup.path(), cgroup_id: cgroup.id(), level: cgroup.level(), holder };
        Ok(self.kernel.add(run.id, compiled, home, adopted)?)
    }
}

fn name(wanted: &Wanted, live: &[&Run]) -> Result<String, StartError> {
    // Names are unique among one user's runs: whether others' have it is not for that user to know.
    let taken = |name: &str| live.iter().any(|run| run.owner_uid == wanted.owner_uid && run.name == name);
    let like_an_id = |name: String| if is_like_an_id(&name) { Err(StartError::LikeAnId(name)) } else { Ok(name) };
    if wanted.name.is_empty() {
        // The first free one; there is one below the count of live runs plus two.
        let base = &wanted.policy.name;
        let base = if is_reserved(&format!("{base}-")) { "run" } else { base };
        let numbered = (1..).map(|n| format!("{base}-{n}"));
        return numbered
            .take(live.len() + 1)
            .find(|name| !taken(name))
            .ok_or_else(|| StartError::NameTaken(base.to_owned()))
            .and_then(like_an_id);
    }
    let good = wanted.name.len() <= 64
        && wanted.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !good {
        return Err(StartError::BadName(wanted.name.clone()));
    }
    if is_reserved(&wanted.name) && !is_drill(&wanted.labels) {
        return Err(StartError::Reserved(wanted.name.clone()));
    }
    if taken(&wanted.name) { Err(StartError::NameTaken(wanted.name.clone())) } else { like_an_id(wanted.name.clone()) }
}

fn overlaps(cgroup: &Cgroup, run: &Run) -> bool {
    let other = Path::new("/").join(&run.cgroup);
    // Of a guarded run nothing may be known.
    !run.cgroup.is_empty() && (cgroup.contains(&other) || cgroup.cgroup_path().starts_with(&other))
}

fn overlap(cgroup: &Cgroup, wanted: &Wanted, live: &[&Run]) -> Result<(), StartError> {
    match live.iter().find(|run| overlaps(cgroup, run)) {
        None => Ok(()),
        Some(run) if wanted.unlimited || run.owner_uid == wanted.owner_uid => {
            Err(StartError::Overlaps(format!("run `{}` ({})", run.name, run.id)))
        }
        Some(_) => Err(StartError::Overlaps("a run of another user".into())),
    }
}

/// The one user that every process of a cgroup belongs to; `None` when there are several, or none.
pub fn sole_owner(cgroup: &Cgroup) -> Result<Option<u32>, CgroupError> {
    let proc = ProcFs::default();
    let mut owner = None;
    for pid in cgroup.all_procs()? {
        match (crate::platform::users::credentials(&proc, pid), owner) {
            (Ok(Some(c)), None) => owner = Some(c.uid),
            (Ok(Some(c)), Some(uid)) if c.uid == uid => {}
            (Ok(None), _) => {}
            _ => return Ok(None),
        }
    }
    Ok(owner)
}
