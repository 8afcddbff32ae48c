//! What a GPU is, as against what it measures: identity, modes, MIG devices, links and neighbours.
//!
//! Plain data. Read when a GPU is found and again once a minute; told at once and whenever it has changed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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

impl GpuInfo {
    /// The GPUs among `all` to which this one has NVLinks that are up: directly, or through a switch that both reach.
    pub fn linked<'a>(&self, all: impl Iterator<Item = &'a GpuInfo>) -> Vec<&'a str> {
        let ends = |info: &GpuInfo| -> BTreeSet<String> {
            let up = info.nvlinks.iter().filter(|link| link.active);
            up.filter_map(|link| Some(link.remote.as_ref()?.to_ascii_lowercase())).collect()
        };
        let own = ends(self);
        let at = |info: &GpuInfo| info.pci.as_ref().map(|pci| pci.to_ascii_lowercase());
        let reaches = |info: &&GpuInfo| {
            let there = ends(info);
            let direct =
                at(info).is_some_and(|pci| own.contains(&pci)) || at(self).is_some_and(|pci| there.contains(&pci));
            info.uuid != self.uuid && (direct || own.intersection(&there).next().is_some())
        };
        all.filter(reaches).map(|info| info.uuid.as_str()).collect()
    }
}

/// A MIG device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MigDevice {
    /// `MIG-...`.
    pub uuid: String,
    /// Its profile, such as `1g.10gb`: the last word of its name.
    pub profile: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_linked_directly_or_through_a_switch_by_links_that_are_up() {
        let gpu = |uuid: &str, pci: &str, to: &[(&str, bool)]| GpuInfo {
            uuid: uuid.into(),
            pci: Some(pci.into()),
            nvlinks: to
                .iter()
                .map(|(remote, active)| NvLink { active: *active, remote: Some((*remote).into()), ..NvLink::default() })
                .collect(),
            ..GpuInfo::default()
        };
        let all = [
            gpu("a", "00000000:0A:00.0", &[("00000000:0b:00.0", true)]),
            gpu("b", "00000000:0B:00.0", &[("00000000:0A:00.0", true), ("00000000:F0:00.0", true)]),
            gpu("c", "00000000:0C:00.0", &[("00000000:F0:00.0", true)]),
            gpu("d", "00000000:0D:00.0", &[("00000000:F0:00.0", false)]),
        ];
        let linked = |at: usize| all[at].linked(all.iter());
        assert_eq!((linked(0), linked(1), linked(2)), (vec!["b"], vec!["a", "c"], vec!["b"]));
        assert!(linked(3).is_empty(), "its link is down");
    }
}
