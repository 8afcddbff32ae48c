//! Modes a GPU is in, and those it does not have: no display, no Windows driver model.

use super::exports;
use crate::abi::consts::{FEATURE_DISABLED, FEATURE_ENABLED};
use crate::abi::{Code, DeviceHandle};
use crate::edge::{Out, Put};
use crate::library;
use core::ffi::c_uint;

exports! {
    fn nvmlDeviceGetPersistenceMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            out.put(if gpu.spec.table.persistence { FEATURE_ENABLED } else { FEATURE_DISABLED })
        })
    }
    fn nvmlDeviceGetComputeMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.spec.table.compute_mode as c_uint))
    }
    fn nvmlDeviceGetDisplayMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(FEATURE_DISABLED))
    }
    fn nvmlDeviceGetDisplayActive(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(FEATURE_DISABLED))
    }
    fn nvmlDeviceGetVirtualizationMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(0))
    }
    fn nvmlDeviceGetDriverModel(device: DeviceHandle, _current: Out<c_uint>, _pending: Out<c_uint>) {
        library::device(FUNCTION, device, |_| Err(Code::NotSupported))
    }
    fn nvmlDeviceGetDriverModel_v2(device: DeviceHandle, _current: Out<c_uint>, _pending: Out<c_uint>) {
        library::device(FUNCTION, device, |_| Err(Code::NotSupported))
    }
}
