//! Which file is which signal, and in which unit. See the kernel's `Documentation/gpu/amdgpu/thermal.rst` and `driver-misc.rst`.

use super::Sample;
use crate::sensors::plausible::plausible;
use failsafe_core::Kind;
use std::{io::ErrorKind, path::Path};

/// Bytes of a file that are looked at; these hold one number.
const MOST: usize = 4_096;

/// How the text of a file becomes a value.
#[derive(Clone, Copy)]
enum As {
    /// A number times this.
    Times(i64),
    /// A number divided by this.
    Over(i64),
    /// The generation of a link speed such as `16.0 GT/s PCIe`.
    Generation,
    /// The count after this word, as in `ue: 3`.
    After(&'static str),
}

/// Below the device's folder.
const DEVICE: &[(Kind, &str, As)] = &[
    (Kind::GpuUtilization, "gpu_busy_percent", As::Times(1_000)),
    (Kind::GpuMemoryUtilization, "mem_busy_percent", As::Times(1_000)),
    (Kind::GpuMemory, "mem_info_vram_used", As::Times(1)),
    (Kind::GpuMemoryTotal, "mem_info_vram_total", As::Times(1)),
    (Kind::GpuPcieGeneration, "current_link_speed", As::Generation),
    (Kind::GpuPcieGenerationMax, "max_link_speed", As::Generation),
    (Kind::GpuPcieWidth, "current_link_width", As::Times(1)),
    (Kind::GpuPcieWidthMax, "max_link_width", As::Times(1)),
    (Kind::GpuPcieReplays, "pcie_replay_count", As::Times(1)),
    (Kind::GpuEccUncorrected, "ras/umc_err_count", As::After("ue:")),
    (Kind::GpuEccCorrected, "ras/umc_err_count", As::After("ce:")),
];

/// Below its hwmon folder: edge and memory temperature and their limits in milli-degrees, power in microwatts, clocks in hertz.
const HWMON: &[(Kind, &str, As)] = &[
    (Kind::GpuTemperature, "temp1_input", As::Times(1)),
    (Kind::GpuTemperatureSlowdown, "temp1_crit", As::Times(1)),
    (Kind::GpuTemperatureShutdown, "temp1_emergency", As::Times(1)),
    (Kind::GpuMemoryTemperature, "temp3_input", As::Times(1)),
    (Kind::GpuMemoryTemperatureLimit, "temp3_crit", As::Times(1)),
    (Kind::GpuPowerAverage, "power1_average", As::Over(1_000)),
    (Kind::GpuPowerInstant, "power1_input", As::Over(1_000)),
    (Kind::GpuPowerLimit, "power1_cap", As::Over(1_000)),
    (Kind::GpuPowerLimitDefault, "power1_cap_default", As::Over(1_000)),
    (Kind::GpuClockSm, "freq1_input", As::Over(1_000_000)),
    (Kind::GpuClockMemory, "freq2_input", As::Over(1_000_000)),
];

/// A file's text without the white space around it; `None` where there is no such file.
pub(super) fn text(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).trim().to_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        // The driver's word for a sensor that this chip does not have.
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn sample(device: &Path, hwmon: Option<&Path>) -> Sample {
    let mut sample = Sample::default();
    for (folder, table) in [(Some(device), DEVICE), (hwmon, HWMON)] {
        for (kind, file, how) in table {
            let read = folder.map_or(Ok(None), |folder| text(&folder.join(file)));
            let value = match read {
                Ok(None) => {
                    sample.unsupported.push(kind.clone());
                    continue;
                }
                Ok(Some(text)) => number(&text, *how)
                    .filter(|value| plausible(kind, *value))
                    .ok_or_else(|| format!("{file} says `{}`", shown(&text))),
                Err(why) => Err(format!("{file}: {why}")),
            };
            match value {
                Ok(value) => {
                    sample.readings.insert(kind.clone(), value);
                }
                Err(why) => sample.failing.push((kind.clone(), why)),
            }
        }
    }
    shares(&mut sample);
    sample
}

/// What rules bound by share, and the power by whichever way the driver gives it.
fn shares(sample: &mut Sample) {
    let get = |kind: Kind| sample.readings.get(&kind).copied();
    let power = get(Kind::GpuPowerInstant).or(get(Kind::GpuPowerAverage));
    let share = |part: Option<i64>, whole: Option<i64>| {
        let (part, whole) = (part?, whole.filter(|whole| *whole > 0)?);
        i64::try_from(i128::from(part) * 100_000 / i128::from(whole)).ok()
    };
    let derived = [
        (Kind::GpuPower, power),
        (Kind::GpuPowerShare, share(power, get(Kind::GpuPowerLimit))),
        (Kind::GpuMemoryShare, share(get(Kind::GpuMemory), get(Kind::GpuMemoryTotal))),
    ];
    for (kind, value) in derived {
        match value {
            Some(value) if !plausible(&kind, value) => {
                sample.failing.push((kind, format!("{value} cannot be: it is out of range")));
            }
            Some(value) => {
                sample.readings.insert(kind, value);
            }
            None => sample.unsupported.push(kind),
        }
    }
}

fn number(text: &str, how: As) -> Option<i64> {
    let value = match how {
        As::Times(by) => text.parse::<i64>().ok()?.checked_mul(by)?,
        As::Over(by) => text.parse::<i64>().ok()? / by,
        As::After(word) => text.split(word).nth(1)?.split_whitespace().next()?.parse().ok()?,
        As::Generation => match text.split_whitespace().next()? {
            "2.5" => 1,
            "5.0" | "5" => 2,
            "8.0" | "8" => 3,
            "16.0" | "16" => 4,
            "32.0" | "32" => 5,
            "64.0" | "64" => 6,
            _ => return None,
        },
    };
    Some(value)
}

fn shown(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
