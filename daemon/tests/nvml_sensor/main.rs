//! The NVML sensor with the real sampler process on the simulated library: units, faults, hangs and the end.
//!
//! One test, one process (nextest): the only child of a test is its sampler.

mod bad_input;
mod events;
mod every_signal;
mod rates;
mod rig;
mod scenarios;
mod slices;

use anyhow::{Context, Result, bail, ensure};
use failsafe_core::signal::Kind;
use failsafed::{
    platform::ProcFs,
    sensors::nvml::{NvmlEvent, Sample},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{MMapPath, MemoryMap, Process};
use rig::{GPU0, GPU1, Rig, children, fault, gpu, only_child, process, replace, until};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[test]
fn every_value_arrives_in_the_unit_of_its_kind() -> Result<()> {
    let me = std::process::id();
    let scenario = gpu(
        GPU0,
        &format!(
            "temperature = [[0, 62], [10, 93]]\npower = 350\npower_limit = 700\nutilization = 97\nmemory_utilization = 40\n\
             memory_used = \"20 GiB\"\nsm_clock = 1980\nmemory_clock = 2619\nthrottle = \"hw_slowdown\"\n\
             [gpu.ecc]\ncorrected = 5\nuncorrected = 1\ncorrected_aggregate = 50\nuncorrected_aggregate = 10\n\
             [[gpu.process]]\npid = {me}\nmemory = \"3 GiB\"\n"
        ),
    );
    let rig = Rig::new(&scenario)?;
    let hello = rig.hello()?;
    ensure!(hello.simulated, "what no driver of the kernel stands behind must say so: {hello:?}");
    let [info] = &hello.gpus[..] else { bail!("{hello:?}") };
    ensure!(info.uuid == GPU0 && info.index == 0 && info.power_limit == Some(700_000), "{info:?}");
    ensure!(info.name.is_some() && info.pci.is_some(), "{info:?}");
    let total = info.memory_total.context("memory in all")?;
    let whole = rig.whole(GPU0)?;
    let values: BTreeMap<Kind, i64> = whole.values.iter().map(|(kind, (value, _))| (kind.clone(), *value)).collect();
    let used = 20i64 << 30;
    let want = BTreeMap::from([
        (Kind::GpuUtilization, 97_000),
        (Kind::GpuMemoryUtilization, 40_000),
        (Kind::GpuMemory, used),
        (Kind::GpuMemoryShare, i64::try_from(100_000 * u128::try_from(used)? / u128::from(total))?),
        (Kind::GpuTemperature, 62_000),
        (Kind::GpuPower, 350_000),
        (Kind::GpuPowerShare, 50_000),
        (Kind::GpuClockSm, 1980),
        (Kind::GpuClockMemory, 2619),
        // nvmlClocksThrottleReasonHwSlowdown of nvml.h.
        (Kind::GpuThrottle, 8),
        (Kind::GpuEccUncorrected, 1),
        (Kind::GpuEccCorrected, 5),
        (Kind::GpuEccUncorrectedTotal, 10),
        (Kind::GpuEccCorrectedTotal, 50),
    ]);
    for (kind, value) in want {
        ensure!(values.get(&kind) == Some(&value), "{kind}: {value} is wanted; there is {:?}", values.get(&kind));
    }
    ensure!(whole.failing.is_empty(), "{whole:?}");
    rig.sample("its process", |sample| sample.processes == Some(vec![process(me, 3 << 30)]))?;
    rig.at(10.0)?;
    let hot = |sample: &Sample| sample.readings.contains(&(Kind::GpuTemperature, 93_000));
    rig.sample("the new temperature", hot).map(drop)
}

#[test]
fn one_failing_call_hides_no_other_signal() -> Result<()> {
    let faults = fault("nvmlDeviceGetTemperature", "error = \"UNKNOWN\"")
        + &fault("nvmlDeviceGetTotalEccErrors", "error = \"NOT_SUPPORTED\"")
        + &fault("nvmlDeviceGetPowerUsage", "error = \"NO_PERMISSION\"");
    let rig = Rig::new(&(gpu(GPU0, "utilization = 50") + &faults))?;
    let whole = rig.whole(GPU0)?;
    let failing: Vec<&str> = whole.failing.keys().map(String::as_str).collect();
    ensure!(failing == ["gpu.power", "gpu.power_share", "gpu.temperature"], "{failing:?}");
    for name in ["gpu.ecc_corrected", "gpu.ecc_uncorrected", "gpu.ecc_corrected_total", "gpu.ecc_uncorrected_total"] {
        ensure!(whole.unsupported.contains(name), "{name} is there: {whole:?}");
    }
    ensure!(
        whole.values.contains_key(&Kind::GpuUtilization) && whole.values.contains_key(&Kind::GpuClockSm),
        "{whole:?}"
    );
    Ok(())
}

#[test]
fn a_list_of_processes_that_fails_is_not_an_empty_one() -> Result<()> {
    let me = std::process::id();
    let well = gpu(GPU0, &format!("[[gpu.process]]\npid = {me}\nmemory = \"3 GiB\"\n"));
    let known = |sample: &Sample| sample.processes == Some(vec![process(me, 3 << 30)]);
    // Also the lists that are asked for seldom: with one of them unread, who is there is not known.
    for list in ["Compute", "MPSCompute", "Graphics"] {
        let function = format!("nvmlDeviceGet{list}RunningProcesses_v3");
        let rig = Rig::new(&(well.clone() + &fault(&function, "from = 2.0\nuntil = 4.0\nerror = \"UNKNOWN\"")))?;
        rig.sample("its process", known)?;
        rig.at(2.0)?;
        let failing = |sample: &Sample| sample.failing.iter().any(|(name, _)| name == "gpu.processes");
        let sample = rig.sample("the failure", failing)?;
        ensure!(sample.processes.is_none(), "{list}: {sample:?}");
        ensure!(sample.readings.iter().all(|(kind, _)| *kind != Kind::GpuProcesses), "{list}: {sample:?}");
        rig.at(4.0)?;
        rig.sample("its process again", known)?;
    }
    Ok(())
}

#[test]
fn a_lost_gpu_reports_its_xid_and_is_blind_alone_until_it_is_back() -> Result<()> {
    let both = gpu(GPU0, "[[gpu.event]]\nat = 3.0\nxid = 79") + &gpu(GPU1, "temperature = 60");
    let lost = fault("nvmlDevice*", "gpu = 0\nfrom = 3.0\nerror = \"GPU_IS_LOST\"");
    let rig = Rig::new(&(both.clone() + &lost))?;
    ensure!(rig.hello()?.gpus.len() == 2);
    // An event before its registration is never delivered.
    let ready = |sample: &Sample| sample.gpu == GPU0 && sample.failing.is_empty();
    rig.sample("XIDs registered", ready)?;
    rig.at(4.0)?;
    let (mut xid, mut blind) = (None, None);
    rig.wait("the XID and the blindness", |event| {
        match event {
            NvmlEvent::Xid(event) => xid = Some(event),
            NvmlEvent::Blind { gpu: Some(gpu), why, since_ns } => blind = Some((gpu, why, since_ns)),
            _ => {}
        }
        (xid.is_some() && blind.is_some()).then_some(())
    })?;
    let (xid, (gpu, why, since)) = (xid.context("XID")?, blind.context("blindness")?);
    ensure!((xid.gpu.as_str(), xid.code, xid.count) == (GPU0, 79, 1), "{xid:?}");
    ensure!(gpu == GPU0 && why.contains("fell off the bus") && since.is_some(), "{gpu} {why} {since:?}");
    for _ in 0..3 {
        rig.sample("the other GPU", |sample| sample.gpu == GPU1 && !sample.readings.is_empty())?;
    }
    rig.rewrite(&both)?;
    rig.sees(Some(GPU0))
}

#[test]
fn a_call_that_hangs_is_blindness_and_ends_when_it_is_repaired() -> Result<()> {
    let well = gpu(GPU0, "power = 600");
    let rig = Rig::new(&(well.clone() + &fault("nvmlDeviceGetPowerUsage", "from = 2.0\nhang = true")))?;
    rig.sample("a sample", |_| true)?;
    let first = only_child()?;
    rig.at(2.0)?;
    let (why, since) = rig.blind(None)?;
    ensure!(why.contains("nvmlDeviceGetPowerUsage") && why.contains(GPU0) && since.is_some(), "{why} {since:?}");
    ensure!(ProcFs::default().stat(first)?.is_none(), "the hung sampler was not killed and reaped");
    // It is still second 2, so the next samplers greet and hang too: told once, not at every try.
    let again = Instant::now() + Duration::from_secs(4);
    while let Ok(event) = rig.events.recv_timeout(again.saturating_duration_since(Instant::now())) {
        ensure!(!matches!(event, NvmlEvent::Sees { .. }), "hello is not sight");
        ensure!(!matches!(event, NvmlEvent::Blind { .. }), "told twice");
    }
    rig.rewrite(&well)?;
    rig.sees(None)
}

#[test]
fn a_hung_gpu_leaves_the_others_seen_by_the_same_sampler() -> Result<()> {
    let both = gpu(GPU0, "power = 600") + &gpu(GPU1, "power = 300");
    let rig = Rig::new(&(both.clone() + &fault("nvmlDeviceGetPowerUsage", "gpu = 0\nfrom = 2.0\nhang = true")))?;
    rig.sample("the first GPU", |sample| sample.gpu == GPU0)?;
    let sampler = only_child()?;
    rig.at(2.0)?;
    let (why, _) = rig.blind(Some(GPU0))?;
    ensure!(why.contains("nvmlDeviceGetPowerUsage"), "{why}");
    for _ in 0..3 {
        rig.sample("the other GPU", |sample| sample.gpu == GPU1)?;
    }
    rig.rewrite(&both)?;
    rig.sees(Some(GPU0))?;
    ensure!(only_child()? == sampler, "it was started again");
    Ok(())
}

/// Each worker of the sampler that hangs gives the GPUs that it has not come to into other hands.
#[test]
fn many_gpus_that_hang_one_after_the_other_leave_the_rest_seen_at_every_interval() -> Result<()> {
    let uuid = |n: usize| format!("GPU-00000000-0000-0000-0000-00000000000{n}");
    let all: String = (1..=6).map(|n| gpu(&uuid(n), "power = 600")).collect();
    let hang = |index: usize, from: f64| {
        fault("nvmlDeviceGetPowerUsage", &format!("gpu = {index}\nfrom = {from}\nhang = true"))
    };
    let rig = Rig::new(&(all.clone() + &hang(0, 2.0) + &hang(2, 3.0) + &hang(3, 3.0)))?;
    rig.sample("the last GPU", |sample| sample.gpu == uuid(6))?;
    let sampler = only_child()?;
    for (at, hung) in [(2.0, &[1][..]), (3.0, &[1, 3, 4])] {
        rig.at(at)?;
        let mut blind: BTreeSet<String> = hung.iter().map(|n| uuid(*n)).collect();
        if at > 2.0 {
            blind.remove(&uuid(1));
        }
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut longest = 0;
        rig.wait("blindness of those alone", |event| {
            match event {
                NvmlEvent::Blind { gpu: Some(gpu), .. } => drop(blind.remove(&gpu)),
                NvmlEvent::Sample(sample) if !hung.iter().any(|n| uuid(*n) == sample.gpu) => {
                    let before = last.insert(sample.gpu, sample.mono_ns).unwrap_or(sample.mono_ns);
                    longest = longest.max(sample.mono_ns - before);
                }
                _ => {}
            }
            blind.is_empty().then_some(())
        })?;
        ensure!(last.len() == 6 - hung.len(), "{last:?}");
        // Silence for the deadline of a second would be blindness.
        ensure!(longest < 900_000_000, "no sample for {longest} ns");
    }
    rig.rewrite(&all)?;
    for n in [1, 3, 4] {
        rig.sample("it is back", |sample| sample.gpu == uuid(n))?;
    }
    ensure!(only_child()? == sampler, "it was started again");
    Ok(())
}

#[test]
fn a_gpu_that_hangs_for_long_is_left_alone_by_the_next_sampler() -> Result<()> {
    let both = gpu(GPU0, "power = 600") + &gpu(GPU1, "power = 300");
    let hang = fault("nvmlDeviceGetPowerUsage", "gpu = 0\nfrom = 2.0\nhang = true");
    let rig = Rig::with(&(both.clone() + &hang), |config| config.patience = Duration::from_secs(2))?;
    rig.sample("the first GPU", |sample| sample.gpu == GPU0)?;
    let first = only_child()?;
    rig.at(2.0)?;
    rig.blind(Some(GPU0))?;
    // The next sampler has the hung GPU among those that it does not touch, and sees the other.
    let hello = rig.wait("another sampler", |event| match event {
        NvmlEvent::Hello(hello) if !hello.unreachable.is_empty() => Some(hello),
        _ => None,
    })?;
    ensure!(hello.gpus.len() == 1 && hello.gpus[0].uuid == GPU1, "{hello:?}");
    ensure!(hello.unreachable[0].index == 0 && hello.unreachable[0].why.contains("left alone"), "{hello:?}");
    rig.sample("the other GPU", |sample| sample.gpu == GPU1)?;
    ensure!(only_child()? != first, "the hung sampler was kept");
    rig.rewrite(&both)?;
    rig.sees(Some(GPU0))
}

#[test]
fn init_that_hangs_or_fails_is_blindness() -> Result<()> {
    let well = gpu(GPU0, "");
    let hang = well.clone() + &fault("nvmlInit_v2", "hang = true");
    let rig = Rig::with(&hang, |config| config.start_deadline = Duration::from_secs(1))?;
    let (why, since) = rig.blind(None)?;
    ensure!(why.contains("nvmlInit") && since.is_none(), "{why}");
    rig.rewrite(&(well.clone() + &fault("nvmlInit_v2", "error = \"DRIVER_NOT_LOADED\"")))?;
    let (why, _) = rig.blind(None)?;
    ensure!(why.contains("driver is not loaded"), "{why}");
    rig.rewrite(&well)?;
    rig.sees(None)
}

#[test]
fn a_driver_that_is_loaded_anew_makes_the_sampler_start_afresh() -> Result<()> {
    let well = gpu(GPU0, "");
    let rig = Rig::new(&well)?;
    rig.sample("a sample", |_| true)?;
    let first = only_child()?;
    // Void handles from now on, and in the next sampler too: it must not spin.
    rig.rewrite(&(well.clone() + &fault("nvmlDevice*", "error = \"UNINITIALIZED\"")))?;
    rig.blind(None)?;
    rig.rewrite(&well)?;
    rig.sees(None)?;
    ensure!(only_child()? != first, "handles that are void are still in use");
    Ok(())
}

#[test]
fn a_library_that_is_missing_or_is_none_or_is_anybodys_is_reported_and_looked_for_again() -> Result<()> {
    let rig = Rig::with(&gpu(GPU0, ""), |config| {
        let library = config.library.as_deref().unwrap_or(Path::new(""));
        fs::rename(library, library.with_extension("away")).unwrap_or_default();
    })?;
    let away = rig.library().with_extension("away");
    let (why, _) = rig.blind(None)?;
    ensure!(why.contains("libnvidia-ml.so.1") && why.contains("No such file"), "{why}");
    fs::write(rig.library(), "not a library\n")?;
    fs::set_permissions(rig.library(), Permissions::from_mode(0o644))?;
    let (why, _) = rig.blind(None)?;
    ensure!(why.contains("cannot be loaded"), "{why}");
    // A library, but of something else: the C library that this test itself has loaded.
    let c_library = |map: MemoryMap| match map.pathname {
        MMapPath::Path(path) if path.to_string_lossy().contains("/libc.so") => Some(path),
        _ => None,
    };
    let other = Process::myself()?.maps()?.into_iter().find_map(c_library).context("no C library is loaded")?;
    let fresh = rig.library().with_extension("fresh");
    fs::copy(other, &fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o644))?;
    fs::rename(&fresh, rig.library())?;
    rig.wait("not NVML", |event| match event {
        NvmlEvent::Blind { why, .. } if why.contains("is not an NVML library") => Some(()),
        _ => None,
    })?;
    fs::set_permissions(&away, Permissions::from_mode(0o666))?;
    fs::rename(&away, rig.library())?;
    rig.wait("not trusted", |event| match event {
        NvmlEvent::Blind { why, .. } if why.contains("not trusted") && why.contains("0666") => Some(()),
        _ => None,
    })?;
    fs::set_permissions(rig.library(), Permissions::from_mode(0o644))?;
    rig.sees(None)
}

#[test]
fn a_sampler_that_is_killed_is_replaced_and_stop_leaves_none() -> Result<()> {
    let mut rig = Rig::new(&gpu(GPU0, ""))?;
    rig.sample("a sample", |_| true)?;
    kill(Pid::from_raw(i32::try_from(only_child()?)?), Signal::SIGKILL)?;
    let (why, _) = rig.blind(None)?;
    ensure!(why.contains("signal: 9"), "{why}");
    rig.sees(None)?;
    rig.sensor.take().context("the sensor")?.stop();
    ensure!(children()?.is_empty(), "stop left a sampler");
    ensure!(rig.events.iter().all(|event| !matches!(event, NvmlEvent::Blind { .. })), "a stop is not blindness");
    Ok(())
}

#[test]
fn a_sampler_dies_with_the_daemon_even_inside_a_call() -> Result<()> {
    let folder = tempfile::tempdir()?;
    replace(folder.path(), "scenario.toml", &(gpu(GPU0, "") + &fault("nvmlInit_v2", "hang = true")))?;
    // The shell stands for the daemon.
    let mut daemon = Command::new("sh")
        .args(["-c", "\"$0\" nvml-sampler --library \"$1\" --parent $$ >/dev/null & echo $! >\"$2\"; wait"])
        .arg(env!("CARGO_BIN_EXE_failsafed"))
        .arg(nvidia_ml::library_path()?)
        .arg(folder.path().join("pid"))
        .env(nvidia_ml::SCENARIO_ENV, folder.path().join("scenario.toml"))
        .stdin(Stdio::null())
        .spawn()?;
    let file = folder.path().join("pid");
    let mut pid = 0;
    until("the sampler's pid", || {
        pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Ok(pid > 0)
    })?;
    // Inside the call: the library is mapped, and the thread sleeps.
    let inside = until("the call", || {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Ok(maps.contains("libnvidia_ml.so") && ProcFs::default().stat(pid)?.is_some_and(|stat| stat.state == 'S'))
    });
    daemon.kill()?;
    daemon.wait()?;
    inside?;
    until("the sampler's end", || Ok(ProcFs::default().stat(pid)?.is_none_or(|stat| stat.state == 'Z')))
}
