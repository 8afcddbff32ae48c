//! Temperatures, their thresholds, and fans.

use super::exports;
use crate::abi::consts::TEMPERATURE_GPU;
use crate::abi::{Code, DeviceHandle, nvmlFanSpeedInfo_v1_t, nvmlMarginTemperature_v1_t, nvmlTemperature_v1_t};
use crate::edge::{Answer, Out, Put, Struct};
use crate::library;
use crate::model::Gpu;
use core::ffi::{c_int, c_uint};

exports! {
    fn nvmlDeviceGetTemperature(device: DeviceHandle, sensor: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| match sensor {
            TEMPERATURE_GPU => out.put(gpu.temperature().round() as c_uint),
            _ => Err(Code::InvalidArgument),
        })
    }
    fn nvmlDeviceGetTemperatureV(device: DeviceHandle, temperature: Struct<nvmlTemperature_v1_t>) {
        library::device(FUNCTION, device, |gpu| {
            let temperature = temperature.open()?;
            if temperature.sensorType != TEMPERATURE_GPU {
                return Err(Code::InvalidArgument);
            }
            temperature.temperature = gpu.temperature().round() as c_int;
            Ok(())
        })
    }
    fn nvmlDeviceGetTemperatureThreshold(device: DeviceHandle, threshold: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            let thresholds = &gpu.preset().thresholds;
            match threshold {
                0 => out.put(thresholds.shutdown),
                1 => out.put(thresholds.slowdown),
                2 => out.put(thresholds.memory_max),
                3 => out.put(thresholds.gpu_max),
                4..8 => Err(Code::NotSupported),
                _ => Err(Code::InvalidArgument),
            }
        })
    }
    fn nvmlDeviceGetMarginTemperature(device: DeviceHandle, margin: Struct<nvmlMarginTemperature_v1_t>) {
        library::device(FUNCTION, device, |gpu| {
            // What is left to the nearest slowdown, which is that by software.
            let limit = f64::from(gpu.preset().thresholds.gpu_max);
            let marginTemperature = (limit - gpu.temperature()).round() as c_int;
            margin.put(|version| nvmlMarginTemperature_v1_t { version, marginTemperature })
        })
    }
    fn nvmlDeviceGetNumFans(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(gpu.fans() as c_uint))
    }
    fn nvmlDeviceGetFanSpeed(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            out.put(gpu.fan(0).ok_or(Code::NotSupported)?.round() as c_uint)
        })
    }
    fn nvmlDeviceGetFanSpeed_v2(device: DeviceHandle, fan: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(of_fan(gpu, gpu.fan(fan as usize))?.round() as c_uint))
    }
    fn nvmlDeviceGetTargetFanSpeed(device: DeviceHandle, fan: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| out.put(of_fan(gpu, gpu.fan_target(fan as usize))?.round() as c_uint))
    }
    fn nvmlDeviceGetMinMaxFanSpeed(device: DeviceHandle, min: Out<c_uint>, max: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            of_fan(gpu, gpu.fan(0))?;
            min.put(30)?;
            max.put(100)
        })
    }
    fn nvmlDeviceGetFanControlPolicy_v2(device: DeviceHandle, fan: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            of_fan(gpu, gpu.fan(fan as usize))?;
            out.put(c_uint::from(gpu.fans_are_manual()))
        })
    }
    fn nvmlDeviceGetFanSpeedRPM(device: DeviceHandle, speed: Struct<nvmlFanSpeedInfo_v1_t>) {
        library::device(FUNCTION, device, |gpu| {
            let speed = speed.open()?;
            let at = speed.fan as usize;
            of_fan(gpu, gpu.fan(at))?;
            speed.speed = gpu.fan_rpm(at).ok_or(Code::NotSupported)? as c_uint;
            Ok(())
        })
    }
}

/// What is asked of one fan: a board without fans has nothing to tell, one with others does not know this one.
fn of_fan<T>(gpu: &Gpu<'_>, of: Option<T>) -> Answer<T> {
    of.ok_or(if gpu.fans() == 0 { Code::NotSupported } else { Code::InvalidArgument })
}
