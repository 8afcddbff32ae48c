//! How many decisions a run causes, whatever its policy and its processes do.

use super::*;
use crate::policy::Rule;

fn rule(id: usize, more: &str) -> String {
    format!("[[rule]]\nid = \"r{id}\"\nrationale = \"x\"\nwhen = {{ event = \"connect\" }}\n{more}\n")
}

fn policy(rules: impl Iterator<Item = String>) -> String {
    "[policy]\nname = \"p\"\nowner = \"o\"\n".to_owned() + &rules.collect::<String>()
}

/// Connects, one each millisecond.
fn flood(b: &mut Bench, from_ms: u64, events: u64) -> Vec<Decision> {
    (0..events).flat_map(|n| b.event(from_ms + n, connect(443, Net::Allowed))).collect()
}

fn suppressed(decisions: &[Decision]) -> u64 {
    let of = |decision: &Decision| match &decision.cause {
        Cause::Rule { suppressed, .. } => *suppressed,
        _ => 0,
    };
    decisions.iter().map(of).sum()
}

/// As a policy may be pinned that an earlier daemon accepted.
fn pinned(text: &str, change: impl Fn(&mut Rule)) -> Bench {
    let mut policy = parse("p", text).unwrap_or_else(|wrong| panic!("{wrong}"));
    policy.rules.iter_mut().for_each(change);
    let digest = policy.digest();
    let mut b = Bench::of(policy);
    b.feed(Input::RunStarted(started(id(1), digest)));
    b
}

#[test]
fn a_run_causes_a_bounded_number_of_decisions_and_every_other_trip_is_counted() {
    let text = policy((0..100).map(|n| rule(n, "actions = [\"notify\", \"snapshot\"]\ncooldown = \"1s\"")));
    let mut b = pinned(&text, |rule| rule.cooldown = crate::time::Span(1_000_000));
    let decided = flood(&mut b, 1_000, 4_000);
    // 64 at once, and 16 in each of four seconds.
    assert_eq!(decided.len(), 64 + 16 * 4 - 1, "of 400,000 matches");
    let waiting: u64 = b.state.suppressed(&b.policies, b.run).iter().map(|of| of.events).sum();
    assert_eq!(decided.len() as u64 + suppressed(&decided) + waiting, 400_000, "each match is counted once");
    assert!(b.replay(ENGINE).identical());
    assert!(!b.replay(12).identical(), "the engine before decided without a limit");
}

#[test]
fn a_decision_that_contains_is_made_after_any_number_of_others() {
    let loud = (0..1_000).map(|n| rule(n, "actions = [\"notify\"]\ncooldown = \"1s\""));
    let stops = ["freeze", "block", "kill"].into_iter().enumerate().map(|(n, action)| {
        rule(1_000 + n, &format!("actions = [\"{action}\"]\ncooldown = \"1ms\""))
            .replace("event = \"connect\"", "event = \"connect\", port = 4444")
    });
    let mut b = Bench::with(&policy(loud.chain(stops)));
    flood(&mut b, 0, 500);
    let contains = |decided: Vec<Decision>| -> Vec<String> {
        rules(&decided.into_iter().filter(|d| d.actions.iter().any(|a| a.contains())).collect::<Vec<_>>())
    };
    let decided = b.event(500, connect(4444, Net::Allowed));
    assert_eq!(contains(decided), ["r1000", "r1001", "r1002"]);
    b.control(501, Command::Thaw);
    let again = b.event(502, connect(4444, Net::Allowed));
    assert_eq!(contains(again), ["r1000", "r1001", "r1002"], "and again");
}

#[test]
fn cordons_are_not_crowded_out_by_notifications_and_are_bounded_themselves() {
    let loud = (0..500).map(|n| rule(n, "actions = [\"notify\"]"));
    let cordons = (500..700).map(|n| {
        rule(n, "actions = [\"cordon-node\"]").replace("event = \"connect\"", "event = \"connect\", port = 4444")
    });
    let mut b = Bench::with(&policy(loud.chain(cordons)));
    flood(&mut b, 0, 10);
    assert_eq!(b.event(11, connect(4444, Net::Allowed)).len(), 64);
}

#[test]
fn thresholds_and_conditions_of_several_parts_have_the_same_bound() {
    let flat = |n| {
        format!(
            "[[rule]]\nid = \"f{n}\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.loss\", above = {n} }}\nactions = [\"notify\"]\n"
        )
    };
    let tree = |n| {
        format!(
            "[[rule]]\nid = \"t{n}\"\nrationale = \"x\"\nwhen = {{ all = [{{ signal = \"metric.loss\", above = {n} }}] }}\n\
             actions = [\"notify\"]\n"
        )
    };
    let mut b = Bench::with(&policy((0..100).map(flat).chain((0..100).map(tree))));
    let decided = b.loss(0, 1e6);
    assert_eq!(decided.len(), 64);
    assert_eq!(b.state.suppressed(&b.policies, b.run).len(), 136);
    b.loss(20_000, -1.0);
    let later = b.loss(40_000, 1e6);
    assert_eq!((later.len(), suppressed(&later)), (64, 0), "those that were decided before have nothing to count");
}

#[test]
fn what_is_only_observed_is_paced_as_what_only_notifies() {
    let text = policy([rule(0, "actions = [\"freeze\"]\nmode = \"observe\"\ncooldown = \"1ms\"")].into_iter());
    let mut b = Bench::with(&text);
    assert_eq!(flood(&mut b, 0, 2_500).len(), 3, "one a second");
}
