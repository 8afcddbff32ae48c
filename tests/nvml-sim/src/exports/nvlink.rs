//! NVLinks one by one, the fabric, and how far GPUs are apart.

use super::exports;
use super::pcie::fixed;
use crate::abi::consts::{FEATURE_DISABLED, FEATURE_ENABLED};
use crate::abi::{Code, DeviceHandle, nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t, nvmlPciInfo_t};
use crate::edge::{Answer, Out, Put, Struct};
use crate::library;
use crate::model::{Gpu, LinkCount};
use core::ffi::{c_uint, c_ulonglong};

/// `NVML_NVLINK_DEVICE_TYPE_*`.
const REMOTE_GPU: c_uint = 0;
const REMOTE_SWITCH: c_uint = 2;
/// `NVML_TOPOLOGY_*`.
const TOPOLOGY_NODE: c_uint = 40;
const TOPOLOGY_SYSTEM: c_uint = 50;
/// Half of the machine's GPUs hang on each socket.
const SOCKETS: usize = 2;
const CLUSTER: [u8; 16] = *b"simulated-fabric";

/// A model without NVLink says that it has none; a link that it does not have is an argument that cannot be.
fn link(gpu: &Gpu<'_>, link: c_uint) -> Answer<bool> {
    match gpu.links() {
        0 => Err(Code::NotSupported),
        links if link >= links => Err(Code::InvalidArgument),
        _ => Ok(link < gpu.links_up()),
    }
}

/// A machine of four or more has switches between its GPUs.
fn remote_is_switch(gpu: &Gpu<'_>) -> bool {
    gpu.preset().fabric
}

fn remote(function: &'static str, device: DeviceHandle, number: c_uint, out: Out<nvmlPciInfo_t>) -> Answer<()> {
    library::device(function, device, |gpu| {
        if !link(gpu, number)? {
            return Err(Code::InvalidArgument);
        }
        let bus = if remote_is_switch(gpu) { 0xc0 + number % 4 } else { 0x1b + 0x0a * (number % 8) };
        out.put(nvmlPciInfo_t {
            busIdLegacy: fixed(&format!("0000:{bus:02X}:00.0")),
            domain: 0,
            bus,
            device: 0,
            pciDeviceId: if remote_is_switch(gpu) { 0x22a3_10de } else { gpu.preset().pci_device_id },
            pciSubSystemId: 0,
            busId: fixed(&format!("00000000:{bus:02X}:00.0")),
        })
    })
}

exports! {
    fn nvmlDeviceGetNvLinkState(device: DeviceHandle, number: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            out.put(if link(gpu, number)? { FEATURE_ENABLED } else { FEATURE_DISABLED })
        })
    }
    fn nvmlDeviceGetNvLinkVersion(device: DeviceHandle, number: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            link(gpu, number)?;
            out.put(gpu.preset().nvlink.version)
        })
    }
    fn nvmlDeviceGetNvLinkCapability(device: DeviceHandle, number: c_uint, capability: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            link(gpu, number)?;
            // Everything but an SLI bridge.
            if capability > 5 { Err(Code::InvalidArgument) } else { out.put(c_uint::from(capability != 4)) }
        })
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo(device: DeviceHandle, number: c_uint, out: Out<nvmlPciInfo_t>) {
        remote(FUNCTION, device, number, out)
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: DeviceHandle, number: c_uint, out: Out<nvmlPciInfo_t>) {
        remote(FUNCTION, device, number, out)
    }
    fn nvmlDeviceGetNvLinkRemoteDeviceType(device: DeviceHandle, number: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            link(gpu, number)?;
            out.put(if remote_is_switch(gpu) { REMOTE_SWITCH } else { REMOTE_GPU })
        })
    }
    fn nvmlDeviceGetNvLinkErrorCounter(device: DeviceHandle, number: c_uint, counter: c_uint, out: Out<c_ulonglong>) {
        library::device(FUNCTION, device, |gpu| {
            link(gpu, number)?;
            let count = match counter {
                0 => gpu.link_count(LinkCount::Replays),
                1 => gpu.link_count(LinkCount::Recoveries),
                2 => gpu.link_count(LinkCount::Crc),
                3 => 0,
                4 => return Err(Code::NotSupported),
                _ => return Err(Code::InvalidArgument),
            };
            out.put(if number == 0 { count } else { 0 })
        })
    }
    fn nvmlDeviceGetGpuFabricInfo(device: DeviceHandle, out: Out<nvmlGpuFabricInfo_t>) {
        library::device(FUNCTION, device, |gpu| {
            let state = gpu.fabric_state().ok_or(Code::NotSupported)?;
            let status = gpu.count(gpu.spec.table.fabric.status.as_ref()) as c_uint;
            out.put(nvmlGpuFabricInfo_t { clusterUuid: CLUSTER, status, cliqueId: 0, state })
        })
    }
    fn nvmlDeviceGetGpuFabricInfoV(device: DeviceHandle, info: Struct<nvmlGpuFabricInfo_v2_t>) {
        library::device(FUNCTION, device, |gpu| {
            let state = gpu.fabric_state().ok_or(Code::NotSupported)?;
            let fabric = &gpu.spec.table.fabric;
            let status = gpu.count(fabric.status.as_ref()) as c_uint;
            let healthMask = gpu.count(fabric.health.as_ref()) as c_uint;
            info.put(|version| nvmlGpuFabricInfo_v2_t {
                version,
                clusterUuid: CLUSTER,
                status,
                cliqueId: 0,
                state,
                healthMask,
            })
        })
    }
    fn nvmlDeviceGetTopologyCommonAncestor(device: DeviceHandle, other: DeviceHandle, out: Out<c_uint>) {
        let other = other.index().ok_or(Code::InvalidArgument)?;
        let count = library::gpu_count()?;
        library::device(FUNCTION, device, |gpu| {
            let socket = |index: usize| index * SOCKETS / count.max(1);
            out.put(if socket(gpu.index) == socket(other) { TOPOLOGY_NODE } else { TOPOLOGY_SYSTEM })
        })
    }
}
