//! A condition for one GPU, or for the run: its truth, for how long it holds, and whether its rule trips.

use super::program::{Program, states};
use crate::{
    engine::leaf::LeafState,
    policy::{Rule, Tree, Truth},
    subject::GpuId,
    time::{MonoTime, Span},
};

/// The condition for one GPU, or for the run.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) gpu: Option<GpuId>,
    pub(super) own: Vec<LeafState>,
    /// The truth of each step at the last judgement.
    pub(super) truths: Vec<Truth>,
    /// The same without what would have been denied, as far as that was asked for.
    pub(super) real: Vec<Truth>,
    holds: Stopwatch,
    fails: Stopwatch,
    pub(super) tripped: bool,
    /// It tripped only with what would have been denied, so that nothing was done.
    pub(super) observed: bool,
    /// It tripped while the run was only watched, so that nothing was done.
    pub(super) held_back: bool,
    pub(super) thawed: bool,
    pub(super) rearmed_at: Option<MonoTime>,
    pub(super) last_trip: Option<MonoTime>,
    pub(super) now: MonoTime,
}

impl Instance {
    pub(super) fn new(program: &Program, gpu: Option<GpuId>, now: MonoTime) -> Instance {
        Instance {
            gpu,
            own: states(program, now),
            truths: vec![Truth::Unknown; program.steps.len()],
            real: vec![Truth::Unknown; program.steps.len()],
            holds: Stopwatch::default(),
            fails: Stopwatch::default(),
            tripped: false,
            observed: false,
            held_back: false,
            thawed: false,
            rearmed_at: None,
            last_trip: None,
            now,
        }
    }

    pub(super) fn truth(&self) -> Truth {
        self.truths.last().copied().unwrap_or_default()
    }

    pub(super) fn name(&self) -> String {
        self.gpu.as_ref().map_or_else(|| "the run".to_owned(), ToString::to_string)
    }

    /// An event happened anew: what an operator saw before a thaw was something else.
    pub(super) fn again(&mut self) {
        if self.thawed {
            self.rearm();
            self.holds.reset();
        }
    }

    pub(super) fn rearm(&mut self) {
        (self.tripped, self.observed, self.held_back) = (false, false, false);
        (self.thawed, self.rearmed_at) = (false, None);
    }

    /// The daemon stood still for this long until `at`: it is not known how the condition was meanwhile.
    pub(super) fn paused(&mut self, at: MonoTime, length: Span) {
        self.holds.skip(at, length);
        self.fails.skip(at, length);
    }

    /// From the truth of the condition to whether the rule trips.
    pub(super) fn step(&mut self, rule: &Rule, tree: &Tree, now: MonoTime) -> bool {
        let truth = self.truth();
        match truth {
            Truth::True => self.fails.reset(),
            Truth::False => {
                self.holds.reset();
                self.fails.run(now);
            }
            Truth::Unknown => {
                self.holds.pause(now);
                self.fails.pause(now);
            }
        }
        if truth == Truth::False && self.fails.elapsed(now) >= tree.keep {
            self.rearm();
        }
        if self.rearmed_at.is_some_and(|from| from <= now) {
            // `for` is judged anew: what held before the thaw has been seen.
            self.rearm();
            self.holds.reset();
        }
        if truth != Truth::True {
            return false;
        }
        self.holds.run(now);
        let cools = self.last_trip.is_some_and(|last| now.since(last) < rule.cooldown);
        if self.tripped || cools || self.holds.elapsed(now) < tree.hold {
            return false;
        }
        (self.tripped, self.last_trip) = (true, Some(now));
        true
    }
}

/// For how long something has been known to be so. It stands still while that is not known.
#[derive(Debug, Clone, Copy, Default)]
struct Stopwatch {
    held: Span,
    since: Option<MonoTime>,
}

impl Stopwatch {
    fn run(&mut self, now: MonoTime) {
        self.since.get_or_insert(now);
    }

    fn pause(&mut self, now: MonoTime) {
        self.held = self.elapsed(now);
        self.since = None;
    }

    fn skip(&mut self, at: MonoTime, length: Span) {
        self.since = self.since.map(|since| since.skip(length, at));
    }

    fn reset(&mut self) {
        *self = Stopwatch::default();
    }

    fn elapsed(&self, now: MonoTime) -> Span {
        let running = self.since.map_or(Span(0), |since| now.since(since));
        Span(self.held.0.saturating_add(running.0))
    }
}
