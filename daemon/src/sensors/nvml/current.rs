//! What is known of one GPU's signals now: samples put together, since a sample holds only what was asked for in its pass.
//!
//! Pure. Invariant: a signal is in one list; what fails or has gone is no value any more, however recent the last one is.

use super::frame::Sample;
use failsafe_core::signal::Kind;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// The signals of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// Values, each with when it was read (`CLOCK_MONOTONIC`, nanoseconds).
    pub values: BTreeMap<Kind, (i64, u64)>,
    /// Signals, by name, that the GPU does not have.
    pub unsupported: BTreeSet<String>,
    /// Signals, by name, that could not be read when they were last asked for, with the reason.
    pub failing: BTreeMap<String, String>,
}

impl Current {
    /// Takes what one pass found.
    pub fn take(&mut self, sample: &Sample) {
        let mut name = String::new();
        for (kind, value) in &sample.readings {
            // Most GPUs lack something; names are looked up only for them.
            if !(self.unsupported.is_empty() && self.failing.is_empty()) {
                name.clear();
                // A String takes all that is written.
                let _ = write!(name, "{kind}");
                self.unsupported.remove(&name);
                self.failing.remove(&name);
            }
            match self.values.get_mut(kind) {
                Some(known) => *known = (*value, sample.mono_ns),
                None => drop(self.values.insert(kind.clone(), (*value, sample.mono_ns))),
            }
        }
        for name in &sample.unsupported {
            self.forget(name);
            self.unsupported.insert(name.clone());
        }
        for (name, why) in &sample.failing {
            self.forget(name);
            self.failing.insert(name.clone(), why.clone());
        }
        // Events are no signal with a value: nothing is said of them while they are seen.
        for events in [super::sampler::XID, super::sampler::EVENTS] {
            if !sample.failing.iter().any(|(name, _)| name == events) {
                self.failing.remove(events);
            }
            if !sample.unsupported.iter().any(|name| name == events) {
                self.unsupported.remove(events);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.unsupported.remove(name);
        self.failing.remove(name);
        if let Some(kind) = Kind::parse(name) {
            self.values.remove(&kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mono_ns: u64) -> Sample {
        Sample { mono_ns, gpu: "GPU-1".into(), ..Sample::default() }
    }

    #[test]
    fn a_pass_changes_what_it_asked_for_and_nothing_else() {
        let mut now = Current::default();
        now.take(&Sample {
            readings: vec![(Kind::GpuTemperature, 60_000), (Kind::GpuEccCorrected, 3)],
            unsupported: vec!["gpu.fan_speed".into()],
            failing: vec![("gpu.power".into(), "unknown".into()), ("gpu.xid".into(), "not registered yet".into())],
            ..sample(5)
        });
        now.take(&Sample { readings: vec![(Kind::GpuPower, 70_000)], ..sample(9) });
        assert_eq!(now.values[&Kind::GpuEccCorrected], (3, 5), "not asked for in the second pass");
        assert_eq!(now.values[&Kind::GpuPower], (70_000, 9));
        assert!(now.failing.is_empty() && now.unsupported.contains("gpu.fan_speed"));

        now.take(&Sample { failing: vec![("gpu.temperature".into(), "lost".into())], ..sample(11) });
        assert!(!now.values.contains_key(&Kind::GpuTemperature), "a value that cannot be read is not served on");
    }
}
