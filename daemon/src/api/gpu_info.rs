//! What a GPU is, as protobuf.

use crate::sensors::nvml::{Fabric, GpuInfo, MigDevice, NvLink, Peer};
use failsafe_proto::v1;

/// The facts as the API tells them; `None` for a GPU of which NVML told nothing.
pub(super) fn gpu_info(info: &GpuInfo) -> Option<v1::GpuInfo> {
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

fn mig_device(device: &MigDevice) -> v1::MigDevice {
    let MigDevice { uuid, profile, gpu_instance, compute_instance, memory, slices } = device.clone();
    v1::MigDevice { uuid, gpu_instance, compute_instance, memory, slices, profile }
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
