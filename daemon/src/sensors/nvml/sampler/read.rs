//! One reading of one GPU: every signal is asked for by itself, so one that fails hides no other.
//!
//! Pure but for the NVML calls. Before each call its name is noted, so that a call that never comes back has a name.

use super::{
    super::frame::{GpuProcess, Sample},
    work::Busyness,
};
use crate::platform::clock;
use failsafe_core::signal::Kind;
use nvml_wrapper::{
    Device,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::ProcessInfo,
};
use std::collections::BTreeMap;

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

/// The name under which the list of processes is told apart in a sample.
pub const PROCESSES: &str = "gpu.processes";

struct Reading<'a> {
    sample: Sample,
    standing: Standing,
    busy: &'a Busyness,
}

/// Asks one GPU for everything.
pub fn read(device: &Device<'_>, gpu: &str, busy: &Busyness) -> (Sample, Standing) {
    let sample = Sample { mono_ns: clock::monotonic_ns(), gpu: gpu.to_owned(), ..Sample::default() };
    let mut r = Reading { sample, standing: Standing::Well, busy };
    r.all(device);
    busy.done();
    if !r.sample.readings.is_empty() && r.standing == Standing::Lost {
        r.standing = Standing::Well;
    }
    (r.sample, r.standing)
}

/// The value of a signal in an answer; `None` when the answer does not hold it.
type Get<T> = fn(&T) -> Option<i64>;

impl Reading<'_> {
    fn all(&mut self, device: &Device<'_>) {
        let use_ = self.ask("nvmlDeviceGetUtilizationRates", || device.utilization_rates());
        self.put(
            use_,
            [
                (Kind::GpuUtilization, |u| Some(thousand(u.gpu))),
                (Kind::GpuMemoryUtilization, |u| Some(thousand(u.memory))),
            ],
        );
        let memory = self.ask("nvmlDeviceGetMemoryInfo_v2", || device.memory_info());
        self.put(
            memory,
            [(Kind::GpuMemory, |m| Some(integer(m.used))), (Kind::GpuMemoryShare, |m| share(m.used, m.total))],
        );
        let heat = self.ask("nvmlDeviceGetTemperature", || device.temperature(TemperatureSensor::Gpu));
        // The value is a signed int in C; the wrapper gives it as unsigned.
        self.put(heat, [(Kind::GpuTemperature, |t| Some(i64::from(t.cast_signed()) * 1000))]);
        let power = self.ask("nvmlDeviceGetPowerUsage", || device.power_usage());
        let draw = power.as_ref().ok().copied();
        self.put(power, [(Kind::GpuPower, |mw| Some(i64::from(*mw)))]);
        if let Some(draw) = draw {
            let limit = self.ask("nvmlDeviceGetEnforcedPowerLimit", || device.enforced_power_limit());
            let limit = limit.map(|limit| (draw, limit));
            self.put(limit, [(Kind::GpuPowerShare, |(draw, limit)| share(u64::from(*draw), u64::from(*limit)))]);
        } else {
            self.same_as(&Kind::GpuPower, &Kind::GpuPowerShare);
        }
        let sm = self.ask("nvmlDeviceGetClockInfo", || device.clock_info(Clock::SM));
        self.put(sm, [(Kind::GpuClockSm, |mhz| Some(i64::from(*mhz)))]);
        let memory = self.ask("nvmlDeviceGetClockInfo", || device.clock_info(Clock::Memory));
        self.put(memory, [(Kind::GpuClockMemory, |mhz| Some(i64::from(*mhz)))]);
        let why = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", || device.current_throttle_reasons());
        self.put(why, [(Kind::GpuThrottle, |why| Some(integer(why.bits())))]);
        for (kind, error, counter) in [
            (Kind::GpuEccUncorrected, MemoryError::Uncorrected, EccCounter::Volatile),
            (Kind::GpuEccCorrected, MemoryError::Corrected, EccCounter::Volatile),
            (Kind::GpuEccUncorrectedTotal, MemoryError::Uncorrected, EccCounter::Aggregate),
            (Kind::GpuEccCorrectedTotal, MemoryError::Corrected, EccCounter::Aggregate),
        ] {
            let count = self.ask("nvmlDeviceGetTotalEccErrors", || device.total_ecc_errors(error, counter));
            self.put(count, [(kind, |count| Some(integer(*count)))]);
        }
        self.processes(device);
    }

    /// Calls NVML under the function's name, and learns from its error how the handle stands.
    fn ask<T>(&mut self, call: &'static str, ask: impl FnOnce() -> Result<T, NvmlError>) -> Result<T, NvmlError> {
        self.busy.calls(call);
        let answer = ask();
        if let Err(error) = &answer {
            self.standing = self.standing.max(standing(error));
        }
        answer
    }

    fn put<T, const N: usize>(&mut self, answer: Result<T, NvmlError>, kinds: [(Kind, Get<T>); N]) {
        for (kind, value) in kinds {
            match &answer {
                Ok(answer) => match value(answer) {
                    Some(value) => self.sample.readings.push((kind, value)),
                    None => self.sample.unsupported.push(kind.to_string()),
                },
                Err(error) => self.missing(kind.to_string(), error),
            }
        }
    }

    fn missing(&mut self, name: String, error: &NvmlError) {
        match error {
            NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
                self.sample.unsupported.push(name);
            }
            error => self.sample.failing.push((name, error.to_string())),
        }
    }

    /// A signal computed from another goes where that one went.
    fn same_as(&mut self, first: &Kind, second: &Kind) {
        let first = first.to_string();
        if let Some((_, error)) = self.sample.failing.iter().find(|(name, _)| *name == first) {
            self.sample.failing.push((second.to_string(), error.clone()));
        } else {
            self.sample.unsupported.push(second.to_string());
        }
    }

    fn processes(&mut self, device: &Device<'_>) {
        type List = Result<Vec<ProcessInfo>, NvmlError>;
        let lists: [(&'static str, &dyn Fn() -> List); 3] = [
            ("nvmlDeviceGetComputeRunningProcesses_v3", &|| device.running_compute_processes()),
            ("nvmlDeviceGetGraphicsRunningProcesses_v3", &|| device.running_graphics_processes()),
            ("nvmlDeviceGetMPSComputeRunningProcesses_v3", &|| device.mps_running_compute_processes()),
        ];
        // A process may be in more than one list, each with all of its memory.
        let mut found: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        let mut worst: Option<NvmlError> = None;
        let mut answered = false;
        for (call, list) in lists {
            match self.ask(call, list) {
                Ok(list) => {
                    answered = true;
                    for process in list {
                        let memory = match process.used_gpu_memory {
                            UsedGpuMemory::Used(bytes) => Some(bytes),
                            UsedGpuMemory::Unavailable => None,
                        };
                        let known = found.entry(process.pid).or_default();
                        *known = (*known).max(memory);
                    }
                }
                Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {}
                Err(error) => worst = Some(error),
            }
        }
        match worst {
            Some(error) => self.missing(PROCESSES.to_owned(), &error),
            None if !answered => self.sample.unsupported.push(PROCESSES.to_owned()),
            None => {}
        }
        self.sample.processes = found.into_iter().map(|(pid, memory)| GpuProcess { pid, memory }).collect();
    }
}

/// What an error says about the handle it was got with.
pub fn standing(error: &NvmlError) -> Standing {
    match error {
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => Standing::Void,
        NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::InvalidArg => Standing::Lost,
        _ => Standing::Well,
    }
}

fn thousand(value: u32) -> i64 {
    i64::from(value) * 1000
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `part` of `whole` in thousandths of a percent; none of nothing.
fn share(part: u64, whole: u64) -> Option<i64> {
    i64::try_from(u128::from(part).checked_mul(100_000)?.checked_div(u128::from(whole))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_thousandths_of_a_percent() {
        assert_eq!(share(1, 3), Some(33_333));
        assert_eq!(share(u64::MAX, u64::MAX), Some(100_000));
        assert_eq!(share(5, 0), None);
        assert_eq!(share(720, 700), Some(102_857), "above its limit is above 100%");
    }

    #[test]
    fn errors_are_told_apart() {
        assert_eq!(standing(&NvmlError::GpuLost), Standing::Lost);
        assert_eq!(standing(&NvmlError::Uninitialized), Standing::Void);
        assert_eq!(standing(&NvmlError::NotSupported), Standing::Well);
        assert_eq!(standing(&NvmlError::Unknown), Standing::Well);
    }
}
