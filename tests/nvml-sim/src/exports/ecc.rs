//! Memory errors and remapped rows. All counted errors are of device memory (DRAM).

use super::exports;
use crate::abi::consts::{
    ECC_AGGREGATE, ECC_VOLATILE, FEATURE_DISABLED, FEATURE_ENABLED, MEMORY_ERROR_CORRECTED, MEMORY_ERROR_UNCORRECTED,
};
use crate::abi::{Code, DeviceHandle, nvmlEccErrorCounts_t};
use crate::edge::{Answer, Out, Put};
use crate::library;
use crate::model::{EccCounter, Gpu};
use core::ffi::{c_uint, c_ulonglong};

fn errors(gpu: &Gpu<'_>, kind: c_uint, counter: c_uint) -> Answer<c_ulonglong> {
    let uncorrected = match kind {
        MEMORY_ERROR_CORRECTED => false,
        MEMORY_ERROR_UNCORRECTED => true,
        _ => return Err(Code::InvalidArgument),
    };
    let aggregate = match counter {
        ECC_VOLATILE => false,
        ECC_AGGREGATE => true,
        _ => return Err(Code::InvalidArgument),
    };
    gpu.ecc(EccCounter { uncorrected, aggregate }).ok_or(Code::NotSupported)
}

exports! {
    fn nvmlDeviceGetEccMode(device: DeviceHandle, current: Out<c_uint>, pending: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            let mode = if gpu.spec.table.ecc.enabled { FEATURE_ENABLED } else { FEATURE_DISABLED };
            current.put(mode)?;
            pending.put(mode)
        })
    }
    fn nvmlDeviceGetDefaultEccMode(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(FEATURE_ENABLED))
    }
    fn nvmlDeviceGetTotalEccErrors(device: DeviceHandle, kind: c_uint, counter: c_uint, out: Out<c_ulonglong>) {
        library::device(FUNCTION, device, |gpu| out.put(errors(gpu, kind, counter)?))
    }
    fn nvmlDeviceGetDetailedEccErrors(
        device: DeviceHandle,
        kind: c_uint,
        counter: c_uint,
        out: Out<nvmlEccErrorCounts_t>,
    ) {
        library::device(FUNCTION, device, |gpu| {
            let deviceMemory = errors(gpu, kind, counter)?;
            out.put(nvmlEccErrorCounts_t { l1Cache: 0, l2Cache: 0, deviceMemory, registerFile: 0 })
        })
    }
    fn nvmlDeviceGetMemoryErrorCounter(
        device: DeviceHandle,
        kind: c_uint,
        counter: c_uint,
        location: c_uint,
        out: Out<c_ulonglong>,
    ) {
        library::device(FUNCTION, device, |gpu| {
            let errors = errors(gpu, kind, counter)?;
            match location {
                2 => out.put(errors),
                0 | 1 | 3 | 7 => out.put(0),
                4..7 => Err(Code::NotSupported),
                _ => Err(Code::InvalidArgument),
            }
        })
    }
    fn nvmlDeviceGetRemappedRows(
        device: DeviceHandle,
        corrected: Out<c_uint>,
        uncorrected: Out<c_uint>,
        pending: Out<c_uint>,
        failure: Out<c_uint>,
    ) {
        library::device(FUNCTION, device, |gpu| {
            let rows = &gpu.spec.table.rows;
            corrected.put(gpu.count(rows.corrected.as_ref()) as c_uint)?;
            uncorrected.put(gpu.count(rows.uncorrected.as_ref()) as c_uint)?;
            pending.put(c_uint::from(gpu.flag(rows.pending.as_ref())))?;
            failure.put(c_uint::from(gpu.flag(rows.failure.as_ref())))
        })
    }
    // Boards that remap rows retire no pages.
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: DeviceHandle, _out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| Err(Code::NotSupported))
    }
}
