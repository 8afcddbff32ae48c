//! Rules on one signal or one event: when they trip, clear and count.

use super::*;

#[test]
fn what_the_kernel_held_back_is_counted_as_what_the_cooldown_held_back() {
    let mut b = Bench::new();
    let first = b.repeated(3, connect(4444, Net::Denied), 2);
    assert!(matches!(first[0].cause, Cause::Rule { suppressed: 2, .. }), "{first:?}");
    assert_eq!(first[0].values[0].repeats, 2);
    assert!(first[0].values[0].show().ends_with(" (and 2 more like it before)"), "{}", first[0].values[0].show());
    assert!(b.repeated(1003, connect(4444, Net::Denied), 40).is_empty());
    assert!(b.repeated(2003, connect(443, Net::Denied), 500).is_empty(), "of another the rule knows nothing");
    let again = b.repeated(10_004, connect(4444, Net::Denied), 7);
    assert!(matches!(again[0].cause, Cause::Rule { suppressed: 48, .. }), "{again:?}");
}

#[test]
fn an_event_rule_trips_on_all_its_fields_and_cools_down() {
    let mut b = Bench::new();
    assert!(b.event(1, connect(443, Net::Denied)).is_empty());
    assert!(b.event(2, connect(4444, Net::Allowed)).is_empty());
    let trip = b.event(3, connect(4444, Net::Denied));
    assert_eq!(rules(&trip), ["denied"]);
    assert_eq!(trip[0].actions, [Action::Freeze, Action::Notify]);
    assert_eq!((trip[0].because.as_slice(), trip[0].at), ([3].as_slice(), at(3)));
    assert!(b.event(4, connect(4444, Net::Denied)).is_empty());
    let again = b.event(10_004, connect(4444, Net::Denied));
    assert!(matches!(again[0].cause, Cause::Rule { suppressed: 1, .. }), "{again:?}");
    assert_eq!(again[0].incident, trip[0].incident, "one containment is one incident");
}

#[test]
fn a_thaw_rearms_event_rules_and_closes_the_incident() {
    let mut b = Bench::new();
    let first = b.event(3, connect(4444, Net::Denied));
    assert!(b.state.run(b.run).unwrap().frozen);
    let thaw = b.control(4, Command::Thaw);
    assert_eq!(thaw[0].actions, [Action::Thaw, Action::Notify]);
    assert_eq!(thaw[0].incident, first[0].incident);
    assert!(!b.state.run(b.run).unwrap().frozen);
    let second = b.event(5, connect(4444, Net::Denied));
    assert_eq!(second[0].incident.n, first[0].incident.n + 1);
}

#[test]
fn a_threshold_holds_trips_once_and_clears_below_its_own_bound() {
    let mut b = Bench::new();
    assert!(b.loss(0, 11.0).is_empty());
    assert!(b.loss(1_000, 9.0).is_empty(), "the break starts the hold anew");
    assert!(b.loss(1_500, 11.0).is_empty());
    assert!(b.loss(3_400, 11.0).is_empty());
    assert_eq!(rules(&b.loss(3_500, 11.0)), ["diverged"]);
    assert!(b.loss(9_000, 99.0).is_empty());
    for (ms, loss) in [(10_000, 7.0), (11_000, 11.0), (14_000, 11.0)] {
        assert!(b.loss(ms, loss).is_empty(), "7 is not below the clear bound of 5");
    }
    assert!(b.loss(15_000, 4.0).is_empty());
    assert!(b.loss(16_000, 11.0).is_empty());
    assert_eq!(rules(&b.loss(18_000, 11.0)), ["diverged"]);
}

#[test]
fn nan_trips_its_own_rule_only_and_observing_contains_nothing() {
    let mut b = Bench::new();
    let trip = b.loss(0, f64::NAN);
    assert_eq!(rules(&trip), ["nan"]);
    assert_eq!(trip[0].mode, Mode::Observe);
    assert!(b.loss(1, f64::INFINITY).is_empty(), "still not finite: no second trip");
    assert!(b.loss(2, 1.0).is_empty());
    let second = b.loss(3, f64::INFINITY);
    assert_eq!(rules(&second), ["nan"]);
    assert_ne!(trip[0].incident, second[0].incident, "what contains nothing opens no incident to join");
}

#[test]
fn a_run_cannot_fill_memory_with_names_of_metrics() {
    let mut b = Bench::new();
    for n in 0..1_000 {
        let kind = Kind::Metric(format!("m{n}"));
        b.signal(n, Subject::Run(b.run), kind, Value::Real(Real(1.0)));
    }
    assert_eq!(b.state.last_signals(b.run).len(), 256);
    assert_eq!(rules(&b.loss(2_000, f64::NAN)), ["nan"], "rules see what is not kept");
}

#[test]
fn a_rate_is_taken_over_its_window() {
    let mut b = Bench::new();
    for ms in (0..5_000).step_by(500) {
        assert!(b.egress(ms, i64::try_from(ms).unwrap() * 999).is_empty(), "0.999 MB/s");
    }
    assert!(b.egress(5_000, 4_996_000).is_empty(), "1.999 MB in 2 s");
    assert_eq!(rules(&b.egress(5_500, 8_000_000)), ["burst"]);
    let mut b = Bench::new();
    assert!(b.egress(0, 0).is_empty());
    assert_eq!(
        rules(&b.egress(100, 2_000_001)),
        ["burst"],
        "what passes the bound whatever follows needs no full window"
    );
    assert!(b.state.run(b.run).unwrap().blocked);
    let mut b = Bench::new();
    assert!(b.egress(0, 50_000_000).is_empty() && b.egress(1_000, 0).is_empty(), "a reset is no growth");
}
