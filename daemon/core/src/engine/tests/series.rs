//! Metrics of several ranks, missing metrics, and rules after a thaw.

use super::*;
use crate::{
    input::Silent,
    policy::Over,
    signal::{Claimed, Series},
};

pub(super) fn claimed(rank: &str, value: f64) -> Value {
    Value::Claimed(Claimed { value: Real(value), step: Some(7), series: Series::Rank(rank.to_owned()) })
}

fn bench(when: &str, head: &str) -> Bench {
    let text = format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n{head}\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
         when = {{ signal = \"metric.loss\", {when} }}\nactions = [\"freeze\"]\n"
    );
    Bench::with(&text)
}

impl Bench {
    fn rank(&mut self, ms: u64, rank: &str, loss: f64) -> Vec<Decision> {
        self.signal(ms, Subject::Run(self.run), Kind::Metric("loss".into()), claimed(rank, loss))
    }

    fn disarmed(&self, ms: u64) -> Vec<String> {
        self.state.rules(&self.policies, self.run, at(ms)).disarmed
    }

    fn blind(&self) -> Vec<String> {
        self.state.rules(&self.policies, self.run, at(0)).blind
    }

    fn ends(&mut self, rank: &str) -> Vec<Decision> {
        let series = Series::Rank(rank.to_owned());
        self.feed(Input::SeriesEnded { run: self.run, series, at: at(0) })
    }
}

#[test]
fn the_last_metrics_are_those_of_each_rank_where_a_rule_judges_them_and_are_bounded() {
    let mut b = bench("above = 50.0", "");
    b.rank(1, "0", 2.0);
    b.rank(2, "1", 3.0);
    b.rank(3, "1", 4.0);
    for (ms, rank) in [(4, "0"), (5, "1")] {
        b.signal(ms, Subject::Run(b.run), Kind::Metric("step_time".into()), claimed(rank, 9.0));
    }
    b.signal(6, Subject::Run(b.run), Kind::Memory, Value::Integer(1));
    let (seen, more) = b.state.last_metrics(b.run, 64);
    let seen: Vec<_> = seen.iter().map(|it| (it.kind.to_string(), it.value.clone(), it.at)).collect();
    let loss = |rank, value, ms| ("metric.loss".to_owned(), claimed(rank, value), at(ms));
    let expected = [loss("0", 2.0, 1), loss("1", 4.0, 3), ("metric.step_time".to_owned(), claimed("1", 9.0), at(5))];
    assert_eq!((seen.as_slice(), more), (expected.as_slice(), 0));
    let (seen, more) = b.state.last_metrics(b.run, 1);
    assert_eq!((seen.len(), more), (1, 2));
    b.ends("0");
    assert_eq!(b.state.last_metrics(b.run, 64).0.len(), 2, "the process of the rank is gone");
    assert!(b.state.last_metrics(RunId(uuid::Uuid::nil()), 64).0.is_empty());
}

#[test]
fn a_healthy_rank_does_not_hide_one_that_diverges() {
    let mut b = bench("above = 50.0, for = \"100 ms\"", "");
    for n in 0..10 {
        assert!(b.rank(20 * n, "0", 2.0).is_empty());
        let trip = b.rank(20 * n + 10, "1", 100.0);
        assert_eq!(trip.is_empty(), n != 5, "{n}");
        if let [trip] = &trip[..] {
            assert_eq!(trip.values[0].value, claimed("1", 100.0));
            assert!(trip.values[0].show().contains("claimed by rank 1 at step 7"), "{}", trip.values[0].show());
        }
    }
}

#[test]
fn a_rule_names_the_series_that_it_is_judged_over() {
    for (over, trips) in [
        (Over::Any, [true, false, true]),
        (Over::All, [false, false, true]),
        (Over::Mean, [true, false, true]),
        (Over::Max, [true, false, true]),
        (Over::Min, [false, false, true]),
    ] {
        for (losses, trips) in [[2.0, 100.0], [2.0, 3.0], [60.0, 100.0]].iter().zip(trips) {
            let mut b = bench(&format!("above = 50.0, over = \"{over}\""), "");
            let first = b.rank(1, "0", losses[0]);
            let second = b.rank(2, "1", losses[1]);
            // With one series alone all selections are the same.
            assert_eq!(!first.is_empty(), losses[0] > 50.0, "{over} {losses:?}");
            let tripped = !first.is_empty() || !second.is_empty();
            assert_eq!(tripped, trips, "{over} {losses:?}");
        }
    }
}

#[test]
fn a_nan_of_one_rank_is_found_whatever_the_others_report() {
    let mut b = bench("is = \"not-finite\"", "");
    assert!(b.rank(1, "0", 2.0).is_empty() && !b.rank(2, "1", f64::NAN).is_empty());
    let mut b = bench("is = \"not-finite\", over = \"all\"", "");
    assert!(b.rank(1, "0", 2.0).is_empty() && b.rank(2, "1", f64::NAN).is_empty());
    assert!(!b.rank(3, "0", f64::INFINITY).is_empty());
    let mut b = bench("above = 50.0, over = \"mean\"", "");
    assert!(b.rank(1, "0", 60.0).len() == 1 && b.rank(2, "1", f64::NAN).is_empty());
    assert_eq!(b.disarmed(3).len(), 1, "a NaN does not clear");
}

#[test]
fn ranks_that_diverge_together_are_one_decision() {
    let mut b = bench("is = \"not-finite\"", "");
    assert_eq!(b.rank(1, "0", f64::NAN).len(), 1);
    assert!(b.rank(2, "1", f64::NAN).is_empty() && b.rank(3, "2", f64::NAN).is_empty());
    b.control(4, Command::Thaw);
    assert_eq!(b.disarmed(4).len(), 3, "each is named: {:?}", b.disarmed(4));
    assert_eq!(b.rank(5, "3", f64::NAN).len(), 1, "one that nobody has seen");
}

#[test]
fn a_series_that_ended_neither_trips_nor_clears() {
    let mut b = bench("above = 50.0, over = \"all\"", "");
    assert!(b.rank(1, "0", 2.0).is_empty() && b.rank(2, "1", 100.0).is_empty());
    assert!(b.ends("0").is_empty(), "the end of a process is no value");
    assert!(!b.rank(3, "1", 100.0).is_empty(), "rank 0 holds nothing back any more");
    let mut b = bench("above = 50.0", "");
    assert!(!b.rank(1, "0", 100.0).is_empty());
    b.ends("0");
    b.control(2, Command::Thaw);
    assert!(b.disarmed(3).is_empty());
    assert!(!b.rank(4, "0", 100.0).is_empty(), "a process that takes its place is judged anew");
}

#[test]
fn after_a_thaw_it_is_shown_what_is_disarmed_and_a_loss_that_stays_nan_trips_again() {
    let mut b = bench("is = \"not-finite\"", "");
    assert!(!b.rank(1, "0", f64::NAN).is_empty());
    b.control(1_000, Command::Thaw);
    assert_eq!(b.disarmed(1_000), ["rule r (rank 0): until metric.loss is finite, or for 60.0 s more"]);
    assert!(b.rank(60_999, "0", f64::NAN).is_empty());
    assert!(!b.rank(61_000, "0", f64::NAN).is_empty());
    let mut b = bench("above = 50.0, clear = 10.0", "");
    assert!(!b.rank(1, "0", 100.0).is_empty());
    b.control(2, Command::Thaw);
    assert_eq!(b.disarmed(2), ["rule r (rank 0): until metric.loss is at or below 10"]);
    assert!(b.rank(9_000_000, "0", 100.0).is_empty(), "a threshold waits for its value to clear");
    assert!(b.rank(9_000_001, "0", 9.0).is_empty() && b.disarmed(9_000_001).is_empty());
    let mut b = bench("above = 50.0, rearm = \"after 5m\"", "");
    assert!(!b.rank(1, "0", 100.0).is_empty());
    b.control(2, Command::Thaw);
    assert!(b.rank(300_001, "0", 100.0).is_empty() && !b.rank(300_002, "0", 100.0).is_empty());
}

#[test]
fn after_a_thaw_a_total_that_never_falls_does_not_trip_its_rule_again() {
    let mut b = Bench::with(
        "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
         when = { signal = \"net.egress_bytes\", above = \"1 KiB\" }\nactions = [\"freeze\"]\n",
    );
    let sent = |b: &mut Bench, ms: u64, bytes: i64| {
        b.signal(ms, Subject::Run(b.run), Kind::EgressBytes, Value::Integer(bytes))
    };
    assert!(!sent(&mut b, 1, 2_000).is_empty());
    b.control(2, Command::Thaw);
    assert_eq!(b.disarmed(2), ["rule r (the run): until net.egress_bytes is at or below 1.0 KiB"]);
    // `explain` and `thaw` of failsafectl say so (ctl/src/render/explain/notes.rs).
    assert!(sent(&mut b, 9_000_000, 5_000_000).is_empty());
}

#[test]
fn a_recording_of_an_older_version_replays_to_what_was_decided() {
    let mut b = bench("is = \"not-finite\"", "");
    assert!(!b.loss(1, f64::NAN).is_empty());
    b.control(2, Command::Thaw);
    assert!(b.loss(9_000_000, f64::NAN).is_empty());
}

#[test]
fn a_missing_metric_blinds_its_rules_and_on_blind_decides() {
    let silent = |b: &Bench, why: Option<&str>| {
        let (metric, rules, why) = ("loss".to_owned(), vec!["r".to_owned()], why.map(str::to_owned));
        Input::Silent(Silent { seq: 1, at: at(9), run: b.run, metric, rules, why })
    };
    for (on_blind, freezes) in [("refuse", false), ("continue", false), ("freeze", true)] {
        let mut b = bench("above = 50.0", &format!("on_blind = \"{on_blind}\""));
        let missing = silent(&b, Some("no value in 300.0 s"));
        let decided = b.feed(missing.clone());
        assert_eq!(rules(&decided), ["blind"]);
        assert_eq!(decided[0].actions.contains(&Action::Freeze), freezes, "{on_blind}");
        assert_eq!(b.blind(), ["rule r: no value in 300.0 s"]);
        assert!(b.feed(missing).is_empty(), "once");
        let again = silent(&b, None);
        assert!(b.feed(again).is_empty() && b.blind().is_empty());
    }
}

#[test]
fn a_recording_holds_what_was_claimed() {
    let b = bench("above = 50.0", "");
    let series = Series::Process { pid: 7, start_ticks: 9 };
    let value = Value::Claimed(Claimed { value: Real(f64::NAN), step: None, series: series.clone() });
    let kind = Kind::Metric("loss".into());
    let signal =
        Signal { seq: 1, at: at(1), source: Source::App, subject: Subject::Run(b.run), kind, value, repeats: 3 };
    for input in [Input::Signal(signal), Input::SeriesEnded { run: b.run, series, at: at(2) }] {
        let bytes = postcard::to_allocvec(&input).unwrap();
        assert_eq!(postcard::from_bytes::<Input>(&bytes).unwrap(), input);
    }
}
