//! MIG mode and MIG devices.

use super::exports;
use crate::abi::consts::{FEATURE_DISABLED, FEATURE_ENABLED};
use crate::abi::{Code, DeviceHandle, nvmlDeviceAttributes_t};
use crate::edge::{Answer, Out, Put};
use crate::library;
use crate::model::{Gpu, Mig};
use core::ffi::c_uint;

const MIB: u64 = 1024 * 1024;

/// The MIG device of a handle; a whole GPU has no instance.
fn mig(gpu: &Gpu<'_>, at: Option<usize>) -> Answer<Mig> {
    at.and_then(|at| gpu.mig_devices().into_iter().nth(at)).ok_or(Code::NotSupported)
}

fn attributes(function: &'static str, device: DeviceHandle, out: Out<nvmlDeviceAttributes_t>) -> Answer<()> {
    library::device_or_mig(function, device, |gpu, at| {
        let mig = mig(gpu, at)?;
        let slices = mig.profile.slices;
        out.put(nvmlDeviceAttributes_t {
            multiprocessorCount: gpu.preset().cores / 128 * slices / 8,
            sharedCopyEngineCount: slices,
            sharedDecoderCount: slices,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: slices,
            computeInstanceSliceCount: slices,
            memorySizeMB: mig.memory() / MIB,
        })
    })
}

exports! {
    fn nvmlDeviceGetMigMode(device: DeviceHandle, current: Out<c_uint>, pending: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            if gpu.preset().mig_devices == 0 {
                return Err(Code::NotSupported);
            }
            let mode = if gpu.mig_enabled() { FEATURE_ENABLED } else { FEATURE_DISABLED };
            current.put(mode)?;
            pending.put(mode)
        })
    }
    fn nvmlDeviceGetMaxMigDeviceCount(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.preset().mig_devices))
    }
    fn nvmlDeviceIsMigDeviceHandle(device: DeviceHandle, out: Out<c_uint>) {
        library::device_or_mig(FUNCTION, device, |_, mig| out.put(c_uint::from(mig.is_some())))
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: DeviceHandle, index: c_uint, out: Out<DeviceHandle>) {
        library::device(FUNCTION, device, |gpu| {
            if !gpu.mig_enabled() {
                return Err(Code::NotSupported);
            }
            let there = (index as usize) < gpu.mig_devices().len();
            if there { out.put(DeviceHandle::of_mig(gpu.index, index as usize)) } else { Err(Code::NotFound) }
        })
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: DeviceHandle, out: Out<DeviceHandle>) {
        library::device_or_mig(FUNCTION, device, |gpu, mig| {
            mig.ok_or(Code::InvalidArgument)?;
            out.put(DeviceHandle::of_index(gpu.index))
        })
    }
    fn nvmlDeviceGetGpuInstanceId(device: DeviceHandle, out: Out<c_uint>) {
        library::device_or_mig(FUNCTION, device, |gpu, at| out.put(mig(gpu, at)?.gpu_instance))
    }
    fn nvmlDeviceGetComputeInstanceId(device: DeviceHandle, out: Out<c_uint>) {
        library::device_or_mig(FUNCTION, device, |gpu, at| out.put(mig(gpu, at)?.compute_instance))
    }
    fn nvmlDeviceGetAttributes(device: DeviceHandle, out: Out<nvmlDeviceAttributes_t>) {
        attributes(FUNCTION, device, out)
    }
    fn nvmlDeviceGetAttributes_v2(device: DeviceHandle, out: Out<nvmlDeviceAttributes_t>) {
        attributes(FUNCTION, device, out)
    }
}
