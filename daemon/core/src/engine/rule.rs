//! The state of one rule of one run: armed, pending since, tripped; and the window of a rate.

use super::{
    levels::{Levels, Of, OfSignal},
    series::{Judged, Members},
    window::{Window, rate_passed},
};
use crate::{
    decision::Mode,
    policy::{Bound, Condition, Effect, Fit, LEAST_COOLDOWN, Op, Over, Rule},
    signal::{Kind, Series, Signal, Value},
    subject::{GpuId, Process, Subject},
    time::{MonoTime, Span},
};

/// One rule's state. A rule on a GPU signal has a [`Level`] for each GPU; one on a metric has one for each series, or one for
/// all of them where it is judged over all.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleState {
    levels: Levels<Level>,
    members: Members,
    event: EventState,
}

#[derive(Debug, Clone, Default)]
struct Level {
    since: Option<MonoTime>,
    tripped: bool,
    /// It tripped while the run was only watched, so that nothing was done.
    held_back: bool,
    /// From when on it trips again though it has not cleared.
    rearmed_at: Option<MonoTime>,
    window: Window,
}

#[derive(Debug, Clone, Default)]
struct EventState {
    last: Option<MonoTime>,
    /// At that time the run was only watched, so that nothing was done.
    held_back: bool,
    /// What happened then would only have been denied.
    observed: bool,
    suppressed: u64,
}

/// What is only observed when a rule is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observes {
    /// What the rule judges, so that a denial is one that would have been.
    pub denials: bool,
    /// The run, so that nothing is done for a trip.
    pub run: bool,
    /// What happened trips also within the cooldown of what would have been denied. With earlier engines it did not.
    pub real_trips_again: bool,
    /// A rule that contains nothing trips at most once in [`LEAST_COOLDOWN`]. With earlier engines its own cooldown counted, however short.
    pub paced: bool,
}

/// A level whose value is still beyond the bound after the run was only watched, with the value's key.
pub(super) type StandingLevel = (Option<GpuId>, Option<Series>);

/// A trip: how many were held back since the last, by the cooldown and by the kernel.
pub(super) struct Trip {
    pub suppressed: u64,
    /// The kernel let it through, because the policy only observes; the rule is on what is denied.
    pub observed: bool,
}

impl RuleState {
    /// After a thaw an event rule trips again at once. A threshold re-arms when its value clears: the operator who thawed has
    /// seen it. Where the rule has a `rearm`, it trips again after that, cleared or not.
    pub(super) fn rearm(&mut self, rule: &Rule, at: MonoTime) {
        self.event.last = None;
        for (of, level) in self.levels.iter_mut().filter(|(_, level)| level.tripped) {
            // A recording from before there were series replays to what was decided then.
            let own = matches!(of, Of::Series(_) | Of::AllSeries) || rule.metric.rearm.is_some();
            level.rearmed_at = rule.rearm().filter(|_| own).map(|after| MonoTime(at.0.saturating_add(after.0)));
        }
    }

    /// The run is no longer only watched: what tripped meanwhile, and was not acted upon, is armed again. Returns the levels that trip at
    /// once, as their last value is `seen` and has been beyond the bound for long enough; the others trip by their next value.
    pub(super) fn enforce(
        &mut self,
        rule: &Rule,
        at: MonoTime,
        seen: impl Fn(&Kind, Option<&GpuId>, Option<&Series>) -> bool,
    ) -> Vec<StandingLevel> {
        if std::mem::take(&mut self.event.held_back) {
            self.event.last = None;
        }
        let (kind, hold) = match &rule.when {
            Condition::Threshold { kind, hold, .. } => (kind, *hold),
            Condition::NotFinite { kind } => (kind, Span(0)),
            Condition::Event(_) | Condition::Tree(_) => return Vec::new(),
        };
        let mut standing = Vec::new();
        for (of, level) in self.levels.iter_mut().filter(|(_, level)| level.held_back) {
            level.rearm();
            let (gpu, series) = match of {
                Of::Run | Of::AllSeries => (None, None),
                Of::Gpu(gpu) => (Some(&*gpu), None),
                Of::Series(series) => (None, Some(&*series)),
            };
            if level.since.is_some_and(|since| at.since(since) >= hold) && seen(kind, gpu, series) {
                level.tripped = true;
                standing.push((gpu.cloned(), series.cloned()));
            }
        }
        standing
    }

    /// The daemon stood still for this long until `at`: it is not known how the values were meanwhile.
    pub(super) fn paused(&mut self, at: MonoTime, length: Span) {
        for (_, level) in self.levels.iter_mut() {
            level.since = level.since.map(|since| since.skip(length, at));
        }
    }

    /// Events that matched within the cooldown since the last decision.
    pub(super) fn suppressed(&self) -> u64 {
        self.event.suppressed
    }

    /// A trip led to no decision, and the events that it stands for neither: the next decision counts them.
    pub(super) fn suppress(&mut self, before: u64) {
        self.event.suppressed = self.event.suppressed.saturating_add(before).saturating_add(1);
        self.event.last = None;
    }

    pub(super) fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.event.suppressed)
    }

    /// Where the rule tripped and does not trip again yet, with what it waits for.
    pub(super) fn disarmed(&self, rule: &Rule, now: MonoTime) -> Vec<String> {
        let until = match &rule.when {
            Condition::Threshold { kind, op, clear, over, .. } => {
                let side = if *op == Op::Above { "at or below" } else { "at or above" };
                let rate = if over.is_some() { "/s" } else { "" };
                format!("{kind} is {side} {}{rate}", clear.show(kind.unit()))
            }
            Condition::NotFinite { kind } => format!("{kind} is finite"),
            Condition::Event(_) | Condition::Tree(_) => return Vec::new(),
        };
        let tripped = self.levels.iter().filter(|(_, level)| level.tripped);
        tripped
            .map(|(of, level)| {
                let again = match level.rearmed_at {
                    Some(at) => format!(", or for {} more", at.since(now)),
                    None => String::new(),
                };
                format!("rule {} ({of}): until {until}{again}", rule.id)
            })
            .collect()
    }

    /// The series has ended: it neither trips nor clears any more.
    pub(super) fn retire(&mut self, series: &Series) {
        self.members.remove(series);
        self.levels.remove(series);
    }

    /// Judges a signal. Whether the rule trips.
    pub(super) fn signal(&mut self, rule: &Rule, signal: &Signal, observes: Observes) -> Option<Trip> {
        let held_back = observes.run && rule.mode == Mode::Enforce;
        match &rule.when {
            Condition::Event(wanted) => {
                let Value::Event(event) = &signal.value else { return None };
                let process = process_of(&signal.subject);
                // What may match in a part that was too long to be read stops the run; of other rules the daemon reports a gap.
                let trips = |fit| match fit {
                    Fit::Yes => true,
                    Fit::Unknown => rule.effect == Effect::Stop,
                    Fit::No => false,
                };
                let happened = trips(wanted.fit(event, process));
                let observed = !happened && observes.denials && trips(wanted.fit_if_denied(event, process));
                if !happened && !observed {
                    return None;
                }
                let acts = rule.mode == Mode::Enforce && !held_back;
                if happened && self.event.observed && observes.real_trips_again && acts {
                    self.event.last = None;
                }
                let contains = acts && !observed && rule.actions.iter().any(|action| action.contains());
                let least = if observes.paced && !contains { LEAST_COOLDOWN } else { Span(0) };
                let trip = self.event.trip(signal.at, rule.cooldown.max(least), signal.repeats)?;
                (self.event.held_back, self.event.observed) = (held_back, observed);
                Some(Trip { observed, ..trip })
            }
            // Judged by `super::tree`.
            Condition::Tree(_) => None,
            Condition::NotFinite { kind } | Condition::Threshold { kind, .. } if *kind != signal.kind => None,
            Condition::NotFinite { .. } => {
                let one = |real: f64| Judged { bad: !real.is_finite(), cleared: real.is_finite() };
                self.metric(rule, signal, one, (signal.value.real()?, Span(0)), held_back)
            }
            Condition::Threshold { kind, op, bound, clear, hold, over } => {
                if let (Value::Claimed(claimed), None) = (&signal.value, over) {
                    let (Bound::Real(bound), Bound::Real(clear)) = (bound, clear) else { return None };
                    let one = |real: f64| judge_real(*op, bound.0, clear.0, real);
                    return self.metric(rule, signal, one, (claimed.value.0, *hold), held_back);
                }
                let level = self.levels.get(of(&signal.subject))?;
                let (bad, clear) = match (over, &signal.value) {
                    (None, value) => (bound.passed(*op, value), !not_cleared(*op, *clear, value)),
                    (Some(over), Value::Integer(total)) => {
                        let (delta, span) = level.window.delta(signal.at, *total, *over, kind.shape())?;
                        (rate_passed(*op, *bound, delta, span), !rate_passed(*op, *clear, delta, span))
                    }
                    (Some(_), _) => return None,
                };
                level.judge(signal.at, (bad, clear && !bad), *hold, held_back)
            }
        }
    }

    /// A value of a metric, judged over the series that the rule names.
    fn metric(
        &mut self,
        rule: &Rule,
        signal: &Signal,
        one: impl Fn(f64) -> Judged,
        (value, hold): (f64, Span),
        held_back: bool,
    ) -> Option<Trip> {
        let (level, judged) = match (rule.metric.over, signal.value.series()) {
            (_, None) => (of(&signal.subject), one(value)),
            (Over::Any, Some(series)) => (OfSignal::Series(series), one(value)),
            (over, Some(series)) => {
                self.members.take(series, value);
                (OfSignal::AllSeries, self.members.judge(over, one))
            }
        };
        self.levels.get(level)?.judge(signal.at, (judged.bad, judged.cleared && !judged.bad), hold, held_back)
    }
}

fn of(subject: &Subject) -> OfSignal<'_> {
    match subject {
        Subject::Gpu(gpu) => OfSignal::Gpu(gpu),
        Subject::Node | Subject::Run(_) | Subject::Process { .. } => OfSignal::Run,
    }
}

/// The process that a signal is about, where it is one.
pub(super) fn process_of(subject: &Subject) -> Option<&Process> {
    match subject {
        Subject::Process { process, .. } => Some(process),
        Subject::Node | Subject::Gpu(_) | Subject::Run(_) => None,
    }
}

/// A NaN is beyond no bound, and clears none.
fn judge_real(op: Op, bound: f64, clear: f64, value: f64) -> Judged {
    match op {
        Op::Above => Judged { bad: value > bound, cleared: value <= clear },
        Op::Below => Judged { bad: value < bound, cleared: value >= clear },
    }
}

impl EventState {
    /// The event stands for `repeats` before it, too, which the kernel held back.
    fn trip(&mut self, at: MonoTime, cooldown: Span, repeats: u64) -> Option<Trip> {
        self.suppressed = self.suppressed.saturating_add(repeats);
        if self.last.is_some_and(|last| at.since(last) < cooldown) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some(at);
        Some(Trip { suppressed: std::mem::take(&mut self.suppressed), observed: false })
    }
}

impl Level {
    fn rearm(&mut self) {
        (self.tripped, self.held_back, self.rearmed_at) = (false, false, None);
    }

    fn judge(&mut self, at: MonoTime, (bad, cleared): (bool, bool), hold: Span, held_back: bool) -> Option<Trip> {
        if cleared {
            self.rearm();
        }
        if self.rearmed_at.is_some_and(|from| from <= at) {
            // `for` is judged anew: what held before the thaw has been seen.
            self.rearm();
            self.since = None;
        }
        if !bad {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(at);
        if self.tripped || at.since(since) < hold {
            return None;
        }
        (self.tripped, self.held_back) = (true, held_back);
        Some(Trip { suppressed: 0, observed: false })
    }
}

fn not_cleared(op: Op, clear: Bound, value: &Value) -> bool {
    match value {
        // A NaN clears nothing.
        Value::Real(real) if real.0.is_nan() => true,
        value => clear.passed(op, value),
    }
}
