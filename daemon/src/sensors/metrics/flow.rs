//! What one run reports, on its way to the engine: its names and series are bounded, and so is its share of the engine.
//!
//! ```text
//! line ─► a rule needs it? ─ yes ─► quota left? ─ yes ─► engine, at once
//!              │                        └ no ─► window: least, greatest, last and first NaN wait for quota
//!              └ no ─► evidence: one value a second of each series, and the first that is not finite
//! ```
//! Nothing that a rule could trip on is dropped: a window keeps the values that pass a bound, those that break a `for`, and what
//! is not finite; how many it stands for is in `repeats`. A run that floods makes its own windows longer, and no other's.

use super::{Metric, parse::Line};
use failsafe_core::{
    Policy,
    policy::Judgements,
    signal::{MAX_SERIES, Series},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Values a second that a run has of the engine, and at once.
const INPUTS: u64 = 10_000;
const INPUTS_AT_ONCE: u64 = 4_000;
/// Judgements a second of these values by the run's rules, and at once: the engine's thread judges the runs of all users.
const JUDGEMENTS: u64 = 40_000;
const JUDGEMENTS_AT_ONCE: u64 = 16_000;
/// Bytes a second that are read of a run, and at once.
const BYTES: u64 = 16 << 20;
const BYTES_AT_ONCE: u64 = 16 << 20;
/// Names of metrics of one run that no rule needs.
pub const MAX_NAMES: usize = 256;
/// Metrics of one run that no rule needs, each series counted.
const MAX_EVIDENCE: usize = 2_048;
/// Metrics that no rule needs are kept this often.
const EVIDENCE_EVERY_NS: u64 = 1_000_000_000;

/// Values of a window at most.
const POINTS: u64 = 4;
/// The memory that the states of a run's rules may have for all its series.
const STATES: usize = 16 << 20;
/// A judgement over so many series costs as much as one of a single value.
const SERIES_OF_ONE: u64 = 16;

/// What the rules of a run need of its metrics.
#[derive(Debug, Clone)]
pub struct Needed {
    /// How often a value of each metric is judged.
    rules: BTreeMap<String, Judgements>,
    /// Series that the run may have.
    series: usize,
}

impl Needed {
    /// By a policy.
    pub fn of(policy: &Policy) -> Needed {
        let mut rules: BTreeMap<String, Judgements> = BTreeMap::new();
        for rule in &policy.rules {
            for name in rule.when.metrics() {
                let own = rule.judgements(name);
                let all = rules.entry(name.to_owned()).or_default();
                (all.once, all.by_series) = (all.once + own.once, all.by_series + own.by_series);
            }
        }
        let series = (STATES / policy.bytes_of_series().max(1)).clamp(1, MAX_SERIES);
        Needed { rules, series }
    }

    /// The judgements of a value.
    fn cost(&self, name: &str, series: usize) -> u64 {
        let Judgements { once, by_series } = self.rules.get(name).copied().unwrap_or_default();
        let series = (series as u64).div_ceil(SERIES_OF_ONE).max(1);
        once.saturating_add(by_series.saturating_mul(series)).max(1)
    }
}

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    most: u64,
    tokens: u64,
    filled_ns: u64,
}

impl Bucket {
    pub(super) fn new(rate: u64, most: u64, now_ns: u64) -> Bucket {
        Bucket { rate, most, tokens: most, filled_ns: now_ns }
    }

    fn fill(&mut self, now_ns: u64) {
        let earned = u128::from(now_ns.saturating_sub(self.filled_ns)) * u128::from(self.rate) / 1_000_000_000;
        if earned > 0 {
            self.tokens = self.most.min(self.tokens.saturating_add(u64::try_from(earned).unwrap_or(self.most)));
            self.filled_ns = now_ns;
        }
    }

    /// Takes as much as there is, up to `wanted`.
    pub(super) fn take(&mut self, wanted: u64, now_ns: u64) -> u64 {
        self.fill(now_ns);
        let got = wanted.min(self.tokens);
        self.tokens -= got;
        got
    }

    fn give_back(&mut self, tokens: u64) {
        self.tokens = self.most.min(self.tokens.saturating_add(tokens));
    }
}

/// Why a metric is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// Too many names.
    #[error("the run reports more than {MAX_NAMES} metrics that no rule needs (limit {MAX_NAMES})")]
    Names,
    /// Too many series.
    #[error("the run has more than {0} series (limit {0} under its policy)")]
    Series(usize),
    /// Too many of both.
    #[error("the run's series have more than {MAX_EVIDENCE} metrics that no rule needs (limit {MAX_EVIDENCE})")]
    Evidence,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    order: u64,
    mono_ns: u64,
    value: f64,
    step: Option<u64>,
}

/// Values that wait for quota.
#[derive(Debug)]
struct Window {
    least: Point,
    greatest: Point,
    last: Point,
    not_a_number: Option<Point>,
    count: u64,
}

impl Window {
    fn new(point: Point) -> Window {
        let not_a_number = point.value.is_nan().then_some(point);
        Window { least: point, greatest: point, last: point, not_a_number, count: 1 }
    }

    fn merge(&mut self, point: Point) {
        self.count += 1;
        self.last = point;
        if point.value.is_nan() {
            self.not_a_number.get_or_insert(point);
            return;
        }
        if self.least.value.is_nan() || point.value < self.least.value {
            self.least = point;
        }
        if self.greatest.value.is_nan() || point.value > self.greatest.value {
            self.greatest = point;
        }
    }

    /// The values in the order in which they came, and how many more there were.
    fn points(&self) -> (Vec<Point>, u64) {
        let mut points = vec![self.least, self.greatest, self.last];
        points.extend(self.not_a_number);
        points.sort_by_key(|point| point.order);
        points.dedup_by_key(|point| point.order);
        let more = self.count - points.len() as u64;
        (points, more)
    }
}

#[derive(Debug)]
struct Evidence {
    sent_ns: u64,
    finite: bool,
    waiting: Option<(Point, u64)>,
}

/// A series and who reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reporter {
    pub pid: u32,
    pub start_ticks: u64,
    /// Each value comes from a process of its own: the series lives on without one.
    pub oneshot: bool,
}

#[derive(Debug)]
pub(super) struct LiveSeries {
    pub by: Reporter,
    pub last_ns: u64,
    pub ended_ns: Option<u64>,
}

/// One run's.
#[derive(Debug)]
pub(super) struct Flow {
    needed: Arc<Needed>,
    names: BTreeSet<String>,
    pub series: BTreeMap<Series, LiveSeries>,
    windows: BTreeMap<(Series, String), Window>,
    evidence: BTreeMap<(Series, String), Evidence>,
    inputs: Bucket,
    judgements: Bucket,
    bytes: Bucket,
    order: u64,
}

impl Flow {
    pub(super) fn new(needed: Arc<Needed>, now_ns: u64) -> Flow {
        Flow {
            needed,
            names: BTreeSet::new(),
            series: BTreeMap::new(),
            windows: BTreeMap::new(),
            evidence: BTreeMap::new(),
            inputs: Bucket::new(INPUTS, INPUTS_AT_ONCE, now_ns),
            judgements: Bucket::new(JUDGEMENTS, JUDGEMENTS_AT_ONCE, now_ns),
            bytes: Bucket::new(BYTES, BYTES_AT_ONCE, now_ns),
            order: 0,
        }
    }

    /// How many bytes may be read of the run now, at most `wanted`; what was not read is given back.
    pub(super) fn may_read(&mut self, wanted: u64, now_ns: u64) -> u64 {
        self.bytes.take(wanted, now_ns)
    }

    pub(super) fn not_read(&mut self, bytes: u64) {
        self.bytes.give_back(bytes);
    }

    /// Takes one metric in; `out` gets what goes to the engine at once.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn take(
        &mut self,
        line: &Line<'_>,
        series: &Series,
        by: Reporter,
        mono_ns: u64,
        mut out: impl FnMut(Metric),
    ) -> Result<(), Refused> {
        let most = self.needed.series;
        let full = self.series.len() >= most;
        match self.series.get_mut(series) {
            Some(live) => (live.by, live.last_ns, live.ended_ns) = (by, mono_ns, None),
            None if full => return Err(Refused::Series(most)),
            None => drop(self.series.insert(series.clone(), LiveSeries { by, last_ns: mono_ns, ended_ns: None })),
        }
        self.order += 1;
        let point = Point { order: self.order, mono_ns, value: line.value, step: line.step };
        if !self.needed.rules.contains_key(line.name) {
            return self.evidence(line.name, series, point, out);
        }
        // Behind what waits already, or the order would change.
        let key = (series.clone(), line.name.to_owned());
        if let Some(window) = self.windows.get_mut(&key) {
            window.merge(point);
        } else if self.may_judge(&key.1, 1, mono_ns) {
            out(metric(&key, point, 0));
        } else {
            self.windows.insert(key, Window::new(point));
        }
        Ok(())
    }

    /// Takes the quota of so many values of a metric that rules need. Values of a metric with many rules cost more.
    fn may_judge(&mut self, name: &str, values: u64, now_ns: u64) -> bool {
        let cost = self.needed.cost(name, self.series.len()).min(JUDGEMENTS_AT_ONCE / POINTS) * values;
        let judged = self.judgements.take(cost, now_ns);
        let got = if judged == cost { self.inputs.take(values, now_ns) } else { 0 };
        if got < values {
            self.judgements.give_back(judged);
            self.inputs.give_back(got);
        }
        got == values
    }

    fn evidence(
        &mut self,
        name: &str,
        series: &Series,
        point: Point,
        mut out: impl FnMut(Metric),
    ) -> Result<(), Refused> {
        if !self.names.contains(name) {
            if self.names.len() >= MAX_NAMES {
                return Err(Refused::Names);
            }
            self.names.insert(name.to_owned());
        }
        let key = (series.clone(), name.to_owned());
        let full = self.evidence.len() >= MAX_EVIDENCE;
        let finite = point.value.is_finite();
        match self.evidence.get_mut(&key) {
            None if full => return Err(Refused::Evidence),
            None => {
                out(metric(&key, point, 0));
                self.evidence.insert(key, Evidence { sent_ns: point.mono_ns, finite, waiting: None });
            }
            Some(kept) => {
                let before = kept.waiting.take().map_or(0, |(_, n)| n);
                let due = point.mono_ns.saturating_sub(kept.sent_ns) >= EVIDENCE_EVERY_NS || (kept.finite && !finite);
                if due && self.inputs.take(1, point.mono_ns) == 1 {
                    (kept.sent_ns, kept.finite) = (point.mono_ns, finite);
                    out(metric(&key, point, before));
                } else {
                    kept.waiting = Some((point, before + 1));
                }
            }
        }
        Ok(())
    }

    /// Hands on what waited, as far as the quota goes. Whether something still waits.
    pub(super) fn settle(&mut self, now_ns: u64, mut out: impl FnMut(Metric)) -> bool {
        while let Some((key, window)) = self.windows.first_key_value() {
            let (points, more) = window.points();
            let key = key.clone();
            if !self.may_judge(&key.1, points.len() as u64, now_ns) {
                break;
            }
            self.windows.remove(&key);
            let last = points.len().saturating_sub(1);
            for (at, point) in points.into_iter().enumerate() {
                out(metric(&key, point, if at == last { more } else { 0 }));
            }
        }
        for (key, kept) in &mut self.evidence {
            if now_ns.saturating_sub(kept.sent_ns) < EVIDENCE_EVERY_NS || kept.waiting.is_none() {
                continue;
            }
            if self.inputs.take(1, now_ns) == 0 {
                break;
            }
            if let Some((point, more)) = kept.waiting.take() {
                (kept.sent_ns, kept.finite) = (now_ns, point.value.is_finite());
                out(metric(key, point, more.saturating_sub(1)));
            }
        }
        !self.windows.is_empty()
    }

    /// The series has ended: what waits of it is handed on first.
    pub(super) fn retire(&mut self, series: &Series, mut out: impl FnMut(Metric)) {
        self.series.remove(series);
        let of = |key: &&(Series, String)| key.0 == *series;
        let keys: Vec<_> = self.windows.keys().filter(of).cloned().collect();
        for key in keys {
            if let Some(window) = self.windows.remove(&key) {
                window.points().0.into_iter().for_each(|point| out(metric(&key, point, 0)));
            }
        }
        self.evidence.retain(|key, _| key.0 != *series);
    }
}

fn metric((series, name): &(Series, String), point: Point, repeats: u64) -> Metric {
    let Point { mono_ns, value, step, .. } = point;
    Metric { mono_ns, name: name.clone(), value, step, series: series.clone(), repeats }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    const BY: Reporter = Reporter { pid: 1, start_ticks: 1, oneshot: false };

    fn rank(n: usize) -> Series {
        Series::Rank(n.to_string())
    }

    fn flow() -> Flow {
        under("signal = \"metric.loss\", above = 1", 1)
    }

    /// Under so many rules with this condition.
    fn under(when: &str, rules: usize) -> Flow {
        let rule =
            |n| format!("[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n");
        let text = "[policy]\nname = \"p\"\nowner = \"o\"\n".to_owned() + &(0..rules).map(rule).collect::<String>();
        Flow::new(Arc::new(Needed::of(&parse("p", &text).unwrap())), 0)
    }

    fn feed(flow: &mut Flow, name: &str, value: f64, ns: u64) -> Vec<Metric> {
        let mut out = Vec::new();
        let line = Line { name, value, step: None, rank: None };
        flow.take(&line, &rank(0), BY, ns, |m| out.push(m)).unwrap();
        out
    }

    #[test]
    fn over_the_quota_the_greatest_the_least_the_last_and_a_nan_are_kept_in_their_order() {
        let mut flow = flow();
        let passed: usize = (0..INPUTS_AT_ONCE + 5).map(|_| feed(&mut flow, "loss", 1.0, 0).len()).sum();
        assert_eq!(passed as u64, INPUTS_AT_ONCE);
        for value in [3.0, f64::NAN, 90.0, f64::NEG_INFINITY, 2.0, 5.0] {
            assert!(feed(&mut flow, "loss", value, 0).is_empty(), "what waits stays in front");
        }
        let mut out = Vec::new();
        assert!(flow.settle(0, |m| out.push(m)), "no quota yet");
        assert!(out.is_empty());
        assert!(!flow.settle(1_000_000_000, |m| out.push(m)));
        let values: Vec<f64> = out.iter().map(|m| m.value).collect();
        assert!(values[0].is_nan() && values[1..] == [90.0, f64::NEG_INFINITY, 5.0], "{values:?}");
        assert_eq!(out.iter().map(|m| m.repeats + 1).sum::<u64>(), 11, "each is counted");
    }

    #[test]
    fn a_metric_that_no_rule_needs_is_kept_once_a_second_and_its_first_nan_at_once() {
        let mut flow = flow();
        assert_eq!(feed(&mut flow, "lr", 1.0, 0).len(), 1);
        assert!(feed(&mut flow, "lr", 2.0, 1).is_empty() && feed(&mut flow, "lr", 3.0, 2).is_empty());
        let odd = feed(&mut flow, "lr", f64::NAN, 3);
        assert!(odd[0].value.is_nan() && odd[0].repeats == 2);
        assert!(feed(&mut flow, "lr", f64::NAN, 4).is_empty(), "once");
        let mut out = Vec::new();
        flow.settle(2_000_000_000, |m| out.push(m));
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn names_and_series_are_bounded() {
        let mut flow = flow();
        let mut take = |name: &str, n: usize| {
            let line = Line { name, value: 1.0, step: None, rank: None };
            flow.take(&line, &rank(n), BY, 0, |_| {})
        };
        for n in 0..MAX_NAMES {
            take(&format!("m{n}"), 0).unwrap();
        }
        assert_eq!(take("one-more", 0), Err(Refused::Names));
        assert_eq!(take("loss", 0), Ok(()), "what a rule needs is not counted");
        for n in 1..MAX_SERIES {
            take("loss", n).unwrap();
        }
        assert_eq!(take("loss", MAX_SERIES), Err(Refused::Series(MAX_SERIES)));
        let evidence = (0..MAX_SERIES).flat_map(|s| (0..MAX_NAMES).map(move |n| (s, n)));
        let refused = evidence.filter(|(s, n)| take(&format!("m{n}"), *s).is_err()).count();
        assert_eq!(refused, MAX_SERIES * MAX_NAMES - MAX_EVIDENCE);
    }

    #[test]
    fn the_quota_counts_judgements_of_values_by_the_rules_on_them() {
        for (when, rules, cost) in [
            ("signal = \"metric.loss\", above = 1", 1_000, 1_000),
            ("signal = \"metric.loss\", is = \"not-finite\"", 10, 10),
            ("signal = \"metric.loss\", above = 1, over = \"mean\"", 100, 100),
            ("all = [{ signal = \"metric.loss\", above = 1 }, { signal = \"metric.other\", above = 1 }]", 50, 100),
        ] {
            let mut flow = under(when, rules);
            let passed: usize = (0..INPUTS_AT_ONCE).map(|_| feed(&mut flow, "loss", 1.0, 0).len()).sum();
            assert_eq!(passed as u64, INPUTS_AT_ONCE.min(JUDGEMENTS_AT_ONCE / cost), "{when}");
            let mut out = Vec::new();
            // Time enough for what waits, of which no value that could trip a rule is lost.
            assert!(!flow.settle(1_000_000_000, |m| out.push(m)), "{when}");
            assert_eq!(passed as u64 + out.iter().map(|m| m.repeats + 1).sum::<u64>(), INPUTS_AT_ONCE, "{when}");
        }
    }

    #[test]
    fn judging_over_all_series_costs_more_with_more_series() {
        let mut flow = under("signal = \"metric.loss\", above = 1, over = \"max\"", 100);
        for n in 0..MAX_SERIES {
            let line = Line { name: "other", value: 1.0, step: None, rank: None };
            flow.take(&line, &rank(n), BY, 0, |_| {}).unwrap();
        }
        let passed: usize = (0..100).map(|_| feed(&mut flow, "loss", 1.0, 0).len()).sum();
        assert_eq!(passed as u64, JUDGEMENTS_AT_ONCE / (100 * 16));
    }

    #[test]
    fn the_states_of_many_rules_are_kept_for_fewer_series() {
        let mut flow = under("signal = \"metric.loss\", above = 1", 1_024);
        let most = STATES / (1_024 * 256);
        let mut take = |n: usize| {
            let line = Line { name: "loss", value: 1.0, step: None, rank: None };
            flow.take(&line, &rank(n), BY, 0, |_| {})
        };
        assert!((0..most).all(|n| take(n).is_ok()));
        assert_eq!(take(most), Err(Refused::Series(most)));
        assert_eq!(Refused::Series(64).to_string(), "the run has more than 64 series (limit 64 under its policy)");
    }
}
