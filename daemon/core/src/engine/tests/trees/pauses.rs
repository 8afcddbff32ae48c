//! Time in which the daemon stood still, or the run was suspended by somebody else: it is no silence.

use super::*;
use crate::time::Span;

impl Bench {
    fn paused(&mut self, until_ms: u64, length_ms: u64) -> Vec<Decision> {
        self.feed(Input::Paused { at: at(until_ms), length: Span::from_millis(length_ms) })
    }

    fn suspended(&mut self, ms: u64, suspended: bool) -> Vec<Decision> {
        self.signal(ms, Subject::Run(self.run), Kind::Suspended, Value::Integer(suspended.into()))
    }

    fn step_value(&mut self, ms: u64, step: u64) -> Vec<Decision> {
        let value = Claimed { value: Real(step as f64), step: Some(step), series: Series::rank("0").unwrap() };
        self.signal(ms, Subject::Run(self.run), Kind::Metric("step".into()), Value::Claimed(value))
    }
}

const ABSENT: &str = "signal = \"metric.step\", absent = \"5m\"";
const ABSENT_ANY: &str = "signal = \"metric.step\", absent = \"5m\", over = \"any\"";
const STALL: &str = "signal = \"metric.step\", detect = { method = \"stall\", after = \"5m\" }";
const SILENT: [&str; 3] = [ABSENT, ABSENT_ANY, STALL];

#[test]
fn a_pause_of_the_daemon_is_no_silence_and_no_stall() {
    for when in SILENT {
        let mut b = bench(when);
        b.step_value(1_000, 1);
        // Stopped for 20 minutes; before and after it the run is silent for 5 minutes in all.
        assert!(b.tick(100_000).is_empty(), "{when}");
        assert!(b.paused(1_300_000, 1_200_000).is_empty(), "{when}");
        assert!(b.tick(1_300_000).is_empty() && b.tick(1_500_999).is_empty(), "{when}: {:?}", b.waiting(1_500_999));
        assert_eq!(rules(&b.tick(1_501_000)), ["tree"], "{when}: what is silent without a pause is found as before");
        assert!(b.replay(ENGINE).identical());
    }
}

#[test]
fn many_pauses_do_not_hide_a_silence() {
    for when in SILENT {
        let mut b = bench(when);
        b.step_value(0, 1);
        // Of every 10 s the daemon stands still for 5 s.
        let mut found = None;
        for n in 1..=100 {
            let now = n * 10_000;
            let mut decided = b.paused(now, 5_000);
            decided.extend(b.tick(now));
            if !decided.is_empty() {
                found.get_or_insert(now);
            }
        }
        assert_eq!(found, Some(600_000), "{when}");
    }
}

#[test]
fn a_suspension_by_a_scheduler_is_no_silence_and_no_stall() {
    for when in SILENT {
        let mut b = bench(when);
        b.step_value(1_000, 1);
        b.suspended(2_000, true);
        for s in 0..120 {
            assert!(b.tick(10_000 + s * 30_000).is_empty(), "{when}");
        }
        assert!(b.state.is_suspended(b.run) && !b.state.is_frozen(b.run));
        b.suspended(3_600_000, false);
        assert!(!b.state.is_suspended(b.run));
        // The second before the suspension counts.
        assert!(b.tick(3_898_900).is_empty(), "{when}: the suspension is taken away");
        assert_eq!(rules(&b.tick(3_899_000)), ["tree"], "{when}");
        assert!(b.replay(ENGINE).identical());
    }
}

#[test]
fn a_run_that_stops_itself_again_and_again_hides_no_silence() {
    for when in SILENT {
        let mut b = bench(when);
        b.step_value(0, 1);
        // It stops for 3 s of each 20 s.
        let found = (1..100).find(|n| {
            let begin = n * 20_000;
            let mut decided = b.suspended(begin - 3_000, true);
            decided.extend(b.tick(begin - 1_000));
            decided.extend(b.suspended(begin, false));
            decided.extend(b.tick(begin));
            !decided.is_empty()
        });
        assert_eq!(found, Some(18), "{when}: 17 s of each 20 s are silent, 300 s in 18 rounds");
    }
}

#[test]
fn for_counts_while_a_run_is_suspended() {
    for when in [
        "signal = \"process.suspended\", above = 0, for = \"1m\"",
        "all = [{ signal = \"process.suspended\", above = 0 }, { signal = \"process.suspended\", above = 0 }], for = \"1m\"",
    ] {
        let mut b = bench(when);
        assert!(b.suspended(0, true).is_empty());
        let decided: Vec<Decision> = (1..=16).flat_map(|n| b.suspended(n * 4_000, true)).collect();
        assert_eq!((rules(&decided), decided[0].at), (vec!["tree".to_owned()], at(60_000)), "{when}");
    }
}

#[test]
fn sampled_sensors_are_not_blind_for_the_time_of_a_pause() {
    let text = with_rule("signal = \"net.egress_bytes\", above = \"1 GB\"", "");
    let mut b = Bench::with(&text.replace("owner = \"o\"", "owner = \"o\"\non_blind = \"freeze\""));
    b.egress(0, 0);
    assert!(b.tick(5_000).is_empty());
    assert!(b.paused(65_000, 60_000).is_empty());
    assert!(b.tick(65_000).is_empty() && b.tick(69_900).is_empty());
    assert_eq!(rules(&b.tick(70_100)), ["blind"], "10 s without a value, the pause not counted");
}

#[test]
fn a_condition_does_not_hold_for_the_time_of_a_pause() {
    for when in [
        "signal = \"metric.loss\", above = 20, for = \"1m\"",
        "all = [{ signal = \"metric.loss\", above = 20 }, { signal = \"metric.loss\", above = 21 }], for = \"1m\"",
    ] {
        let mut b = bench(when);
        assert!(b.metric(0, "loss", 30.0).is_empty());
        assert!(b.paused(300_000, 290_000).is_empty());
        assert!(b.metric(300_000, "loss", 30.0).is_empty() && b.tick(300_000).is_empty(), "{when}");
        assert!(b.metric(340_000, "loss", 30.0).is_empty(), "{when}");
        assert_eq!(rules(&b.metric(350_000, "loss", 30.0)), ["tree"], "{when}");
    }
}
