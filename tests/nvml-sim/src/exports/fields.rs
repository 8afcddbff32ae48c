//! `nvmlDeviceGetFieldValues`: many values in one call, each with its own return code.

use super::exports;
use super::power::{millijoules, milliwatts};
use crate::abi::{Code, DeviceHandle, nvmlFieldValue_t, nvmlValue_t};
use crate::edge::{Answer, Array};
use crate::library;
use crate::model::{EccCounter, Gpu};
use core::ffi::{c_int, c_uint};
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, as NVML stamps its samples.
pub(super) fn timestamp_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

enum Value {
    U32(u32),
    U64(u64),
    I32(i32),
}

impl Value {
    /// `nvmlValueType_t` and the union.
    fn encode(self) -> (c_uint, nvmlValue_t) {
        match self {
            Self::U32(value) => (1, nvmlValue_t::of_u32(value)),
            Self::U64(value) => (3, nvmlValue_t::of_u64(value)),
            Self::I32(value) => (5, nvmlValue_t::of_i32(value)),
        }
    }
}

/// The value of `NVML_FI_*` number `field`.
fn value(gpu: &Gpu<'_>, field: c_uint) -> Answer<Value> {
    let (preset, table) = (gpu.preset(), &gpu.spec.table);
    let ecc = |uncorrected, aggregate| {
        gpu.ecc(EccCounter { uncorrected, aggregate }).map(Value::U64).ok_or(Code::NotSupported)
    };
    // T.Limit values count down to the slowdown temperature.
    let margin = |threshold: u32| Value::I32(preset.thresholds.slowdown.cast_signed() - threshold.cast_signed());
    Ok(match field {
        1 | 2 => Value::U32(u32::from(table.ecc.enabled)),
        3 => ecc(false, false)?,
        4 => ecc(true, false)?,
        5 => ecc(false, true)?,
        6 => ecc(true, true)?,
        82 => Value::U32(gpu.memory_temperature().round() as u32),
        83 | 191 => Value::U64(millijoules(gpu.energy())),
        94 => Value::U32(gpu.count(table.pcie_replays.as_ref()) as u32),
        142 => Value::U32(gpu.count(table.rows.corrected.as_ref()) as u32),
        143 => Value::U32(gpu.count(table.rows.uncorrected.as_ref()) as u32),
        144 => Value::U32(u32::from(gpu.flag(table.rows.pending.as_ref()))),
        145 => Value::U32(u32::from(gpu.flag(table.rows.failure.as_ref()))),
        185 | 186 => Value::U32(milliwatts(gpu.power())),
        187 => Value::U32(milliwatts(preset.power.min_limit)),
        188 | 189 => Value::U32(milliwatts(preset.power.default_limit)),
        190 | 192 => Value::U32(milliwatts(gpu.power_limit())),
        193 => margin(preset.thresholds.shutdown),
        194 => margin(preset.thresholds.slowdown),
        195 => margin(preset.thresholds.memory_max),
        196 => margin(preset.thresholds.gpu_max),
        230 => Value::U32(0),
        _ => return Err(Code::NotSupported),
    })
}

exports! {
    fn nvmlDeviceGetFieldValues(device: DeviceHandle, count: c_int, values: Array<nvmlFieldValue_t>) {
        library::device(FUNCTION, device, |gpu| {
            let count = usize::try_from(count).ok().filter(|it| *it > 0).ok_or(Code::InvalidArgument)?;
            values.update(count, |slot| {
                slot.timestamp = timestamp_us().cast_signed();
                slot.latencyUsec = 0;
                match value(gpu, slot.fieldId) {
                    Ok(value) => {
                        (slot.valueType, slot.value) = value.encode();
                        slot.nvmlReturn = 0;
                    }
                    Err(code) => slot.nvmlReturn = code as c_uint,
                }
            })
        })
    }
}
