//! The GPU's place on the PCI bus and its link.

use super::exports;
use crate::abi::{DeviceHandle, nvmlPciInfo_t, nvmlPciInfoExt_v1_t};
use crate::edge::{Answer, Out, Put, Struct};
use crate::library;
use core::ffi::{c_char, c_uint};

const LINK_WIDTH: c_uint = crate::model::PCIE_LANES;
/// `NVML_BUS_TYPE_PCIE`.
const BUS_PCIE: c_uint = 2;
/// PCI class 03 (display), subclass 02 (3D controller).
const CLASS_DISPLAY: c_uint = 0x03;
const SUBCLASS_3D: c_uint = 0x02;

pub(super) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut buffer = [0; N];
    for (to, from) in buffer[..N - 1].iter_mut().zip(text.bytes()) {
        *to = from.cast_signed();
    }
    buffer
}

fn pci_info(function: &'static str, device: DeviceHandle, out: Out<nvmlPciInfo_t>) -> Answer<()> {
    library::device(function, device, |gpu| {
        let (pci, preset) = (&gpu.spec.pci, gpu.preset());
        out.put(nvmlPciInfo_t {
            busIdLegacy: fixed(&pci.legacy()),
            domain: pci.domain,
            bus: pci.bus,
            device: pci.device,
            pciDeviceId: preset.pci_device_id,
            pciSubSystemId: preset.pci_subsystem_id,
            busId: fixed(&pci.to_string()),
        })
    })
}

fn generation(function: &'static str, device: DeviceHandle, out: Out<c_uint>) -> Answer<()> {
    library::device(function, device, |gpu| out.put(gpu.preset().pcie_generation))
}

fn width(function: &'static str, device: DeviceHandle, out: Out<c_uint>) -> Answer<()> {
    library::device(function, device, |_| out.put(LINK_WIDTH))
}

exports! {
    fn nvmlDeviceGetPciInfo(device: DeviceHandle, out: Out<nvmlPciInfo_t>) { pci_info(FUNCTION, device, out) }
    fn nvmlDeviceGetPciInfo_v2(device: DeviceHandle, out: Out<nvmlPciInfo_t>) { pci_info(FUNCTION, device, out) }
    fn nvmlDeviceGetPciInfo_v3(device: DeviceHandle, out: Out<nvmlPciInfo_t>) { pci_info(FUNCTION, device, out) }
    fn nvmlDeviceGetPciInfoExt(device: DeviceHandle, info: Struct<nvmlPciInfoExt_v1_t>) {
        library::device(FUNCTION, device, |gpu| {
            let (pci, preset) = (&gpu.spec.pci, gpu.preset());
            info.put(|version| nvmlPciInfoExt_v1_t {
                version,
                domain: pci.domain,
                bus: pci.bus,
                device: pci.device,
                pciDeviceId: preset.pci_device_id,
                pciSubSystemId: preset.pci_subsystem_id,
                baseClass: CLASS_DISPLAY,
                subClass: SUBCLASS_3D,
                busId: fixed(&pci.to_string()),
            })
        })
    }
    fn nvmlDeviceGetBusType(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |_| out.put(BUS_PCIE))
    }
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: DeviceHandle, out: Out<c_uint>) { generation(FUNCTION, device, out) }
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.pcie().0))
    }
    fn nvmlDeviceGetMaxPcieLinkWidth(device: DeviceHandle, out: Out<c_uint>) { width(FUNCTION, device, out) }
    fn nvmlDeviceGetCurrPcieLinkWidth(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.pcie().1))
    }
    fn nvmlDeviceGetPcieReplayCounter(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.count(gpu.spec.table.pcie_replays.as_ref()) as c_uint))
    }
    fn nvmlDeviceGetPcieThroughput(device: DeviceHandle, _counter: c_uint, out: Out<c_uint>) {
        // KB/s: a loaded GPU moves some data.
        library::device(FUNCTION, device, |gpu| out.put((gpu.utilization() * 20_000.0) as c_uint))
    }
}
