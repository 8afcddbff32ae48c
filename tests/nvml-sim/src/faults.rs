//! Which faults of the scenario strike a call: pure, by function, GPU and time.
//!
//! Invariant: what a call meets depends on nothing but its name, its GPU and the
//! scenario time, so a test that steps the clock knows the outcome.

use crate::abi::Code;
use serde::Deserialize;
use std::time::Duration;

/// A `[[fault]]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) function: Functions,
    /// Only this GPU; `None` is every GPU and the calls that have none.
    pub(crate) gpu: Option<usize>,
    /// First second of the window.
    pub(crate) from: f64,
    /// First second after the window.
    pub(crate) until: f64,
    pub(crate) latency: Duration,
    pub(crate) effect: Effect,
}

/// What a fault does to a call besides delaying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    DelayOnly,
    Fail(Code),
    /// Blocks until the window ends.
    Hang,
    /// Answers, but with what is no value.
    Corrupt(Corruption),
}

/// What is written in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Corruption {
    /// All bits set in numbers; bytes that are not UTF-8 in texts.
    Ones,
    /// All bits clear; empty texts.
    Zeros,
}

/// The functions a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Functions {
    One(String),
    /// `prefix*`. `nvmlInit*` and `nvmlShutdown` are struck by their own name only:
    /// otherwise `*` would keep a client from ever starting or ending.
    Prefix(String),
}

impl Functions {
    pub(crate) fn matches(&self, function: &str) -> bool {
        match self {
            Self::One(name) => name == function,
            Self::Prefix(prefix) => {
                function.starts_with(prefix) && !function.starts_with("nvmlInit") && function != "nvmlShutdown"
            }
        }
    }
}

/// What the faults together do to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) latency: Duration,
    pub(crate) effect: Effect,
}

/// Latencies add up; a hang outweighs an error, and of errors the first listed counts.
pub(crate) fn verdict(faults: &[Fault], function: &str, gpu: Option<usize>, t: f64) -> Verdict {
    let mut verdict = Verdict { latency: Duration::ZERO, effect: Effect::DelayOnly };
    for fault in faults.iter().filter(|it| it.strikes(function, gpu, t)) {
        verdict.latency += fault.latency;
        verdict.effect = match (verdict.effect, fault.effect) {
            (Effect::Hang, _) | (_, Effect::Hang) => Effect::Hang,
            (Effect::DelayOnly, effect) => effect,
            (effect, _) => effect,
        };
    }
    verdict
}

impl Fault {
    fn strikes(&self, function: &str, gpu: Option<usize>, t: f64) -> bool {
        (self.gpu.is_none() || self.gpu == gpu) && self.from <= t && t < self.until && self.function.matches(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(function: Functions, gpu: Option<usize>, from: f64, until: f64, effect: Effect) -> Fault {
        Fault { function, gpu, from, until, latency: Duration::from_micros(50), effect }
    }

    #[test]
    fn a_fault_strikes_its_function_gpu_and_window_only() {
        let one = Functions::One("nvmlDeviceGetTemperature".into());
        let faults = [fault(one, Some(1), 2.0, 5.0, Effect::Fail(Code::GpuIsLost))];
        let meets = |function, gpu, t| verdict(&faults, function, gpu, t).effect != Effect::DelayOnly;
        assert!(meets("nvmlDeviceGetTemperature", Some(1), 2.0));
        assert!(meets("nvmlDeviceGetTemperature", Some(1), 4.999));
        assert!(!meets("nvmlDeviceGetTemperature", Some(1), 1.999));
        assert!(!meets("nvmlDeviceGetTemperature", Some(1), 5.0));
        assert!(!meets("nvmlDeviceGetTemperature", Some(0), 3.0));
        assert!(!meets("nvmlDeviceGetTemperatureV", Some(1), 3.0));
        assert!(!meets("nvmlDeviceGetTemperature", None, 3.0));
    }

    #[test]
    fn a_star_spares_init_and_shutdown() {
        let all = Functions::Prefix("nvml".into());
        assert!(all.matches("nvmlDeviceGetCount_v2"));
        assert!(!all.matches("nvmlInit_v2") && !all.matches("nvmlShutdown"));
        assert!(Functions::One("nvmlInit_v2".into()).matches("nvmlInit_v2"));
    }

    #[test]
    fn latencies_add_up_and_a_hang_outweighs_errors() {
        let all = || Functions::Prefix(String::new());
        let faults = [
            fault(all(), None, 0.0, f64::INFINITY, Effect::DelayOnly),
            fault(all(), None, 0.0, 9.0, Effect::Fail(Code::Unknown)),
            fault(all(), None, 0.0, 3.0, Effect::Hang),
        ];
        let early = verdict(&faults, "nvmlDeviceGetName", Some(0), 1.0);
        assert_eq!((early.latency, early.effect), (Duration::from_micros(150), Effect::Hang));
        let later = verdict(&faults, "nvmlDeviceGetName", Some(0), 4.0);
        assert_eq!((later.latency, later.effect), (Duration::from_micros(100), Effect::Fail(Code::Unknown)));
    }
}
