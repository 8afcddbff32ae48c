//! Finding a GPU, and what it is.

use super::exports;
use crate::abi::{Code, DeviceHandle};
use crate::edge::{Answer, Name, Out, Put, Text};
use crate::library;
use crate::model::Gpu;
use crate::scenario::PciAddress;
use core::ffi::{c_int, c_uint};

fn count(function: &'static str, out: Out<c_uint>) -> Answer<()> {
    library::system(function, |moment| out.put(moment.scenario.gpus.len() as c_uint))
}

fn by_index(function: &'static str, index: c_uint, out: Out<DeviceHandle>) -> Answer<()> {
    library::system(function, |moment| {
        let gpu = moment.gpus().nth(index as usize).ok_or(Code::InvalidArgument)?;
        out.put(DeviceHandle::of_index(gpu.index))
    })
}

fn find(function: &'static str, out: Out<DeviceHandle>, is_it: impl Fn(&Gpu<'_>) -> bool) -> Answer<()> {
    library::system(function, |moment| {
        let gpu = moment.gpus().find(|gpu| is_it(gpu)).ok_or(Code::NotFound)?;
        out.put(DeviceHandle::of_index(gpu.index))
    })
}

fn by_pci(function: &'static str, bus_id: Name, out: Out<DeviceHandle>) -> Answer<()> {
    let address = PciAddress::parse(bus_id.read()?).ok_or(Code::InvalidArgument)?;
    find(function, out, |gpu| gpu.spec.pci == address)
}

exports! {
    fn nvmlDeviceGetCount(out: Out<c_uint>) { count(FUNCTION, out) }
    fn nvmlDeviceGetCount_v2(out: Out<c_uint>) { count(FUNCTION, out) }
    fn nvmlDeviceGetHandleByIndex(index: c_uint, out: Out<DeviceHandle>) { by_index(FUNCTION, index, out) }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: Out<DeviceHandle>) { by_index(FUNCTION, index, out) }
    fn nvmlDeviceGetHandleByUUID(uuid: Name, out: Out<DeviceHandle>) {
        let uuid = uuid.read()?;
        find(FUNCTION, out, |gpu| gpu.spec.uuid == uuid)
    }
    fn nvmlDeviceGetHandleBySerial(serial: Name, out: Out<DeviceHandle>) {
        let serial = serial.read()?;
        find(FUNCTION, out, |gpu| gpu.spec.serial == serial)
    }
    fn nvmlDeviceGetHandleByPciBusId(bus_id: Name, out: Out<DeviceHandle>) { by_pci(FUNCTION, bus_id, out) }
    fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: Name, out: Out<DeviceHandle>) { by_pci(FUNCTION, bus_id, out) }

    fn nvmlDeviceGetName(device: DeviceHandle, name: Text, length: c_uint) {
        library::device_or_mig(FUNCTION, device, |gpu, mig| match mig.and_then(|at| gpu.mig_devices().into_iter().nth(at)) {
            Some(mig) => {
                let profile = mig.profile;
                name.put(length, &format!("{} MIG {}g.{}gb", gpu.name(), profile.slices, profile.gigabytes))
            }
            None => name.put(length, gpu.name()),
        })
    }
    fn nvmlDeviceGetUUID(device: DeviceHandle, uuid: Text, length: c_uint) {
        library::device_or_mig(FUNCTION, device, |gpu, mig| match mig.and_then(|at| gpu.mig_devices().into_iter().nth(at)) {
            Some(mig) => uuid.put(length, &mig.uuid),
            None => uuid.put(length, &gpu.spec.uuid),
        })
    }
    fn nvmlDeviceGetSerial(device: DeviceHandle, serial: Text, length: c_uint) {
        library::device(FUNCTION, device, |gpu| serial.put(length, &gpu.spec.serial))
    }
    fn nvmlDeviceGetBoardPartNumber(device: DeviceHandle, part: Text, length: c_uint) {
        library::device(FUNCTION, device, |gpu| part.put(length, gpu.preset().board_part))
    }
    fn nvmlDeviceGetVbiosVersion(device: DeviceHandle, version: Text, length: c_uint) {
        library::device(FUNCTION, device, |gpu| version.put(length, gpu.preset().vbios))
    }
    fn nvmlDeviceGetInforomImageVersion(device: DeviceHandle, version: Text, length: c_uint) {
        library::device(FUNCTION, device, |gpu| version.put(length, gpu.preset().inforom_image))
    }
    fn nvmlDeviceGetIndex(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.index as c_uint))
    }
    fn nvmlDeviceGetMinorNumber(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.index as c_uint))
    }
    fn nvmlDeviceGetBoardId(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.spec.pci.bus << 8))
    }
    fn nvmlDeviceGetBrand(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.preset().brand))
    }
    fn nvmlDeviceGetArchitecture(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.preset().architecture))
    }
    fn nvmlDeviceGetCudaComputeCapability(device: DeviceHandle, major: Out<c_int>, minor: Out<c_int>) {
        library::device(FUNCTION, device, |gpu| {
            let capability = gpu.preset().compute_capability;
            major.put(capability.0)?;
            minor.put(capability.1)
        })
    }
    fn nvmlDeviceGetNumGpuCores(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.preset().cores))
    }
}
