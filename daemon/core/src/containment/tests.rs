//! The transitions, and that every sequence of them keeps the invariants.

use super::*;
use crate::{
    actor::{LocalPeer, Request},
    decision::{Confidence, IncidentId, Severity, Upkeep},
    digest::PolicyDigest,
    subject::RunId,
    time::Span,
};
use proptest::prelude::*;

fn run() -> RunId {
    RunId(uuid::Uuid::from_u128(1))
}

fn user() -> Actor {
    Actor::Local(LocalPeer { uid: 7, gid: Some(7), pid: Some(9), start_ticks: Some(3), cgroup: Some("/".into()) })
}

fn decision(n: u32, cause: Cause, actions: &[Action]) -> Decision {
    Decision {
        id: DecisionId { run: run(), n },
        incident: IncidentId::new(run(), 1),
        at: MonoTime(u64::from(n)),
        cause,
        actions: actions.to_vec(),
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Critical,
        mode: Mode::Enforce,
        policy: PolicyDigest([1; 32]),
    }
}

fn by_rule(n: u32, actions: &[Action]) -> Decision {
    decision(n, Cause::Rule { rule: "r".into(), condition: "c".into(), suppressed: 0 }, actions)
}

fn by_user(n: u32, actions: &[Action]) -> Decision {
    let request = Request { actor: user(), role: "admin".into(), reason: "x".into() };
    decision(n, Cause::Operator(request), actions)
}

fn by_owner(n: u32, actions: &[Action]) -> Decision {
    let request = Request { actor: user(), role: "owner".into(), reason: "x".into() };
    decision(n, Cause::Operator(request), actions)
}

fn outcome(n: u32, action: Action, verdict: Verdict) -> Outcome {
    Outcome {
        decision: DecisionId { run: run(), n },
        incident: IncidentId::new(run(), 1),
        action,
        verdict,
        proofs: vec![Proof { fact: "fact".into(), seen: "seen".into() }],
        at: MonoTime(100 + u64::from(n)),
        took: Span::from_millis(1),
    }
}

#[test]
fn a_step_has_since_when_by_whom_and_what_was_proved() {
    let mut c = Containment::default();
    assert!(c.is_empty() && c.state() == ContainmentState::Running);
    c.decided(&by_user(3, &[Action::Freeze, Action::Snapshot, Action::Notify]));
    assert!(c.is_frozen() && !c.is_latched() && c.state() == ContainmentState::Partial);
    let missing = vec!["pid 7 in D".to_owned()];
    c.came_out(&outcome(3, Action::Freeze, Verdict::Partial(missing.clone())));
    let [step] = c.steps() else { panic!("{c:?}") };
    let decision = Some(DecisionId { run: run(), n: 3 });
    let since = Desired { since: MonoTime(3), decision, actor: user(), others: true };
    assert_eq!((step.measure, step.desired.as_ref()), (Measure::Freeze, Some(&since)));
    let result = step.result.as_ref().unwrap();
    assert_eq!((&result.verdict, result.at), (&Verdict::Partial(missing), MonoTime(103)));
    assert_eq!(c.state(), ContainmentState::Partial);
    c.came_out(&outcome(3, Action::Freeze, Verdict::Proved));
    assert_eq!(c.state(), ContainmentState::Frozen);
}

#[test]
fn a_freeze_of_the_owner_is_its_own_until_anybody_else_orders_one() {
    let frozen_by_owner = || {
        let mut c = Containment::default();
        c.decided(&by_owner(1, &[Action::Freeze]));
        assert!(c.is_ordered_by_owner_alone());
        c
    };
    assert!(!Containment::default().is_ordered_by_owner_alone(), "it is not frozen");
    let foreign_thaw = Cause::Upkeep { what: Upkeep::ForeignThaw };
    let others = [
        by_user(2, &[Action::Freeze]),
        by_user(2, &[Action::Kill]),
        by_rule(2, &[Action::Freeze]),
        by_rule(2, &[Action::Block]),
        decision(2, foreign_thaw, &[Action::Freeze]),
    ];
    for other in others {
        let mut c = frozen_by_owner();
        c.decided(&other);
        c.decided(&by_owner(3, &[Action::Freeze]));
        assert!(!c.is_ordered_by_owner_alone(), "{other:?}");
    }
    let mut c = frozen_by_owner();
    c.decided(&by_rule(2, &[Action::Notify]));
    assert!(c.is_ordered_by_owner_alone(), "nothing was ordered");
    c.others_want_it_frozen();
    assert!(!c.is_ordered_by_owner_alone());
    let mut first_by_rule = Containment::default();
    first_by_rule.decided(&by_rule(1, &[Action::Freeze]));
    first_by_rule.decided(&by_owner(2, &[Action::Freeze]));
    assert!(!first_by_rule.is_ordered_by_owner_alone());
}

#[test]
fn who_ordered_a_freeze_is_not_known_after_a_restart_or_a_failed_thaw_or_in_an_old_file() {
    let mut c = Containment::default();
    c.decided(&by_owner(1, &[Action::Freeze]));
    let held = Contained { frozen: true, ..Contained::default() };
    assert!(!c.clone().found(held, true, MonoTime(9)).is_ordered_by_owner_alone());
    let mut json = serde_json::to_value(&c).unwrap();
    assert!(serde_json::from_value::<Containment>(json.clone()).unwrap().is_ordered_by_owner_alone());
    json["steps"][0]["desired"].as_object_mut().unwrap().remove("others").unwrap();
    assert!(!serde_json::from_value::<Containment>(json).unwrap().is_ordered_by_owner_alone());
    c.decided(&by_owner(2, &[Action::Thaw]));
    c.came_out(&outcome(2, Action::Thaw, Verdict::Failed("EIO".into())));
    assert!(c.is_frozen() && !c.is_ordered_by_owner_alone());
}

#[test]
fn a_second_decision_keeps_the_beginning_and_needs_its_own_proof() {
    let mut c = Containment::default();
    c.decided(&by_rule(1, &[Action::Block, Action::Freeze]));
    c.came_out(&outcome(1, Action::Freeze, Verdict::Proved));
    c.decided(&decision(2, Cause::Upkeep { what: Upkeep::ForeignThaw }, &[Action::Freeze]));
    assert_eq!(c.state(), ContainmentState::Partial);
    let since: Vec<_> = c.steps().iter().map(|step| step.desired.as_ref().unwrap().since).collect();
    assert_eq!(since, [MonoTime(1), MonoTime(1)]);
    assert!(c.steps().iter().all(|step| step.desired.as_ref().unwrap().actor == Actor::Daemon));
}

#[test]
fn a_thaw_lifts_at_once_and_the_steps_go_when_it_is_proved() {
    let mut c = Containment::default();
    c.decided(&by_rule(1, &[Action::Block, Action::Freeze]));
    c.came_out(&outcome(1, Action::Freeze, Verdict::Proved));
    c.decided(&by_user(2, &[Action::Thaw, Action::Notify]));
    assert!(!c.is_frozen() && !c.is_latched());
    assert_eq!(c.state(), ContainmentState::Frozen, "it is still frozen until the thaw is proved");
    c.came_out(&outcome(2, Action::Thaw, Verdict::Proved));
    assert!(c.is_empty());
}

#[test]
fn a_thaw_that_failed_leaves_the_freeze_desired() {
    let mut c = Containment::default();
    c.decided(&by_rule(1, &[Action::Freeze]));
    c.decided(&by_user(2, &[Action::Thaw]));
    c.came_out(&outcome(2, Action::Thaw, Verdict::Failed("EIO".into())));
    assert!(c.is_frozen());
}

#[test]
fn a_freeze_that_follows_a_thaw_is_not_lifted_by_its_outcome() {
    let mut c = Containment::default();
    c.decided(&by_rule(1, &[Action::Block, Action::Freeze]));
    c.decided(&by_user(2, &[Action::Thaw]));
    c.decided(&by_rule(3, &[Action::Freeze]));
    c.came_out(&outcome(2, Action::Thaw, Verdict::Partial(vec!["a later decision froze the run again".into()])));
    assert!(c.is_frozen() && !c.is_latched() && c.state() == ContainmentState::Partial);
    assert_eq!(c.steps().len(), 1);
}

#[test]
fn a_kill_stays_listed_after_a_thaw_and_a_late_outcome_makes_no_step() {
    let mut c = Containment::default();
    c.decided(&by_user(1, &[Action::Snapshot, Action::Kill]));
    c.decided(&by_user(2, &[Action::Thaw]));
    c.came_out(&outcome(2, Action::Thaw, Verdict::Proved));
    assert_eq!(c.steps().len(), 1);
    c.came_out(&outcome(1, Action::Freeze, Verdict::Proved));
    assert_eq!((c.steps().len(), c.state()), (1, ContainmentState::Running));
}

#[test]
fn what_is_only_observed_contains_nothing() {
    let mut c = Containment::default();
    c.decided(&Decision { mode: Mode::Observe, ..by_rule(1, &[Action::Block, Action::Freeze, Action::Kill]) });
    assert!(c.is_empty());
}

#[test]
fn after_a_restart_a_proof_counts_only_if_it_is_so_still() {
    let mut before = Containment::default();
    before.decided(&by_user(1, &[Action::Freeze]));
    before.came_out(&outcome(1, Action::Freeze, Verdict::Proved));
    let held = Contained { frozen: true, ..Contained::default() };
    let found = before.clone().found(held, true, MonoTime(500));
    assert_eq!(found, before, "since when, by whom, and the proof are kept");
    let found = found.found(held, false, MonoTime(500));
    assert_eq!((found.is_frozen(), found.state()), (true, ContainmentState::Partial));
    let unknown = Containment::default().found(held, true, MonoTime(500));
    assert_eq!(unknown.steps()[0].desired, Some(Desired::found(MonoTime(500))));
    assert_eq!(unknown.state(), ContainmentState::Frozen);
}

#[test]
fn a_run_is_taken_up_with_what_is_held_and_nothing_else() {
    let mut before = Containment::default();
    before.decided(&by_user(1, &[Action::Block, Action::Freeze, Action::Kill]));
    before.decided(&by_user(2, &[Action::Thaw]));
    let free = before.clone().found(Contained::default(), false, MonoTime(500));
    assert_eq!(free.steps().iter().map(|step| step.measure).collect::<Vec<_>>(), [Measure::Kill]);
    let held = before.found(Contained { frozen: true, ..Contained::default() }, true, MonoTime(500));
    assert!(held.is_frozen() && !held.is_latched());
    assert_eq!(held.state(), ContainmentState::Frozen);
}

#[test]
fn a_command_without_a_decision_has_its_result_and_a_failed_thaw_of_it_keeps_the_freeze() {
    let control = |command| Control {
        seq: 0,
        at: MonoTime(4),
        run: run(),
        command,
        actor: user(),
        role: "admin".into(),
        reason: "x".into(),
    };
    let result = |verdict| StepResult { verdict, proofs: Vec::new(), at: MonoTime(5) };
    let mut c = Containment::default();
    c.commanded(&control(Command::Freeze));
    c.carried_out(Action::Freeze, result(Verdict::Proved), None);
    assert_eq!(c.state(), ContainmentState::Frozen);
    assert_eq!(c.steps()[0].desired.as_ref().map(|desired| (&desired.actor, desired.decision)), Some((&user(), None)));
    c.commanded(&control(Command::Thaw));
    assert!(!c.is_frozen());
    c.carried_out(Action::Thaw, result(Verdict::Failed("EIO".into())), None);
    assert!(c.is_frozen());
    c.commanded(&control(Command::Thaw));
    c.carried_out(Action::Thaw, result(Verdict::Proved), None);
    assert!(c.is_empty());
}

#[test]
fn a_file_without_a_containment_and_one_with_it_are_read() {
    assert_eq!(serde_json::from_str::<Containment>(r#"{"steps":[]}"#).unwrap(), Containment::default());
    let mut c = Containment::default();
    c.decided(&by_user(1, &[Action::Block, Action::Freeze]));
    c.came_out(&outcome(1, Action::Freeze, Verdict::Failed("EIO".into())));
    let text = serde_json::to_string(&c).unwrap();
    assert_eq!(serde_json::from_str::<Containment>(&text).unwrap(), c, "{text}");
}

/// What the flags were before there were steps.
#[derive(Debug, Default, PartialEq)]
struct Flags {
    frozen: bool,
    blocked: bool,
}

proptest! {
    #[test]
    fn what_is_desired_follows_the_decisions_as_two_flags_did(
        moves in prop::collection::vec((0u8..8, any::<bool>()), 0..40)
    ) {
        let (mut c, mut flags) = (Containment::default(), Flags::default());
        for (n, (what, fine)) in (1u32..).zip(moves) {
            let verdict = if fine { Verdict::Proved } else { Verdict::Failed("x".into()) };
            match what {
                0 => c.decided(&by_rule(n, &[Action::Freeze])),
                1 => c.decided(&by_rule(n, &[Action::Block])),
                2 => c.decided(&by_user(n, &[Action::Kill])),
                3 => c.decided(&by_user(n, &[Action::Thaw])),
                4 => c.came_out(&outcome(n, Action::Freeze, verdict)),
                5 => c.came_out(&outcome(n, Action::Block, verdict)),
                6 => c.came_out(&outcome(n, Action::Kill, verdict)),
                _ => c.came_out(&outcome(n, Action::Thaw, verdict)),
            }
            match (what, fine) {
                (0, _) => flags.frozen = true,
                (1, _) => flags.blocked = true,
                (3, _) => flags = Flags::default(),
                (7, false) => flags.frozen = true,
                _ => {}
            }
            prop_assert_eq!(&Flags { frozen: c.is_frozen(), blocked: c.is_latched() }, &flags);
            for measure in [Measure::Latch, Measure::Freeze, Measure::Kill] {
                prop_assert!(c.steps().iter().filter(|step| step.measure == measure).count() <= 1);
            }
        }
    }
}
