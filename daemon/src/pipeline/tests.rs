//! The pipeline on the real kernel, driven step by step: what it publishes of a run against what the engine has.

use super::*;
use crate::{
    config::{Config, Live, Recordings as Keep},
    counted::Counted,
    guard::kernel::Kernel,
    log::{Bounds, LogOwner},
    pipeline::lane::Ticket,
    platform::CgroupRoot,
    runs::{start::Place, store::Store},
    testing::wanted,
};
use failsafe_core::{
    Actor, Containment, State,
    containment::ContainmentState,
    decision::{DecisionId, Verdict},
    health::Thresholds,
    input::{Command as Asked, Contained, Run},
    time::Span,
    xid::Catalogue,
};
use failsafe_journal::storage::Retention;
use std::path::Path;

/// A pipeline with one run, which has a process. Nobody reports outcomes but the test.
struct Bench {
    pipeline: Pipeline,
    live: Arc<LiveRun>,
    parent: String,
    child: std::process::Child,
    _log: LogOwner,
    _queue: queue::Receiver<Message>,
    _state: tempfile::TempDir,
}

impl Bench {
    /// `None` where there is no cgroup2, or it may not be changed.
    fn new(name: &str) -> Option<Bench> {
        let root = CgroupRoot::find().ok()?;
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("needs root");
            return None;
        }
        let state = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            retention: Retention::default(),
            budget: crate::log::Budget { per_user: 1 << 20, total: 1 << 24 },
        };
        let (owner, _) = LogOwner::open(state.path(), &state.path().join("second"), "boot", bounds, None).unwrap();
        let log = owner.log();
        let config = Config { state_dir: state.path().to_owned(), ..Config::default() };
        let registry =
            Arc::new(Registry::new(root, Kernel::new(Err("none".into())), Store::open(state.path()).unwrap()));
        let (sender, queue) = queue::channel(QUEUE);
        let tables = (Catalogue::built_in().unwrap(), Thresholds::built_in().unwrap());
        let parts = Parts {
            registry: registry.clone(),
            log: log.clone(),
            interpreter: Interpreter::spawn(registry.clone(), &config, Arc::new(|_| {})).unwrap(),
            lane: Lane::new(sender.clone()),
            recordings: Recordings::spawn(&log, 1 << 20).unwrap(),
            shadows: crate::shadows::Shadows::spawn(&log, state.path()).unwrap().1,
            recording_max_bytes: 1 << 20,
            remover: Remover::spawn(sender).unwrap().0,
            reaper: Reaper::spawn(registry.clone(), log.clone(), Live::new(Keep::default())).unwrap().0,
            health: health::HealthStore::open(state.path(), log.clone(), tables, false, Span::from_millis(1_000))
                .unwrap(),
            boot_id: "boot".into(),
        };
        let parent = format!("failsafe-pipeline-{name}-{}", std::process::id());
        let live = registry.make(wanted("job"), Place::Below(parent.clone().into()), "boot").unwrap();
        let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        live.cgroup.attach(child.id()).unwrap();
        live.enter();
        let mut pipeline = Pipeline::new(parts);
        pipeline.start(live.clone());
        Some(Bench { pipeline, live, parent, child, _log: owner, _queue: queue, _state: state })
    }

    /// A command of an operator; the result is the decision of it.
    fn command(&mut self, command: Asked) -> DecisionId {
        assert!(!self.command_as("admin", command).is_refused());
        let n = self.pipeline.judge.state.run(self.live.run.id).unwrap().decisions;
        DecisionId { run: self.live.run.id, n }
    }

    /// A command under this role, by the way of the lane.
    fn command_as(&mut self, role: &str, command: Asked) -> Ticket {
        let (tell, _answers) = tokio::sync::mpsc::unbounded_channel();
        let at = MonoTime(clock::monotonic_ns());
        let (actor, role, reason) = (Actor::Daemon, role.to_owned(), "test".into());
        let control = Control { seq: 0, at, run: self.live.run.id, command, actor, role, reason };
        let ticket = Ticket::new(None);
        self.pipeline.command(Command::Control { control, tell, ticket: ticket.clone() });
        ticket
    }

    fn containment(&self) -> Containment {
        self.live.status().containment.clone()
    }

    /// The run is taken up by another engine; `is_frozen` is what the kernel reports.
    fn restart(&mut self, is_frozen: bool) {
        let (id, registered) = (self.live.run.id, MonoTime(clock::monotonic_ns()));
        let (before, view) = (self.containment(), self.pipeline.judge.state.run(id).unwrap());
        let frozen = before.is_frozen() || is_frozen;
        let contained = Contained { frozen, blocked: before.is_latched(), unexplained: false };
        let found = before.found(contained, is_frozen, registered);
        match frozen {
            true => self.live.status().frozen.begins(registered.0),
            false => self.live.status().frozen.ends(registered.0),
        }
        self.pipeline.judge.state = State::default();
        self.pipeline.judge.state.recall(id, found);
        let (decisions, incidents) = (view.decisions, view.incidents);
        let run = Run { contained, registered, decisions, incidents, ..self.live.run.clone() };
        self.pipeline.feed(Input::RunStarted(run));
    }

    /// What an actuator reports of an action.
    fn report(&mut self, decision: DecisionId, action: Action, verdict: Verdict) {
        let incident = failsafe_core::decision::IncidentId::new(decision.run, 1);
        let (at, took) = (MonoTime(clock::monotonic_ns()), Span::from_millis(1));
        let outcome = Outcome { decision, incident, action, verdict, proofs: Vec::new(), at, took };
        self.pipeline.told(ActuatorReport::Outcome(outcome));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.live.cgroup.write_file("cgroup.freeze", b"0");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.live.cgroup.remove_tree();
        let _ = std::fs::remove_dir(self.pipeline.parts.registry.root().mount().join(Path::new(&self.parent)));
    }
}

#[test]
fn a_freeze_that_is_in_force_is_not_recorded_as_failed_when_too_many_decisions_wait() {
    let Some(mut bench) = Bench::new("waiting") else { return };
    let jobs = (0..crate::interpreter::MAX_JOBS).map(|_| Counted::one_of(&bench.live.jobs).1);
    let _waiting: Vec<Counted> = jobs.collect();
    bench.command(Asked::Freeze);
    assert_ne!(bench.containment().state(), ContainmentState::Running, "it is written all the same");
    let cgroup = bench.live.clone();
    crate::testing::until("the run is frozen", || cgroup.cgroup.events().unwrap().frozen);
    bench.command(Asked::Freeze);
    assert_eq!(bench.containment().state(), ContainmentState::Frozen, "and read back");
}

#[test]
fn after_a_failed_thaw_the_run_is_held_until_it_is_thawed() {
    let Some(mut bench) = Bench::new("thaw") else { return };
    let freeze = bench.command(Asked::Freeze);
    bench.report(freeze, Action::Freeze, Verdict::Proved);
    let thaw = bench.command(Asked::Thaw);
    assert!(!bench.containment().is_frozen(), "the guard lets go while the thaw is carried out");
    bench.report(thaw, Action::Thaw, Verdict::Failed("writing cgroup.freeze: EIO".into()));
    assert!(bench.pipeline.judge.state.run(bench.live.run.id).unwrap().frozen, "the engine holds it");
    assert!(bench.containment().is_frozen(), "so the guard has to");
    assert_eq!(bench.containment().state(), ContainmentState::Partial, "what was proved before does not count");
    bench.pipeline.take(Message::StillFrozen(bench.live.run.id));
    assert_eq!(bench.containment().state(), ContainmentState::Frozen);
    let thaw = bench.command(Asked::Thaw);
    bench.report(thaw, Action::Thaw, Verdict::Proved);
    assert!(bench.containment().is_empty());
}

#[test]
fn the_owner_thaws_its_own_freeze_and_no_other() {
    let Some(mut bench) = Bench::new("owner") else { return };
    assert!(bench.command_as(OWNER, Asked::Thaw).is_refused(), "nothing is frozen by its order");
    assert!(!bench.command_as(OWNER, Asked::Freeze).is_refused());
    assert!(!bench.command_as(OWNER, Asked::Thaw).is_refused());
    assert!(!bench.containment().is_frozen());

    assert!(!bench.command_as(OWNER, Asked::Freeze).is_refused());
    bench.command(Asked::Freeze);
    let decisions = bench.live.status().decisions;
    assert!(bench.command_as(OWNER, Asked::Thaw).is_refused(), "an administrator froze it, too");
    assert!(bench.containment().is_frozen());
    assert_eq!(bench.live.status().decisions, decisions, "a refused command decides nothing");
    bench.command(Asked::Thaw);

    assert!(!bench.command_as(OWNER, Asked::Freeze).is_refused());
    let latched = failsafe_core::event::Event::Latched;
    bench.pipeline.take(Message::Input(crate::runs::translate::guarded(bench.live.run.id, latched)));
    assert!(!bench.containment().is_ordered_by_owner_alone(), "published without a decision");
    assert!(bench.command_as(OWNER, Asked::Thaw).is_refused(), "a stop rule wants it frozen");
    bench.command(Asked::Thaw);

    assert!(!bench.command_as(OWNER, Asked::Freeze).is_refused());
    bench.restart(true);
    assert!(bench.command_as(OWNER, Asked::Thaw).is_refused(), "found at the start of the daemon");
}

#[test]
fn a_freeze_that_a_thaw_overtook_leaves_nothing() {
    let Some(mut bench) = Bench::new("overtaken") else { return };
    let freeze = bench.command(Asked::Freeze);
    let thaw = bench.command(Asked::Thaw);
    bench.report(thaw, Action::Thaw, Verdict::Proved);
    bench.report(freeze, Action::Freeze, Verdict::Partial(vec!["a later decision thawed the run".into()]));
    assert!(bench.containment().is_empty(), "{:?}", bench.containment());
    assert!(!bench.live.status().frozen.is_frozen(), "its frozen time would count for ever");
    assert!(!bench.pipeline.containments.is_partial(bench.live.run.id), "a caller would wait for a proof");
}

#[test]
fn a_freeze_that_failed_is_partial_and_decided_again() {
    let Some(mut bench) = Bench::new("failed") else { return };
    let freeze = bench.command(Asked::Freeze);
    bench.report(freeze, Action::Freeze, Verdict::Failed("writing cgroup.freeze: EIO".into()));
    assert!(bench.containment().is_frozen());
    assert_eq!(bench.containment().state(), ContainmentState::Partial);
    assert_eq!(bench.live.status().decisions, 2, "the engine decided again");
}

#[test]
fn the_end_of_a_run_keeps_how_it_was_contained() {
    let Some(mut bench) = Bench::new("end") else { return };
    let freeze = bench.command(Asked::Freeze);
    bench.report(freeze, Action::Freeze, Verdict::Proved);
    let held = bench.containment();
    bench.pipeline.end(bench.live.run.id);
    assert_eq!(bench.live.ended().map(|ended| ended.containment.clone()), Some(held));
}

#[test]
fn what_is_published_is_what_the_engine_has_in_any_order() {
    let Some(mut bench) = Bench::new("order") else { return };
    // The same orders in each test run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut decisions = vec![bench.command(Asked::Freeze)];
    for n in 0..600 {
        let about = decisions[decisions.len() - 1 - usize::try_from(next(3)).unwrap().min(decisions.len() - 1)];
        let verdict = match next(3) {
            0 => Verdict::Proved,
            1 => Verdict::Partial(vec!["pid 7 in D".into()]),
            _ => Verdict::Failed("EIO".into()),
        };
        let what = next(11);
        match what {
            0 => decisions.push(bench.command(Asked::Freeze)),
            1 | 2 => decisions.push(bench.command(Asked::Thaw)),
            3 => bench.report(about, Action::Freeze, verdict),
            4 | 5 => bench.report(about, Action::Thaw, verdict),
            6 => bench.report(about, Action::Block, verdict),
            7 => bench.report(about, Action::Snapshot, verdict),
            8 => bench.pipeline.take(Message::StillFrozen(bench.live.run.id)),
            9 => {
                let thawed = failsafe_core::event::Event::ForeignThaw { levels: 1 };
                bench.pipeline.take(Message::Input(crate::runs::translate::guarded(bench.live.run.id, thawed)));
            }
            _ => bench.restart(next(2) == 0),
        }
        let engine = bench.pipeline.judge.state.containment(bench.live.run.id).cloned().unwrap();
        assert_eq!(bench.containment(), engine, "after step {n}, kind {what}");
        let contained = bench.live.status().frozen.is_frozen();
        assert!(!contained || !engine.is_empty(), "after step {n}: time counts as frozen, and nothing holds the run");
    }
}

#[test]
fn the_queue_is_small() {
    assert!(std::mem::size_of::<Message>() <= 512, "{}", std::mem::size_of::<Message>());
}
