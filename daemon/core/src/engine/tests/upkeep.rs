//! What is decided without a rule: escapes, foreign thaws, failed actions, adopted runs.

use super::*;

#[test]
fn an_escape_is_recaptured_and_a_foreign_thaw_frozen_again() {
    let mut b = Bench::new();
    let leave = |mover_in_run| Event::Leave { pid: 9, mover: 9, mover_in_run, to: 1 };
    assert_eq!(b.event(1, leave(true))[0].actions, [Action::Recapture { pid: 9 }, Action::Notify]);
    assert!(b.event(2, Event::ForeignThaw { levels: 1 }).is_empty(), "not frozen: nobody's thaw is foreign");
    b.control(3, Command::Freeze);
    let again = b.event(4, Event::ForeignThaw { levels: 1 });
    assert_eq!(
        (rules(&again), again[0].actions.as_slice()),
        (vec!["foreign-thaw".to_owned()], [Action::Freeze, Action::Notify].as_slice())
    );
    assert_eq!(
        b.event(5, leave(false))[0].actions[0],
        Action::Recapture { pid: 9 },
        "nobody moves a frozen process out"
    );
    b.control(6, Command::Thaw);
    assert_eq!(b.event(7, leave(false))[0].actions, [Action::Notify], "an operator may move a running one");
}

#[test]
fn a_failed_containment_is_decided_again_but_not_for_ever() {
    let mut b = Bench::new();
    let first = b.event(3, connect(4444, Net::Denied)).remove(0);
    let mut n = first.id.n;
    for _ in 0..3 {
        let again = b.feed(Input::Outcome(failed(b.run, n, first.incident)));
        assert_eq!((rules(&again), again[0].actions[0]), (vec!["retry".to_owned()], Action::Freeze));
        n = again[0].id.n;
    }
    assert!(b.feed(Input::Outcome(failed(b.run, n, first.incident))).is_empty());
}

fn failed(run: RunId, n: u32, incident: IncidentId) -> Outcome {
    Outcome {
        decision: DecisionId { run, n },
        incident,
        action: Action::Freeze,
        verdict: Verdict::Failed("interrupted".into()),
        proofs: vec![],
        at: at(9),
        took: Span(0),
    }
}

#[test]
fn an_adopted_frozen_run_is_still_guarded_and_counts_on() {
    let mut b = Bench::new();
    let digest = *b.policies.keys().next().unwrap();
    let adopted = Run {
        decisions: 4,
        incidents: 2,
        contained: Contained { frozen: true, ..Contained::default() },
        ..started(id(2), digest)
    };
    b.feed(Input::RunStarted(adopted));
    b.run = id(2);
    let again = b.event(4, Event::ForeignThaw { levels: 1 });
    assert_eq!((again[0].id.n, again[0].incident.n), (5, 2));
}

#[test]
fn a_run_found_frozen_for_no_recorded_reason_is_held_by_a_decision_of_its_own() {
    let mut b = Bench::new();
    let digest = *b.policies.keys().next().unwrap();
    let contained = Contained { frozen: true, blocked: false, unexplained: true };
    let adopted = Run { decisions: 4, incidents: 2, contained, ..started(id(2), digest) };
    let held = b.feed(Input::RunStarted(adopted));
    assert_eq!(rules(&held), ["found-frozen"]);
    assert_eq!((held[0].id.n, held[0].incident.n), (5, 3), "an incident of its own");
    b.run = id(2);
    let thaw = b.control(9, Command::Thaw);
    assert_eq!(thaw[0].incident, held[0].incident);
}
