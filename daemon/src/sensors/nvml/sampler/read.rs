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

use super::{super::frame::Sample, plausible::plausible, shared::Busyness};
use crate::platform::clock;
use failsafe_core::signal::Kind;
use nvml_wrapper::{Device, GpmSample, error::NvmlError};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the errors of a sample mean for the handle it was read with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// At least one signal was read, or the failures say nothing about the handle.
    Well,
    /// The GPU is gone or needs a reset: its handle is to be made anew.
    Lost,
    /// Every handle of this process is void.
    Void,
}

/// How often the groups of signals are asked for; the first group with every pass.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// GPM and what holds the clocks down.
    pub second: Duration,
    /// ECC, rows, PCIe, NVLink, fans, limits, engines beside the compute units.
    pub slow: Duration,
    /// Thresholds and greatest clocks; and again what the GPU does not have.
    pub rare: Duration,
}

impl Rates {
    /// For samples this far apart, and slow groups at least this far.
    pub fn new(interval: Duration, slow: Duration) -> Rates {
        let second = interval.max(Duration::from_secs(1).min(slow));
        let slow = slow.max(interval);
        Rates { second, slow, rare: slow * 12 }
    }
}

/// When a group is due next.
struct Due(Instant);

impl Due {
    fn take(&mut self, now: Instant, every: Duration) -> bool {
        let due = now >= self.0;
        if due {
            self.0 = now + every;
        }
        due
    }
}

/// Room for the readings of a pass of every group.
const READINGS: usize = 128;

/// Asks one GPU, pass after pass.
pub struct Reader {
    pub device: Device<'static>,
    gpu: String,
    busy: Arc<Busyness>,
    rates: Rates,
    second: Due,
    slow: Due,
    rare: Due,
    /// Signals that this GPU or driver does not have.
    absent: BTreeSet<Kind>,
    /// The enforced power limit, milliwatts.
    limit: Option<u32>,
    gpm: Option<GpmSample<'static>>,
    lists: processes::Lists,
    uses: processes::Uses,
    sample: Sample,
    standing: Standing,
}

/// The value of a signal in an answer; `None` when the answer does not hold it.
type Get<T> = fn(&T) -> Option<i64>;

impl Reader {
    pub fn new(device: Device<'static>, gpu: &str, busy: &Arc<Busyness>, rates: Rates) -> Reader {
        let now = || Due(Instant::now());
        Reader {
            device,
            gpu: gpu.to_owned(),
            busy: Arc::clone(busy),
            rates,
            second: now(),
            slow: now(),
            rare: now(),
            absent: BTreeSet::new(),
            limit: None,
            gpm: None,
            lists: processes::Lists::default(),
            uses: processes::Uses::default(),
            sample: Sample::default(),
            standing: Standing::Well,
        }
    }

    /// One pass over what is due.
    pub fn pass(&mut self) -> (Sample, Standing) {
        let readings = Vec::with_capacity(READINGS);
        self.sample = Sample { mono_ns: clock::monotonic_ns(), gpu: self.gpu.clone(), readings, ..Sample::default() };
        self.standing = Standing::Well;
        let now = Instant::now();
        if self.rare.take(now, self.rates.rare) {
            self.absent.clear();
            self.rare();
        }
        let (second, slow) = (self.second.take(now, self.rates.second), self.slow.take(now, self.rates.slow));
        // The power limit comes before the draw, of which it makes a share.
        if slow {
            self.slow();
        }
        self.fast();
        self.due_fields(second, slow);
        self.processes(second, slow);
        if second {
            self.gpm();
        }
        self.busy.done();
        if !self.sample.readings.is_empty() && self.standing == Standing::Lost {
            self.standing = Standing::Well;
        }
        (std::mem::take(&mut self.sample), self.standing)
    }

    /// Everything is asked for again with the next pass.
    pub fn renew(&mut self) {
        let now = Instant::now();
        (self.second, self.slow, self.rare) = (Due(now), Due(now), Due(now));
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
        if kinds.iter().all(|(kind, _)| self.absent.contains(kind)) {
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

    fn put(&mut self, kind: Kind, value: i64) {
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

    fn missing(&mut self, kind: Kind, error: &NvmlError) {
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
pub fn standing(error: &NvmlError) -> Standing {
    match error {
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => Standing::Void,
        NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::InvalidArg => Standing::Lost,
        _ => Standing::Well,
    }
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        assert_eq!(standing(&NvmlError::GpuLost), Standing::Lost);
        assert_eq!(standing(&NvmlError::Uninitialized), Standing::Void);
        assert_eq!(standing(&NvmlError::NotSupported), Standing::Well);
        assert_eq!(standing(&NvmlError::Unknown), Standing::Well);
        assert!(is_absence(&NvmlError::FailedToLoadSymbol(String::new())) && !is_absence(&NvmlError::GpuLost));
    }

    #[test]
    fn slow_groups_are_never_faster_than_the_samples() {
        let ms = Duration::from_millis;
        let rates = Rates::new(ms(100), ms(5_000));
        assert_eq!((rates.second, rates.slow), (ms(1_000), ms(5_000)));
        let rates = Rates::new(ms(10_000), ms(5_000));
        assert_eq!((rates.second, rates.slow), (ms(10_000), ms(10_000)));
        let rates = Rates::new(ms(50), ms(100));
        assert_eq!((rates.second, rates.slow), (ms(100), ms(100)), "tests make everything fast");
    }
}
