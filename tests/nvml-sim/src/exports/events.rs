//! Event sets.

use super::exports;
use super::processes::instances;
use crate::abi::consts::event;
use crate::abi::{Code, DeviceHandle, nvmlEventData_t};
use crate::edge::{Answer, Out, Put};
use crate::library;
use core::ffi::{c_uint, c_ulonglong};
use std::time::Duration;

fn wait(function: &'static str, set: usize, data: Out<nvmlEventData_t>, timeout_ms: c_uint) -> Answer<()> {
    library::system(function, |_| Ok(()))?;
    // Before an event is taken: one that cannot be written would be lost.
    let data = data.ok_or(Code::InvalidArgument)?;
    let due = library::wait_for_event(function, set, Duration::from_millis(u64::from(timeout_ms)))?;
    let (gpuInstanceId, computeInstanceId) = instances(due.event.mig);
    Some(data).put(nvmlEventData_t {
        device: DeviceHandle::of_index(due.gpu),
        eventType: due.event.kind,
        eventData: due.event.data,
        gpuInstanceId,
        computeInstanceId,
    })
}

exports! {
    fn nvmlEventSetCreate(set: Out<usize>) {
        library::system(FUNCTION, |_| {
            let set = set.ok_or(Code::InvalidArgument)?;
            Some(set).put(library::create_event_set())
        })
    }
    fn nvmlEventSetFree(set: usize) {
        library::system(FUNCTION, |_| library::free_event_set(set))
    }
    fn nvmlDeviceGetSupportedEventTypes(device: DeviceHandle, out: Out<c_ulonglong>) {
        library::device(FUNCTION, device, |_| out.put(event::SUPPORTED))
    }
    fn nvmlDeviceRegisterEvents(device: DeviceHandle, mask: c_ulonglong, set: usize) {
        library::device(FUNCTION, device, |gpu| {
            // NVML registers what it can, and says that it was not all.
            library::register_events(set, gpu.index, mask & event::SUPPORTED)?;
            if mask & !event::SUPPORTED == 0 { Ok(()) } else { Err(Code::NotSupported) }
        })
    }
    fn nvmlEventSetWait(set: usize, data: Out<nvmlEventData_t>, timeout_ms: c_uint) {
        wait(FUNCTION, set, data, timeout_ms)
    }
    fn nvmlEventSetWait_v2(set: usize, data: Out<nvmlEventData_t>, timeout_ms: c_uint) {
        wait(FUNCTION, set, data, timeout_ms)
    }
}
