//! Memory errors and remapped rows. Counted errors are of device memory (DRAM), but for those that the scenario puts into
//! on-chip memory (SRAM).

use super::exports;
use crate::abi::consts::{
    ECC_AGGREGATE, ECC_VOLATILE, FEATURE_DISABLED, FEATURE_ENABLED, MEMORY_ERROR_CORRECTED, MEMORY_ERROR_UNCORRECTED,
};
use crate::abi::{
    Code, DeviceHandle, nvmlEccErrorCounts_t, nvmlEccSramErrorStatus_v1_t, nvmlRowRemapperHistogramValues_t,
};
use crate::edge::{Answer, Array, InOut, Out, Put, Struct};
use crate::library;
use crate::model::{EccCounter, Gpu};
use core::ffi::{c_uint, c_ulonglong};

/// Banks of memory whose spare rows are counted.
const BANKS: c_uint = 640;

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
            let on_chip = gpu.sram(kind == MEMORY_ERROR_UNCORRECTED).min(errors);
            match location {
                2 => out.put(errors - on_chip),
                7 => out.put(on_chip),
                0 | 1 | 3 => out.put(0),
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
    fn nvmlDeviceGetSramEccErrorStatus(device: DeviceHandle, status: Struct<nvmlEccSramErrorStatus_v1_t>) {
        library::device(FUNCTION, device, |gpu| {
            let ecc = &gpu.spec.table.ecc;
            if !ecc.enabled {
                return Err(Code::NotSupported);
            }
            let (corrected, uncorrected) = (gpu.sram(false), gpu.sram(true));
            let exceeded = gpu.flag(ecc.sram_threshold.as_ref());
            status.put(|version| nvmlEccSramErrorStatus_v1_t {
                version,
                aggregateUncParity: 0,
                aggregateUncSecDed: uncorrected,
                aggregateCor: corrected,
                volatileUncParity: 0,
                volatileUncSecDed: uncorrected,
                volatileCor: corrected,
                aggregateUncBucketL2: uncorrected,
                aggregateUncBucketSm: 0,
                aggregateUncBucketPcie: 0,
                aggregateUncBucketMcu: 0,
                aggregateUncBucketOther: 0,
                bThresholdExceeded: c_uint::from(exceeded),
            })
        })
    }
    fn nvmlDeviceGetRowRemapperHistogram(device: DeviceHandle, out: Out<nvmlRowRemapperHistogramValues_t>) {
        library::device(FUNCTION, device, |gpu| {
            let none = gpu.count(gpu.spec.table.rows.exhausted.as_ref()).min(u64::from(BANKS)) as c_uint;
            out.put(nvmlRowRemapperHistogramValues_t { max: BANKS - none, high: 0, partial: 0, low: 0, none })
        })
    }
    // Boards that remap rows retire no pages.
    fn nvmlDeviceGetRetiredPages(device: DeviceHandle, _cause: c_uint, _count: InOut<c_uint>, _pages: Array<u64>) {
        library::device(FUNCTION, device, |_| Err(Code::NotSupported))
    }
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: DeviceHandle, _out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| Err(Code::NotSupported))
    }
}
