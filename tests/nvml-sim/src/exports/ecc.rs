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
use crate::model::{EccCounter, Location};
use core::ffi::{c_uint, c_ulonglong};

/// Banks of memory whose spare rows are counted.
const BANKS: c_uint = 640;

fn counter(kind: c_uint, counter: c_uint) -> Answer<EccCounter> {
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
    Ok(EccCounter { uncorrected, aggregate })
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
        library::device(FUNCTION, device, |gpu| {
            out.put(gpu.ecc(self::counter(kind, counter)?).ok_or(Code::NotSupported)?)
        })
    }
    fn nvmlDeviceGetDetailedEccErrors(
        device: DeviceHandle,
        kind: c_uint,
        counter: c_uint,
        out: Out<nvmlEccErrorCounts_t>,
    ) {
        library::device(FUNCTION, device, |gpu| {
            let counter = self::counter(kind, counter)?;
            let of = |location| gpu.ecc_at(location, counter);
            out.put(nvmlEccErrorCounts_t {
                l1Cache: of(Location::L1).unwrap_or(0),
                l2Cache: of(Location::L2).unwrap_or(0),
                deviceMemory: of(Location::Dram).ok_or(Code::NotSupported)?,
                registerFile: of(Location::Register).unwrap_or(0),
            })
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
            let counter = self::counter(kind, counter)?;
            let location = Location::of(location).ok_or(Code::InvalidArgument)?;
            out.put(gpu.ecc_at(location, counter).ok_or(Code::NotSupported)?)
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
            let of = |uncorrected, aggregate| gpu.sram(EccCounter { uncorrected, aggregate });
            let [l2, sm, pcie, mcu, other] = ecc.sram_parts.unwrap_or([of(true, true), 0, 0, 0, 0]);
            let exceeded = gpu.flag(ecc.sram_threshold.as_ref());
            status.put(|version| nvmlEccSramErrorStatus_v1_t {
                version,
                aggregateUncParity: 0,
                aggregateUncSecDed: of(true, true),
                aggregateCor: of(false, true),
                volatileUncParity: 0,
                volatileUncSecDed: of(true, false),
                volatileCor: of(false, false),
                aggregateUncBucketL2: l2,
                aggregateUncBucketSm: sm,
                aggregateUncBucketPcie: pcie,
                aggregateUncBucketMcu: mcu,
                aggregateUncBucketOther: other,
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
