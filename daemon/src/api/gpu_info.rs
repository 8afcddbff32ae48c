//! What a GPU is, as protobuf.

use super::node::reading_of;
use crate::{
    node::{GpuView, SliceView},
    sensors::nvml::{Fabric, MigDevice, NvLink, Peer},
};
use failsafe_proto::v1;

/// The facts as the API tells them; `None` for a GPU of which NVML told nothing.
pub(super) fn gpu_info(view: &GpuView) -> Option<v1::GpuInfo> {
    let info = &view.info;
    let mig_device = |device: &MigDevice| mig_device(device, view.slices.get(&device.uuid));
    // One without a UUID was never told by NVML.
    (!info.uuid.is_empty()).then(|| v1::GpuInfo {
        serial: info.serial.clone(),
        board_part: info.board_part.clone(),
        minor: info.minor,
        vbios: info.vbios.clone(),
        inforom: info.inforom.clone(),
        architecture: info.architecture.clone(),
        compute_capability: info.compute_capability.map(|(major, minor)| format!("{major}.{minor}")),
        cores: info.cores,
        numa_node: info.numa_node,
        persistence: info.persistence,
        compute_mode: info.compute_mode.clone(),
        ecc: info.ecc,
        mig: info.mig,
        mig_devices: info.mig_devices.iter().map(mig_device).collect(),
        nvlinks: info.nvlinks.iter().map(nvlink).collect(),
        peers: info.peers.iter().map(peer).collect(),
        fabric: info.fabric.as_ref().map(fabric),
        failing: info.failing.iter().map(|(call, why)| format!("{call}: {why}")).collect(),
    })
}

fn mig_device(device: &MigDevice, seen: Option<&SliceView>) -> v1::MigDevice {
    let MigDevice { uuid, profile, gpu_instance, compute_instance, memory, slices } = device.clone();
    let SliceView { readings, unsupported, failing, unread: _ } = seen.cloned().unwrap_or_default();
    let readings = readings.iter().map(reading_of).collect();
    v1::MigDevice { uuid, gpu_instance, compute_instance, memory, slices, profile, readings, unsupported, failing }
}

fn nvlink(link: &NvLink) -> v1::NvLink {
    let NvLink { link, active, version, remote } = link.clone();
    v1::NvLink { link, active, version, remote }
}

fn peer(peer: &Peer) -> v1::GpuPeer {
    let Peer { uuid, shares } = peer.clone();
    v1::GpuPeer { uuid, shares }
}

fn fabric(fabric: &Fabric) -> v1::GpuFabric {
    let Fabric { cluster, clique, state } = fabric.clone();
    v1::GpuFabric { cluster, clique, state }
}
