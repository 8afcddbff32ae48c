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
use failsafe_core::signal::{MAX_SERIES, Series};
use std::collections::{BTreeMap, BTreeSet};

/// Values a second that a run has of the engine, and at once.
const INPUTS: u64 = 10_000;
const INPUTS_AT_ONCE: u64 = 4_000;
/// Bytes a second that are read of a run, and at once.
const BYTES: u64 = 16 << 20;
const BYTES_AT_ONCE: u64 = 16 << 20;
/// Names of metrics of one run that no rule needs.
pub const MAX_NAMES: usize = 256;
/// Metrics of one run that no rule needs, each series counted.
const MAX_EVIDENCE: usize = 2_048;
/// Metrics that no rule needs are kept this often.
const EVIDENCE_EVERY_NS: u64 = 1_000_000_000;

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
    #[error("the run has more than {MAX_SERIES} series (limit {MAX_SERIES})")]
    Series,
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
    needed: std::sync::Arc<BTreeSet<String>>,
    names: BTreeSet<String>,
    pub series: BTreeMap<Series, LiveSeries>,
    windows: BTreeMap<(Series, String), Window>,
    evidence: BTreeMap<(Series, String), Evidence>,
    inputs: Bucket,
    bytes: Bucket,
    order: u64,
}

impl Flow {
    pub(super) fn new(needed: std::sync::Arc<BTreeSet<String>>, now_ns: u64) -> Flow {
        Flow {
            needed,
            names: BTreeSet::new(),
            series: BTreeMap::new(),
            windows: BTreeMap::new(),
            evidence: BTreeMap::new(),
            inputs: Bucket::new(INPUTS, INPUTS_AT_ONCE, now_ns),
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
        let full = self.series.len() >= MAX_SERIES;
        match self.series.get_mut(series) {
            Some(live) => (live.by, live.last_ns, live.ended_ns) = (by, mono_ns, None),
            None if full => return Err(Refused::Series),
            None => drop(self.series.insert(series.clone(), LiveSeries { by, last_ns: mono_ns, ended_ns: None })),
        }
        self.order += 1;
        let point = Point { order: self.order, mono_ns, value: line.value, step: line.step };
        if !self.needed.contains(line.name) {
            return self.evidence(line.name, series, point, out);
        }
        // Behind what waits already, or the order would change.
        let key = (series.clone(), line.name.to_owned());
        if let Some(window) = self.windows.get_mut(&key) {
            window.merge(point);
        } else if self.inputs.take(1, mono_ns) == 1 {
            out(metric(&key, point, 0));
        } else {
            self.windows.insert(key, Window::new(point));
        }
        Ok(())
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
        while let Some(entry) = self.windows.first_entry() {
            let (points, more) = entry.get().points();
            let wanted = points.len() as u64;
            let got = self.inputs.take(wanted, now_ns);
            if got < wanted {
                self.inputs.give_back(got);
                break;
            }
            let (key, _) = entry.remove_entry();
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
    use std::sync::Arc;

    const BY: Reporter = Reporter { pid: 1, start_ticks: 1, oneshot: false };

    fn rank(n: usize) -> Series {
        Series::Rank(n.to_string())
    }

    fn flow() -> Flow {
        Flow::new(Arc::new(["loss".to_owned()].into()), 0)
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
        assert_eq!(take("loss", MAX_SERIES), Err(Refused::Series));
        let evidence = (0..MAX_SERIES).flat_map(|s| (0..MAX_NAMES).map(move |n| (s, n)));
        let refused = evidence.filter(|(s, n)| take(&format!("m{n}"), *s).is_err()).count();
        assert_eq!(refused, MAX_SERIES * MAX_NAMES - MAX_EVIDENCE);
    }
}
