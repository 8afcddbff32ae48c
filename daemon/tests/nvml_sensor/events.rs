//! What NVML says has happened, beside XIDs: each kind arrives, none hides an XID, and what may have changed is read anew.

use super::rig::{GPU0, Rig, fault, gpu};
use anyhow::{Context, Result, ensure};
use failsafe_core::{event::GpuEvent, signal::Kind};
use failsafed::sensors::nvml::{NvmlConfig, NvmlEvent, Sample};
use std::{collections::BTreeSet, fmt::Write, time::Duration};

/// As the scenario names them, in the order of [`GpuEvent::ALL`].
const KINDS: [&str; 13] = [
    "single_bit_ecc",
    "double_bit_ecc",
    "pstate",
    "clock",
    "power_source",
    "mig_config",
    "ecc_storm",
    "dram_retirement",
    "dram_retirement_failure",
    "poison",
    "fatal_poison",
    "gpu_unavailable",
    "gpu_recovery_action",
];

/// What does not come with every pass does not come for an hour, unless something happens.
fn patient(config: &mut NvmlConfig) {
    config.slow = Duration::from_secs(3_600);
}

fn event(at: f64, kind: &str) -> String {
    format!("[[gpu.event]]\nat = {at}\nkind = \"{kind}\"\n")
}

/// A MIG device's sample says nothing of it.
fn registered(sample: &Sample) -> bool {
    sample.gpu == GPU0 && sample.failing.is_empty()
}

#[test]
fn every_kind_arrives_that_the_gpu_reports_to_have() -> Result<()> {
    let mut events = "[[gpu.event]]\nat = 3.0\nxid = 63\n".to_owned();
    for kind in KINDS {
        let _ = write!(events, "{}", event(3.0, kind));
    }
    let rig = Rig::new(&gpu(GPU0, &events))?;
    rig.sample("events registered", registered)?;
    rig.at(4.0)?;
    // A power source is what these boards do not have: it is not asked for, or the driver would refuse all.
    let mut left: BTreeSet<GpuEvent> =
        GpuEvent::ALL.iter().copied().filter(|it| *it != GpuEvent::PowerSource).collect();
    let mut xid = false;
    rig.wait("every event", |event| {
        match event {
            NvmlEvent::Happened(it) if it.gpu == GPU0 => drop(left.remove(&it.what)),
            NvmlEvent::Xid(it) => xid |= it.code == 63,
            _ => {}
        }
        (left.is_empty() && xid).then_some(())
    })
}

#[test]
fn a_driver_that_does_not_say_which_events_it_has_reports_xids_all_the_same() -> Result<()> {
    let events = event(3.0, "double_bit_ecc") + "[[gpu.event]]\nat = 3.0\nxid = 48\n";
    let older = fault("nvmlDeviceGetSupportedEventTypes", "error = \"NOT_SUPPORTED\"");
    let rig = Rig::new(&(gpu(GPU0, &events) + &older))?;
    rig.sample("the word of it", |sample| sample.unsupported.contains(&"gpu.events".to_owned()) && registered(sample))?;
    rig.at(4.0)?;
    rig.wait("the XID", |event| match event {
        NvmlEvent::Xid(it) => Some(it.code),
        NvmlEvent::Happened(it) => panic!("nobody asked for it: {it:?}"),
        _ => None,
    })
    .and_then(|code| {
        ensure!(code == 48);
        Ok(())
    })
}

#[test]
fn events_that_cannot_be_had_now_are_failing_and_hide_no_xid() -> Result<()> {
    let events = "[[gpu.event]]\nat = 3.0\nxid = 48\n";
    let sick = fault("nvmlDeviceGetSupportedEventTypes", "error = \"UNKNOWN\"");
    let rig = Rig::new(&(gpu(GPU0, events) + &sick))?;
    let names = |sample: &Sample| sample.failing.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    rig.sample("the word of it", |sample| names(sample) == ["gpu.events"])?;
    rig.at(4.0)?;
    rig.wait("the XID", |event| matches!(event, NvmlEvent::Xid(it) if it.code == 48).then_some(()))
}

#[test]
fn an_xid_of_a_mig_device_names_its_instances_and_one_of_the_card_none() -> Result<()> {
    let events = "mig = [\"1g.10gb\", \"3g.40gb\"]\n[[gpu.event]]\nat = 3.0\nxid = 94\nmig = 1\n\
                  [[gpu.event]]\nat = 3.0\nxid = 95\n";
    let rig = Rig::new(&gpu(GPU0, events))?;
    let known = rig.hello()?.gpus.remove(0).mig_devices;
    rig.sample("events registered", registered)?;
    rig.at(4.0)?;
    let mut xids = Vec::new();
    rig.wait("both", |event| {
        if let NvmlEvent::Xid(it) = event {
            xids.push((it.code, it.gpu_instance, it.compute_instance));
        }
        (xids.len() == 2).then_some(())
    })?;
    xids.sort_unstable();
    let device = known.get(1).context("a second MIG device")?;
    ensure!(device.gpu_instance.is_some(), "{device:?}");
    ensure!(xids == [(94, device.gpu_instance, device.compute_instance), (95, None, None)], "{xids:?}, {known:?}");
    Ok(())
}

#[test]
fn a_gpu_that_is_cut_anew_is_described_anew_at_once() -> Result<()> {
    let rig = Rig::with(&gpu(GPU0, ""), patient)?;
    rig.sample("events registered", registered)?;
    rig.rewrite(&gpu(GPU0, &format!("mig = [\"1g.10gb\", \"3g.40gb\"]\n{}", event(0.0, "mig_config"))))?;
    let (mut devices, mut lacks) = (None, false);
    rig.wait("its MIG devices, and what a GPU in MIG mode does not tell", |event| {
        match event {
            NvmlEvent::Info(info) if info.mig == Some(true) => devices = Some(info.mig_devices.len()),
            NvmlEvent::Sample(sample) => lacks |= sample.unsupported.contains(&"gpu.utilization".to_owned()),
            _ => {}
        }
        (devices.is_some() && lacks).then_some(())
    })?;
    ensure!(devices == Some(2), "{devices:?}");
    Ok(())
}

#[test]
fn an_error_of_memory_has_its_counters_read_at_once() -> Result<()> {
    let counted = |events: &str| gpu(GPU0, &format!("{events}[gpu.ecc]\nuncorrected = [[0, 0], [5, 1]]\n"));
    let rig = Rig::with(&counted(""), patient)?;
    rig.sample("events registered", registered)?;
    rig.at(6.0)?;
    rig.rewrite(&counted(&event(0.0, "double_bit_ecc")))?;
    let one = |sample: &Sample| sample.readings.contains(&(Kind::GpuEccUncorrected, 1));
    rig.sample("the error", one).context("the counter was not read").map(drop)
}
