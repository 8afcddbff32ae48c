//! Pairing: each decision is counted once, whatever the order of the two policies.

use super::*;
use crate::{
    decision::{Confidence, DecisionId, IncidentId, Severity},
    policy::parse::parse,
    subject::RunId,
    time::MonoTime,
};
use proptest::prelude::*;

const S: u64 = 1_000_000_000;

fn policy() -> Policy {
    let rule = |id: &str, mode: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\nrationale = \"x\"\nmode = \"{mode}\"\nwhen = {{ event = \"oom\" }}\nactions = [\"freeze\"]\n"
        )
    };
    parse(
        "p",
        &format!("[policy]\nname = \"p\"\nowner = \"o\"\n{}{}", rule("a", "enforce"), rule("watched", "observe")),
    )
    .unwrap()
}

fn decision(rule: &str, at: u64) -> Decision {
    let run = RunId(uuid::Uuid::from_u128(1));
    Decision {
        id: DecisionId { run, n: 1 },
        incident: IncidentId::new(run, 1),
        at: MonoTime(at),
        cause: Cause::Rule { rule: rule.into(), condition: "oom".into(), suppressed: 0 },
        actions: vec![Action::Freeze],
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Critical,
        mode: Mode::Observe,
        policy: policy().digest(),
    }
}

/// The counts after these inputs: each with the rules that tripped in force and in the shadow.
fn tally(inputs: &[(u64, &[&str], &[&str])]) -> Tally {
    let (policy, mut pairing, mut tally) = (policy(), Pairing::default(), Tally::default());
    let run = RunId(uuid::Uuid::from_u128(1));
    for (at, enforced, shadow) in inputs {
        let decisions = |rules: &[&str]| rules.iter().map(|rule| decision(rule, *at)).collect::<Vec<_>>();
        let of = Of { run, name: "job", enforced: &policy, shadow: &policy, wall_offset_ns: 5 };
        pairing.take(of, &decisions(enforced), &decisions(shadow), &mut tally);
    }
    tally
}

fn counts(tally: &Tally) -> [u64; 5] {
    let [only_enforced, only_shadow, earlier, later] = Difference::ALL.map(|one| tally.total(one));
    [tally.same(), only_enforced, only_shadow, earlier, later]
}

#[test]
fn decisions_on_one_input_are_the_same_and_others_are_of_one_policy_only() {
    let found = tally(&[(S, &["a", "b"], &["b", "a"]), (2 * S, &["a"], &[]), (3 * S, &[], &["b"])]);
    assert_eq!(counts(&found), [2, 1, 1, 0, 0]);
    let (key, row) = found.rows().next().unwrap();
    assert_eq!((key.what.as_str(), key.actions.as_str(), row.same), ("rule a", "freeze", 1));
    let example = row.examples(Difference::OnlyEnforced).next().unwrap();
    assert_eq!((example.wall_ns, example.name.as_str(), example.text.as_str()), (2 * S as i64 + 5, "job", "oom"));
}

#[test]
fn a_decision_that_the_other_policy_takes_later_is_earlier_and_counts_once() {
    let found = tally(&[(S, &[], &["a"]), (4 * S, &["a"], &[]), (5 * S, &["b"], &[]), (9 * S, &[], &["b"])]);
    assert_eq!(counts(&found), [0, 0, 0, 1, 1]);
    let of = |rule: &str| found.rows().find(|(key, _)| key.what == rule).map(|(_, row)| row).unwrap();
    let earlier = of("rule a").examples(Difference::Earlier).next().unwrap();
    assert_eq!((earlier.wall_ns, earlier.by_ns), (S as i64 + 5, 3 * S));
    let later = of("rule b").examples(Difference::Later).next().unwrap();
    assert_eq!((later.wall_ns, later.by_ns), (9 * S as i64 + 5, 4 * S));
    assert_eq!(of("rule a").examples(Difference::OnlyShadow).count(), 0, "it has a partner");
    let far = tally(&[(S, &[], &["a"]), (S + PAIR_WITHIN.0 + 1, &["a"], &[])]);
    assert_eq!(counts(&far), [0, 1, 1, 0, 0]);
}

#[test]
fn a_rule_that_only_watches_is_no_partner_of_one_that_acts() {
    let found = tally(&[(S, &["watched"], &["a"])]);
    assert_eq!(counts(&found), [0, 1, 1, 0, 0]);
    assert!(found.rows().any(|(key, _)| key.actions == "would freeze"));
    assert!(contains(&decision("a", 0), &policy()) && !contains(&decision("watched", 0), &policy()));
}

#[test]
fn what_finds_no_room_is_counted_and_makes_the_tally_incomplete() {
    let names: Vec<String> = (0..200).map(|n| format!("r{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = tally(&[(S, &[], &all)]);
    assert_eq!((found.rows().count(), found.beyond, found.is_complete()), (128, 72, false));
    let many: Vec<(u64, &[&str], &[&str])> = (0..50).map(|n| (n * S, &["a"][..], &[][..])).collect();
    let found = tally(&many);
    let (_, row) = found.rows().next().unwrap();
    assert_eq!((row.count(Difference::OnlyEnforced), row.examples(Difference::OnlyEnforced).count()), (50, 2));
}

#[test]
fn merged_tallies_have_the_sum_of_their_counts() {
    let mut one = tally(&[(S, &["a"], &["a"]), (2 * S, &[], &["b"])]);
    let other = tally(&[(S, &["a"], &[]), (3 * S, &[], &["b"])]);
    one.merge(&other);
    assert_eq!(counts(&one), [1, 1, 2, 0, 0]);
}

proptest! {
    #[test]
    fn every_decision_is_counted_exactly_once(
        inputs in proptest::collection::vec((0..400u64, any::<bool>(), any::<bool>()), 0..60)
    ) {
        let mut at = 0;
        let inputs: Vec<(u64, &[&str], &[&str])> = inputs
            .iter()
            .map(|(pause, enforced, shadow)| {
                at += pause * S;
                let some = |is: &bool| if *is { &["a"][..] } else { &[][..] };
                (at, some(enforced), some(shadow))
            })
            .collect();
        let [same, only_enforced, only_shadow, earlier, later] = counts(&tally(&inputs));
        let enforced: usize = inputs.iter().map(|(_, enforced, _)| enforced.len()).sum();
        let shadow: usize = inputs.iter().map(|(_, _, shadow)| shadow.len()).sum();
        prop_assert_eq!(same + only_enforced + earlier + later, enforced as u64);
        prop_assert_eq!(same + only_shadow + earlier + later, shadow as u64);
    }
}
