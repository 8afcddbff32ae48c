//! Rates of groups and of single signals: what is given its own is read by it, and nothing else is.

use super::rig::{GPU0, Rig, gpu};
use anyhow::{Result, ensure};
use failsafe_core::signal::Kind;
use failsafed::{
    config::{Every, Rated},
    sensors::nvml::{NvmlConfig, NvmlEvent, Sample},
};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

#[expect(clippy::unwrap_used, reason = "the names are this file's own")]
fn rated(config: &mut NvmlConfig, names: &[(&str, Duration)]) {
    config.every = names.iter().map(|(name, pace)| (Rated::parse(name).unwrap(), *pace)).collect::<Every>();
}

/// The next samples after the first, which has all.
fn next(rig: &Rig, count: usize) -> Result<Vec<Sample>> {
    rig.sample("the first", |sample| sample.gpu == GPU0)?;
    let mut samples = Vec::new();
    rig.wait("some samples", |event| {
        if let NvmlEvent::Sample(sample) = event {
            samples.push(sample);
        }
        (samples.len() >= count).then_some(())
    })?;
    Ok(samples)
}

fn has(sample: &Sample, kind: &Kind) -> bool {
    sample.readings.iter().any(|(it, _)| it == kind)
}

#[test]
fn one_signal_of_a_slow_group_may_be_read_with_every_sample() -> Result<()> {
    let often = [
        Kind::GpuEccUncorrected,
        Kind::GpuEccDramUncorrected,
        Kind::GpuEccSramThreshold,
        Kind::GpuFanRpm,
        Kind::GpuNvlinkReplays,
        Kind::GpuPowerLimitMax,
    ];
    let rig = Rig::with(&gpu(GPU0, "fans = { speed = [30], rpm = [2000] }"), |config| {
        config.slow = HOUR;
        let names: Vec<String> = often.iter().map(Kind::to_string).collect();
        rated(config, &names.iter().map(|name| (name.as_str(), Duration::from_millis(50))).collect::<Vec<_>>());
    })?;
    for sample in next(&rig, 3)? {
        for kind in &often {
            ensure!(has(&sample, kind), "{kind} is not in {sample:?}");
        }
        let others =
            [Kind::GpuEccCorrected, Kind::GpuFanSpeed, Kind::GpuFans, Kind::GpuNvlinkLinks, Kind::GpuPowerLimitMin];
        for kind in others.iter().chain(&[Kind::GpuEccSramCorrected, Kind::GpuEccDramCorrected]) {
            ensure!(!has(&sample, kind), "{kind} is in {sample:?}");
        }
        ensure!(sample.unsupported.is_empty() && sample.failing.is_empty(), "{sample:?}");
    }
    Ok(())
}

#[test]
fn one_signal_of_every_sample_may_be_read_rarely_and_its_call_is_made_for_the_others() -> Result<()> {
    let rig = Rig::with(&gpu(GPU0, "utilization = 50"), |config| {
        rated(config, &[("gpu.utilization", HOUR), ("gpu.temperature", HOUR), ("gpu.energy", HOUR)]);
    })?;
    for sample in next(&rig, 3)? {
        for kind in [Kind::GpuUtilization, Kind::GpuTemperature, Kind::GpuEnergy] {
            ensure!(!has(&sample, &kind), "{kind} is in {sample:?}");
        }
        ensure!(has(&sample, &Kind::GpuMemoryUtilization) && has(&sample, &Kind::GpuPowerInstant), "{sample:?}");
    }
    Ok(())
}

#[test]
fn a_group_is_read_as_often_as_configured() -> Result<()> {
    let rig = Rig::with(&gpu(GPU0, ""), |config| {
        rated(config, &[("slow", Duration::from_millis(50)), ("second", HOUR), ("rare", HOUR)]);
    })?;
    for sample in next(&rig, 3)? {
        ensure!(has(&sample, &Kind::GpuEccUncorrected) && has(&sample, &Kind::GpuPcieWidth), "{sample:?}");
        ensure!(!has(&sample, &Kind::GpuViolationPower) && !has(&sample, &Kind::GpuClockSmMax), "{sample:?}");
    }
    Ok(())
}
