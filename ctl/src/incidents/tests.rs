//! Which incident explains how a run stands, and what ended it.

use super::*;
use crate::testing::{Log, asked, decision, outcome, run_id};

/// A log of decisions: incident, cause, actions.
fn log(all: &[(u32, Cause, &[Action])]) -> Log {
    let mut log = Log::started();
    for (n, (incident, cause, actions)) in (1u32..).zip(all) {
        let us = u64::from(n) * 1_000_000;
        let mut record = decision(n, us, cause.clone(), actions.to_vec(), vec![]);
        let id = IncidentId::new(run_id(), *incident);
        if let Record::Decision { decision, .. } = &mut record {
            decision.incident = id;
        }
        log.add(us, record);
        for action in *actions {
            let mut record = outcome(n, us.max(5_000_000), *action, Verdict::Proved, &[]);
            if let Record::Outcome(outcome) = &mut record {
                outcome.incident = id;
            }
            log.add(us + 1, record);
        }
    }
    log
}

fn rule(name: &str) -> Cause {
    Cause::Rule { rule: name.into(), condition: "x".into(), suppressed: 0 }
}

fn operator() -> Cause {
    asked("why")
}

fn first(all: &[(u32, Cause, &[Action])]) -> Option<u32> {
    first_cause(&briefs(&log(all).entries)).map(|id| id.n)
}

#[test]
fn what_began_it_comes_first() {
    use Action::{Freeze, Kill, Notify, Thaw};
    assert_eq!(first(&[]), None);
    // A violation that was only reported, then an operator's kill.
    assert_eq!(first(&[(1, rule("a"), &[Notify]), (2, operator(), &[Kill])]), Some(1));
    // Of a rule that tripped again and again, its first trip; not another rule's.
    let many: &[(u32, Cause, &[Action])] = &[
        (1, rule("other"), &[Notify]),
        (2, rule("a"), &[Notify]),
        (3, rule("a"), &[Notify]),
        (4, operator(), &[Kill]),
    ];
    assert_eq!(first(many), Some(2));
    // What a rule contained comes before what was only reported.
    assert_eq!(first(&[(1, rule("a"), &[Notify]), (2, rule("b"), &[Freeze]), (2, operator(), &[Kill])]), Some(2));
    // What was thawed is over.
    let thawed: &[(u32, Cause, &[Action])] =
        &[(1, rule("a"), &[Freeze]), (1, operator(), &[Thaw]), (2, rule("b"), &[Freeze])];
    assert_eq!(first(thawed), Some(2));
    // Unless it is the last that there was.
    assert_eq!(first(&thawed[..2]), Some(1));
    // An operator alone.
    assert_eq!(first(&[(1, operator(), &[Freeze])]), Some(1));
    // Where nothing was contained, the latest.
    assert_eq!(first(&[(1, rule("a"), &[Notify]), (2, rule("b"), &[Notify])]), Some(2));
}

#[test]
fn it_is_known_whether_failsafe_ended_a_run() {
    use Action::{Freeze, Kill, Notify, Thaw};
    let end = |all: &[(u32, Cause, &[Action])]| {
        let log = log(all);
        let briefs = briefs(&log.entries);
        let end = end_of(&briefs);
        (end.by_failsafe(), end.incident().map(|id| id.n))
    };
    assert_eq!(end(&[]), (false, None));
    assert_eq!(end(&[(1, rule("a"), &[Notify])]), (false, None));
    assert_eq!(end(&[(1, rule("a"), &[Kill, Notify])]), (true, Some(1)));
    assert_eq!(end(&[(1, rule("a"), &[Freeze]), (1, operator(), &[Kill])]), (true, Some(1)));
    assert_eq!(end(&[(1, rule("a"), &[Freeze])]), (false, Some(1)));
    assert_eq!(end(&[(1, rule("a"), &[Freeze]), (1, operator(), &[Thaw])]), (false, None));
}

#[test]
fn an_incident_began_with_its_decision_and_not_with_the_oldest_value_that_led_to_it() {
    let mut record = decision(1, 900_000_000, rule("no-step"), vec![Action::Notify], vec![]);
    let Record::Decision { decision: decided, .. } = &mut record else { panic!() };
    let old = failsafe_core::decision::Observation {
        seq: 1,
        at: failsafe_core::MonoTime(1_000),
        subject: failsafe_core::Subject::Run(run_id()),
        kind: failsafe_core::Kind::Metric("loss".into()),
        value: failsafe_core::Value::Integer(2),
        repeats: 0,
    };
    decided.values = vec![old];
    let at = decided.at;
    let mut log = Log::started();
    log.add(900_000_000, record);
    let briefs = briefs(&log.entries);
    assert_eq!(briefs[0].opened_by().began().0, at);
}
