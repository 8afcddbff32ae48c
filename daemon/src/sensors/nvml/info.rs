//! What a GPU is, as against what it measures: identity, modes, MIG devices, links and neighbours.
//!
//! Plain data. Read when a GPU is found and again once a minute; told at once and whenever it has changed.

use serde::{Deserialize, Serialize};

/// What is known of one GPU; what could not be read is absent, and named in `failing` unless the GPU does not have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuInfo {
    /// `nvmlDeviceGetUUID`.
    pub uuid: String,
    /// NVML's index, which may change with a reboot.
    pub index: u32,
    /// Product name.
    pub name: Option<String>,
    /// PCI address, `domain:bus:device.function`.
    pub pci: Option<String>,
    /// Serial number of the board.
    pub serial: Option<String>,
    /// Part number of the board.
    pub board_part: Option<String>,
    /// The minor number of `/dev/nvidiaN`.
    pub minor: Option<u32>,
    /// VBIOS version.
    pub vbios: Option<String>,
    /// InfoROM image version.
    pub inforom: Option<String>,
    /// Architecture, for example `Hopper`.
    pub architecture: Option<String>,
    /// CUDA compute capability.
    pub compute_capability: Option<(i32, i32)>,
    /// CUDA cores: with MIG and between products this changes results (cuBLAS, the CUDA generators).
    pub cores: Option<u32>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Milliwatts that the driver enforces.
    pub power_limit: Option<u64>,
    /// NUMA node of its PCI slot (sysfs).
    pub numa_node: Option<i32>,
    /// Persistence mode.
    pub persistence: Option<bool>,
    /// Compute mode, for example `Default`.
    pub compute_mode: Option<String>,
    /// ECC is on.
    pub ecc: Option<bool>,
    /// MIG is on; absent where there is no MIG.
    pub mig: Option<bool>,
    /// MIG devices.
    pub mig_devices: Vec<MigDevice>,
    /// NVLinks.
    pub nvlinks: Vec<NvLink>,
    /// The other GPUs, and how far away they are.
    pub peers: Vec<Peer>,
    /// The NVLink fabric that it is part of.
    pub fabric: Option<Fabric>,
    /// Facts whose call failed, with what it said.
    pub failing: Vec<(String, String)>,
}

/// A MIG device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MigDevice {
    /// `MIG-...`.
    pub uuid: String,
    /// GPU instance.
    pub gpu_instance: Option<u32>,
    /// Compute instance.
    pub compute_instance: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Slices of the GPU's compute.
    pub slices: Option<u32>,
}

/// One NVLink.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NvLink {
    /// Its number.
    pub link: u32,
    /// It is up.
    pub active: bool,
    /// NVLink version.
    pub version: Option<u32>,
    /// PCI address of the other end.
    pub remote: Option<String>,
}

/// Another GPU of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Its UUID.
    pub uuid: String,
    /// The nearest thing they share: `board`, `switch`, `switches`, `host-bridge`, `numa-node` or `system`.
    pub shares: String,
}

/// The fabric registration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fabric {
    /// The cluster's UUID, in hexadecimal.
    pub cluster: String,
    /// The clique in it.
    pub clique: u32,
    /// NVML's state: 0 not supported, 1 not started, 2 under way, 3 completed.
    pub state: u32,
}
