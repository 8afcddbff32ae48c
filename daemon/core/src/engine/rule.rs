//! The state of one rule of one run: armed, pending since, tripped; and the window of a rate.

use crate::{
    policy::{Bound, Condition, Op, Rule},
    signal::{Shape, Signal, Value},
    subject::{GpuId, Subject},
    time::{MonoTime, Span},
};
use std::collections::VecDeque;

/// One rule's state. A rule on a GPU signal has a [`Level`] for each GPU.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleState {
    levels: Vec<(Option<GpuId>, Level)>,
    event: EventState,
}

#[derive(Debug, Clone, Default)]
struct Level {
    since: Option<MonoTime>,
    tripped: bool,
    window: VecDeque<(MonoTime, i64)>,
}

#[derive(Debug, Clone, Default)]
struct EventState {
    last: Option<MonoTime>,
    suppressed: u64,
}

/// A trip: how many were held back since the last, by the cooldown and by the kernel.
pub(super) struct Trip {
    pub suppressed: u64,
}

impl RuleState {
    /// After a thaw an event rule trips again at once. A threshold re-arms only when its value clears: the operator who
    /// thawed has seen it.
    pub(super) fn rearm(&mut self) {
        self.event.last = None;
    }

    pub(super) fn signal(&mut self, rule: &Rule, signal: &Signal) -> Option<Trip> {
        match (&rule.when, &signal.value) {
            (Condition::Event(wanted), Value::Event(event)) => {
                let process = match &signal.subject {
                    Subject::Process { process, .. } => Some(process),
                    _ => None,
                };
                if wanted.matches(event, process) {
                    self.event.trip(signal.at, rule.cooldown, signal.repeats)
                } else {
                    None
                }
            }
            (Condition::NotFinite { kind }, Value::Real(real)) if *kind == signal.kind => {
                let level = self.level(&signal.subject);
                level.judge(signal.at, !real.0.is_finite(), real.0.is_finite(), Span(0))
            }
            (Condition::Threshold { kind, op, bound, clear, hold, over }, value) if *kind == signal.kind => {
                let level = self.level(&signal.subject);
                let (bad, clear) = match (over, value) {
                    (None, value) => (bound.passed(*op, value), !not_cleared(*op, *clear, value)),
                    (Some(over), Value::Integer(total)) => {
                        let (delta, span) = level.delta(signal.at, *total, *over, kind.shape())?;
                        (rate_passed(*op, *bound, delta, span), !rate_passed(*op, *clear, delta, span))
                    }
                    (Some(_), _) => return None,
                };
                level.judge(signal.at, bad, clear && !bad, *hold)
            }
            _ => None,
        }
    }

    fn level(&mut self, subject: &Subject) -> &mut Level {
        let gpu = match subject {
            Subject::Gpu(gpu) => Some(gpu),
            _ => None,
        };
        let at = match self.levels.iter().position(|(g, _)| g.as_ref() == gpu) {
            Some(at) => at,
            None => {
                self.levels.push((gpu.cloned(), Level::default()));
                self.levels.len() - 1
            }
        };
        &mut self.levels[at].1
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
        Some(Trip { suppressed: std::mem::take(&mut self.suppressed) })
    }
}

impl Level {
    fn judge(&mut self, at: MonoTime, bad: bool, cleared: bool, hold: Span) -> Option<Trip> {
        if cleared {
            self.tripped = false;
        }
        if !bad {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(at);
        if self.tripped || at.since(since) < hold {
            return None;
        }
        self.tripped = true;
        Some(Trip { suppressed: 0 })
    }

    /// Growth of the value within the window, and the length it is to be divided by: never less than the window, so that
    /// the first samples of a run cannot make a rate out of nothing.
    /// A level that falls has shrunk; a total cannot.
    fn delta(&mut self, at: MonoTime, total: i64, over: Span, shape: Shape) -> Option<(i64, Span)> {
        if shape == Shape::Counter && self.window.back().is_some_and(|(_, last)| *last > total) {
            // The counter was reset (driver reload, new cgroup): what was before says nothing of what is now.
            self.window.clear();
        }
        while self.window.get(1).is_some_and(|(next, _)| at.since(*next) >= over) {
            self.window.pop_front();
        }
        self.window.push_back((at, total));
        let (first_at, first) = *self.window.front()?;
        Some((total - first, at.since(first_at).max(over)))
    }
}

fn not_cleared(op: Op, clear: Bound, value: &Value) -> bool {
    match value {
        // A NaN clears nothing.
        Value::Real(real) if real.0.is_nan() => true,
        value => clear.passed(op, value),
    }
}

/// `delta / span > bound` per second, exactly, in integers.
fn rate_passed(op: Op, bound: Bound, delta: i64, span: Span) -> bool {
    let Bound::Integer(bound) = bound else { return false };
    let seen = i128::from(delta) * 1_000_000_000;
    let allowed = i128::from(bound) * i128::from(span.0);
    match op {
        Op::Above => seen > allowed,
        Op::Below => seen < allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(shape: Shape, samples: &[(u64, i64)]) -> i64 {
        let mut level = Level::default();
        let all = samples
            .iter()
            .map(|(s, value)| level.delta(MonoTime(s * 1_000_000_000), *value, Span::from_secs(5), shape));
        all.last().flatten().map_or(0, |(delta, _)| delta)
    }

    #[test]
    fn a_level_that_fell_has_shrunk_and_a_total_was_reset() {
        let samples = [(0, 100), (1, 40), (2, 70)];
        assert_eq!(growth(Shape::Level, &samples), -30);
        assert_eq!(growth(Shape::Counter, &samples), 30);
        assert_eq!(growth(Shape::Level, &[(0, 100), (1, 900), (7, 1_000), (8, 1_100)]), 200);
    }
}
