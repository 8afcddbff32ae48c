//! The state of one test of a condition: what is known of its values, and since when.
//!
//! Invariants: no value that is missing, not a number or not seen makes a test true or false, and none lets `for` advance; a value
//! that was known before a sensor went blind counts no more when the sensor sees again. Nothing here allocates once every series and
//! every sample of a rate's window has been seen.

mod comparing;
mod counting;
mod detecting;

use super::{
    rule::process_of,
    window::{Window, rate_passed},
};
use crate::{
    decision::Observation,
    detect::Started,
    policy::{Bound, Fit, Op, Over, Test, Truth, condition::reads_of, tree::PHASE_METRIC},
    signal::{Claimed, Kind, MAX_SERIES, Real, Series, Signal, Source, Value},
    subject::{GpuId, Process},
    time::{MonoTime, Span},
};
use comparing::Baseline;
use counting::Counted;
use std::collections::{BTreeMap, BTreeSet};

/// What the run's sensors do not see at the moment.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub blind: &'a BTreeSet<(Source, Option<GpuId>)>,
    pub unread: &'a BTreeMap<(GpuId, Kind), String>,
    pub silent: &'a BTreeMap<String, String>,
    /// The run stands still, so that it reports nothing.
    pub frozen: bool,
    /// Since when it is watched.
    pub registered: MonoTime,
    /// As earlier engines decided: a signal that cannot be read is absent.
    pub unread_is_absent: bool,
    /// What happened is judged without what would have been denied. Earlier engines did not.
    pub judges_real: bool,
    /// The run is not only watched.
    pub enforces: bool,
}

impl Sight<'_> {
    fn is_blind(&self, source: Source, gpu: Option<&GpuId>) -> bool {
        let concerns = |of: &Option<GpuId>| of.as_ref().is_none_or(|of| gpu.is_none_or(|gpu| gpu == of));
        self.blind.iter().any(|(blind, of)| *blind == source && concerns(of))
    }

    /// Why a value of the signal is not seen.
    pub(super) fn hides(&self, kind: &Kind, gpu: Option<&GpuId>) -> bool {
        self.cannot_come(kind, gpu) || matches!(kind, Kind::Metric(name) if self.silent.contains_key(name))
    }

    /// Whether no value can come, whatever there is to see: its sensor is blind, or what it is made of cannot be read.
    fn cannot_come(&self, kind: &Kind, gpu: Option<&GpuId>) -> bool {
        let unread =
            |read: &Kind| self.unread.keys().any(|(of, unread)| unread == read && gpu.is_none_or(|gpu| gpu == of));
        self.is_blind(kind.source(), gpu) || reads_of(kind).iter().any(unread)
    }
}

/// What is known of the run, beside its signals.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The engine that is decided as; `None`: this one.
    pub earlier: Option<u32>,
    /// The numbers of its manifest.
    pub manifest: &'a BTreeMap<String, Real>,
}

/// The state of one test.
#[derive(Debug, Clone, Default)]
pub(super) struct LeafState {
    /// Of each series; one without a name where there are none. In the order of the names.
    series: Vec<(Option<Series>, Gauge)>,
    /// Of all series together, where the test is on their mean, greatest or least value.
    whole: Gauge,
    /// Of the signal that it is compared with: the last value of each series, in the order of the names.
    others: Vec<(Option<Series>, f64)>,
    /// The first step that the run reported, and the last.
    steps: Option<(u64, u64)>,
    /// Of a rate: its window.
    window: Window,
    /// Of an event: when it last happened. Of what is absent: since when it is.
    at: Option<MonoTime>,
    /// Of an event: until when it may have happened unseen.
    unseen: Option<MonoTime>,
    /// The event that last happened.
    event: Option<Box<Observation>>,
    /// The last that happened before an `observed` one.
    before: Option<(MonoTime, Box<Observation>)>,
    /// The kernel let it through because the policy only observes; the test is on what is denied.
    observed: bool,
    /// Of events that are counted: when they happened.
    counted: Option<Box<Counted>>,
}

/// One value against a bound.
#[derive(Debug, Clone, Default)]
struct Gauge {
    value: f64,
    known: bool,
    /// Beyond the bound for long enough, and not cleared since.
    on: bool,
    held: Span,
    last: Option<MonoTime>,
    /// Of a test with a detector: the detector, from the first value on.
    detector: Option<Started>,
    /// What the detector found last, or the bound that moves.
    score: f64,
    /// Of a test that compares with the first values: these.
    baseline: Option<Box<Baseline>>,
}

/// How a value stands to a bound; `None`: it is not a number.
type Judged = Option<(bool, bool)>;

impl Gauge {
    /// A value came: whether it is beyond the bound, and whether it is back at `clear`.
    fn take(&mut self, at: MonoTime, judged: Judged, hold: Span) {
        let Some((bad, cleared)) = judged else { return self.forget() };
        self.known = true;
        if self.on && cleared {
            self.on = false;
        }
        if self.on {
            return;
        }
        if !bad {
            (self.held, self.last) = (Span(0), None);
            return;
        }
        if let Some(last) = self.last {
            self.held = Span(self.held.0.saturating_add(at.since(last).0));
        }
        self.last = Some(at);
        if self.held >= hold {
            (self.on, self.held, self.last) = (true, Span(0), None);
        }
    }

    /// The value is no longer known. What it was does not clear, and `for` waits.
    fn forget(&mut self) {
        (self.known, self.last) = (false, None);
    }

    fn skip(&mut self, at: MonoTime, length: Span) {
        self.last = self.last.map(|last| last.skip(length, at));
    }

    fn truth(&self) -> Truth {
        if self.known { Truth::from(self.on) } else { Truth::Unknown }
    }
}

impl LeafState {
    pub(super) fn new(test: &Test, now: MonoTime) -> LeafState {
        let counted = if let Test::Count { count, .. } = test { Some(Box::new(Counted::new(*count))) } else { None };
        LeafState { at: matches!(test, Test::Absent { .. }).then_some(now), counted, ..LeafState::default() }
    }

    /// A value of the test's signal.
    pub(super) fn value(&mut self, test: &Test, hold: Span, signal: &Signal, known: Known<'_>) {
        match test {
            Test::Threshold { op, bound, clear, over: None, series, .. } => {
                let judge = |value: &Value| judged(*op, *bound, *clear, value);
                let real = |real: f64| judged_real(*op, *bound, *clear, real);
                self.of_series(signal, *series, Some(*op), hold, judge, real);
            }
            Test::Threshold { kind, op, bound, clear, over: Some(over), .. } => {
                let Value::Integer(total) = signal.value else { return };
                let Some((delta, span)) = self.window.delta(signal.at, total, *over, kind.shape()) else { return };
                let Some(gauge) = self.gauge(None) else { return };
                let (bad, clear) = (rate_passed(*op, *bound, delta, span), rate_passed(*op, *clear, delta, span));
                gauge.take(signal.at, Some((bad, !clear)), hold);
            }
            Test::NotFinite { series, .. } => {
                let real = |real: f64| Some((!real.is_finite(), real.is_finite()));
                let judge = |value: &Value| value.real().and_then(real);
                self.of_series(signal, *series, None, hold, judge, real);
            }
            Test::Detect { detect, .. } => self.detect(detect, hold, signal, known.earlier),
            Test::Compare { kind, op, than, .. } => self.compare((kind, *op, than), hold, signal, known.manifest),
            Test::Steps { .. } => self.step(signal),
            Test::Phase { phase } => {
                let number = f64::from(phase.number());
                let real = |real: f64| (!real.is_nan()).then_some((real == number, real != number));
                let judge = |value: &Value| value.real().and_then(real);
                self.of_series(signal, Over::Any, None, hold, judge, real);
            }
            Test::Absent { series, .. } => {
                self.at = self.at.max(Some(signal.at));
                if *series == Over::Any
                    && let Some(gauge) = self.gauge(signal.value.series())
                {
                    gauge.last = gauge.last.max(Some(signal.at));
                }
            }
            Test::Event { .. } | Test::Count { .. } | Test::Age { .. } => {}
        }
    }

    /// A step that came with a value.
    fn step(&mut self, signal: &Signal) {
        let Value::Claimed(Claimed { step: Some(step), .. }) = signal.value else { return };
        let (first, last) = self.steps.unwrap_or((step, step));
        self.steps = Some((first, last.max(step)));
    }

    fn of_series(
        &mut self,
        signal: &Signal,
        over: Over,
        op: Option<Op>,
        hold: Span,
        judge: impl Fn(&Value) -> Judged,
        real: impl Fn(f64) -> Judged,
    ) {
        let together = matches!(over, Over::Mean | Over::Max | Over::Min);
        let Some(gauge) = self.gauge(signal.value.series()) else { return };
        if let Some(value) = signal.value.real() {
            gauge.value = value;
        }
        if together {
            let judged = self.together(over, op, real);
            self.whole.take(signal.at, judged, hold);
        } else {
            gauge.take(signal.at, judge(&signal.value), hold);
        }
    }

    /// What the mean, the greatest or the least value says. A value that is not a number hides the result, but where the others decide it.
    fn together(&self, over: Over, op: Option<Op>, real: impl Fn(f64) -> Judged) -> Judged {
        let values = || self.series.iter().map(|(_, gauge)| gauge.value);
        let numbers = || values().filter(|value| !value.is_nan());
        let whole = match over {
            Over::Max => numbers().reduce(f64::max),
            Over::Min => numbers().reduce(f64::min),
            _ => Some(values().sum::<f64>() / self.series.len() as f64).filter(|mean| !mean.is_nan()),
        };
        let judged = real(whole?);
        let decides = matches!((over, op), (Over::Max, Some(Op::Above)) | (Over::Min, Some(Op::Below)));
        let hidden = values().any(f64::is_nan) && !(decides && judged.is_some_and(|(bad, _)| bad));
        judged.filter(|_| !hidden)
    }

    /// `None` for a series beyond the limit: the sensor refuses those and reports them.
    fn gauge(&mut self, series: Option<&Series>) -> Option<&mut Gauge> {
        let at = match self.series.binary_search_by(|(known, _)| known.as_ref().cmp(&series)) {
            Ok(at) => at,
            Err(_) if self.series.len() >= MAX_SERIES => return None,
            Err(at) => {
                self.series.insert(at, (series.cloned(), Gauge::default()));
                at
            }
        };
        self.series.get_mut(at).map(|(_, gauge)| gauge)
    }

    /// An event of the kind that the test waits for. Whether it happened, as far as that is known.
    pub(super) fn event(&mut self, test: &Test, signal: &Signal, observes: bool) -> bool {
        let (Some(wanted), Value::Event(event)) = (test.event(), &signal.value) else { return false };
        let process: Option<&Process> = process_of(&signal.subject);
        let fit = wanted.fit(event, process);
        let would = if fit == Fit::Yes || !observes { Fit::No } else { wanted.fit_if_denied(event, process) };
        match fit.max(would) {
            Fit::No => false,
            Fit::Unknown => {
                self.unseen = self.unseen.max(Some(signal.at));
                false
            }
            Fit::Yes => {
                let observed = fit != Fit::Yes;
                match (self.at, self.event.take()) {
                    _ if !observed => self.before = None,
                    (Some(at), Some(event)) if !self.observed => self.before = Some((at, event)),
                    _ => {}
                }
                self.at = self.at.max(Some(signal.at));
                self.observed = observed;
                self.event = Some(Box::new(Observation::of(signal)));
                if let Some(counted) = &mut self.counted {
                    counted.take(signal.at, signal.repeats, observed);
                }
                true
            }
        }
    }

    /// What would have been denied counts no more; what happened before it does again.
    pub(super) fn forget_would_be(&mut self) {
        if std::mem::take(&mut self.observed) {
            (self.at, self.event) = self.before.take().unzip();
        }
        if let Some(counted) = &mut self.counted {
            counted.forget_would_be();
        }
    }

    /// A sensor lost something: an event may have happened unseen.
    pub(super) fn lost(&mut self, test: &Test, source: Source, at: MonoTime) {
        if test.event().is_some() && test.source() == Some(source) {
            self.unseen = self.unseen.max(Some(at));
        }
    }

    /// For this long until `at` nothing could come: the time does not count as absence.
    pub(super) fn skip_silence(&mut self, test: &Test, at: MonoTime, length: Span) {
        let is_absent = matches!(test, Test::Absent { .. });
        if is_absent {
            self.at = self.at.map(|from| from.skip(length, at));
        }
        for (_, gauge) in &mut self.series {
            if is_absent {
                gauge.skip(at, length);
            }
            if let Some(detector) = gauge.detector.as_mut() {
                detector.skip(at, length);
            }
        }
    }

    /// The daemon stood still for this long until `at`: the time counts neither as absence nor for `for`.
    pub(super) fn paused(&mut self, test: &Test, at: MonoTime, length: Span) {
        self.skip_silence(test, at, length);
        if !matches!(test, Test::Absent { .. }) {
            self.series.iter_mut().for_each(|(_, gauge)| gauge.skip(at, length));
            self.whole.skip(at, length);
        }
    }

    /// The series has ended.
    pub(super) fn retire(&mut self, test: &Test, hold: Span, series: &Series, at: MonoTime) {
        let before = self.series.len();
        self.series.retain(|(of, _)| of.as_ref() != Some(series));
        self.others.retain(|(of, _)| of.as_ref() != Some(series));
        if self.series.len() == before {
            return;
        }
        if let Test::Threshold { op, bound, clear, series: over @ (Over::Mean | Over::Max | Over::Min), .. } = test {
            let judged = self.together(*over, Some(*op), |real| judged_real(*op, *bound, *clear, real));
            self.whole.take(at, judged, hold);
        }
    }

    /// How the test stands now.
    pub(super) fn truth(&mut self, test: &Test, gpu: Option<&GpuId>, sight: &Sight<'_>, now: MonoTime) -> Truth {
        match test {
            Test::Steps { after } => {
                self.steps.map_or(Truth::Unknown, |(first, last)| Truth::from(last - first >= *after))
            }
            Test::Age { after } => Truth::from(now.since(sight.registered) >= *after),
            Test::Event { within, .. } | Test::Count { within, .. } => {
                if test.source().is_some_and(|source| sight.is_blind(source, gpu)) {
                    self.unseen = Some(now);
                }
                let lately = |at: Option<MonoTime>| at.is_some_and(|at| now.since(at) < *within);
                let holds = match &mut self.counted {
                    Some(counted) => counted.holds(now, *within),
                    None => lately(self.at),
                };
                match (holds, lately(self.unseen)) {
                    (true, _) => Truth::True,
                    (false, true) => Truth::Unknown,
                    (false, false) => Truth::False,
                }
            }
            Test::Absent { kind, after, series } => {
                // A metric that nobody reports is what the test waits for.
                let hidden = match sight.unread_is_absent {
                    true => sight.is_blind(kind.source(), gpu),
                    false => sight.cannot_come(kind, gpu),
                };
                if hidden || sight.frozen {
                    // Time in which it could not come does not count.
                    self.at = Some(now);
                    self.series.iter_mut().for_each(|(_, gauge)| gauge.last = Some(now));
                }
                let silent = |last: Option<MonoTime>| last.is_some_and(|at| now.since(at) >= *after);
                if *series == Over::Any && !self.series.is_empty() {
                    for (_, gauge) in &mut self.series {
                        (gauge.known, gauge.on) = (!hidden, silent(gauge.last));
                    }
                    return Truth::at_least(1, self.series.iter().map(|(_, gauge)| gauge.truth()));
                }
                if hidden { Truth::Unknown } else { Truth::from(silent(self.at)) }
            }
            Test::Detect { .. } if test.waits() => self.waiting(test, gpu, sight, now),
            Test::Threshold { .. }
            | Test::Compare { .. }
            | Test::NotFinite { .. }
            | Test::Detect { .. }
            | Test::Phase { .. } => self.of_values(test, gpu, sight),
        }
    }

    fn of_values(&mut self, test: &Test, gpu: Option<&GpuId>, sight: &Sight<'_>) -> Truth {
        let hidden = match test {
            Test::Phase { .. } => sight.is_blind(Source::App, None) || sight.silent.contains_key(PHASE_METRIC),
            test => test.kinds().any(|kind| sight.hides(kind, gpu)),
        };
        if hidden {
            self.others.clear();
            self.series.iter_mut().for_each(|(_, gauge)| gauge.forget());
            self.whole.forget();
        }
        let each = || self.series.iter().map(|(_, gauge)| gauge.truth());
        let over = match test {
            Test::Threshold { series, .. }
            | Test::Compare { series, .. }
            | Test::NotFinite { series, .. }
            | Test::Detect { series, .. } => *series,
            _ => Over::Any,
        };
        match over {
            _ if self.series.is_empty() => Truth::Unknown,
            Over::Any => Truth::at_least(1, each()),
            Over::All => Truth::at_least(self.series.len(), each()),
            Over::Mean | Over::Max | Over::Min => self.whole.truth(),
        }
    }

    /// Whether it is true only of what would have been denied.
    pub(super) fn is_observed(&self, test: &Test, now: MonoTime) -> bool {
        if let Some(counted) = &self.counted {
            return counted.is_observed();
        }
        let lately = |at: MonoTime| matches!(test, Test::Event { within, .. } if now.since(at) < *within);
        self.observed && !self.before.as_ref().is_some_and(|(at, _)| lately(*at))
    }

    /// The same as earlier engines judged it: by the last event.
    pub(super) fn was_observed(&self) -> bool {
        self.counted.as_ref().map_or(self.observed, |counted| counted.is_observed())
    }

    /// How many events were counted, of a test that counts them.
    pub(super) fn counted(&self) -> Option<String> {
        self.counted.as_ref().map(|counted| counted.show())
    }

    /// The event that makes the test true.
    pub(super) fn happened(&self) -> Option<&Observation> {
        self.event.as_deref()
    }

    /// Whether a value of any series came.
    pub(super) fn has_series(&self) -> bool {
        !self.series.is_empty()
    }

    /// The series whose values make the test what it is.
    pub(super) fn witnesses(&self, test: &Test, truth: Truth) -> impl Iterator<Item = Option<&Series>> {
        let together = matches!(test, Test::Threshold { series: Over::Mean | Over::Max | Over::Min, .. });
        let fits = move |(_, gauge): &&(Option<Series>, Gauge)| together || gauge.truth() == truth;
        self.series.iter().filter(fits).map(|(series, _)| series.as_ref())
    }

    /// Why the test is unknown.
    pub(super) fn unknown(&self, test: &Test, gpu: Option<&GpuId>, sight: &Sight<'_>) -> String {
        let source = test.source().unwrap_or(Source::Guard);
        let name = match test {
            Test::Phase { .. } => format!("metric.{PHASE_METRIC}"),
            Test::Steps { .. } => return "warm-up: the run has reported no step yet".to_owned(),
            Test::Event { wanted, .. } | Test::Count { wanted, .. } => format!("event {}", wanted.kind.name()),
            other => other.kind().map(Kind::to_string).unwrap_or_default(),
        };
        let why = match test {
            _ if sight.is_blind(source, gpu) => format!("the {source} sensor is blind"),
            Test::Absent { .. } => "the signal cannot be read".to_owned(),
            Test::Compare { than, .. } if !self.series.is_empty() => match than.signal() {
                Some(other) if self.others.is_empty() => format!("no value of {other} yet"),
                Some(other) => format!("not finite, or {other} has no such series"),
                None => match test.manifest_key() {
                    Some(key) => format!("not finite, or the run's manifest has no number {key}"),
                    None => "not finite, or still among its first values".to_owned(),
                },
            },
            Test::Event { within, .. } | Test::Count { within, .. } => {
                format!("events of the last {within} may have been missed or cut")
            }
            _ if self.series.is_empty() => "no value yet".to_owned(),
            Test::Detect { .. } if self.series.iter().any(|(_, gauge)| !gauge.value.is_finite()) => {
                "not finite".to_owned()
            }
            Test::Detect { detect, .. } if self.series.iter().any(|(_, gauge)| gauge.detector.is_some()) => {
                format!("{} cannot judge yet: too few values, or values that do not differ", detect.spec().name)
            }
            _ if self.series.iter().any(|(_, gauge)| gauge.value.is_nan()) => "not a number".to_owned(),
            _ => "no value since it was last not seen".to_owned(),
        };
        format!("{name}: {why}")
    }
}

fn judged(op: Op, bound: Bound, clear: Bound, value: &Value) -> Judged {
    match value.real() {
        Some(real) => judged_real(op, bound, clear, real),
        None => Some((bound.passed(op, value), !clear.passed(op, value))),
    }
}

/// A NaN is beyond no bound, and clears none.
fn judged_real(op: Op, bound: Bound, clear: Bound, value: f64) -> Judged {
    let (Bound::Real(bound), Bound::Real(clear)) = (bound, clear) else { return None };
    let passed = |bound: f64| if op == Op::Above { value > bound } else { value < bound };
    (!value.is_nan()).then(|| (passed(bound.0), !passed(clear.0)))
}
