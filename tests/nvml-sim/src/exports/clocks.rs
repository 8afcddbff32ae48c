//! Clocks, performance state, and what holds the clocks down.

use super::exports;
use crate::abi::consts::{CLOCK_GRAPHICS, CLOCK_MEM, CLOCK_SM, CLOCK_VIDEO, reason};
use crate::abi::{Code, DeviceHandle, nvmlViolationTime_t};
use crate::edge::{Answer, Out, Put};
use crate::library;
use crate::model::Gpu;
use core::ffi::{c_uint, c_ulonglong};

fn current(gpu: &Gpu<'_>, kind: c_uint) -> Answer<c_uint> {
    match kind {
        CLOCK_GRAPHICS => Ok(gpu.graphics_clock().round() as c_uint),
        CLOCK_SM => Ok(gpu.sm_clock().round() as c_uint),
        CLOCK_MEM => Ok(gpu.memory_clock().round() as c_uint),
        CLOCK_VIDEO => {
            let clocks = &gpu.preset().clocks;
            Ok((gpu.sm_clock() * clocks.max_video / clocks.max_sm).round() as c_uint)
        }
        _ => Err(Code::InvalidArgument),
    }
}

fn greatest(gpu: &Gpu<'_>, kind: c_uint) -> Answer<c_uint> {
    let clocks = &gpu.preset().clocks;
    match kind {
        CLOCK_GRAPHICS | CLOCK_SM => Ok(clocks.max_sm as c_uint),
        CLOCK_MEM => Ok(clocks.memory as c_uint),
        CLOCK_VIDEO => Ok(clocks.max_video as c_uint),
        _ => Err(Code::InvalidArgument),
    }
}

fn reasons(function: &'static str, device: DeviceHandle, out: Out<c_ulonglong>) -> Answer<()> {
    library::device(function, device, |gpu| out.put(gpu.throttle()))
}

fn supported(function: &'static str, device: DeviceHandle, out: Out<c_ulonglong>) -> Answer<()> {
    library::device(function, device, |_| out.put(reason::ALL))
}

fn pstate(function: &'static str, device: DeviceHandle, out: Out<c_uint>) -> Answer<()> {
    // The data-centre boards simulated here stay in P0, unless the scenario says otherwise.
    library::device(function, device, |gpu| {
        out.put(gpu.count(gpu.spec.table.performance_state.as_ref()).min(15) as c_uint)
    })
}

exports! {
    fn nvmlDeviceGetClockInfo(device: DeviceHandle, kind: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(current(gpu, kind)?))
    }
    fn nvmlDeviceGetMaxClockInfo(device: DeviceHandle, kind: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(greatest(gpu, kind)?))
    }
    fn nvmlDeviceGetClock(device: DeviceHandle, kind: c_uint, which: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| match which {
            0 => out.put(current(gpu, kind)?),
            1..4 => out.put(greatest(gpu, kind)?),
            _ => Err(Code::InvalidArgument),
        })
    }
    fn nvmlDeviceGetApplicationsClock(device: DeviceHandle, kind: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(greatest(gpu, kind)?))
    }
    fn nvmlDeviceGetDefaultApplicationsClock(device: DeviceHandle, kind: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(greatest(gpu, kind)?))
    }
    fn nvmlDeviceGetPerformanceState(device: DeviceHandle, out: Out<c_uint>) { pstate(FUNCTION, device, out) }
    fn nvmlDeviceGetPowerState(device: DeviceHandle, out: Out<c_uint>) { pstate(FUNCTION, device, out) }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: DeviceHandle, out: Out<c_ulonglong>) {
        reasons(FUNCTION, device, out)
    }
    fn nvmlDeviceGetCurrentClocksEventReasons(device: DeviceHandle, out: Out<c_ulonglong>) {
        reasons(FUNCTION, device, out)
    }
    fn nvmlDeviceGetSupportedClocksThrottleReasons(device: DeviceHandle, out: Out<c_ulonglong>) {
        supported(FUNCTION, device, out)
    }
    fn nvmlDeviceGetSupportedClocksEventReasons(device: DeviceHandle, out: Out<c_ulonglong>) {
        supported(FUNCTION, device, out)
    }
    fn nvmlDeviceGetViolationStatus(device: DeviceHandle, policy: c_uint, out: Out<nvmlViolationTime_t>) {
        library::device(FUNCTION, device, |gpu| {
            let reasons = match policy {
                0 => reason::SW_POWER_CAP | reason::HW_POWER_BRAKE,
                1 => reason::SW_THERMAL | reason::HW_THERMAL,
                2 => reason::SYNC_BOOST,
                _ => return Err(Code::NotSupported),
            };
            let seconds = gpu.throttled_seconds(reasons).ok_or(Code::NotSupported)?;
            // Microseconds and nanoseconds, as the header has them.
            out.put(nvmlViolationTime_t {
                referenceTime: (gpu.t * 1e6) as c_ulonglong,
                violationTime: (seconds * 1e9) as c_ulonglong,
            })
        })
    }
}
