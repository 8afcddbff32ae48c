//! `nvmlDeviceGetFieldValues`: many values in one call, each with its own return code.

use super::exports;
use super::power::{millijoules, milliwatts};
use crate::abi::consts::reason;
use crate::abi::{Code, DeviceHandle, nvmlFieldValue_t, nvmlValue_t};
use crate::edge::{self, Answer, Array};
use crate::library;
use crate::model::{EccCounter, Gpu, LinkCount, LinkCounters, Location};
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

/// The value of `NVML_FI_*` number `field` of a link, or of what the scope means.
fn value(gpu: &Gpu<'_>, field: c_uint, scope: c_uint) -> Answer<Value> {
    let (preset, table) = (gpu.preset(), &gpu.spec.table);
    if let Some(value) = table.fields.0.get(&field) {
        return Ok(Value::U64(*value));
    }
    let ecc = |uncorrected, aggregate| {
        gpu.ecc(EccCounter { uncorrected, aggregate }).map(Value::U64).ok_or(Code::NotSupported)
    };
    // T.Limit values count down to the highest temperature of operation.
    let margin = |threshold: u32| Value::I32(preset.thresholds.gpu_max.cast_signed() - threshold.cast_signed());
    // Nanoseconds; where the scenario gives no reasons, the clocks were never held down.
    let held = |reasons| Value::U64((gpu.throttled_seconds(reasons).unwrap_or(0.0) * 1e9) as u64);
    let at = |location, uncorrected, aggregate| {
        gpu.ecc_at(location, EccCounter { uncorrected, aggregate }).map(Value::U64).ok_or(Code::NotSupported)
    };
    Ok(match field {
        1 | 2 => Value::U32(u32::from(table.ecc.enabled)),
        3 => ecc(false, false)?,
        4 => ecc(true, false)?,
        5 => ecc(false, true)?,
        6 => ecc(true, true)?,
        7 | 8 => at(Location::L1, field == 8, false)?,
        9 | 10 => at(Location::L2, field == 10, false)?,
        11 | 12 => at(Location::Dram, field == 12, false)?,
        13 | 14 => at(Location::Register, field == 14, false)?,
        15 | 16 => at(Location::Texture, field == 16, false)?,
        17 => at(Location::Cbu, true, false)?,
        18 | 19 => at(Location::L1, field == 19, true)?,
        20 | 21 => at(Location::L2, field == 21, true)?,
        22 | 23 => at(Location::Dram, field == 23, true)?,
        24 | 25 => at(Location::Register, field == 25, true)?,
        26 | 27 => at(Location::Texture, field == 27, true)?,
        28 => at(Location::Cbu, true, true)?,
        74 => held(reason::SW_POWER_CAP | reason::HW_POWER_BRAKE),
        75 => held(reason::SW_THERMAL | reason::HW_THERMAL),
        76 => held(reason::SYNC_BOOST),
        77..=79 => Value::U64(0),
        82 => Value::U32(gpu.memory_temperature().round() as u32),
        83 | 191 => Value::U64(millijoules(gpu.energy())),
        94 => Value::U32(gpu.count(table.pcie_replays.as_ref()) as u32),
        91 => Value::U32(gpu.links()),
        138 | 139 if gpu.links() > 0 => {
            let way = if field == 138 { LinkCount::Sent } else { LinkCount::Received };
            Value::U64(gpu.link_count(way) / 1_024)
        }
        165 if gpu.links() > 0 => {
            if scope >= gpu.links() {
                return Err(Code::InvalidArgument);
            }
            Value::U32(u32::from(scope < gpu.links_up()))
        }
        38 | 45 | 52 | 59 | 161..=163 | 208 | 215 => Value::U64(link_errors(gpu, field, scope)?),
        173 => Value::U32(gpu.count(table.pcie_correctable.as_ref()) as u32),
        179 => Value::U32(0),
        180 => Value::U32(gpu.count(table.pcie_fatal.as_ref()) as u32),
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
        230 => Value::U32(table.recovery_action.as_ref().map_or(0, |it| *it.at(gpu.t) as u32)),
        _ => return Err(Code::NotSupported),
    })
}

/// Errors of NVLinks under the fields by which the model's generation counts them. The first link has all.
fn link_errors(gpu: &Gpu<'_>, field: c_uint, scope: c_uint) -> Answer<u64> {
    let (counters, what) = match field {
        38 => (LinkCounters::Totals, Some(LinkCount::Crc)),
        45 => (LinkCounters::Totals, None),
        52 => (LinkCounters::Totals, Some(LinkCount::Replays)),
        59 => (LinkCounters::Totals, Some(LinkCount::Recoveries)),
        161 => (LinkCounters::PerLink, Some(LinkCount::Replays)),
        162 => (LinkCounters::PerLink, Some(LinkCount::Recoveries)),
        163 => (LinkCounters::PerLink, Some(LinkCount::Crc)),
        208 => (LinkCounters::NvLink5, Some(LinkCount::Crc)),
        _ => (LinkCounters::NvLink5, Some(LinkCount::Recoveries)),
    };
    let nvlink = &gpu.preset().nvlink;
    if nvlink.count == 0 || nvlink.counters != counters {
        return Err(Code::NotSupported);
    }
    let here = counters == LinkCounters::Totals || scope == 0;
    Ok(what.filter(|_| here).map_or(0, |what| gpu.link_count(what)))
}

exports! {
    fn nvmlDeviceGetFieldValues(device: DeviceHandle, count: c_int, values: Array<nvmlFieldValue_t>) {
        library::device(FUNCTION, device, |gpu| {
            let count = usize::try_from(count).ok().filter(|it| *it > 0).ok_or(Code::InvalidArgument)?;
            values.update(count, |slot| {
                slot.timestamp = timestamp_us().cast_signed();
                slot.latencyUsec = 0;
                match value(gpu, slot.fieldId, slot.scopeId) {
                    Ok(value) => {
                        (slot.valueType, slot.value) = value.encode();
                        slot.nvmlReturn = 0;
                    }
                    Err(code) => slot.nvmlReturn = code as c_uint,
                }
                if let Some(byte) = edge::corruption() {
                    slot.value = nvmlValue_t::of_u64(u64::from_ne_bytes([byte; 8]));
                }
            })
        })
    }
}
