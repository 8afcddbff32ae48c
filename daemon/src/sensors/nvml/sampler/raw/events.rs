//! NVML's events with all their kinds: the wrapper drops the bits that came after it was written.

use super::{answered, call};
use failsafe_core::event::GpuEvent;
use nvml_wrapper::{
    Device, EventSet, Nvml,
    error::{NvmlError, nvml_sym},
};
use std::{ffi::c_void, ptr};

/// `nvmlEventTypeXidCriticalError`.
pub const XID: u64 = 0x8;

/// Bits of `nvmlEventType*`, each with what it says.
pub const KINDS: [(u64, GpuEvent); 13] = [
    (0x1, GpuEvent::SingleBitEcc),
    (0x2, GpuEvent::DoubleBitEcc),
    (0x4, GpuEvent::PerformanceState),
    (0x10, GpuEvent::Clock),
    (0x80, GpuEvent::PowerSource),
    (0x100, GpuEvent::MigConfig),
    (0x200, GpuEvent::SingleBitEccStorm),
    (0x400, GpuEvent::DramRetirement),
    (0x800, GpuEvent::DramRetirementFailure),
    (0x1000, GpuEvent::Poison),
    (0x2000, GpuEvent::FatalPoison),
    (0x4000, GpuEvent::Unavailable),
    (0x8000, GpuEvent::RecoveryAction),
];

/// `nvmlEventData_t`.
#[repr(C)]
pub struct Event {
    device: *mut c_void,
    /// One bit of `nvmlEventType*`.
    pub kind: u64,
    /// The XID of an XID event; 999 where the driver does not know it.
    pub data: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

impl Event {
    /// Whether it is of this GPU, by its handle: a lost GPU does not tell its UUID any more.
    pub fn is_of(&self, device: &Device<'_>) -> bool {
        // SAFETY: the handles are compared as addresses and never used.
        ptr::addr_eq(self.device, unsafe { device.handle() })
    }

    /// The GPU instance and the compute instance that an XID is of: in MIG mode, where the driver knows.
    pub fn instances(&self) -> (Option<u32>, Option<u32>) {
        let known = |id: u32| (id != u32::MAX).then_some(id);
        let gpu = known(self.gpu_instance);
        (gpu, gpu.and(known(self.compute_instance)))
    }

    /// The GPU that it is of, where the library still knows.
    pub fn uuid(&self, nvml: &'static Nvml) -> Option<String> {
        // SAFETY: the handle came from this library in an event, and is valid until nvmlShutdown, which is never called.
        unsafe { Device::new(self.device.cast(), nvml) }.uuid().ok()
    }
}

/// `nvmlDeviceGetSupportedEventTypes`: bits of `nvmlEventType*`.
pub fn supported(device: &Device<'_>) -> Result<u64, NvmlError> {
    let mut kinds = 0u64;
    call!(device, nvmlDeviceGetSupportedEventTypes, &raw mut kinds)?;
    Ok(kinds)
}

/// `nvmlDeviceRegisterEvents`: these kinds of events of the GPU come to the set from now on, beside those that do already.
pub fn register(device: &Device<'_>, kinds: u64, set: &EventSet<'_>) -> Result<(), NvmlError> {
    // SAFETY: the set is of this library and is not freed before it is dropped.
    let handle = unsafe { set.handle() };
    call!(device, nvmlDeviceRegisterEvents, kinds, handle)
}

/// `nvmlEventSetWait_v2`: the next event of the set, or [`NvmlError::Timeout`] after so many milliseconds, or earlier.
pub fn wait(nvml: &Nvml, set: &EventSet<'_>, timeout_ms: u32) -> Result<Event, NvmlError> {
    let mut event = Event { device: ptr::null_mut(), kind: 0, data: 0, gpu_instance: 0, compute_instance: 0 };
    let symbol = nvml_sym(nvml.lib().nvmlEventSetWait_v2.as_ref())?;
    // SAFETY: the set is of this library and lives over the call; the pointer is to a local of the layout of `nvml.h`.
    answered(unsafe { symbol(set.handle(), (&raw mut event).cast(), timeout_ms) })?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn an_event_is_laid_out_as_in_the_header() {
        let layout = nvidia_ml::layouts().into_iter().find(|it| it.name == "nvmlEventData_t").unwrap();
        assert_eq!(layout.size, size_of::<Event>());
        for offset in [
            ("device", offset_of!(Event, device)),
            ("eventType", offset_of!(Event, kind)),
            ("eventData", offset_of!(Event, data)),
            ("gpuInstanceId", offset_of!(Event, gpu_instance)),
            ("computeInstanceId", offset_of!(Event, compute_instance)),
        ] {
            assert!(layout.fields.contains(&offset), "{offset:?}");
        }
    }

    #[test]
    fn every_event_has_a_bit_of_its_own() {
        let told: Vec<GpuEvent> = KINDS.iter().map(|(_, event)| *event).collect();
        assert_eq!(told, GpuEvent::ALL);
        let all = KINDS.iter().fold(XID, |all, (bit, _)| {
            assert!(bit.is_power_of_two() && all & bit == 0, "{bit:#x}");
            all | bit
        });
        // nvmlEventTypeAll.
        assert_eq!(all, 0xff9f);
    }
}
