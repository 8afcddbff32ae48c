//! What MIG devices tell of themselves, each under its own UUID.

use super::rig::{GPU0, Rig, fault, gpu};
use anyhow::{Context, Result, ensure};
use failsafe_core::signal::Kind;
use failsafed::sensors::nvml::{Current, MigDevice, NvmlEvent, Sample};

/// Two MIG devices; this process works on the second.
fn cut() -> String {
    let me = std::process::id();
    let process = format!("[[gpu.process]]\npid = {me}\nmemory = \"3 GiB\"\nmig = 1\n");
    let busy = "utilization = 60\nsm_active = 40\nsm_occupancy = 30\ntensor_active = 20\ndram_active = 10\n";
    gpu(GPU0, &format!("mig = [\"1g.10gb\", \"3g.40gb\"]\n{busy}{process}"))
}

/// All that is known of a MIG device once it tells how busy it is, or that it does not have that.
fn whole(rig: &Rig, device: &MigDevice) -> Result<Current> {
    let mut current = Current::default();
    rig.wait("what the MIG device tells", |event| match event {
        NvmlEvent::Sample(sample) if sample.gpu == device.uuid => {
            current.take(&sample);
            let told = current.values.contains_key(&Kind::GpuUtilization);
            (told || current.unsupported.contains("gpu.utilization")).then(|| current.clone())
        }
        _ => None,
    })
}

fn devices(rig: &Rig) -> Result<[MigDevice; 2]> {
    rig.hello()?.gpus.remove(0).mig_devices.try_into().ok().context("two MIG devices")
}

#[test]
fn each_reports_its_own_work_and_memory() -> Result<()> {
    let rig = Rig::new(&cut())?;
    let [first, second] = devices(&rig)?;
    let idle = whole(&rig, &first)?;
    let busy = whole(&rig, &second)?;
    let values = |of: &Current, kinds: &[Kind]| -> Vec<Option<i64>> {
        kinds.iter().map(|kind| of.values.get(kind).map(|(value, _)| *value)).collect()
    };
    let work =
        [Kind::GpuUtilization, Kind::GpuSmActive, Kind::GpuSmOccupancy, Kind::GpuTensorActive, Kind::GpuDramActive];
    ensure!(values(&idle, &work) == [Some(0); 5], "{idle:?}");
    ensure!(values(&busy, &work) == [60_000, 40_000, 30_000, 20_000, 10_000].map(Some), "{busy:?}");
    let memory = [Kind::GpuMemory, Kind::GpuMemoryTotal];
    ensure!(values(&idle, &memory) == [Some(0), Some(10 << 30)], "{idle:?}");
    ensure!(values(&busy, &memory) == [Some(3 << 30), Some(40 << 30)], "{busy:?}");
    ensure!(busy.values[&Kind::GpuMemoryShare].0 == 7_500, "{busy:?}");
    Ok(())
}

#[test]
fn one_that_cannot_be_measured_is_reported_and_hides_nothing_of_its_card() -> Result<()> {
    // As before Hopper.
    let rig = Rig::new(&(cut() + &fault("nvmlGpmMigSampleGet", "error = \"NOT_SUPPORTED\"")))?;
    let [first, _] = devices(&rig)?;
    let seen = whole(&rig, &first)?;
    ensure!(seen.unsupported.contains("gpu.sm_active") && seen.failing.is_empty(), "{seen:?}");
    ensure!(seen.values.contains_key(&Kind::GpuMemoryTotal), "{seen:?}");
    let of_card = |sample: &Sample| sample.gpu == GPU0 && !sample.readings.is_empty();
    let sample = rig.sample("its card", of_card)?;
    ensure!(sample.failing.iter().all(|(name, _)| name == "gpu.xid"), "{sample:?}");
    Ok(())
}

#[test]
fn one_that_is_made_later_reports_too_and_one_that_is_gone_no_more() -> Result<()> {
    let rig = Rig::new(&gpu(GPU0, "mig = [\"1g.10gb\"]"))?;
    ensure!(rig.hello()?.gpus.remove(0).mig_devices.len() == 1);
    let event = "[[gpu.event]]\nat = 0.0\nkind = \"mig_config\"\n";
    rig.sample("events registered", |sample| sample.gpu == GPU0 && sample.failing.is_empty())?;
    rig.rewrite(&gpu(GPU0, &format!("mig = [\"2g.20gb\", \"3g.40gb\"]\n{event}")))?;
    let info = rig.wait("its devices", |event| match event {
        NvmlEvent::Info(info) if info.mig_devices.len() == 2 => Some(info),
        _ => None,
    })?;
    let seen = whole(&rig, &info.mig_devices[1])?;
    ensure!(seen.values[&Kind::GpuMemoryTotal].0 == 40 << 30, "{seen:?}");
    rig.rewrite(&gpu(GPU0, &format!("{event}{event}")))?;
    rig.wait("that it is whole again", |event| {
        matches!(event, NvmlEvent::Info(info) if info.mig_devices.is_empty()).then_some(())
    })?;
    for _ in 0..3 {
        rig.wait("nothing but the card", |event| match event {
            NvmlEvent::Sample(sample) => Some(sample.gpu),
            _ => None,
        })
        .and_then(|gpu| {
            ensure!(gpu == GPU0, "{gpu} still tells");
            Ok(())
        })?;
    }
    Ok(())
}
