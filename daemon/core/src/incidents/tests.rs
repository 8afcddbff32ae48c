//! What is listed after which entries, and what is forgotten.

use super::*;
use crate::{
    Actor,
    actor::{LocalPeer, Request},
    decision::{Action, Cause, Confidence, Decision, DecisionId, Mode, Outcome, Proof, Severity, Verdict},
    digest::PolicyDigest,
    standing::IncidentState,
    time::{MonoTime, Span},
};

const S: u64 = 1_000_000_000;

fn run(n: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(n))
}

fn decision(of: RunId, n: u32, incident: u32, cause: Cause, actions: &[Action]) -> Decision {
    Decision {
        id: DecisionId { run: of, n },
        incident: IncidentId::new(of, incident),
        at: MonoTime(5 * S),
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

fn rule() -> Cause {
    Cause::Rule { rule: "loss".into(), condition: "loss > 4".into(), suppressed: 0 }
}

fn operator(reason: &str) -> Cause {
    let peer = LocalPeer { uid: 7, gid: None, pid: None, start_ticks: None, cgroup: None };
    Cause::Operator(Request { actor: Actor::Local(peer), role: "admin".into(), reason: reason.into() })
}

fn decided(decision: Decision) -> Record {
    Record::Decision { decision, rule: None, blind: None, drill: false }
}

fn came(decision: &Record, action: Action, verdict: Verdict) -> Record {
    let Record::Decision { decision, .. } = decision else { unreachable!() };
    Record::Outcome(Outcome {
        decision: decision.id,
        incident: decision.incident,
        action,
        verdict,
        proofs: vec![Proof { fact: "cgroup.events".into(), seen: "frozen 1".into() }],
        at: MonoTime(6 * S),
        took: Span(S),
    })
}

fn ended(of: RunId) -> Record {
    Record::RunEnded {
        run: of,
        name: "bert".into(),
        recording: None,
        suppressed: Vec::new(),
        unwatched: None,
        frozen_ns: None,
    }
}

/// Takes an entry up that was written 10 s after boot, at 1,000 s of the epoch, by a run of user 1,000.
fn apply(list: &mut Incidents, index: u64, record: &Record) -> bool {
    let known = |_| Arc::new(Known { name: "bert".into(), owner_uid: Some(1_000), ..Known::default() });
    list.apply(&Entry { index, wall_ns: 1_000 * S, mono_ns: 10 * S, record }, known)
}

#[test]
fn an_incident_is_open_until_its_thaw_is_proved() {
    let mut list = Incidents::default();
    let of = run(1);
    let first = decided(decision(of, 1, 1, rule(), &[Action::Freeze, Action::Notify]));
    assert!(apply(&mut list, 7, &first));
    let id = IncidentId::new(of, 1);
    let at = |list: &Incidents| list.get(id).map(|it| Incident::clone(it)).unwrap();
    let begun = at(&list);
    assert_eq!((begun.opened_ns, begun.closed_ns, begun.entry, begun.revision), (995_000_000_000, None, 7, 8));
    assert_eq!(
        (begun.rule.as_deref(), begun.condition.as_str(), &begun.actor),
        (Some("loss"), "loss > 4", &Actor::Daemon)
    );
    assert_eq!(begun.standing(), IncidentState::Pending(vec![Action::Freeze]));
    assert!(begun.steps[0].desired && !begun.steps[1].desired);

    assert!(apply(&mut list, 8, &came(&first, Action::Freeze, Verdict::Proved)));
    let contained = at(&list);
    assert_eq!(contained.standing(), IncidentState::Contained(vec![Action::Freeze]));
    let step = &contained.steps[0];
    assert_eq!((step.proofs.as_slice(), step.result_entry), (&["cgroup.events: frozen 1".to_owned()][..], Some(8)));
    assert_eq!(step.result_ns, Some(996_000_000_000));

    let thaw = decided(decision(of, 2, 1, operator("false alarm"), &[Action::Thaw]));
    assert!(apply(&mut list, 9, &thaw));
    let thawing = at(&list);
    assert!(thawing.is_open() && !thawing.steps[0].desired, "nothing is desired, and the thaw is not proved");
    assert!(apply(&mut list, 10, &came(&thaw, Action::Thaw, Verdict::Proved)));
    let over = at(&list);
    assert_eq!((over.standing(), over.closed_ns), (IncidentState::Thawed, Some(1_000_000_000_000)));
    assert_eq!((over.steps[2].reason.as_str(), over.steps[2].role.as_str()), ("false alarm", "admin"));
    assert_eq!((over.decisions, over.revision, list.revision()), (2, 11, 11));
}

#[test]
fn an_incident_ends_with_its_run_and_a_late_outcome_does_not_open_it_again() {
    let mut list = Incidents::default();
    let of = run(1);
    let kill = decided(decision(of, 1, 1, operator("not wanted"), &[Action::Kill]));
    apply(&mut list, 0, &kill);
    assert!(apply(&mut list, 1, &ended(of)));
    assert!(!apply(&mut list, 1, &ended(of)), "it has ended");
    let id = IncidentId::new(of, 1);
    assert!(!list.get(id).unwrap().is_open());
    assert!(apply(&mut list, 2, &came(&kill, Action::Kill, Verdict::Proved)));
    let over = list.get(id).unwrap();
    assert!(!over.is_open() && over.steps[0].verdict == Some(Verdict::Proved));
    assert!(!apply(&mut list, 1, &came(&kill, Action::Kill, Verdict::Failed("x".into()))), "an entry from before");
}

#[test]
fn what_contains_nothing_is_never_open() {
    let mut list = Incidents::default();
    apply(&mut list, 0, &decided(decision(run(1), 1, 1, rule(), &[Action::Notify])));
    let observed = Decision { mode: Mode::Observe, ..decision(run(2), 1, 1, rule(), &[Action::Freeze]) };
    apply(&mut list, 1, &decided(observed));
    for of in [run(1), run(2)] {
        let incident = list.get(IncidentId::new(of, 1)).unwrap();
        assert!(!incident.is_open() && incident.standing() == IncidentState::Noted, "{of}");
    }
    assert!(!apply(&mut list, 2, &ended(run(1))), "nothing of it was open");
}

#[test]
fn a_user_with_many_incidents_loses_its_oldest_and_no_other_users() {
    let mut list = Incidents::within((16, KEPT_BYTES));
    let known = |uid: u32| move |_| Arc::new(Known { owner_uid: Some(uid), ..Known::default() });
    let mut put = |index: u64, uid: u32, record: &Record| {
        list.apply(&Entry { index, wall_ns: 1, mono_ns: 1, record }, known(uid));
    };
    put(0, 1, &decided(decision(run(1), 1, 1, rule(), &[Action::Freeze])));
    put(1, 2, &decided(decision(run(2), 1, 1, rule(), &[Action::Freeze])));
    for n in 2..200 {
        put(u64::from(n), 2, &decided(decision(run(2), n, n, rule(), &[Action::Notify])));
    }
    assert!(list.get(IncidentId::new(run(1), 1)).is_some(), "another user's");
    assert!(list.get(IncidentId::new(run(2), 1)).is_some(), "an open one goes last");
    assert!(list.get(IncidentId::new(run(2), 2)).is_none() && list.get(IncidentId::new(run(2), 199)).is_some());
    assert!(list.incomplete && list.iter().count() <= 16);
    assert!(list.since(1, 9).missed && !list.since(199, 9).missed);
    let bytes: usize = list.iter().map(|it| it.bytes()).sum();
    assert_eq!(bytes, list.bytes);
}

#[test]
fn an_incident_is_bounded_and_what_makes_its_standing_stays() {
    let mut list = Incidents::default();
    let of = run(1);
    let freeze = decided(decision(of, 1, 1, operator(&"x".repeat(5_000)), &[Action::Freeze]));
    apply(&mut list, 0, &freeze);
    apply(&mut list, 1, &came(&freeze, Action::Freeze, Verdict::Proved));
    for n in 2..500 {
        apply(&mut list, u64::from(n), &decided(decision(of, n, 1, rule(), &[Action::Notify])));
    }
    let incident = list.get(IncidentId::new(of, 1)).unwrap();
    assert_eq!(incident.standing(), IncidentState::Contained(vec![Action::Freeze]));
    assert_eq!((incident.steps.len(), incident.left_out, incident.decisions), (32, 467, 499));
    assert!(incident.bytes() < 32 << 10, "{}", incident.bytes());
    assert_eq!(incident.steps[0].reason.len(), 515);
}
