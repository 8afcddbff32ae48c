//! NVML calls that nvml-wrapper does not wrap, or wraps without what is needed here. With the handles of [`super::shared`] the
//! only `unsafe` of the sensor.
//!
//! Each returns what NVML said. A symbol that the library does not have is an error of its own
//! ([`NvmlError::FailedToLoadSymbol`]), as in the wrapper. Structs are field for field those of `nvml.h`; the tests of
//! `nvml-sim` hold the same ones against the header.

pub mod events;

use nvml_wrapper::{
    Device,
    error::{NvmlError, nvml_sym, nvml_try},
};
use std::mem::size_of;

/// `NVML_STRUCT_VERSION`.
fn version<T>(revision: u32) -> u32 {
    // A struct of NVML is a few hundred bytes.
    u32::try_from(size_of::<T>()).unwrap_or(0) | (revision << 24)
}

/// The answer of a function, which may not be in the library. Shared with the files below this one.
macro_rules! call {
    ($device:expr, $function:ident $(, $arg:expr)*) => {
        nvml_sym($device.nvml().lib().$function.as_ref()).and_then(|symbol| {
            // SAFETY: the handle belongs to this library; each pointer is to a local of the layout that `nvml.h` gives for
            // this function, initialised and as long as is said, and lives until the call has returned.
            answered(unsafe { symbol($device.handle() $(, $arg)*) })
        })
    };
}

use call;

/// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH`: the library is older or newer than the struct.
const VERSION_MISMATCH: u32 = 25;

fn answered(code: u32) -> Result<(), NvmlError> {
    // The wrapper does not know this code; to us the function as we know it is not there.
    if code == VERSION_MISMATCH { Err(NvmlError::FunctionNotFound) } else { nvml_try(code) }
}

/// Field and scope of a value to ask for; the scope is 0 but for links.
pub type FieldScope = (u32, u32);

#[repr(C)]
#[derive(Clone, Copy)]
struct FieldValue {
    field: u32,
    scope: u32,
    timestamp: i64,
    latency: i64,
    value_type: u32,
    code: u32,
    value: u64,
}

/// Values of `nvmlDeviceGetFieldValues`, each with its own answer. They are matched by position: drivers from 580.82 on
/// renumber fields 251 to 273, so none of those is asked for here.
pub fn field_values(device: &Device<'_>, fields: &[FieldScope]) -> Result<Vec<Result<i128, NvmlError>>, NvmlError> {
    let mut values: Vec<FieldValue> = fields
        .iter()
        .map(|(field, scope)| FieldValue {
            field: *field,
            scope: *scope,
            timestamp: 0,
            latency: 0,
            value_type: 0,
            code: 0,
            value: 0,
        })
        .collect();
    let count = i32::try_from(values.len()).map_err(|_| NvmlError::InvalidArg)?;
    call!(device, nvmlDeviceGetFieldValues, count, values.as_mut_ptr().cast())?;
    Ok(values.iter().map(|value| nvml_try(value.code).and_then(|()| integer(value))).collect())
}

/// The union's member by the type that NVML names. The machine is little-endian, so a narrower member is the low bytes.
fn integer(value: &FieldValue) -> Result<i128, NvmlError> {
    let bits = value.value;
    Ok(match value.value_type {
        // Beyond what fits, Rust's cast saturates, which is out of any signal's range.
        0 => f64::from_bits(bits) as i128,
        1 => i128::from(bits & 0xffff_ffff),
        2 | 3 => i128::from(bits),
        4 => i128::from(bits.cast_signed()),
        5 => i128::from(((bits & 0xffff_ffff) as u32).cast_signed()),
        6 => i128::from(bits & 0xffff),
        other => return Err(NvmlError::UnexpectedVariant(other)),
    })
}

#[cfg(not(target_endian = "little"))]
compile_error!("nvmlValue_t is read as on little-endian machines");

/// Memory as the first version of the call splits it: what the driver keeps counts as used.
#[repr(C)]
#[derive(Default)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlDeviceGetMemoryInfo`, for libraries without its second version.
pub fn memory_v1(device: &Device<'_>) -> Result<Memory, NvmlError> {
    let mut memory = Memory::default();
    call!(device, nvmlDeviceGetMemoryInfo, (&raw mut memory).cast())?;
    Ok(memory)
}

#[repr(C)]
struct Temperature {
    version: u32,
    sensor: u32,
    degrees: i32,
}

#[repr(C)]
struct Margin {
    version: u32,
    degrees: i32,
}

/// `nvmlDeviceGetTemperature`, in whole degrees; by its successor in libraries that no longer have it.
pub fn temperature(device: &Device<'_>) -> Result<i32, NvmlError> {
    let mut degrees = 0u32;
    match call!(device, nvmlDeviceGetTemperature, 0, &raw mut degrees) {
        // The value is a signed int in C that the header calls unsigned.
        Ok(()) => return Ok(degrees.cast_signed()),
        Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {}
        Err(error) => return Err(error),
    }
    let mut temperature = Temperature { version: version::<Temperature>(1), sensor: 0, degrees: 0 };
    call!(device, nvmlDeviceGetTemperatureV, (&raw mut temperature).cast())?;
    Ok(temperature.degrees)
}

/// `nvmlDeviceGetMarginTemperature`: whole degrees to the nearest slowdown.
pub fn margin(device: &Device<'_>) -> Result<i32, NvmlError> {
    let mut margin = Margin { version: version::<Margin>(1), degrees: 0 };
    call!(device, nvmlDeviceGetMarginTemperature, (&raw mut margin).cast())?;
    Ok(margin.degrees)
}

/// `nvmlDeviceGetCurrentClocksEventReasons`, by its older name in older libraries. All bits, also those unknown here.
pub fn throttle_reasons(device: &Device<'_>) -> Result<u64, NvmlError> {
    let mut bits = 0u64;
    match call!(device, nvmlDeviceGetCurrentClocksEventReasons, &raw mut bits) {
        Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {
            call!(device, nvmlDeviceGetCurrentClocksThrottleReasons, &raw mut bits)?;
        }
        other => other?,
    }
    Ok(bits)
}

/// Errors of on-chip memory.
#[repr(C)]
#[derive(Default)]
pub struct SramErrors {
    version: u32,
    /// As the three below, over the GPU's life.
    pub aggregate_parity: u64,
    pub aggregate_sec_ded: u64,
    pub aggregate_corrected: u64,
    /// Uncorrected, found by parity.
    pub parity: u64,
    /// Uncorrected, found by ECC.
    pub sec_ded: u64,
    /// Corrected.
    pub corrected: u64,
    /// Uncorrected over the GPU's life: in the L2 cache, the multiprocessors, PCIe, micro-controllers, elsewhere.
    pub buckets: [u64; 5],
    /// NVIDIA's threshold is passed.
    pub threshold_exceeded: u32,
}

/// `nvmlDeviceGetSramEccErrorStatus`.
pub fn sram_errors(device: &Device<'_>) -> Result<SramErrors, NvmlError> {
    let mut errors = SramErrors { version: version::<SramErrors>(1), ..SramErrors::default() };
    call!(device, nvmlDeviceGetSramEccErrorStatus, (&raw mut errors).cast())?;
    Ok(errors)
}

/// Which count of memory errors.
#[derive(Debug, Clone, Copy)]
pub struct Errors {
    pub uncorrected: bool,
    /// Over the GPU's life, and not since the driver was loaded.
    pub aggregate: bool,
}

/// `nvmlDeviceGetMemoryErrorCounter` of an `NVML_MEMORY_LOCATION_*`: the wrapper has no number for those that came later.
pub fn memory_errors(device: &Device<'_>, location: u32, errors: Errors) -> Result<u64, NvmlError> {
    let mut count = 0u64;
    let (kind, counter) = (u32::from(errors.uncorrected), u32::from(errors.aggregate));
    call!(device, nvmlDeviceGetMemoryErrorCounter, kind, counter, location, &raw mut count)?;
    Ok(count)
}

/// `nvmlDeviceGetTargetFanSpeed`: percent of the fan's full speed.
pub fn fan_target(device: &Device<'_>, fan: u32) -> Result<u32, NvmlError> {
    let mut percent = 0u32;
    call!(device, nvmlDeviceGetTargetFanSpeed, fan, &raw mut percent)?;
    Ok(percent)
}

/// `nvmlDeviceGetFanControlPolicy_v2`: whether somebody has taken the fan from the driver.
pub fn fan_is_manual(device: &Device<'_>, fan: u32) -> Result<bool, NvmlError> {
    /// `NVML_FAN_POLICY_MANUAL`.
    const MANUAL: u32 = 1;
    let mut policy = 0u32;
    call!(device, nvmlDeviceGetFanControlPolicy_v2, fan, &raw mut policy)?;
    Ok(policy == MANUAL)
}

#[repr(C)]
struct FanSpeed {
    version: u32,
    fan: u32,
    turns: u32,
}

/// `nvmlDeviceGetFanSpeedRPM`: turns a minute, as measured.
pub fn fan_rpm(device: &Device<'_>, fan: u32) -> Result<u32, NvmlError> {
    let mut speed = FanSpeed { version: version::<FanSpeed>(1), fan, turns: 0 };
    call!(device, nvmlDeviceGetFanSpeedRPM, (&raw mut speed).cast())?;
    Ok(speed.turns)
}

/// Banks by how many spare rows they have left: all, many, some, few, none.
#[repr(C)]
#[derive(Default)]
pub struct SpareRows {
    max: u32,
    high: u32,
    partial: u32,
    low: u32,
    /// Banks that cannot remap another row.
    pub none: u32,
}

/// `nvmlDeviceGetRowRemapperHistogram`.
pub fn spare_rows(device: &Device<'_>) -> Result<SpareRows, NvmlError> {
    let mut rows = SpareRows::default();
    call!(device, nvmlDeviceGetRowRemapperHistogram, (&raw mut rows).cast())?;
    Ok(rows)
}

/// Registration with the NVLink fabric.
#[repr(C)]
#[derive(Default)]
pub struct FabricInfo {
    version: u32,
    pub cluster: [u8; 16],
    pub status: u32,
    pub clique: u32,
    pub state: u32,
    pub health: u32,
}

/// `nvmlDeviceGetGpuFabricInfoV`.
pub fn fabric(device: &Device<'_>) -> Result<FabricInfo, NvmlError> {
    let mut info = FabricInfo { version: version::<FabricInfo>(2), ..FabricInfo::default() };
    call!(device, nvmlDeviceGetGpuFabricInfoV, (&raw mut info).cast())?;
    Ok(info)
}

/// `nvmlDeviceGetGpuInstanceId`, of a MIG device.
pub fn gpu_instance(device: &Device<'_>) -> Result<u32, NvmlError> {
    let mut id = 0u32;
    call!(device, nvmlDeviceGetGpuInstanceId, &raw mut id)?;
    Ok(id)
}

/// `nvmlDeviceGetComputeInstanceId`, of a MIG device.
pub fn compute_instance(device: &Device<'_>) -> Result<u32, NvmlError> {
    let mut id = 0u32;
    call!(device, nvmlDeviceGetComputeInstanceId, &raw mut id)?;
    Ok(id)
}

/// Processes that a GPU's list holds before a longer buffer is made for it.
const FEW: usize = 32;
/// The most that are read of one list.
const MOST: usize = 16 << 10;

/// A process on a GPU, `nvmlProcessInfo_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ProcessInfo {
    pub pid: u32,
    /// Bytes; all ones where the driver does not say.
    pub memory: u64,
    /// All ones outside of MIG.
    pub gpu_instance: u32,
    pub compute_instance: u32,
}

/// A list of processes: what works on the GPU how.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Compute,
    Mps,
    Graphics,
}

/// The processes of one kind, by the third version of the calls. One call where they are few: the wrapper makes two of it.
pub fn processes(device: &Device<'_>, work: Work) -> Result<Vec<ProcessInfo>, NvmlError> {
    let mut list = vec![ProcessInfo::default(); FEW];
    loop {
        let mut count = u32::try_from(list.len()).map_err(|_| NvmlError::InvalidArg)?;
        let answer = match work {
            Work::Compute => {
                call!(device, nvmlDeviceGetComputeRunningProcesses_v3, &raw mut count, list.as_mut_ptr().cast())
            }
            Work::Mps => {
                call!(device, nvmlDeviceGetMPSComputeRunningProcesses_v3, &raw mut count, list.as_mut_ptr().cast())
            }
            Work::Graphics => {
                call!(device, nvmlDeviceGetGraphicsRunningProcesses_v3, &raw mut count, list.as_mut_ptr().cast())
            }
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        match answer {
            // Some may have come since; more than can be is a driver that is falling over.
            Err(NvmlError::InsufficientSize(_)) if list.len() < MOST => {
                let room = count.max(list.len()).saturating_add(FEW).min(MOST);
                list.resize(room, ProcessInfo::default());
            }
            Err(error) => return Err(error),
            Ok(()) => {
                list.truncate(count);
                return Ok(list);
            }
        }
    }
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ProcessUse {
    pub pid: u32,
    /// Microseconds of the CPU's clock.
    pub at: u64,
    /// Percent of the streaming multiprocessors' time.
    pub sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

/// `nvmlDeviceGetProcessUtilization`: what processes did since the time stamp of the last sample that was read. Nothing where
/// none did anything.
pub fn process_use(device: &Device<'_>, since: u64) -> Result<Vec<ProcessUse>, NvmlError> {
    let mut list = vec![ProcessUse::default(); FEW];
    loop {
        let mut count = u32::try_from(list.len()).map_err(|_| NvmlError::InvalidArg)?;
        match call!(device, nvmlDeviceGetProcessUtilization, list.as_mut_ptr().cast(), &raw mut count, since) {
            Err(NvmlError::NotFound) => return Ok(Vec::new()),
            Err(NvmlError::InsufficientSize(_)) if list.len() < MOST => {
                let room = usize::try_from(count).unwrap_or(usize::MAX).max(list.len()).saturating_add(FEW).min(MOST);
                list.resize(room, ProcessUse::default());
            }
            Err(error) => return Err(error),
            Ok(()) => {
                list.truncate(usize::try_from(count).unwrap_or(usize::MAX));
                return Ok(list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(value_type: u32, value: u64) -> Option<i128> {
        let field = FieldValue { field: 0, scope: 0, timestamp: 0, latency: 0, value_type, code: 0, value };
        integer(&field).ok()
    }

    #[test]
    fn each_member_of_the_union_is_read_by_its_type() {
        assert_eq!(value(0, 1.5f64.to_bits()), Some(1));
        assert_eq!(value(0, f64::NAN.to_bits()), Some(0));
        assert_eq!(value(1, 0xdead_beef_0000_0007), Some(7), "what lies above a narrow member is not part of it");
        assert_eq!(value(3, u64::MAX), Some(i128::from(u64::MAX)));
        assert_eq!(value(4, u64::MAX), Some(-1));
        assert_eq!(value(5, 0xffff_fffe), Some(-2));
        assert_eq!(value(6, 0x1_0002), Some(2));
        assert_eq!(value(9, 0), None);
    }

    /// The stand-in's structs are held against NVIDIA's header, as the C compiler lays it out, by its own tests.
    #[test]
    fn structs_are_laid_out_as_those_of_the_header() {
        fn held(name: &str, size: usize, offsets: &[(&str, usize)]) {
            let layout = nvidia_ml::layouts().into_iter().find(|it| it.name == name).unwrap();
            assert_eq!(layout.size, size, "{name}");
            for offset in offsets {
                assert!(layout.fields.contains(offset), "{name}: {offset:?} is not in {:?}", layout.fields);
            }
        }
        macro_rules! held {
            ($ours:ident as $theirs:literal: $($field:ident = $name:literal),*) => {
                held($theirs, size_of::<$ours>(), &[$(($name, std::mem::offset_of!($ours, $field))),*]);
            };
        }
        held!(FieldValue as "nvmlFieldValue_t": field = "fieldId", scope = "scopeId", value_type = "valueType",
            code = "nvmlReturn", value = "value");
        held!(Memory as "nvmlMemory_t": total = "total", free = "free", used = "used");
        held!(Temperature as "nvmlTemperature_v1_t": version = "version", sensor = "sensorType", degrees = "temperature");
        held!(Margin as "nvmlMarginTemperature_v1_t": version = "version", degrees = "marginTemperature");
        held!(SramErrors as "nvmlEccSramErrorStatus_v1_t": version = "version", parity = "volatileUncParity",
            sec_ded = "volatileUncSecDed", corrected = "volatileCor", aggregate_parity = "aggregateUncParity",
            aggregate_sec_ded = "aggregateUncSecDed", aggregate_corrected = "aggregateCor",
            buckets = "aggregateUncBucketL2", threshold_exceeded = "bThresholdExceeded");
        held!(FanSpeed as "nvmlFanSpeedInfo_v1_t": version = "version", fan = "fan", turns = "speed");
        held!(ProcessInfo as "nvmlProcessInfo_v2_t": pid = "pid", memory = "usedGpuMemory",
            gpu_instance = "gpuInstanceId", compute_instance = "computeInstanceId");
        held!(ProcessUse as "nvmlProcessUtilizationSample_t": pid = "pid", at = "timeStamp", sm = "smUtil");
        held!(SpareRows as "nvmlRowRemapperHistogramValues_t": none = "none");
        held!(FabricInfo as "nvmlGpuFabricInfo_v2_t": version = "version", cluster = "clusterUuid", status = "status",
            clique = "cliqueId", state = "state", health = "healthMask");
    }
}
