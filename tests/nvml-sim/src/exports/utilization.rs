//! How busy the GPU's engines are.

use super::exports;
use crate::abi::{Code, DeviceHandle, nvmlUtilization_t};
use crate::edge::{Answer, Out, Put};
use crate::library;
use crate::model::Gpu;
use core::ffi::c_uint;

/// The window a share was taken over, in microseconds.
const SAMPLING_PERIOD_US: c_uint = 167_000;

/// In MIG mode a GPU as a whole has no utilisation.
fn whole(gpu: &Gpu<'_>) -> Answer<()> {
    if gpu.mig_enabled() { Err(Code::NotSupported) } else { Ok(()) }
}

fn engine(
    function: &'static str,
    device: DeviceHandle,
    (share, period): (Out<c_uint>, Out<c_uint>),
    of: impl Fn(&Gpu<'_>) -> f64,
) -> Answer<()> {
    library::device(function, device, |gpu| {
        whole(gpu)?;
        share.put(of(gpu).round() as c_uint)?;
        period.put(SAMPLING_PERIOD_US)
    })
}

exports! {
    fn nvmlDeviceGetUtilizationRates(device: DeviceHandle, out: Out<nvmlUtilization_t>) {
        library::device(FUNCTION, device, |gpu| {
            whole(gpu)?;
            out.put(nvmlUtilization_t {
                gpu: gpu.utilization().round() as c_uint,
                memory: gpu.memory_utilization().round() as c_uint,
            })
        })
    }
    fn nvmlDeviceGetEncoderUtilization(device: DeviceHandle, share: Out<c_uint>, period: Out<c_uint>) {
        engine(FUNCTION, device, (share, period), |gpu| gpu.encoder())
    }
    fn nvmlDeviceGetDecoderUtilization(device: DeviceHandle, share: Out<c_uint>, period: Out<c_uint>) {
        engine(FUNCTION, device, (share, period), |gpu| gpu.decoder())
    }
}
