//! How long a run was stopped, and how long another policy would have stopped it: from the decisions of a replay, times the GPUs of
//! the run.
//!
//! ```text
//! recorded   running ........ [stopped ........ thaw] running ............... end
//! replayed   running .... [stopped ............ thaw] running .. [stopped ... end
//!                         earlier                                added
//! ```
//!
//! Only a freeze and a kill stop a run. A stop counts from its decision until the thaw, or until the end of what is recorded: what a
//! stopped run would have done later is in no recording. Operators' commands come in both when they came.

use crate::{
    decision::{Action, Decision, Mode},
    input::Input,
    replay::Replay,
    time::MonoTime,
};
use serde::Serialize;

/// How a stop under the other policy differs from the recorded ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopKind {
    /// Both stop the run, the other policy first: this time is saved.
    Earlier,
    /// Both stop the run, the recorded policy first: this time is lost.
    Later,
    /// Only the other policy stops it: saved if the stop is right, lost if it is a false alarm.
    Added,
    /// Only the recorded policy stopped it.
    Removed,
}

impl StopKind {
    /// Every kind, in the order of reports.
    pub const ALL: [StopKind; 4] = [StopKind::Earlier, StopKind::Later, StopKind::Added, StopKind::Removed];
}

/// What ends the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// The other of the two policies stops the run, too.
    Stopped,
    /// An operator thaws the run.
    Thawed,
    /// The run ends.
    RunEnded,
    /// The recording ends, and the run had not.
    RecordingEnded,
}

/// A time in which one of the policies stops the run and the other does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopDifference {
    /// How they differ.
    pub kind: StopKind,
    /// Since when.
    pub from: MonoTime,
    /// How long.
    pub ns: u64,
    /// What ends it.
    pub until: Until,
    /// The most GPUs that the run had at a time meanwhile.
    pub gpus: usize,
    /// Times the GPUs of the run, in GPU-nanoseconds.
    pub gpu_ns: u128,
}

/// The course of one run over its recordings.
#[derive(Debug, Clone, Default)]
pub struct Compute {
    began: Option<MonoTime>,
    last: MonoTime,
    ended: bool,
    /// How many GPUs the run has, from when on.
    gpus: Vec<(MonoTime, usize)>,
    /// Stopped or not, from when on.
    recorded: Track,
    replayed: Track,
}

/// When a run is stopped: each change, in order.
#[derive(Debug, Clone, Default)]
struct Track {
    changes: Vec<(MonoTime, bool)>,
    killed: bool,
}

impl Track {
    fn stopped(&self) -> bool {
        self.changes.last().is_some_and(|(_, stopped)| *stopped)
    }

    fn set(&mut self, at: MonoTime, stopped: bool) {
        if self.stopped() != stopped {
            // The kernel's events can be a little older than the sample before them.
            let at = self.changes.last().map_or(at, |(last, _)| at.max(*last));
            self.changes.push((at, stopped));
        }
    }

    fn decided(&mut self, decision: &Decision) {
        if decision.mode != Mode::Enforce {
            return;
        }
        self.killed |= decision.actions.contains(&Action::Kill);
        if self.killed || decision.actions.contains(&Action::Freeze) {
            self.set(decision.at, true);
        } else if decision.actions.contains(&Action::Thaw) {
            self.set(decision.at, false);
        }
    }

    fn at(&self, at: MonoTime) -> bool {
        let after = self.changes.partition_point(|(since, _)| *since <= at);
        after.checked_sub(1).and_then(|n| self.changes.get(n)).is_some_and(|(_, stopped)| *stopped)
    }
}

impl Compute {
    /// Takes the next input of the run's recordings, before [`Compute::replayed`] takes the decisions of the recording.
    pub fn input(&mut self, input: &Input) {
        self.last = self.last.max(input.at());
        match input {
            Input::RunStarted(run) => {
                let first = self.began.is_none();
                self.began.get_or_insert(run.registered);
                self.gpus.push((run.registered, run.gpus.len()));
                // Another daemon took it up. Where it was not as that daemon's predecessor left it, nobody knows what the other
                // policy's would have found.
                if first || self.recorded.stopped() != run.contained.frozen {
                    self.recorded.set(run.registered, run.contained.frozen);
                    self.replayed.set(run.registered, run.contained.frozen);
                }
            }
            Input::RunGpus { gpus, at, .. } => self.gpus.push((*at, gpus.len())),
            Input::RunEnded { .. } => self.ended = true,
            _ => {}
        }
    }

    /// Takes the decisions of a recording that was replayed.
    pub fn replayed(&mut self, replay: &Replay) {
        replay.recorded.iter().for_each(|decision| self.recorded.decided(decision));
        replay.replayed.iter().for_each(|decision| self.replayed.decided(decision));
    }

    /// When the first recording begins.
    pub fn began(&self) -> MonoTime {
        self.began.unwrap_or(self.last)
    }

    /// The time that is counted.
    pub fn counted_ns(&self) -> u64 {
        self.last.0.saturating_sub(self.began().0)
    }

    /// The most GPUs that the run had at a time.
    pub fn gpus(&self) -> usize {
        self.gpus.iter().map(|(_, gpus)| *gpus).max().unwrap_or(0)
    }

    /// Whether the run would have gone on beyond the end of the recording: the recorded policy had it stopped at the end, and the other
    /// one would not. How long it would have gone on is not known.
    pub fn would_go_on(&self) -> bool {
        self.recorded.stopped() && !self.replayed.stopped()
    }

    /// Every time in which the policies differ, in order.
    pub fn differences(&self) -> Vec<StopDifference> {
        let end = self.last;
        let changes = self.recorded.changes.iter().chain(&self.replayed.changes);
        let mut times: Vec<MonoTime> = changes.map(|(at, _)| *at).filter(|at| *at < end).collect();
        times.sort_unstable();
        times.dedup();
        let state = |at: MonoTime| (self.recorded.at(at), self.replayed.at(at));
        let mut found: Vec<StopDifference> = Vec::new();
        for (n, from) in times.iter().enumerate() {
            let (recorded, replayed) = state(*from);
            if recorded == replayed {
                continue;
            }
            let next = times.get(n + 1).copied();
            let (kind, until) = match next.map(state) {
                // The one that had not stopped it does, and the other still holds it.
                Some((true, true)) if replayed => (StopKind::Earlier, Until::Stopped),
                Some((true, true)) => (StopKind::Later, Until::Stopped),
                Some(_) if replayed => (StopKind::Added, Until::Thawed),
                Some(_) => (StopKind::Removed, Until::Thawed),
                None => {
                    let until = if self.ended { Until::RunEnded } else { Until::RecordingEnded };
                    (if replayed { StopKind::Added } else { StopKind::Removed }, until)
                }
            };
            let to = next.unwrap_or(end);
            let (gpus, gpu_ns) = self.of_gpus(*from, to);
            found.push(StopDifference { kind, from: *from, ns: to.0 - from.0, until, gpus, gpu_ns });
        }
        found
    }

    /// The most GPUs in a time, and the sum over them.
    fn of_gpus(&self, from: MonoTime, to: MonoTime) -> (usize, u128) {
        let (mut most, mut sum) = (0, 0u128);
        for (n, (since, gpus)) in self.gpus.iter().enumerate() {
            let until = self.gpus.get(n + 1).map_or(to, |(until, _)| (*until).min(to));
            let ns = until.0.saturating_sub(since.0.max(from.0));
            if ns > 0 {
                most = most.max(*gpus);
                sum += u128::from(ns) * *gpus as u128;
            }
        }
        (most, sum)
    }
}

#[cfg(test)]
mod tests;
