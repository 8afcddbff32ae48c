//! The parts of a `[[gpu]]` table that have a table or a syntax of their own.

use super::series::{Series, Steps};
use super::units::{Byte, Count, Percent};
use crate::abi::consts::reason;
use serde::Deserialize;

/// `[gpu.ecc]`: error counts since the driver's start (volatile) and of the GPU's life (aggregate).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ecc {
    pub(crate) enabled: bool,
    pub(crate) corrected: Option<Series<Count>>,
    pub(crate) uncorrected: Option<Series<Count>>,
    /// Without these, the aggregate counts are the volatile ones.
    pub(crate) corrected_aggregate: Option<Series<Count>>,
    pub(crate) uncorrected_aggregate: Option<Series<Count>>,
    /// Of those, the ones in on-chip memory.
    pub(crate) sram_corrected: Option<Series<Count>>,
    pub(crate) sram_uncorrected: Option<Series<Count>>,
    /// Without these, as the volatile ones.
    pub(crate) sram_corrected_aggregate: Option<Series<Count>>,
    pub(crate) sram_uncorrected_aggregate: Option<Series<Count>>,
    /// Where the uncorrected ones of the GPU's life were: L2, SM, PCIe, micro-controllers, other. Without it all in L2.
    pub(crate) sram_parts: Option<[u64; 5]>,
    pub(crate) sram_threshold: Option<Steps<bool>>,
    /// Locations that boards with HBM do not count; one that is not given is not supported.
    pub(crate) l1: Option<EccLocation>,
    pub(crate) l2: Option<EccLocation>,
    pub(crate) register: Option<EccLocation>,
    pub(crate) texture: Option<EccLocation>,
    pub(crate) shared: Option<EccLocation>,
    pub(crate) cbu: Option<EccLocation>,
}

/// `[gpu.ecc.l1]` and others: errors of one location.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EccLocation {
    pub(crate) corrected: Option<Series<Count>>,
    pub(crate) uncorrected: Option<Series<Count>>,
    /// Without these, as the volatile ones.
    pub(crate) corrected_aggregate: Option<Series<Count>>,
    pub(crate) uncorrected_aggregate: Option<Series<Count>>,
}

impl Default for Ecc {
    fn default() -> Self {
        Self {
            enabled: true,
            corrected: None,
            uncorrected: None,
            corrected_aggregate: None,
            uncorrected_aggregate: None,
            sram_corrected: None,
            sram_uncorrected: None,
            sram_corrected_aggregate: None,
            sram_uncorrected_aggregate: None,
            sram_parts: None,
            sram_threshold: None,
            l1: None,
            l2: None,
            register: None,
            texture: None,
            shared: None,
            cbu: None,
        }
    }
}

/// `[gpu.fans]`: the fans of a board that cools itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fans {
    /// How fast each is driven.
    pub(crate) speed: Vec<Series<Percent>>,
    /// What all are to be driven at; default each as it is.
    pub(crate) target: Option<Series<Percent>>,
    /// Turns a minute of each; without it this driver does not tell.
    pub(crate) rpm: Option<Vec<Series<Count>>>,
    /// Somebody has taken them from the driver.
    #[serde(default)]
    pub(crate) manual: bool,
}

/// `[gpu.rows]`: remapped memory rows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rows {
    pub(crate) corrected: Option<Series<Count>>,
    pub(crate) uncorrected: Option<Series<Count>>,
    pub(crate) pending: Option<Steps<bool>>,
    pub(crate) failure: Option<Steps<bool>>,
    /// Banks without a spare row.
    pub(crate) exhausted: Option<Series<Count>>,
}

/// `[gpu.nvlink]`: counts over all links.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NvLink {
    /// Links that are up; default all.
    pub(crate) active: Option<Series<Count>>,
    pub(crate) crc: Option<Series<Count>>,
    pub(crate) replays: Option<Series<Count>>,
    pub(crate) recoveries: Option<Series<Count>>,
    pub(crate) sent: Option<Series<Byte>>,
    pub(crate) received: Option<Series<Byte>>,
}

/// `[gpu.fabric]`: NVML's numbers; a model on a fabric is registered by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fabric {
    pub(crate) state: Option<Series<Count>>,
    pub(crate) status: Option<Series<Count>>,
    pub(crate) health: Option<Series<Count>>,
}

/// `nvmlDeviceGpuRecoveryAction_t`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecoveryAction {
    None = 0,
    Reset = 1,
    Reboot = 2,
    DrainP2p = 3,
    DrainAndReset = 4,
}

/// A MIG profile such as `1g.10gb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct MigProfile {
    pub(crate) slices: u32,
    pub(crate) gigabytes: u64,
}

impl TryFrom<String> for MigProfile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.strip_suffix("gb").and_then(|it| it.split_once("g."));
        let read = parts.and_then(|(slices, gb)| Some((slices.parse().ok()?, gb.parse().ok()?)));
        match read {
            Some((slices @ 1..=7, gigabytes @ 1..=1_000)) => Ok(Self { slices, gigabytes }),
            _ => Err(format!("{text} is not a MIG profile such as 1g.10gb")),
        }
    }
}

/// `nvmlComputeMode_t`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ComputeMode {
    #[default]
    Default = 0,
    Prohibited = 2,
    ExclusiveProcess = 3,
}

/// Clock event (throttle) reasons: names of `nvml.h` in snake case, joined by `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Reasons(pub(crate) u64);

const REASONS: &[(&str, u64)] = &[
    ("none", 0),
    ("gpu_idle", reason::GPU_IDLE),
    ("applications_clocks_setting", reason::APPLICATIONS_CLOCKS),
    ("sw_power_cap", reason::SW_POWER_CAP),
    ("hw_slowdown", reason::HW_SLOWDOWN),
    ("sync_boost", reason::SYNC_BOOST),
    ("sw_thermal_slowdown", reason::SW_THERMAL),
    ("hw_thermal_slowdown", reason::HW_THERMAL),
    ("hw_power_brake_slowdown", reason::HW_POWER_BRAKE),
    ("display_clock_setting", reason::DISPLAY_CLOCK),
];

impl TryFrom<String> for Reasons {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.split('|').map(str::trim).try_fold(Self(0), |all, name| {
            let known = REASONS.iter().find(|(known, _)| *known == name);
            known.map(|(_, bit)| Self(all.0 | bit)).ok_or_else(|| {
                let names: Vec<_> = REASONS.iter().map(|(name, _)| *name).collect();
                format!("no throttle reason is named {name}: known are {}", names.join(", "))
            })
        })
    }
}
