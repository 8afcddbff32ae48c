//! Power, its limits, and energy. NVML speaks milliwatts and millijoules.

use super::exports;
use crate::abi::DeviceHandle;
use crate::abi::consts::FEATURE_ENABLED;
use crate::edge::{Answer, Out, Put};
use crate::library;
use crate::model::Gpu;
use core::ffi::{c_uint, c_ulonglong};

/// W to mW.
pub(super) fn milliwatts(watts: f64) -> c_uint {
    (watts * 1_000.0).round() as c_uint
}

/// J to mJ.
pub(super) fn millijoules(joules: f64) -> c_ulonglong {
    (joules * 1_000.0) as c_ulonglong
}

fn watts(function: &'static str, device: DeviceHandle, out: Out<c_uint>, of: impl Fn(&Gpu<'_>) -> f64) -> Answer<()> {
    library::device(function, device, |gpu| out.put(milliwatts(of(gpu))))
}

exports! {
    fn nvmlDeviceGetPowerUsage(device: DeviceHandle, out: Out<c_uint>) {
        watts(FUNCTION, device, out, |gpu| gpu.power())
    }
    fn nvmlDeviceGetEnforcedPowerLimit(device: DeviceHandle, out: Out<c_uint>) {
        watts(FUNCTION, device, out, |gpu| gpu.power_limit())
    }
    fn nvmlDeviceGetPowerManagementLimit(device: DeviceHandle, out: Out<c_uint>) {
        watts(FUNCTION, device, out, |gpu| gpu.power_limit_set())
    }
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: DeviceHandle, out: Out<c_uint>) {
        watts(FUNCTION, device, out, |gpu| gpu.preset().power.default_limit)
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: DeviceHandle, min: Out<c_uint>, max: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            min.put(milliwatts(gpu.preset().power.min_limit))?;
            max.put(milliwatts(gpu.preset().power.default_limit))
        })
    }
    fn nvmlDeviceGetPowerManagementMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(FEATURE_ENABLED))
    }
    fn nvmlDeviceGetPowerSource(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(0))
    }
    fn nvmlDeviceGetTotalEnergyConsumption(device: DeviceHandle, out: Out<c_ulonglong>) {
        library::device(FUNCTION, device, |gpu| out.put(millijoules(gpu.energy())))
    }
}
