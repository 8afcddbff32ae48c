//! The GPU models: what stays the same about a board, from vendor data sheets and
//! published `nvidia-smi -q` listings. Not yet compared with a real board.

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// One model. Clocks in MHz, power in W, temperatures in C, sizes in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preset {
    /// The name in scenario files.
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    /// `nvmlBrandType_t`.
    pub(crate) brand: u32,
    /// `nvmlDeviceArchitecture_t`.
    pub(crate) architecture: u32,
    pub(crate) compute_capability: (i32, i32),
    pub(crate) cores: u32,
    /// Device id in the upper, vendor id in the lower half.
    pub(crate) pci_device_id: u32,
    pub(crate) pci_subsystem_id: u32,
    pub(crate) board_part: &'static str,
    pub(crate) vbios: &'static str,
    pub(crate) inforom_image: &'static str,
    pub(crate) memory_mib: u64,
    pub(crate) reserved_mib: u64,
    pub(crate) bar1_mib: u64,
    pub(crate) bus_width: u32,
    pub(crate) pcie_generation: u32,
    pub(crate) power: PowerRange,
    pub(crate) clocks: Clocks,
    pub(crate) thresholds: Thresholds,
}

/// W.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PowerRange {
    pub(crate) idle: f64,
    pub(crate) min_limit: f64,
    pub(crate) default_limit: f64,
}

/// MHz.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) idle_sm: f64,
    pub(crate) max_sm: f64,
    pub(crate) max_video: f64,
    pub(crate) memory: f64,
}

/// C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    pub(crate) shutdown: u32,
    pub(crate) slowdown: u32,
    pub(crate) memory_max: u32,
    pub(crate) gpu_max: u32,
}

const NVIDIA: u32 = 14;
const AMPERE: u32 = 7;
const HOPPER: u32 = 9;

const PRESETS: &[Preset] = &[
    Preset {
        key: "H100",
        name: "NVIDIA H100 80GB HBM3",
        brand: NVIDIA,
        architecture: HOPPER,
        compute_capability: (9, 0),
        cores: 16_896,
        pci_device_id: 0x2330_10de,
        pci_subsystem_id: 0x16c1_10de,
        board_part: "692-2G520-0200-000",
        vbios: "96.00.74.00.01",
        inforom_image: "G520.0200.00.05",
        memory_mib: 81_559,
        reserved_mib: 551,
        bar1_mib: 131_072,
        bus_width: 5_120,
        pcie_generation: 5,
        power: PowerRange { idle: 70.0, min_limit: 200.0, default_limit: 700.0 },
        clocks: Clocks { idle_sm: 345.0, max_sm: 1_980.0, max_video: 1_545.0, memory: 2_619.0 },
        thresholds: Thresholds { shutdown: 92, slowdown: 89, memory_max: 95, gpu_max: 87 },
    },
    Preset {
        key: "A100",
        name: "NVIDIA A100-SXM4-80GB",
        brand: NVIDIA,
        architecture: AMPERE,
        compute_capability: (8, 0),
        cores: 6_912,
        pci_device_id: 0x20b2_10de,
        pci_subsystem_id: 0x1463_10de,
        board_part: "692-2G506-0210-002",
        vbios: "92.00.45.00.03",
        inforom_image: "G506.0210.00.03",
        memory_mib: 81_920,
        reserved_mib: 691,
        bar1_mib: 131_072,
        bus_width: 5_120,
        pcie_generation: 4,
        power: PowerRange { idle: 62.0, min_limit: 100.0, default_limit: 400.0 },
        clocks: Clocks { idle_sm: 210.0, max_sm: 1_410.0, max_video: 1_290.0, memory: 1_593.0 },
        thresholds: Thresholds { shutdown: 92, slowdown: 89, memory_max: 95, gpu_max: 85 },
    },
];

impl<'de> Deserialize<'de> for Preset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        PRESETS.iter().find(|it| it.key == key).copied().ok_or_else(|| {
            let known: Vec<_> = PRESETS.iter().map(|it| it.key).collect();
            de::Error::custom(format!("no model \"{key}\": known are {}", known.join(", ")))
        })
    }
}
