//! Reading one GPU: every signal is asked for by itself, so one that fails hides no other.
//!
//! ```text
//!  pass -> which groups are due -> calls, each under its name (read/groups, ecc, board, links) -> Sample
//! ```
//! Owns what is remembered from one pass to the next: when each group is due, which signals this GPU does not have (they are
//! asked for again with the rarest group only), the last GPM sample. Before each call its name is noted, so that a call
//! that never comes back has a name. A value that cannot be is not one: it is told as failing.

mod board;
mod ecc;
mod groups;
mod links;
mod processes;

pub use links::{MAX_LINKS, count as link_count};

use super::{super::frame::Sample, Rates, shared::Busyness};
use crate::{
    platform::clock,
    sensors::{integer, plausible::plausible},
};
use failsafe_core::signal::Kind;
use nvml_wrapper::{Device, GpmSample, error::NvmlError};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// What the errors of a sample mean for the handle it was read with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HandleState {
    /// At least one signal was read, or the failures say nothing about the handle.
    Well,
    /// The GPU is gone or needs a reset: its handle is to be made anew.
    Lost,
    /// Every handle of this process is void.
    Void,
}

/// When a group, or a signal with a rate of its own, is due next.
struct Due(Instant);

impl Due {
    /// Whether it is due at `now`, or so little later that the next pass would be too late. Its times stay on one grid: passes that
    /// come a moment early or late move nothing.
    fn take(&mut self, now: Instant, every: Duration, slack: Duration) -> bool {
        let due = now + slack >= self.0;
        if due {
            let missed = now.saturating_duration_since(self.0).as_nanos() / every.as_nanos().max(1);
            self.0 += every.saturating_mul(u32::try_from(missed + 1).unwrap_or(u32::MAX));
        }
        due
    }
}

/// The groups that are due in a pass, beside the one that always is.
struct DueNow {
    second: bool,
    slow: bool,
    rare: bool,
}

/// Room for the readings of a pass of every group.
const READINGS: usize = 128;
/// The same of a MIG device.
const SLICE_READINGS: usize = 10;

/// Asks one GPU, pass after pass.
pub struct Reader {
    pub device: Device<'static>,
    gpu: String,
    busy: Arc<Busyness>,
    rates: Arc<Rates>,
    second: Due,
    slow: Due,
    rare: Due,
    /// Signals with a rate of their own.
    own: BTreeMap<Kind, Due>,
    /// Those of them that are due in this pass.
    due: BTreeSet<Kind>,
    /// The group whose calls are being made is due; otherwise only such signals are asked for.
    group: bool,
    /// Signals that this GPU or driver does not have.
    absent: BTreeSet<Kind>,
    /// The enforced power limit, milliwatts.
    limit: Option<u32>,
    gpm: Option<GpmSample<'static>>,
    lists: processes::Lists,
    uses: processes::Uses,
    sample: Sample,
    standing: HandleState,
}

/// The value of a signal in an answer; `None` when the answer does not hold it.
type Get<T> = fn(&T) -> Option<i64>;

impl Reader {
    pub fn new(device: Device<'static>, gpu: &str, busy: &Arc<Busyness>, rates: &Arc<Rates>) -> Reader {
        let now = || Due(Instant::now());
        Reader {
            device,
            gpu: gpu.to_owned(),
            busy: Arc::clone(busy),
            rates: Arc::clone(rates),
            second: now(),
            slow: now(),
            rare: now(),
            own: rates.own.keys().map(|kind| (kind.clone(), now())).collect(),
            due: BTreeSet::new(),
            group: true,
            absent: BTreeSet::new(),
            limit: None,
            gpm: None,
            lists: processes::Lists::default(),
            uses: processes::Uses::default(),
            sample: Sample::default(),
            standing: HandleState::Well,
        }
    }

    /// One pass over what is due.
    pub fn pass(&mut self) -> (Sample, HandleState) {
        let DueNow { second, slow, rare } = self.begin(READINGS);
        self.asks(rare, Reader::rare);
        // The power limit comes before the draw, of which it makes a share.
        self.asks(slow, Reader::slow);
        self.asks(true, Reader::fast);
        self.due_fields(second, slow);
        self.group = true;
        self.processes(second, slow);
        self.asks(second, Reader::gpm);
        self.busy.done();
        if !self.sample.readings.is_empty() && self.standing == HandleState::Lost {
            self.standing = HandleState::Well;
        }
        (std::mem::take(&mut self.sample), self.standing)
    }

    /// One pass over a MIG device, which is of that GPU instance of `card`; `None` where nothing of it is due.
    pub fn slice_pass(&mut self, card: &Device<'static>, instance: u32) -> Option<Sample> {
        let DueNow { second, .. } = self.begin(SLICE_READINGS);
        if second || !self.due.is_empty() {
            self.group = second;
            self.memory();
            self.instance_gpm(card, instance);
        }
        self.busy.done();
        let sample = std::mem::take(&mut self.sample);
        let says = !(sample.readings.is_empty() && sample.unsupported.is_empty() && sample.failing.is_empty());
        says.then_some(sample)
    }

    /// A new sample, and what of it is due.
    fn begin(&mut self, room: usize) -> DueNow {
        let readings = Vec::with_capacity(room);
        self.sample = Sample { mono_ns: clock::monotonic_ns(), gpu: self.gpu.clone(), readings, ..Sample::default() };
        self.standing = HandleState::Well;
        let now = Instant::now();
        let slack = self.rates.slack;
        let rare = self.rare.take(now, self.rates.rare, slack);
        if rare {
            self.absent.clear();
        }
        let (second, slow) =
            (self.second.take(now, self.rates.second, slack), self.slow.take(now, self.rates.slow, slack));
        let own = self
            .own
            .iter_mut()
            .filter_map(|(kind, due)| due.take(now, *self.rates.own.get(kind)?, slack).then(|| kind.clone()));
        self.due = own.collect();
        DueNow { second, slow, rare }
    }

    /// Asks for what of a group is due: all that has no rate of its own when the group is, and what has one when that is.
    fn asks(&mut self, group: bool, ask: fn(&mut Reader)) {
        if group || !self.due.is_empty() {
            self.group = group;
            ask(self);
        }
    }

    /// Whether a signal of the group whose calls are being made is to be told.
    fn wanted(&self, kind: &Kind) -> bool {
        // Nearly always nothing has a rate of its own.
        if self.own.is_empty() || !self.own.contains_key(kind) { self.group } else { self.due.contains(kind) }
    }

    /// Everything is asked for again with the next pass.
    pub fn renew(&mut self) {
        let now = Instant::now();
        (self.second, self.slow, self.rare) = (Due(now), Due(now), Due(now));
        self.own.values_mut().for_each(|due| *due = Due(now));
        self.gpm = None;
        self.lists = processes::Lists::default();
        self.uses = processes::Uses::default();
    }

    /// Calls NVML under the function's name and files the signals that the answer holds; `None` when none of them is to be
    /// had of this GPU, or the call failed.
    fn one<T, const N: usize>(
        &mut self,
        call: &'static str,
        kinds: [(Kind, Get<T>); N],
        ask: impl FnOnce(&Device<'static>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        if kinds.iter().all(|(kind, _)| self.absent.contains(kind) || !self.wanted(kind)) {
            return None;
        }
        let answer = self.ask(call, ask);
        for (kind, value) in kinds {
            match &answer {
                Ok(answer) => match value(answer) {
                    Some(value) => self.put(kind, value),
                    None => self.lacks(kind),
                },
                Err(error) => self.missing(kind, error),
            }
        }
        answer.ok()
    }

    /// The same of one signal on which others hang: it is asked for also where only they are due, and told where it is.
    fn first<T>(
        &mut self,
        call: &'static str,
        (kind, value): (Kind, Get<T>),
        ask: impl FnOnce(&Device<'static>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        if self.absent.contains(&kind) {
            return None;
        }
        match self.ask(call, ask) {
            Ok(answer) => match value(&answer) {
                Some(value) => {
                    self.put(kind, value);
                    Some(answer)
                }
                None => {
                    self.lacks(kind);
                    None
                }
            },
            Err(error) => {
                self.missing(kind, &error);
                None
            }
        }
    }

    /// Calls NVML under the function's name, and learns from its error how the handle stands.
    fn ask<T>(
        &mut self,
        call: &'static str,
        ask: impl FnOnce(&Device<'static>) -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        self.busy.calls(call);
        let answer = ask(&self.device);
        if let Err(error) = &answer {
            self.standing = self.standing.max(standing(error));
        }
        answer
    }

    /// Files a value, if it is wanted in this pass.
    fn put(&mut self, kind: Kind, value: i64) {
        if self.wanted(&kind) {
            self.file(kind, value);
        }
    }

    fn file(&mut self, kind: Kind, value: i64) {
        if plausible(&kind, value) {
            self.sample.readings.push((kind, value));
        } else {
            self.sample.failing.push((kind.to_string(), format!("{value} cannot be: it is out of range")));
        }
    }

    /// This GPU or driver does not have it.
    fn lacks(&mut self, kind: Kind) {
        self.sample.unsupported.push(kind.to_string());
        self.absent.insert(kind);
    }

    /// Why a signal is not there, if it is wanted in this pass.
    fn missing(&mut self, kind: Kind, error: &NvmlError) {
        if self.wanted(&kind) || is_absence(error) {
            self.lost(kind, error);
        }
    }

    fn lost(&mut self, kind: Kind, error: &NvmlError) {
        if is_absence(error) {
            self.lacks(kind);
        } else {
            self.sample.failing.push((kind.to_string(), error.to_string()));
        }
    }
}

/// Whether the error says that there is no such thing, rather than that it could not be read now.
pub fn is_absence(error: &NvmlError) -> bool {
    matches!(error, NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound)
}

/// What an error says about the handle it was got with.
pub fn standing(error: &NvmlError) -> HandleState {
    match error {
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => HandleState::Void,
        NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::InvalidArg => HandleState::Lost,
        _ => HandleState::Well,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes at 1 Hz that wander by a millisecond: a group of one second is read with each of them.
    #[test]
    fn a_group_as_fast_as_the_passes_misses_none_and_one_that_was_held_up_does_not_catch_up() {
        let (second, slack, start) = (Duration::from_secs(1), Duration::from_millis(20), Instant::now());
        let mut due = Due(start);
        for pass in 0..50u32 {
            let wanders = Duration::from_millis(u64::from(pass * 7 % 3));
            assert!(due.take(start + second * pass + wanders, second, slack), "pass {pass}");
        }
        assert!(!due.take(start + second * 49 + second / 2, second, slack));
        assert!(due.take(start + second * 90 + second / 4, second, slack), "a call hung");
        assert!(!due.take(start + second * 90 + second / 2, second, slack), "what was missed is not made up for");
        assert!(due.take(start + second * 91, second, slack), "and the grid is the same");
    }

    #[test]
    fn errors_are_distinguished() {
        assert_eq!(standing(&NvmlError::GpuLost), HandleState::Lost);
        assert_eq!(standing(&NvmlError::Uninitialized), HandleState::Void);
        assert_eq!(standing(&NvmlError::NotSupported), HandleState::Well);
        assert_eq!(standing(&NvmlError::Unknown), HandleState::Well);
        assert!(is_absence(&NvmlError::FailedToLoadSymbol(String::new())) && !is_absence(&NvmlError::GpuLost));
    }
}
