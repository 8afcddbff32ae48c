//! Device memory.

use super::exports;
use crate::abi::{DeviceHandle, nvmlBAR1Memory_t, nvmlMemory_t, nvmlMemory_v2_t};
use crate::edge::{Out, Put, Struct};
use crate::library;
use core::ffi::c_uint;

const MIB: u64 = 1024 * 1024;

exports! {
    // The first version counts what is reserved as used.
    fn nvmlDeviceGetMemoryInfo(device: DeviceHandle, out: Out<nvmlMemory_t>) {
        library::device_or_mig(FUNCTION, device, |gpu, mig| {
            let memory = gpu.memory_of(mig);
            let used = memory.used + memory.reserved;
            out.put(nvmlMemory_t { total: memory.total, free: memory.total - used, used })
        })
    }
    fn nvmlDeviceGetMemoryInfo_v2(device: DeviceHandle, info: Struct<nvmlMemory_v2_t>) {
        library::device_or_mig(FUNCTION, device, |gpu, mig| {
            let memory = gpu.memory_of(mig);
            info.put(|version| nvmlMemory_v2_t {
                version,
                total: memory.total,
                reserved: memory.reserved,
                free: memory.total - memory.reserved - memory.used,
                used: memory.used,
            })
        })
    }
    fn nvmlDeviceGetBAR1MemoryInfo(device: DeviceHandle, out: Out<nvmlBAR1Memory_t>) {
        library::device(FUNCTION, device, |gpu| {
            let total = gpu.preset().bar1_mib * MIB;
            let used = gpu.bar1_used().min(total);
            out.put(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - used, bar1Used: used })
        })
    }
    fn nvmlDeviceGetMemoryBusWidth(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.preset().bus_width))
    }
}
