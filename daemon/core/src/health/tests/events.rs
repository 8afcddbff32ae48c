//! What happens once: XIDs and lines of the kernel's log; how it counts, and when it is over.

use super::*;

#[test]
fn an_xid_cancels_no_reason_that_only_a_person_resets() {
    let mut h = node_of_two();
    let (target, code, at) = (Target::Gpu(gpu("a")), "xid-163".to_owned(), s(2));
    let (level_of, text, advice) = (Level::Unhealthy, "x".to_owned(), Advice::ResetGpu);
    h.fact(&Fact::Noted { target, code, level: level_of, text, advice, at });
    assert!(h.take(&xid("a", 162, s(3))).is_empty());
    assert_eq!((level(&h, "a"), codes(&h, "a")), (Level::Unhealthy, vec!["xid-163".to_owned()]));
}

#[test]
fn an_xid_that_follows_others_counts_alone_only() {
    let mut h = node_of_two();
    // Beside another it says nothing, however often.
    for t in 0..6 {
        h.take(&xid("a", 13, s(600 * t + 2)));
        h.take(&xid("a", 45, s(600 * t + 3)));
        h.take(&xid("a", 172, s(600 * t + 4)));
    }
    assert_eq!(codes(&h, "a"), ["xid-13-repeated"]);
    for t in 0..5 {
        assert_eq!(level(&h, "b"), Level::Healthy, "a kill gives one, too");
        h.take(&xid("b", 45, s(600 * t + 2)));
    }
    assert_eq!(codes(&h, "b"), ["xid-45-repeated"]);
    for code in [171, 172] {
        let mut h = node_of_two();
        h.take(&xid("a", code, s(2)));
        assert_eq!((level(&h, "a"), codes(&h, "a")), (Level::Degraded, vec![format!("xid-{code}")]));
    }
}

#[test]
fn what_only_degraded_a_gpu_is_over_a_day_after_it_came_last() {
    let day = checks::DAY.0 / 1_000_000_000;
    let mut h = node_of_two();
    for code in [74, 94, 9_999] {
        h.take(&xid("a", code, s(2)));
    }
    let (target, code, text) = (Target::Gpu(gpu("a")), "pcie-aer-corrected".to_owned(), "x".to_owned());
    let aer = |at| Fact::Noted {
        target: target.clone(),
        code: code.clone(),
        level: Level::Degraded,
        text: text.clone(),
        advice: Advice::InspectHardware,
        at,
    };
    h.fact(&aer(s(3)));
    h.take(&xid("b", 79, s(2)));
    h.take(&value("b", Kind::GpuRemappedRowsPending, 1, s(2)));
    h.fact(&aer(s(1_000)));
    assert_eq!(codes(&h, "a").len(), 4);
    let still = |h: &mut Health, at| {
        h.take(&value("a", Kind::GpuTemperature, 60_000, at));
        h.take(&value("b", Kind::GpuTemperature, 60_000, at));
        h.take(&Input::Tick(at));
        codes(h, "a")
    };
    assert_eq!(still(&mut h, s(day + 1)).len(), 4, "not yet a day");
    assert_eq!(still(&mut h, s(day + 4)), ["pcie-aer-corrected"], "it came again later");
    assert!(still(&mut h, s(day + 1_001)).is_empty());
    assert_eq!(level(&h, "a"), Level::Healthy);
    assert_eq!(codes(&h, "b"), ["xid-79", "row-remap-pending"], "neither what a person resets nor what a signal says");
}

#[test]
fn a_state_that_lasts_is_a_reason_until_it_ends_whatever_the_kernels_log_has() {
    let day = checks::DAY.0 / 1_000_000_000;
    let mut h = node_of_two();
    // A flood of other reasons takes no room from it.
    for n in 0..100 {
        let (target, code, text) = (Target::Node, format!("noise-{n}"), "x".to_owned());
        h.fact(&Fact::Noted { target, code, level: Level::Degraded, text, advice: Advice::RecordOnly, at: s(2) });
    }
    let lasting = |code: &str, until| Fact::Lasting {
        target: Target::Node,
        code: code.into(),
        text: "x".into(),
        until,
        at: s(3),
    };
    h.fact(&lasting("runs-not-judged", Until::Over));
    h.fact(&lasting("audit-log", Until::Reset));
    h.take(&Input::Tick(s(3 * day)));
    let codes = |h: &Health| h.view().node.reasons.iter().map(|r| r.code.clone()).collect::<Vec<_>>();
    assert_eq!(codes(&h), ["audit-log", "runs-not-judged"]);
    // Over a restart too.
    let kept = serde_json::to_string(&h.view().node.reasons).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Reason>>(&kept).unwrap(), h.view().node.reasons);
    h.order(&order(OrderKind::Reset, Target::Node), s(3 * day + 1)).unwrap();
    assert_eq!(codes(&h), ["runs-not-judged"], "a reset does not end a state that lasts");
    h.fact(&Fact::Over { target: Target::Node, code: "runs-not-judged".into(), at: s(3 * day + 2) });
    assert!(codes(&h).is_empty());
}

#[test]
fn a_reasons_advice_is_of_its_worst() {
    let mut h = node_of_two();
    let note = |level, text: &str, advice, at| Fact::Noted {
        target: Target::Gpu(gpu("a")),
        code: "x".into(),
        level,
        text: text.into(),
        advice,
        at,
    };
    h.fact(&note(Level::Degraded, "mild", Advice::RecordOnly, s(2)));
    h.fact(&note(Level::Unhealthy, "bad", Advice::RebootNode, s(3)));
    h.fact(&note(Level::Degraded, "mild again", Advice::RecordOnly, s(4)));
    let reason = h.view().gpus[&gpu("a")].reasons[0].clone();
    assert_eq!((reason.level, reason.text.as_str(), reason.advice), (Level::Unhealthy, "bad", Advice::RebootNode));
    assert_eq!(reason.count, 3);
}

#[test]
fn one_xid_cancels_another() {
    let mut h = node_of_two();
    h.take(&xid("a", 163, s(2)));
    assert_eq!(level(&h, "a"), Level::Degraded);
    let changes = h.take(&xid("a", 162, s(3)));
    assert_eq!(changes[0].removed, ["xid-163"]);
    assert_eq!(level(&h, "a"), Level::Healthy);
}

#[test]
fn xids_of_programs_say_nothing_of_the_gpu_until_they_come_again_and_again() {
    let mut h = node_of_two();
    for t in 0..4 {
        h.take(&xid("a", 31, s(2 + t * 60)));
        h.take(&xid("a", 31, s(3 + t * 60)));
    }
    assert_eq!(level(&h, "a"), Level::Healthy);
    h.take(&xid("a", 31, s(242)));
    assert_eq!((level(&h, "a"), codes(&h, "a")), (Level::Degraded, vec!["xid-31-repeated".to_owned()]));
    h.take(&xid("b", 45, s(9)));
    assert_eq!(level(&h, "b"), Level::Healthy);
    h.take(&xid("b", 9_999, s(9)));
    assert!(h.view().gpus[&gpu("b")].reasons[0].text.contains("does not know"));
}

/// What happened is told, and changes nothing: what came of it, signals say.
#[test]
fn an_event_of_a_gpu_is_a_change_of_neither_level_nor_reasons_and_is_reported_once_a_minute() {
    let mut h = node_of_two();
    let before = level(&h, "a");
    let mut event = |what, at| h.take(&signal("a", Kind::Event, Value::Event(Event::Gpu { what }), s(at)));
    let changes = event(GpuEvent::MigConfig, 10);
    let [change] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(change.event, Some(Happened { what: GpuEvent::MigConfig, times: 1 }));
    assert_eq!((change.from, change.to, change.added.len(), change.removed.len()), (before, before, 0, 0));
    let revision = change.revision;
    assert!(event(GpuEvent::MigConfig, 11).is_empty() && event(GpuEvent::MigConfig, 12).is_empty());
    let changes = event(GpuEvent::DoubleBitEcc, 13);
    assert_eq!(changes[0].event.map(|it| it.what), Some(GpuEvent::DoubleBitEcc), "another kind is news");
    assert_eq!(changes[0].revision, revision + 1);
    let changes = event(GpuEvent::MigConfig, 71);
    assert_eq!(changes[0].event, Some(Happened { what: GpuEvent::MigConfig, times: 3 }));
    assert!(event(GpuEvent::Clock, 80).is_empty(), "clocks change all the time");
    assert_eq!(level(&h, "a"), before);
}
