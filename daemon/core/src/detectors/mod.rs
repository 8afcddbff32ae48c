//! Detectors: signals that no sensor gives, computed from those that sensors do. They are called `gpu.derived.*`, and rules
//! bound them like any other.
//!
//! ```text
//! signal of a GPU or metric of the run ─► each Detector ─► derived signal ─► the run's rules
//! ```
//!
//! Owned by a run's state and fed inside `step` by what is recorded, so that a replay computes the same. Only those run that
//! the run's policy names, with the numbers of that policy (`[derived]`). A duration is how long a state has lasted; it is 0
//! when it ends.

mod clock_held;
mod ecc_rate;
mod idle_power;
mod memory_slope;
mod spin;
mod stall;
mod straggler;
mod thermal_slope;
mod window;

use crate::{
    policy::{Derived, Policy},
    signal::{Kind, Signal, Value},
    subject::{GpuId, Subject},
    time::MonoTime,
};
use std::collections::{BTreeMap, BTreeSet};

/// One derived signal of one GPU.
trait Detector: std::fmt::Debug + Send + Sync {
    /// Takes a value of the GPU; the derived value, where there is one now.
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64>;
    /// A metric of the run came: it makes progress.
    fn progress(&mut self, _at: MonoTime) {}
    /// For a copy of the state.
    fn copy(&self) -> Box<dyn Detector>;
}

/// What a detector sees: the value that came, and the last of every other kind.
struct Sample<'a> {
    kind: &'a Kind,
    value: i64,
    at: MonoTime,
    last: &'a BTreeMap<Kind, i64>,
}

impl Sample<'_> {
    /// The value, if it is of this kind.
    fn of(&self, kind: &Kind) -> Option<i64> {
        (self.kind == kind).then_some(self.value)
    }

    fn last(&self, kind: &Kind) -> Option<i64> {
        self.last.get(kind).copied()
    }
}

/// The detectors of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detectors {
    wanted: BTreeSet<Kind>,
    derived: Derived,
    gpus: BTreeMap<GpuId, Gpu>,
    straggler: straggler::Straggler,
}

#[derive(Debug, Default)]
struct Gpu {
    last: BTreeMap<Kind, i64>,
    detectors: Vec<(Kind, Box<dyn Detector>)>,
}

impl Clone for Gpu {
    fn clone(&self) -> Gpu {
        let copy = |(kind, detector): &(Kind, Box<dyn Detector>)| (kind.clone(), detector.copy());
        Gpu { last: self.last.clone(), detectors: self.detectors.iter().map(copy).collect() }
    }
}

impl Detectors {
    /// Those that the policy's rules name.
    pub(crate) fn of(policy: &Policy) -> Detectors {
        let kinds = policy.rules.iter().flat_map(|rule| rule.when.signals()).filter(|kind| kind.is_derived());
        Detectors { wanted: kinds.cloned().collect(), derived: policy.derived.clone(), ..Detectors::default() }
    }

    /// Takes a signal; the derived ones, of the same instant and input.
    pub(crate) fn take(&mut self, signal: &Signal) -> Vec<Signal> {
        if self.wanted.is_empty() {
            return Vec::new();
        }
        if let Kind::Metric(_) = signal.kind {
            for (_, detector) in self.gpus.values_mut().flat_map(|gpu| &mut gpu.detectors) {
                detector.progress(signal.at);
            }
            return Vec::new();
        }
        let (Subject::Gpu(id), Value::Integer(value)) = (&signal.subject, &signal.value) else { return Vec::new() };
        let (wanted, derived) = (&self.wanted, &self.derived);
        if !self.gpus.contains_key(id) {
            self.gpus.insert(id.clone(), Gpu::new(wanted, derived, signal.at));
        }
        let Some(gpu) = self.gpus.get_mut(id) else { return Vec::new() };
        gpu.last.insert(signal.kind.clone(), *value);
        let seen = Sample { kind: &signal.kind, value: *value, at: signal.at, last: &gpu.last };
        let mut found: Vec<(GpuId, Kind, i64)> = Vec::new();
        for (kind, detector) in &mut gpu.detectors {
            found.extend(detector.take(&seen).map(|value| (id.clone(), kind.clone(), value)));
        }
        if self.wanted.contains(&Kind::GpuDerivedStraggler) && signal.kind == Kind::GpuUtilization {
            // Its last clock, where it works: from the same utilisation on as for clocks that are held down.
            let works = *value >= self.derived.clock_held.utilization;
            let of = |kind| gpu.last.get(&kind).copied().filter(|clock| works && *clock > 0);
            let share = |(clock, most): (i64, i64)| clock.saturating_mul(100_000) / most;
            let clock = of(Kind::GpuClockSm).zip(of(Kind::GpuClockSmMax)).map(share);
            let behind = self.straggler.take(id, (*value, clock), self.derived.straggler, signal.at);
            found.extend(behind.map(|value| (id.clone(), Kind::GpuDerivedStraggler, value)));
        }
        let signal_of = |(gpu, kind, value)| Signal {
            subject: Subject::Gpu(gpu),
            kind,
            value: Value::Integer(value),
            ..signal.clone()
        };
        found.into_iter().map(signal_of).collect()
    }

    /// The run's GPUs are now these.
    pub(crate) fn set_gpus(&mut self, gpus: &BTreeSet<GpuId>) {
        self.gpus.retain(|gpu, _| gpus.contains(gpu));
        self.straggler.retain(gpus);
    }
}

impl Gpu {
    fn new(wanted: &BTreeSet<Kind>, derived: &Derived, at: MonoTime) -> Gpu {
        let make = |kind: &Kind| -> Option<Box<dyn Detector>> {
            Some(match kind {
                Kind::GpuDerivedSpinning => Box::new(spin::Spin::new(derived.spinning)),
                Kind::GpuDerivedIdlePower => Box::new(idle_power::IdlePower::new(derived.idle_power)),
                Kind::GpuDerivedStalled => Box::new(stall::Stall::new(derived.stalled, at)),
                Kind::GpuDerivedThermalSlope => Box::new(thermal_slope::ThermalSlope::new(derived.thermal_slope)),
                Kind::GpuDerivedEccRate => Box::new(ecc_rate::EccRate::new(derived.ecc_rate)),
                Kind::GpuDerivedMemorySlope => Box::new(memory_slope::MemorySlope::new(derived.memory_slope)),
                Kind::GpuDerivedClockHeld => Box::new(clock_held::ClockHeld::new(derived.clock_held)),
                _ => return None,
            })
        };
        let detectors = wanted.iter().filter_map(|kind| Some((kind.clone(), make(kind)?))).collect();
        Gpu { last: BTreeMap::new(), detectors }
    }
}

#[cfg(test)]
mod tests;
