//! Temperatures, their thresholds, and fans.

use super::exports;
use crate::abi::consts::TEMPERATURE_GPU;
use crate::abi::{Code, DeviceHandle, nvmlMarginTemperature_v1_t, nvmlTemperature_v1_t};
use crate::edge::{Out, Put, Struct};
use crate::library;
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
        library::device(FUNCTION, device, |gpu| out.put(gpu.fan().map_or(0, |_| 1)))
    }
    fn nvmlDeviceGetFanSpeed(device: DeviceHandle, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            out.put(gpu.fan().ok_or(Code::NotSupported)?.round() as c_uint)
        })
    }
    fn nvmlDeviceGetFanSpeed_v2(device: DeviceHandle, fan: c_uint, out: Out<c_uint>) {
        library::device(FUNCTION, device, |gpu| {
            let speed = gpu.fan().ok_or(Code::NotSupported)?;
            if fan == 0 { out.put(speed.round() as c_uint) } else { Err(Code::InvalidArgument) }
        })
    }
}
