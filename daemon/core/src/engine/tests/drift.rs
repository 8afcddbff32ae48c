//! Drift: rules match it by factor, class and what it is compared with, and a policy may hold a restart.

use super::*;
use crate::event::{DriftSince, FactorClass};

const HOLDS: &str = r#"
[policy]
name = "p"
owner = "o"
on_drift = "hold"

[[rule]]
id = "slower"
rationale = "x"
when = { event = "drift", path = "node/gpu/*", class = "performance" }
actions = ["notify"]

[[rule]]
id = "restarted-otherwise"
rationale = "x"
when = { event = "drift", since = "predecessor" }
actions = ["notify"]
"#;

fn drift(path: &str, class: FactorClass, since: DriftSince) -> Event {
    Event::Drift { path: path.into(), old: Some("a".into()), new: Some("b".into()), class, since }
}

#[test]
fn rules_match_drift_by_factor_class_and_what_it_is_compared_with() {
    let mut b = Bench::with(HOLDS);
    let (result, performance) = (FactorClass::Result, FactorClass::Performance);
    let slower = b.event(1, drift("node/gpu/0/clocks", performance, DriftSince::Earlier));
    assert_eq!(rules(&slower), ["slower"]);
    assert!(b.event(2, drift("node/gpu/0/mig", result, DriftSince::Earlier)).is_empty());
    assert!(b.event(3, drift("run/cpu/list", performance, DriftSince::Earlier)).is_empty());
}

#[test]
fn a_restart_is_held_once_and_a_running_run_is_not() {
    let mut b = Bench::with(HOLDS);
    let event = |since| drift("run/cpu/count", FactorClass::Result, since);
    assert!(b.event(1, event(DriftSince::Earlier)).is_empty());
    let held = b.event(2, event(DriftSince::Predecessor));
    assert_eq!(rules(&held), ["drift", "restarted-otherwise"]);
    assert_eq!(held[0].actions, [Action::Freeze, Action::Snapshot, Action::Notify]);
    assert_eq!(rules(&b.event(3, event(DriftSince::Predecessor))).iter().filter(|of| *of == "drift").count(), 0);
    b.control(4, Command::Thaw);
    let again = b.event(5, event(DriftSince::Predecessor));
    assert!(rules(&again).contains(&"drift".to_owned()), "another difference holds it again");
    let mut notifies = Bench::with(&HOLDS.replace("hold", "notify"));
    assert_eq!(rules(&notifies.event(1, event(DriftSince::Predecessor))), ["restarted-otherwise"]);
}
