//! GPM: shares over the time between two samples. A sample is a number behind an opaque pointer: which GPU, and when.

use super::exports;
use crate::abi::{Code, DeviceHandle, nvmlGpmMetricsGet_t, nvmlGpmSupport_t};
use crate::edge::{Answer, InOut, Out, Put};
use crate::library;
use core::ffi::c_uint;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

const VERSION: c_uint = 1;

/// What each sample holds: nothing until it is taken. By number, as samples of other libraries are by address; before
/// them the last number.
type Samples = (usize, BTreeMap<usize, Option<[f64; 5]>>);

static SAMPLES: Mutex<Samples> = Mutex::new((0, BTreeMap::new()));

fn with<T>(act: impl FnOnce(&mut Samples) -> T) -> T {
    act(&mut SAMPLES.lock().unwrap_or_else(PoisonError::into_inner))
}

fn taken(sample: usize) -> Answer<[f64; 5]> {
    with(|(_, samples)| samples.get(&sample).copied().flatten()).ok_or(Code::InvalidArgument)
}

fn keep(sample: usize, shares: [f64; 5]) -> Answer<()> {
    with(|(_, samples)| samples.get_mut(&sample).map(|it| *it = Some(shares))).ok_or(Code::InvalidArgument)
}

/// Which of the five shares a `NVML_GPM_METRIC_*` is.
fn place(metric: c_uint) -> Option<usize> {
    [1, 2, 3, 5, 10].iter().position(|known| *known == metric)
}

exports! {
    fn nvmlGpmQueryDeviceSupport(device: DeviceHandle, support: InOut<nvmlGpmSupport_t>) {
        library::device(FUNCTION, device, |gpu| {
            let support = support.ok_or(Code::InvalidArgument)?;
            if support.version != VERSION {
                return Err(Code::ArgumentVersionMismatch);
            }
            support.isSupportedDevice = c_uint::from(gpu.preset().gpm);
            Ok(())
        })
    }
    fn nvmlGpmSampleAlloc(out: Out<usize>) {
        library::system(FUNCTION, |_| {
            let number = with(|(last, samples)| {
                *last += 1;
                samples.insert(*last, None);
                *last
            });
            out.put(number)
        })
    }
    fn nvmlGpmSampleFree(sample: usize) {
        library::system(FUNCTION, |_| {
            with(|(_, samples)| samples.remove(&sample)).map(drop).ok_or(Code::InvalidArgument)
        })
    }
    fn nvmlGpmSampleGet(device: DeviceHandle, sample: usize) {
        library::device(FUNCTION, device, |gpu| {
            // In MIG mode only the instances have samples.
            if !gpu.preset().gpm || gpu.mig_enabled() {
                return Err(Code::NotSupported);
            }
            keep(sample, gpu.gpm())
        })
    }
    fn nvmlGpmMigSampleGet(device: DeviceHandle, instance: c_uint, sample: usize) {
        library::device(FUNCTION, device, |gpu| {
            if !gpu.preset().gpm {
                return Err(Code::NotSupported);
            }
            let devices = gpu.mig_devices();
            let at = devices.iter().position(|it| it.gpu_instance == instance).ok_or(Code::InvalidArgument)?;
            keep(sample, gpu.gpm_of(at))
        })
    }
    fn nvmlGpmMetricsGet(get: InOut<nvmlGpmMetricsGet_t>) {
        library::system(FUNCTION, |_| {
            let get = get.ok_or(Code::InvalidArgument)?;
            if get.version != VERSION {
                return Err(Code::ArgumentVersionMismatch);
            }
            let (before, now) = (taken(get.sample1)?, taken(get.sample2)?);
            let asked = get.metrics.get_mut(..get.numMetrics as usize).ok_or(Code::InvalidArgument)?;
            for metric in asked {
                metric.metricInfo = [0; 3];
                match place(metric.metricId) {
                    Some(at) => {
                        metric.nvmlReturn = 0;
                        metric.value = f64::midpoint(before[at], now[at]);
                    }
                    None => metric.nvmlReturn = Code::NotSupported as c_uint,
                }
            }
            Ok(())
        })
    }
}
