//! The GPU models: what stays the same about a board, from vendor data sheets and
//! published `nvidia-smi -q` listings, as far as these are known. Not yet compared with a real board: part
//! numbers, firmware versions and thresholds of the newer ones are of the right form and no more.

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
    pub(crate) nvlink: NvLinks,
    /// GPM, from Hopper on.
    pub(crate) gpm: bool,
    /// Registered with an NVLink fabric by default.
    pub(crate) fabric: bool,
    pub(crate) mig_devices: u32,
    pub(crate) power: PowerRange,
    pub(crate) clocks: Clocks,
    pub(crate) thresholds: Thresholds,
}

/// How many there are, their version, and where their errors are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NvLinks {
    pub(crate) count: u32,
    pub(crate) version: u32,
    pub(crate) counters: LinkCounters,
}

/// The fields under which a generation counts NVLink errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkCounters {
    /// Totals of the GPU (38, 45, 52, 59).
    Totals,
    /// Per link (161 to 163).
    PerLink,
    /// Per link, NVLink 5 (208, 215).
    NvLink5,
}

const NO_NVLINK: NvLinks = NvLinks { count: 0, version: 0, counters: LinkCounters::Totals };

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
const ADA: u32 = 8;
const HOPPER: u32 = 9;
const BLACKWELL: u32 = 10;

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
        nvlink: NvLinks { count: 18, version: 4, counters: LinkCounters::PerLink },
        gpm: true,
        fabric: true,
        mig_devices: 7,
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
        nvlink: NvLinks { count: 12, version: 3, counters: LinkCounters::Totals },
        gpm: false,
        fabric: false,
        mig_devices: 7,
        power: PowerRange { idle: 62.0, min_limit: 100.0, default_limit: 400.0 },
        clocks: Clocks { idle_sm: 210.0, max_sm: 1_410.0, max_video: 1_290.0, memory: 1_593.0 },
        thresholds: Thresholds { shutdown: 92, slowdown: 89, memory_max: 95, gpu_max: 85 },
    },
    Preset {
        key: "H200",
        name: "NVIDIA H200",
        brand: NVIDIA,
        architecture: HOPPER,
        compute_capability: (9, 0),
        cores: 16_896,
        pci_device_id: 0x2335_10de,
        pci_subsystem_id: 0x18be_10de,
        board_part: "692-2G520-0280-000",
        vbios: "96.00.AF.00.01",
        inforom_image: "G520.0280.00.03",
        memory_mib: 143_771,
        reserved_mib: 601,
        bar1_mib: 262_144,
        bus_width: 6_144,
        pcie_generation: 5,
        nvlink: NvLinks { count: 18, version: 4, counters: LinkCounters::PerLink },
        gpm: true,
        fabric: true,
        mig_devices: 7,
        power: PowerRange { idle: 75.0, min_limit: 200.0, default_limit: 700.0 },
        clocks: Clocks { idle_sm: 345.0, max_sm: 1_980.0, max_video: 1_545.0, memory: 3_201.0 },
        thresholds: Thresholds { shutdown: 92, slowdown: 89, memory_max: 95, gpu_max: 87 },
    },
    Preset {
        key: "B200",
        name: "NVIDIA B200",
        brand: NVIDIA,
        architecture: BLACKWELL,
        compute_capability: (10, 0),
        cores: 18_944,
        pci_device_id: 0x2901_10de,
        pci_subsystem_id: 0x1999_10de,
        board_part: "692-2G525-0220-000",
        vbios: "97.00.82.00.0B",
        inforom_image: "G525.0220.00.03",
        memory_mib: 183_359,
        reserved_mib: 723,
        bar1_mib: 262_144,
        bus_width: 8_192,
        pcie_generation: 5,
        nvlink: NvLinks { count: 18, version: 5, counters: LinkCounters::NvLink5 },
        gpm: true,
        fabric: true,
        mig_devices: 7,
        power: PowerRange { idle: 140.0, min_limit: 200.0, default_limit: 1_000.0 },
        clocks: Clocks { idle_sm: 120.0, max_sm: 1_965.0, max_video: 1_965.0, memory: 3_996.0 },
        thresholds: Thresholds { shutdown: 95, slowdown: 92, memory_max: 100, gpu_max: 88 },
    },
    Preset {
        key: "L4",
        name: "NVIDIA L4",
        brand: NVIDIA,
        architecture: ADA,
        compute_capability: (8, 9),
        cores: 7_424,
        pci_device_id: 0x27b8_10de,
        pci_subsystem_id: 0x16ca_10de,
        board_part: "900-2G193-0000-000",
        vbios: "95.04.29.00.06",
        inforom_image: "G193.0200.00.01",
        memory_mib: 23_034,
        reserved_mib: 434,
        bar1_mib: 32_768,
        bus_width: 192,
        pcie_generation: 4,
        nvlink: NO_NVLINK,
        gpm: false,
        fabric: false,
        mig_devices: 0,
        power: PowerRange { idle: 12.0, min_limit: 40.0, default_limit: 72.0 },
        clocks: Clocks { idle_sm: 210.0, max_sm: 2_040.0, max_video: 1_770.0, memory: 6_251.0 },
        thresholds: Thresholds { shutdown: 95, slowdown: 92, memory_max: 95, gpu_max: 85 },
    },
    Preset {
        key: "GH200",
        name: "NVIDIA GH200 480GB",
        brand: NVIDIA,
        architecture: HOPPER,
        compute_capability: (9, 0),
        cores: 16_896,
        pci_device_id: 0x2342_10de,
        pci_subsystem_id: 0x16eb_10de,
        board_part: "699-2G530-0205-600",
        vbios: "96.00.84.00.02",
        inforom_image: "G530.0205.00.04",
        memory_mib: 97_871,
        reserved_mib: 609,
        bar1_mib: 131_072,
        bus_width: 6_144,
        pcie_generation: 5,
        nvlink: NvLinks { count: 18, version: 4, counters: LinkCounters::PerLink },
        gpm: true,
        fabric: false,
        mig_devices: 7,
        power: PowerRange { idle: 90.0, min_limit: 100.0, default_limit: 900.0 },
        clocks: Clocks { idle_sm: 345.0, max_sm: 1_980.0, max_video: 1_545.0, memory: 2_619.0 },
        thresholds: Thresholds { shutdown: 92, slowdown: 89, memory_max: 95, gpu_max: 87 },
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
