//! The processes on a GPU, in every version of the lists that clients still ask for.

use super::exports;
use crate::abi::consts::{NO_INSTANCE, VALUE_NOT_AVAILABLE};
use crate::abi::{
    Code, DeviceHandle, nvmlProcessDetail_v1_t, nvmlProcessDetailList_v1_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t,
    nvmlProcessUtilizationSample_t,
};
use crate::edge::{Answer, Array, InOut, Struct};
use crate::library;
use crate::model::Listed;
use crate::scenario::ProcessKind;
use core::ffi::{c_uint, c_ulonglong};

fn list<T: Copy>(
    function: &'static str,
    device: DeviceHandle,
    kind: ProcessKind,
    (count, infos): (InOut<c_uint>, Array<T>),
    entry: impl Fn(Listed) -> T,
) -> Answer<()> {
    library::device_or_mig(function, device, |gpu, mig| {
        let here = gpu.processes_of(kind).into_iter().filter(|it| mig.is_none() || it.mig == mig);
        let entries: Vec<T> = here.map(entry).collect();
        infos.put_counted(count, &entries)
    })
}

/// GPU and compute instance, numbered as in the model.
pub(super) fn instances(mig: Option<usize>) -> (c_uint, c_uint) {
    mig.map_or((NO_INSTANCE, NO_INSTANCE), |at| (at as c_uint + 1, 0))
}

fn v1(it: Listed) -> nvmlProcessInfo_v1_t {
    nvmlProcessInfo_v1_t { pid: it.pid, usedGpuMemory: it.memory }
}

/// Also the third version: `nvmlProcessInfo_t` is this struct.
fn v2(it: Listed) -> nvmlProcessInfo_v2_t {
    nvmlProcessInfo_v2_t {
        pid: it.pid,
        usedGpuMemory: it.memory,
        gpuInstanceId: instances(it.mig).0,
        computeInstanceId: instances(it.mig).1,
    }
}

fn detail(it: Listed) -> nvmlProcessDetail_v1_t {
    nvmlProcessDetail_v1_t {
        pid: it.pid,
        usedGpuMemory: it.memory,
        gpuInstanceId: instances(it.mig).0,
        computeInstanceId: instances(it.mig).1,
        usedGpuCcProtectedMemory: VALUE_NOT_AVAILABLE,
    }
}

macro_rules! lists {
    ($($name:ident: $kind:ident, $entry:ident -> $ty:ty;)*) => {
        exports! {
            $(fn $name(device: DeviceHandle, count: InOut<c_uint>, infos: Array<$ty>) {
                list(FUNCTION, device, ProcessKind::$kind, (count, infos), $entry)
            })*

            fn nvmlDeviceGetRunningProcessDetailList(device: DeviceHandle, list: Struct<nvmlProcessDetailList_v1_t>) {
                library::device(FUNCTION, device, |gpu| {
                    let list = list.open()?;
                    let kind = match list.mode {
                        0 => ProcessKind::Compute,
                        1 => ProcessKind::Graphics,
                        2 => ProcessKind::Mps,
                        _ => return Err(Code::InvalidArgument),
                    };
                    let entries: Vec<_> = gpu.processes_of(kind).into_iter().map(detail).collect();
                    list.procArray.put_counted(Some(&mut list.numProcArrayEntries), &entries)
                })
            }
            fn nvmlDeviceGetProcessUtilization(
                device: DeviceHandle,
                samples: Array<nvmlProcessUtilizationSample_t>,
                count: InOut<c_uint>,
                last_seen: c_ulonglong,
            ) {
                library::device(FUNCTION, device, |gpu| {
                    let now = super::fields::timestamp_us();
                    let busy = gpu.processes();
                    // As on a real GPU, an idle one has no samples to give.
                    if busy.is_empty() || gpu.utilization() <= 0.0 || now <= last_seen {
                        return Err(Code::NotFound);
                    }
                    let all: f64 = busy.iter().map(|it| it.weight).sum();
                    // One that did nothing has no sample.
                    let entries: Vec<_> = busy
                        .iter()
                        .filter(|it| it.weight > 0.0)
                        .map(|it| {
                            let share = |whole: f64| (whole * it.weight / all).round() as c_uint;
                            nvmlProcessUtilizationSample_t {
                                pid: it.pid,
                                timeStamp: now,
                                smUtil: share(gpu.utilization()),
                                memUtil: share(gpu.memory_utilization()),
                                encUtil: share(gpu.encoder()),
                                decUtil: share(gpu.decoder()),
                            }
                        })
                        .collect();
                    samples.put_counted(count, &entries)
                })
            }
        }
    };
}

lists! {
    nvmlDeviceGetComputeRunningProcesses: Compute, v1 -> nvmlProcessInfo_v1_t;
    nvmlDeviceGetComputeRunningProcesses_v2: Compute, v2 -> nvmlProcessInfo_v2_t;
    nvmlDeviceGetComputeRunningProcesses_v3: Compute, v2 -> nvmlProcessInfo_v2_t;
    nvmlDeviceGetGraphicsRunningProcesses: Graphics, v1 -> nvmlProcessInfo_v1_t;
    nvmlDeviceGetGraphicsRunningProcesses_v2: Graphics, v2 -> nvmlProcessInfo_v2_t;
    nvmlDeviceGetGraphicsRunningProcesses_v3: Graphics, v2 -> nvmlProcessInfo_v2_t;
    nvmlDeviceGetMPSComputeRunningProcesses: Mps, v1 -> nvmlProcessInfo_v1_t;
    nvmlDeviceGetMPSComputeRunningProcesses_v2: Mps, v2 -> nvmlProcessInfo_v2_t;
    nvmlDeviceGetMPSComputeRunningProcesses_v3: Mps, v2 -> nvmlProcessInfo_v2_t;
}
