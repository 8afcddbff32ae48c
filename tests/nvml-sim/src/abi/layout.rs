//! The structs that cross the ABI, field for field as `nvml.h` has them.
//!
//! Each also describes itself (`Layout`), so that one test can hold every size and
//! offset against the header as the C compiler lays it out.

#![expect(non_camel_case_types, non_snake_case, reason = "the names are those of nvml.h, so that a search finds both")]

use super::DeviceHandle;
use crate::edge::Array;
use core::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong};
use std::mem::{offset_of, size_of};

/// Size and field offsets of one struct as Rust lays it out, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The C type's name.
    pub name: &'static str,
    /// `sizeof` the whole struct.
    pub size: usize,
    /// Each field's C name and `offsetof`.
    pub fields: Vec<(&'static str, usize)>,
}

/// A struct whose first member is `version`: its size in the low 24 bits and the
/// struct's revision above (`NVML_STRUCT_VERSION`).
pub(crate) trait Versioned: Copy {
    const REVISION: c_uint;
    fn version() -> c_uint {
        size_of::<Self>() as c_uint | (Self::REVISION << 24)
    }
}

macro_rules! abi_structs {
    ($($name:ident $(: version $revision:literal)? { $($field:ident: $ty:ty),* $(,)? })*) => {
        $(
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub(crate) struct $name { $(pub(crate) $field: $ty),* }
            $(impl Versioned for $name { const REVISION: c_uint = $revision; })?
        )*

        /// The layout of every struct this library reads or writes.
        pub fn layouts() -> Vec<Layout> {
            vec![$(Layout {
                name: stringify!($name),
                size: size_of::<$name>(),
                fields: vec![$((stringify!($field), offset_of!($name, $field))),*],
            }),*]
        }
    };
}

abi_structs! {
    nvmlPciInfo_t {
        busIdLegacy: [c_char; 16],
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        busId: [c_char; 32],
    }
    nvmlPciInfoExt_v1_t: version 1 {
        version: c_uint,
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        baseClass: c_uint,
        subClass: c_uint,
        busId: [c_char; 32],
    }
    nvmlUtilization_t { gpu: c_uint, memory: c_uint }
    nvmlMemory_t { total: c_ulonglong, free: c_ulonglong, used: c_ulonglong }
    nvmlMemory_v2_t: version 2 {
        version: c_uint,
        total: c_ulonglong,
        reserved: c_ulonglong,
        free: c_ulonglong,
        used: c_ulonglong,
    }
    nvmlBAR1Memory_t { bar1Total: c_ulonglong, bar1Free: c_ulonglong, bar1Used: c_ulonglong }
    nvmlEccErrorCounts_t {
        l1Cache: c_ulonglong,
        l2Cache: c_ulonglong,
        deviceMemory: c_ulonglong,
        registerFile: c_ulonglong,
    }
    nvmlTemperature_v1_t: version 1 { version: c_uint, sensorType: c_uint, temperature: c_int }
    nvmlMarginTemperature_v1_t: version 1 { version: c_uint, marginTemperature: c_int }
    nvmlFanSpeedInfo_v1_t: version 1 { version: c_uint, fan: c_uint, speed: c_uint }
    nvmlProcessInfo_v1_t { pid: c_uint, usedGpuMemory: c_ulonglong }
    nvmlProcessInfo_v2_t {
        pid: c_uint,
        usedGpuMemory: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
    }
    nvmlProcessDetail_v1_t {
        pid: c_uint,
        usedGpuMemory: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
        usedGpuCcProtectedMemory: c_ulonglong,
    }
    nvmlProcessDetailList_v1_t: version 1 {
        version: c_uint,
        mode: c_uint,
        numProcArrayEntries: c_uint,
        procArray: Array<nvmlProcessDetail_v1_t>,
    }
    nvmlProcessUtilizationSample_t {
        pid: c_uint,
        timeStamp: c_ulonglong,
        smUtil: c_uint,
        memUtil: c_uint,
        encUtil: c_uint,
        decUtil: c_uint,
    }
    nvmlEventData_t {
        device: DeviceHandle,
        eventType: c_ulonglong,
        eventData: c_ulonglong,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
    }
    nvmlFieldValue_t {
        fieldId: c_uint,
        scopeId: c_uint,
        timestamp: c_longlong,
        latencyUsec: c_longlong,
        valueType: c_uint,
        nvmlReturn: c_uint,
        value: nvmlValue_t,
    }
    nvmlSample_t { timeStamp: c_ulonglong, sampleValue: nvmlValue_t }
    nvmlViolationTime_t { referenceTime: c_ulonglong, violationTime: c_ulonglong }
    nvmlEccSramErrorStatus_v1_t: version 1 {
        version: c_uint,
        aggregateUncParity: c_ulonglong,
        aggregateUncSecDed: c_ulonglong,
        aggregateCor: c_ulonglong,
        volatileUncParity: c_ulonglong,
        volatileUncSecDed: c_ulonglong,
        volatileCor: c_ulonglong,
        aggregateUncBucketL2: c_ulonglong,
        aggregateUncBucketSm: c_ulonglong,
        aggregateUncBucketPcie: c_ulonglong,
        aggregateUncBucketMcu: c_ulonglong,
        aggregateUncBucketOther: c_ulonglong,
        bThresholdExceeded: c_uint,
    }
    nvmlRowRemapperHistogramValues_t { max: c_uint, high: c_uint, partial: c_uint, low: c_uint, none: c_uint }
    nvmlGpuFabricInfo_t { clusterUuid: [u8; 16], status: c_uint, cliqueId: c_uint, state: c_uint }
    nvmlGpuFabricInfo_v2_t: version 2 {
        version: c_uint,
        clusterUuid: [u8; 16],
        status: c_uint,
        cliqueId: c_uint,
        state: c_uint,
        healthMask: c_uint,
    }
    nvmlGpmSupport_t { version: c_uint, isSupportedDevice: c_uint }
    nvmlGpmMetric_t { metricId: c_uint, nvmlReturn: c_uint, value: f64, metricInfo: [usize; 3] }
    nvmlGpmMetricsGet_t {
        version: c_uint,
        numMetrics: c_uint,
        sample1: usize,
        sample2: usize,
        metrics: [nvmlGpmMetric_t; GPM_METRICS],
    }
    nvmlDeviceAttributes_t {
        multiprocessorCount: c_uint,
        sharedCopyEngineCount: c_uint,
        sharedDecoderCount: c_uint,
        sharedEncoderCount: c_uint,
        sharedJpegCount: c_uint,
        sharedOfaCount: c_uint,
        gpuInstanceSliceCount: c_uint,
        computeInstanceSliceCount: c_uint,
        memorySizeMB: c_ulonglong,
    }
}

/// `NVML_GPM_METRIC_MAX` of the header.
const GPM_METRICS: usize = 210;

/// The C union `nvmlValue_t`, kept as the eight bytes it occupies: on a little-endian
/// machine each member starts at the first of them.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct nvmlValue_t(u64);

#[cfg(not(target_endian = "little"))]
compile_error!("nvmlValue_t is laid out for little-endian machines");

impl nvmlValue_t {
    pub(crate) fn of_u32(value: u32) -> Self {
        Self(u64::from(value))
    }
    pub(crate) fn of_u64(value: u64) -> Self {
        Self(value)
    }
    pub(crate) fn of_i32(value: i32) -> Self {
        Self(u64::from(value.cast_unsigned()))
    }
}

#[cfg(test)]
mod tests {
    use super::layouts;

    /// Sizes on 64-bit Linux of the published header (12.9), so that the test says
    /// something even where the header is not at hand.
    const SIZES: &[(&str, usize)] = &[
        ("nvmlPciInfo_t", 68),
        ("nvmlPciInfoExt_v1_t", 64),
        ("nvmlUtilization_t", 8),
        ("nvmlMemory_t", 24),
        ("nvmlMemory_v2_t", 40),
        ("nvmlBAR1Memory_t", 24),
        ("nvmlEccErrorCounts_t", 32),
        ("nvmlTemperature_v1_t", 12),
        ("nvmlMarginTemperature_v1_t", 8),
        ("nvmlFanSpeedInfo_v1_t", 12),
        ("nvmlProcessInfo_v1_t", 16),
        ("nvmlProcessInfo_v2_t", 24),
        ("nvmlProcessDetail_v1_t", 32),
        ("nvmlProcessDetailList_v1_t", 24),
        ("nvmlProcessUtilizationSample_t", 32),
        ("nvmlEventData_t", 32),
        ("nvmlFieldValue_t", 40),
        ("nvmlSample_t", 16),
        ("nvmlViolationTime_t", 16),
        ("nvmlEccSramErrorStatus_v1_t", 104),
        ("nvmlRowRemapperHistogramValues_t", 20),
        ("nvmlGpuFabricInfo_t", 28),
        ("nvmlGpuFabricInfo_v2_t", 36),
        ("nvmlGpmSupport_t", 8),
        ("nvmlGpmMetric_t", 40),
        ("nvmlGpmMetricsGet_t", 8_424),
        ("nvmlDeviceAttributes_t", 40),
    ];

    #[test]
    fn sizes_are_those_of_the_published_header() {
        let ours: Vec<_> = layouts().iter().map(|it| (it.name, it.size)).collect();
        assert_eq!(ours, SIZES);
    }
}
