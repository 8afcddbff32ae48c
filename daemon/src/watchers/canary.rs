//! Canaries: looks at their runs each second, and promotes or withdraws a candidate as its criteria say.
//!
//! It also ends a canary when the policy in force of its name was replaced. Invariants: each decision is on record with the values that it
//! was made by; a withdrawal waits for no disk; a promotion that cannot be stored is not made, and tried again.

use crate::{
    log::Log,
    pipeline::Sender,
    platform::clock,
    policies::{NamedError, load},
    runs::{
        Registry,
        canaries::{Canaries, Decided, Kept, NotDone},
    },
    watchers::keep::NodeState,
};
use failsafe_core::{
    Actor, MonoTime,
    canary::{Finding, Stage},
    input::Gap,
    record::Record,
    signal::Source,
    time::Span,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often runs are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the thread waits before it looks at the stop flag.
const WAIT: Duration = Duration::from_millis(200);
/// How often the policies in force are read.
const READ: Duration = Duration::from_secs(5);
/// Longest time between two looks that counts as time in which criteria held: the node may have been suspended.
const MOST: Duration = Duration::from_secs(10);
/// The code of the node's reason of health while a canary cannot be read or stored.
pub const CODE: &str = "canary";

/// The thread.
pub struct CanaryWatch {
    registry: Arc<Registry>,
    log: Log,
    pipeline: Sender,
    policies: PathBuf,
}

impl CanaryWatch {
    /// With what it needs of the daemon.
    pub fn new(registry: &Arc<Registry>, log: &Log, pipeline: &Sender, policies: &Path) -> CanaryWatch {
        CanaryWatch {
            registry: registry.clone(),
            log: log.clone(),
            pipeline: pipeline.clone(),
            policies: policies.to_owned(),
        }
    }

    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let (mut looked, mut read, mut state) = (Instant::now(), None::<Instant>, NodeState::new(CODE));
        if let Some(what) = self.registry.canaries().problem() {
            let at = MonoTime(clock::monotonic_ns());
            let gap = Gap { seq: 0, at, source: Source::Guard, run: None, gpu: None, what, lost: 0, blind: false };
            self.log.record(&Record::Gap(gap), None, None);
        }
        while !stop.load(Ordering::Relaxed) {
            if read.is_none_or(|at| at.elapsed() >= READ) {
                self.follow_files();
                read = Some(Instant::now());
            }
            if looked.elapsed() >= LOOK {
                let elapsed = looked.elapsed().min(MOST);
                looked = Instant::now();
                self.look(elapsed);
                self.registry.canaries().store();
            }
            if let Some(message) = state.update(self.registry.canaries().problem()) {
                let _stopping: Result<(), _> = self.pipeline.send(message);
            }
            thread::park_timeout(WAIT);
        }
        self.look(looked.elapsed().min(MOST));
        self.registry.canaries().store();
    }

    fn look(&self, elapsed: Duration) {
        let guarded: BTreeSet<_> = self.registry.guarded().iter().map(|guarded| guarded.run.id).collect();
        let elapsed = Span(u64::try_from(elapsed.as_nanos()).unwrap_or(0));
        for (name, finding) in self.registry.canaries().look(&self.registry.live(), &guarded, elapsed) {
            match finding {
                Finding::Wait(_) => {}
                Finding::Promote(why) => {
                    let promoted = promote_recorded(self.registry.canaries(), &self.log, &name, by_daemon(why));
                    show(&promoted);
                }
                Finding::Withdraw(why) => self.withdraw(&name, Stage::Withdrawn, why),
            }
        }
    }

    fn withdraw(&self, name: &str, stage: Stage, why: String) {
        let withdrawn = self.registry.canaries().withdraw(name, stage, by_daemon(why));
        // That it is not stored is in the node's health.
        let withdrawn = withdrawn.map(|(kept, _unstored)| kept);
        show(&withdrawn);
        if let Ok(kept) = withdrawn {
            self.log.record(&kept.record(), None, None);
        }
    }

    /// Ends canaries of which the policy in force is another one by now.
    fn follow_files(&self) {
        for kept in self.registry.canaries().all().iter().filter(|kept| !kept.stage.is_over()) {
            let why = match load(&self.policies, &kept.name) {
                Ok(named) if named.policy.digest() == kept.control => continue,
                Ok(named) if named.policy.digest() == kept.candidate => {
                    "the candidate is the policy in force now".into()
                }
                Ok(_) => "the policy in force was replaced by another one than the candidate".into(),
                Err(why @ NamedError::None { .. }) => format!("there is no policy in force any more: {why}"),
                // Nothing is started by it then; it may be mended.
                Err(_) => continue,
            };
            self.withdraw(&kept.name, Stage::Over, why);
        }
    }
}

/// Records that a canary begins or is promoted, and waits until that is durable: without an entry, its file does not count at the next
/// start of the daemon.
///
/// # Errors
/// It could not be recorded.
pub fn announce(log: &Log, kept: &Kept) -> Result<(), String> {
    let recorded = log.record_durably(&kept.record(), None);
    recorded.map_err(|why| format!("the canary cannot be recorded in the audit log: {why}"))
}

/// Records that a canary which was announced did not begin.
pub fn withdraw_announced(log: &Log, kept: &Kept) {
    if log.orders().is_some_and(|orders| orders.canary(&kept.name).is_some_and(|entry| entry.canary == kept.id)) {
        let mut over = kept.clone();
        over.stage = Stage::Over;
        over.decided = Some(by_daemon("it could not be recorded or stored, and did not begin".to_owned()));
        log.record(&over.record(), None, None);
    }
}

/// Promotes the candidate of a name, which is on record first. If it is not carried out, that is recorded, too.
///
/// # Errors
/// [`NotDone`].
pub fn promote_recorded(canaries: &Canaries, log: &Log, name: &str, decided: Decided) -> Result<Kept, NotDone> {
    let mut announced = false;
    let promoted = canaries.promote(name, decided, |kept| {
        announced = true;
        announce(log, kept)
    });
    if promoted.is_err() && announced {
        for mut kept in canaries.all().into_iter().filter(|kept| kept.name == name) {
            kept.decided = Some(by_daemon("the promotion was not carried out".to_owned()));
            log.record(&kept.record(), None, None);
        }
    }
    promoted
}

/// Logs what the criteria came to.
fn show(decided: &Result<Kept, NotDone>) {
    match decided {
        Ok(kept) => {
            let by = kept.decided.as_ref().map(|by| by.reason.as_str());
            tracing::info!(policy = kept.name, stage = kept.stage.name(), by, "the criteria of a canary");
        }
        Err(why) => tracing::error!(%why, "the criteria of a canary"),
    }
}

fn by_daemon(reason: String) -> Decided {
    Decided { actor: Actor::Daemon, reason, at_ns: clock::wall_ns() }
}
