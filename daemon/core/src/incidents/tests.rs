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

pub(super) fn run(n: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(n))
}

pub(super) fn decision(of: RunId, n: u32, incident: u32, cause: Cause, actions: &[Action]) -> Decision {
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

pub(super) fn rule() -> Cause {
    Cause::Rule { rule: "loss".into(), condition: "loss > 4".into(), suppressed: 0 }
}

pub(super) fn operator(reason: &str) -> Cause {
    let peer = LocalPeer { uid: 7, gid: None, pid: None, start_ticks: None, cgroup: None };
    Cause::Operator(Request { actor: Actor::Local(peer), role: "admin".into(), reason: reason.into() })
}

pub(super) fn decided(decision: Decision) -> Record {
    Record::Decision { decision, rule: None, blind: None, drill: false }
}

pub(super) fn came(decision: &Record, action: Action, verdict: Verdict) -> Record {
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

pub(super) fn ended(of: RunId) -> Record {
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
pub(super) fn apply(list: &mut Incidents, index: u64, record: &Record) -> bool {
    let known = |_| Arc::new(Known { name: "bert".into(), owner_uid: Some(1_000), ..Known::default() });
    list.apply(&Entry { index, wall_ns: 1_000 * S, mono_ns: 10 * S, run: None, record }, known)
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
        (Some("loss"), "loss > 4", &Some(Actor::Daemon))
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
        list.apply(&Entry { index, wall_ns: 1, mono_ns: 1, run: None, record }, known(uid));
    };
    put(0, 1, &decided(decision(run(1), 1, 1, rule(), &[Action::Freeze])));
    put(1, 2, &decided(decision(run(2), 1, 1, rule(), &[Action::Freeze])));
    for n in 2..200 {
        put(u64::from(n), 2, &decided(decision(run(2), n, n, rule(), &[Action::Notify])));
    }
    assert!(list.get(IncidentId::new(run(1), 1)).is_some(), "another user's");
    assert!(list.get(IncidentId::new(run(2), 1)).is_some(), "an open one goes last");
    assert!(list.get(IncidentId::new(run(2), 2)).is_none() && list.get(IncidentId::new(run(2), 199)).is_some());
    assert!(list.incomplete().in_log_only && list.iter().count() <= 16);
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

fn thawed(list: &mut Incidents, index: u64, of: RunId, (n, incident): (u32, u32), verdict: Verdict) {
    let thaw = decided(decision(of, n, incident, operator("false alarm"), &[Action::Thaw]));
    apply(list, index, &thaw);
    apply(list, index + 1, &came(&thaw, Action::Thaw, verdict));
}

fn of_run(list: &mut Incidents, index: u64, run: RunId, record: &Record) -> bool {
    list.apply(&Entry { index, wall_ns: 2_000 * S, mono_ns: 10 * S, run: Some(run), record }, |_| Arc::default())
}

fn started(list: &mut Incidents, of: RunId, n: u32, incident: u32, index: u64) -> Record {
    let freeze = decided(decision(of, n, incident, rule(), &[Action::Freeze]));
    apply(list, index, &freeze);
    apply(list, index + 1, &came(&freeze, Action::Freeze, Verdict::Proved));
    freeze
}

fn get(list: &Incidents, of: RunId, incident: u32) -> &Incident {
    list.get(IncidentId::new(of, incident)).unwrap()
}

#[test]
fn a_proved_thaw_closes_the_earlier_incidents_of_the_run() {
    let mut list = Incidents::default();
    let of = run(1);
    started(&mut list, of, 1, 1, 0);
    started(&mut list, run(2), 1, 1, 2);
    thawed(&mut list, 4, of, (2, 1), Verdict::Partial(vec!["a level is frozen".into()]));
    assert!(get(&list, of, 1).is_open());
    thawed(&mut list, 6, of, (3, 2), Verdict::Proved);
    for incident in [1, 2] {
        let over = get(&list, of, incident);
        assert_eq!((over.is_open(), over.standing()), (false, IncidentState::Thawed), "{incident}");
        assert!(over.steps.iter().all(|step| !step.desired));
    }
    assert!(get(&list, run(2), 1).is_open(), "of another run");
    assert_eq!(list.since(7, 9).changes.len(), 2, "both changed with the entry");
}

#[test]
fn a_proved_thaw_leaves_an_incident_open_that_was_decided_after_it() {
    let mut list = Incidents::default();
    let of = run(1);
    started(&mut list, of, 1, 1, 0);
    let thaw = decided(decision(of, 2, 1, operator("false alarm"), &[Action::Thaw]));
    apply(&mut list, 2, &thaw);
    started(&mut list, of, 3, 2, 3);
    apply(&mut list, 5, &came(&thaw, Action::Thaw, Verdict::Partial(vec!["a later decision froze the run".into()])));
    assert!(get(&list, of, 1).is_open() && get(&list, of, 2).is_open());
    apply(&mut list, 6, &came(&thaw, Action::Thaw, Verdict::Proved));
    assert!(!get(&list, of, 1).is_open() && get(&list, of, 2).is_open());
    thawed(&mut list, 7, of, (4, 2), Verdict::Proved);
    assert!(!get(&list, of, 2).is_open());
}

#[test]
fn a_proved_thaw_of_a_guarded_run_closes_its_incidents() {
    let mut list = Incidents::default();
    let of = run(1);
    started(&mut list, of, 1, 1, 0);
    let control = |verdict| Record::ControlOutcome {
        command: Command::Thaw,
        actor: Actor::Daemon,
        verdict,
        proofs: Vec::new(),
        at: MonoTime(7 * S),
    };
    assert!(!of_run(&mut list, 2, of, &control(Verdict::Failed("no cgroup".into()))));
    assert!(!of_run(&mut list, 3, run(2), &control(Verdict::Proved)), "another run");
    assert!(get(&list, of, 1).is_open());
    assert!(of_run(&mut list, 4, of, &control(Verdict::Proved)));
    let over = get(&list, of, 1);
    assert_eq!((over.standing(), over.revision, over.steps[0].desired), (IncidentState::Thawed, 5, false));
}

#[test]
fn an_incident_of_which_the_first_decision_was_not_seen_has_no_beginning() {
    let mut list = Incidents::default();
    list.begins_at(100, true);
    let of = run(1);
    thawed(&mut list, 100, of, (3, 2), Verdict::Proved);
    let found = get(&list, of, 2);
    assert!(found.beginning_unknown && list.incomplete().in_log_only);
    assert_eq!((&found.rule, found.condition.as_str(), &found.actor, found.opened_ns), (&None, "", &None, 0));
    assert_eq!(found.steps[0].action, Action::Thaw);
    // The decision before it was seen, and is of another incident.
    started(&mut list, of, 4, 3, 102);
    assert!(!get(&list, of, 3).beginning_unknown);
    // One decision is missing, which may be of the same incident.
    started(&mut list, of, 6, 4, 104);
    assert!(get(&list, of, 4).beginning_unknown);
    // The missing decision has to be that of the missing incident.
    started(&mut list, of, 8, 6, 106);
    assert!(!get(&list, of, 6).beginning_unknown);
    started(&mut list, run(2), 5, 5, 108);
    assert!(!get(&list, run(2), 5).beginning_unknown, "there are five incidents in five decisions");
}

#[test]
fn a_change_of_an_incident_that_is_not_in_the_list_is_missed() {
    let mut list = Incidents::default();
    list.begins_at(10, true);
    let lost = decided(decision(run(1), 1, 1, rule(), &[Action::Freeze]));
    assert!(!apply(&mut list, 10, &came(&lost, Action::Freeze, Verdict::Proved)));
    assert!(list.since(10, 9).missed && !list.since(11, 9).missed, "the outcome of an incident that is not kept");
    assert!(!apply(&mut list, 11, &ended(run(2))));
    assert!(list.since(11, 9).missed, "a run that may have had an open incident before the first entry");
    started(&mut list, run(3), 1, 1, 12);
    let revision = list.revision();
    assert!(apply(&mut list, 14, &ended(run(3))));
    assert!(!list.since(revision, 9).missed, "all that was decided of this run is known");
}

#[test]
fn the_end_of_an_open_incident_that_was_given_up_is_missed() {
    let mut list = Incidents::within((8, KEPT_BYTES));
    for n in 0..12 {
        started(&mut list, run(n), 1, 1, u64::try_from(n).unwrap() * 2);
    }
    assert!(list.get(IncidentId::new(run(0), 1)).is_none() && list.get(IncidentId::new(run(11), 1)).is_some());
    let revision = list.revision();
    assert!(!list.since(revision, 9).missed);
    assert!(!apply(&mut list, 100, &ended(run(50))));
    assert!(!list.since(revision, 9).missed, "nothing of that run was open");
    apply(&mut list, 101, &ended(run(0)));
    assert!(list.since(revision, 9).missed);
}

#[test]
fn an_open_incident_shows_that_entries_about_its_run_were_limited() {
    let mut list = Incidents::default();
    started(&mut list, run(1), 1, 1, 0);
    started(&mut list, run(2), 1, 1, 2);
    let limited = |run, kind: &str| {
        Record::Limited(Limited {
            uid: 1_000,
            run,
            entries: 3,
            kinds: [(kind.to_owned(), 3)].into(),
            ..Limited::default()
        })
    };
    assert!(!apply(&mut list, 4, &limited(Some(run(1)), "evidence")));
    assert_eq!(*list.incomplete(), Incomplete::default());
    assert!(apply(&mut list, 5, &limited(Some(run(1)), "outcome")));
    assert!(get(&list, run(1), 1).entries_limited && !get(&list, run(2), 1).entries_limited);
    assert!(!apply(&mut list, 6, &limited(None, "decision")));
    assert_eq!(list.incomplete().limited, 6);
    assert_eq!(list.since(4, 9).changes.len(), 1);
}

#[test]
fn an_entry_that_cannot_be_read_is_a_missed_change() {
    let mut list = Incidents::default();
    started(&mut list, run(1), 1, 1, 0);
    list.cannot_read(2);
    assert!(list.since(2, 9).missed && !list.since(3, 9).missed);
    assert_eq!(list.incomplete().unreadable, 1);
    assert!(get(&list, run(1), 1).is_open());
}

#[test]
fn the_time_of_the_end_stays_and_nothing_is_desired_of_a_run_that_has_ended() {
    let mut list = Incidents::default();
    let of = run(1);
    let freeze = decided(decision(of, 1, 1, rule(), &[Action::Freeze, Action::Notify]));
    apply(&mut list, 0, &freeze);
    thawed(&mut list, 1, of, (2, 1), Verdict::Proved);
    let late = came(&freeze, Action::Notify, Verdict::Proved);
    assert!(of_run(&mut list, 5, of, &late));
    let over = get(&list, of, 1);
    let second = i64::try_from(S).unwrap();
    assert_eq!((over.closed_ns, over.changed_ns), (Some(1_000 * second), 2_000 * second));

    started(&mut list, run(2), 1, 1, 6);
    assert_eq!(get(&list, run(2), 1).standing_name(), "contained");
    apply(&mut list, 8, &ended(run(2)));
    apply(&mut list, 9, &decided(decision(run(2), 2, 1, rule(), &[Action::Kill])));
    let over = get(&list, run(2), 1);
    assert!(over.steps.iter().all(|step| !step.desired) && !over.is_open());
    assert_eq!(over.standing_name(), "ended");
}

#[test]
fn the_owner_that_an_entry_has_counts_for_all_incidents_of_the_run_and_is_a_change_of_them() {
    let mut list = Incidents::default();
    let (of, other) = (run(1), run(2));
    let entry = |index, record| Entry { index, wall_ns: 1, mono_ns: 1, run: None, record };
    let freeze = |run| decided(decision(run, 1, 1, rule(), &[Action::Freeze]));
    let decisions = [freeze(of), freeze(other)];
    list.apply(&entry(0, &decisions[0]), |_| Arc::default());
    list.apply(&entry(1, &decisions[1]), |_| Arc::default());
    let learnt = Record::RunOwner { run: of, owner_uid: 7, by: crate::record::OwnerBy::Processes };
    assert!(list.apply(&entry(2, &learnt), |_| Arc::default()));
    let own = get(&list, of, 1);
    assert_eq!((own.known.owner_uid, own.revision), (Some(7), 3));
    assert_eq!(get(&list, other, 1).known.owner_uid, None);
    assert_eq!(list.of_users.keys().collect::<Vec<_>>(), [&None, &Some(7)]);
    assert!(!list.apply(&entry(3, &learnt), |_| Arc::default()), "nothing changes the second time");
}

#[test]
fn the_owner_that_is_learnt_later_counts_from_the_next_change_on() {
    let mut list = Incidents::default();
    let of = run(1);
    let freeze = decided(decision(of, 1, 1, rule(), &[Action::Freeze]));
    let entry = |index, record| Entry { index, wall_ns: 1, mono_ns: 1, run: None, record };
    list.apply(&entry(0, &freeze), |_| Arc::default());
    assert_eq!(get(&list, of, 1).known.owner_uid, None);
    let outcome = came(&freeze, Action::Freeze, Verdict::Proved);
    list.apply(&entry(1, &outcome), |_| Arc::new(Known { owner_uid: Some(7), ..Known::default() }));
    assert_eq!(get(&list, of, 1).known.owner_uid, Some(7));
    assert_eq!(list.of_users.keys().collect::<Vec<_>>(), [&Some(7)]);
}
