//! What a GPU is: read when it is found, and again now and then.
//!
//! Everything but the UUID may be missing. A text that is not UTF-8 is a fact that failed, and hides no other.

use super::{
    super::info::{Fabric, GpuInfo, MigDevice, NvLink, Peer},
    raw,
    read::{MAX_LINKS, is_absence, link_count},
    shared::Busyness,
};
use nvml_wrapper::{Device, enum_wrappers::device::TopologyLevel, error::NvmlError};
use std::{fs, path::Path};

/// No GPU has more than seven.
const MAX_MIG_DEVICES: u32 = 64;

struct Facts<'a> {
    info: GpuInfo,
    busy: &'a Busyness,
}

impl Facts<'_> {
    /// A fact, or why it failed; one that this GPU does not have is neither.
    fn ask<T>(&mut self, call: &'static str, ask: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        self.busy.calls(call);
        match ask() {
            Ok(fact) => Some(fact),
            Err(error) if is_absence(&error) => None,
            Err(error) => {
                self.info.failing.push((call.to_owned(), error.to_string()));
                None
            }
        }
    }
}

/// What `device` is. `others` are the GPUs whose distance is told.
pub fn read(
    device: &Device<'static>,
    uuid: &str,
    index: u32,
    busy: &Busyness,
    others: &[(String, Device<'static>)],
) -> GpuInfo {
    let info = GpuInfo { uuid: uuid.to_owned(), index, ..GpuInfo::default() };
    let mut f = Facts { info, busy };
    f.info.name = f.ask("nvmlDeviceGetName", || device.name());
    f.info.pci = f.ask("nvmlDeviceGetPciInfo_v3", || device.pci_info()).map(|pci| pci.bus_id);
    f.info.numa_node = f.info.pci.as_deref().and_then(|pci| numa_node(Path::new("/sys/bus/pci/devices"), pci));
    f.info.serial = f.ask("nvmlDeviceGetSerial", || device.serial());
    f.info.board_part = f.ask("nvmlDeviceGetBoardPartNumber", || device.board_part_number());
    f.info.minor = f.ask("nvmlDeviceGetMinorNumber", || device.minor_number());
    f.info.vbios = f.ask("nvmlDeviceGetVbiosVersion", || device.vbios_version());
    f.info.inforom = f.ask("nvmlDeviceGetInforomImageVersion", || device.info_rom_image_version());
    f.info.architecture = f.ask("nvmlDeviceGetArchitecture", || device.architecture()).map(|a| format!("{a:?}"));
    f.info.compute_capability =
        f.ask("nvmlDeviceGetCudaComputeCapability", || device.cuda_compute_capability()).map(|c| (c.major, c.minor));
    f.info.cores = f.ask("nvmlDeviceGetNumGpuCores", || device.num_cores());
    f.info.memory_total = f.ask("nvmlDeviceGetMemoryInfo_v2", || match device.memory_info() {
        Err(error) if is_absence(&error) => raw::memory_v1(device).map(|memory| memory.total),
        memory => memory.map(|memory| memory.total),
    });
    f.info.power_limit = f.ask("nvmlDeviceGetEnforcedPowerLimit", || device.enforced_power_limit()).map(u64::from);
    f.info.persistence = f.ask("nvmlDeviceGetPersistenceMode", || device.is_in_persistent_mode());
    f.info.compute_mode = f.ask("nvmlDeviceGetComputeMode", || device.compute_mode()).map(|mode| format!("{mode:?}"));
    f.info.ecc = f.ask("nvmlDeviceGetEccMode", || device.is_ecc_enabled()).map(|ecc| ecc.currently_enabled);
    f.info.mig = f.ask("nvmlDeviceGetMigMode", || device.mig_mode()).map(|mode| mode.current == 1);
    f.mig(device);
    f.links(device);
    f.fabric(device);
    f.peers(device, others);
    busy.done();
    f.info
}

/// The handles of a GPU's MIG devices that answer, by UUID.
pub fn mig_handles(device: &Device<'static>, busy: &Busyness) -> Vec<(String, Device<'static>)> {
    busy.calls("nvmlDeviceGetMigDeviceHandleByIndex");
    let most = device.mig_device_count().unwrap_or(0).min(MAX_MIG_DEVICES);
    let handles = (0..most).filter_map(|index| device.mig_device_by_index(index).ok());
    handles.filter_map(|handle| Some((handle.uuid().ok()?, handle))).collect()
}

impl Facts<'_> {
    fn mig(&mut self, device: &Device<'static>) {
        if self.info.mig != Some(true) {
            return;
        }
        let most = self.ask("nvmlDeviceGetMaxMigDeviceCount", || device.mig_device_count()).unwrap_or(0);
        for index in 0..most.min(MAX_MIG_DEVICES) {
            // Instances that are not made leave holes.
            let mig = match device.mig_device_by_index(index) {
                Err(NvmlError::NotFound) => continue,
                mig => self.ask("nvmlDeviceGetMigDeviceHandleByIndex", || mig),
            };
            let Some(mig) = mig else { return };
            let Some(uuid) = self.ask("nvmlDeviceGetUUID", || mig.uuid()) else { continue };
            let attributes = self.ask("nvmlDeviceGetAttributes_v2", || mig.attributes());
            // Such as `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
            let name = self.ask("nvmlDeviceGetName", || mig.name());
            let found = MigDevice {
                uuid,
                profile: name.and_then(|name| Some(name.rsplit_once(" MIG ")?.1.to_owned())),
                gpu_instance: self.ask("nvmlDeviceGetGpuInstanceId", || raw::gpu_instance(&mig)),
                compute_instance: self.ask("nvmlDeviceGetComputeInstanceId", || raw::compute_instance(&mig)),
                memory: attributes.as_ref().map(|a| a.memory_size_mb << 20),
                slices: attributes.as_ref().map(|a| a.gpu_instance_slice_count),
            };
            self.info.mig_devices.push(found);
        }
    }

    fn links(&mut self, device: &Device<'static>) {
        let links = self.ask("nvmlDeviceGetFieldValues", || link_count(device)).unwrap_or(0);
        for link in 0..links.min(MAX_LINKS) {
            let link_of = device.link_wrapper_for(link);
            let Some(active) = self.ask("nvmlDeviceGetNvLinkState", || link_of.is_active()) else { return };
            let mut found = NvLink { link, active, ..NvLink::default() };
            // What is down has no other end, and says so with an error.
            if active {
                found.version = self.ask("nvmlDeviceGetNvLinkVersion", || link_of.version());
                found.remote =
                    self.ask("nvmlDeviceGetNvLinkRemotePciInfo_v2", || link_of.remote_pci_info()).map(|pci| pci.bus_id);
            }
            self.info.nvlinks.push(found);
        }
    }

    fn fabric(&mut self, device: &Device<'static>) {
        let fabric = self.ask("nvmlDeviceGetGpuFabricInfoV", || raw::fabric(device));
        self.info.fabric = fabric.filter(|fabric| fabric.state != 0).map(|fabric| Fabric {
            cluster: fabric.cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
            clique: fabric.clique,
            state: fabric.state,
        });
    }

    fn peers(&mut self, device: &Device<'static>, others: &[(String, Device<'static>)]) {
        for (uuid, other) in others {
            if *uuid == self.info.uuid {
                continue;
            }
            let level = self
                .ask("nvmlDeviceGetTopologyCommonAncestor", || device.nvml().topology_common_ancestor(device, other));
            let Some(level) = level else { return };
            self.info.peers.push(Peer { uuid: uuid.clone(), shares: shares(level).to_owned() });
        }
        self.info.peers.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    }
}

fn shares(level: TopologyLevel) -> &'static str {
    match level {
        TopologyLevel::Internal => "board",
        TopologyLevel::Single => "switch",
        TopologyLevel::Multiple => "switches",
        TopologyLevel::HostBridge => "host-bridge",
        TopologyLevel::Node => "numa-node",
        TopologyLevel::System => "system",
    }
}

/// The NUMA node of a PCI address as NVML writes it: with eight digits of domain, where sysfs has four.
fn numa_node(devices: &Path, pci: &str) -> Option<i32> {
    let short = pci.get(4..)?.to_ascii_lowercase();
    fs::read_to_string(devices.join(short).join("numa_node")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numa_node_is_found_under_the_short_address() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("0000:1b:00.0");
        fs::create_dir(&device).unwrap();
        fs::write(device.join("numa_node"), "1\n").unwrap();
        assert_eq!(numa_node(folder.path(), "00000000:1B:00.0"), Some(1));
        assert_eq!(numa_node(folder.path(), "00000000:2B:00.0"), None);
        assert_eq!(numa_node(folder.path(), "x"), None);
    }
}
