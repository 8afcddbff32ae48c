//! What drivers, broken GPUs and libraries of another age answer: none of it stops another signal or another GPU, and each
//! is told.

use super::rig::{GPU0, GPU1, Rig, fault, gpu};
use anyhow::{Context, Result, bail, ensure};
use failsafe_core::signal::Kind;
use failsafed::sensors::nvml::{Current, GpuInfo, NvmlConfig, NvmlEvent};
use std::{collections::BTreeSet, fs, time::Duration};

/// Every group with every pass, so that a test need not wait for the slow ones.
fn quick(config: &mut NvmlConfig) {
    config.slow = Duration::from_millis(50);
}

/// What is known of a GPU once every signal of the catalogue has been asked for.
fn complete(rig: &Rig, gpu: &str) -> Result<Current> {
    let all: Vec<&Kind> = Kind::ALL.iter().filter(|kind| kind.is_read_of_a_gpu()).collect();
    let mut current = Current::default();
    rig.wait("every signal of the catalogue", |event| match event {
        NvmlEvent::Sample(sample) if sample.gpu == gpu => {
            current.take(&sample);
            let told = |kind: &&&Kind| {
                let name = kind.to_string();
                current.values.contains_key(kind)
                    || current.unsupported.contains(&name)
                    || current.failing.contains_key(&name)
            };
            let xid = current.failing.get("gpu.xid").is_some_and(|why| why.contains("not registered"));
            (!xid && all.iter().all(|kind| told(&kind))).then(|| current.clone())
        }
        _ => None,
    })
}

fn names(current: &Current) -> BTreeSet<String> {
    current.values.keys().map(Kind::to_string).collect()
}

/// Every function that the sampler calls for a signal, and the signals lost without it.
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("nvmlDeviceGetUtilizationRates", &["gpu.utilization", "gpu.memory_utilization"]),
    ("nvmlDeviceGetEncoderUtilization", &["gpu.encoder_utilization"]),
    ("nvmlDeviceGetDecoderUtilization", &["gpu.decoder_utilization"]),
    ("nvmlDeviceGetMemoryInfo_v2", &["gpu.memory_reserved"]),
    ("nvmlDeviceGetTemperature", &["gpu.temperature"]),
    ("nvmlDeviceGetMarginTemperature", &["gpu.temperature_margin"]),
    ("nvmlDeviceGetPowerUsage", &["gpu.power", "gpu.power_share"]),
    ("nvmlDeviceGetClockInfo", &["gpu.clock_sm", "gpu.clock_memory", "gpu.clock_graphics", "gpu.clock_video"]),
    ("nvmlDeviceGetCurrentClocksEventReasons", &["gpu.throttle_reasons"]),
    ("nvmlDeviceGetPerformanceState", &["gpu.performance_state"]),
    ("nvmlDeviceGetComputeRunningProcesses_v3", &[]),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", &[]),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", &[]),
    ("nvmlGpmSampleGet", &["gpu.sm_active", "gpu.sm_occupancy", "gpu.tensor_active", "gpu.dram_active"]),
    ("nvmlGpmMetricsGet", &["gpu.sm_active", "gpu.sm_occupancy", "gpu.tensor_active", "gpu.dram_active"]),
    ("nvmlDeviceGetEnforcedPowerLimit", &["gpu.power_limit", "gpu.power_share"]),
    ("nvmlDeviceGetBAR1MemoryInfo", &["gpu.bar1_used", "gpu.bar1_total"]),
    ("nvmlDeviceGetFanSpeed_v2", &["gpu.fan_speed", "gpu.fan_speed_max"]),
    ("nvmlDeviceGetTargetFanSpeed", &["gpu.fan_target"]),
    ("nvmlDeviceGetFanSpeedRPM", &["gpu.fan_rpm"]),
    ("nvmlDeviceGetFanControlPolicy_v2", &["gpu.fans_manual"]),
    (
        "nvmlDeviceGetNumFans",
        &["gpu.fans", "gpu.fan_speed", "gpu.fan_speed_max", "gpu.fan_target", "gpu.fan_rpm", "gpu.fans_manual"],
    ),
    (
        "nvmlDeviceGetTotalEccErrors",
        &["gpu.ecc_corrected", "gpu.ecc_uncorrected", "gpu.ecc_corrected_total", "gpu.ecc_uncorrected_total"],
    ),
    (
        "nvmlDeviceGetSramEccErrorStatus",
        // Errors of on-chip memory are counted as a location, too.
        &[
            "gpu.ecc_sram_threshold",
            "gpu.ecc_sram_l2_uncorrected_total",
            "gpu.ecc_sram_sm_uncorrected_total",
            "gpu.ecc_sram_pcie_uncorrected_total",
            "gpu.ecc_sram_mcu_uncorrected_total",
            "gpu.ecc_sram_other_uncorrected_total",
        ],
    ),
    (
        "nvmlDeviceGetMemoryErrorCounter",
        &[
            "gpu.ecc_shared_corrected",
            "gpu.ecc_shared_uncorrected",
            "gpu.ecc_shared_corrected_total",
            "gpu.ecc_shared_uncorrected_total",
        ],
    ),
    ("nvmlDeviceGetRowRemapperHistogram", &["gpu.remap_banks_exhausted"]),
    ("nvmlDeviceGetCurrPcieLinkGeneration", &["gpu.pcie_generation"]),
    ("nvmlDeviceGetCurrPcieLinkWidth", &["gpu.pcie_width"]),
    ("nvmlDeviceGetPcieReplayCounter", &["gpu.pcie_replays"]),
    ("nvmlDeviceGetGpuFabricInfoV", &["gpu.fabric_state", "gpu.fabric_status", "gpu.fabric_health"]),
    (
        "nvmlDeviceGetMaxClockInfo",
        &["gpu.clock_sm_max", "gpu.clock_memory_max", "gpu.clock_graphics_max", "gpu.clock_video_max"],
    ),
    (
        "nvmlDeviceGetTemperatureThreshold",
        &[
            "gpu.temperature_shutdown",
            "gpu.temperature_slowdown",
            "gpu.temperature_limit",
            "gpu.memory_temperature_limit",
        ],
    ),
    ("nvmlDeviceGetPowerManagementDefaultLimit", &["gpu.power_limit_default"]),
    ("nvmlDeviceGetPowerManagementLimit", &["gpu.power_limit_set"]),
    ("nvmlDeviceGetPowerManagementLimitConstraints", &["gpu.power_limit_min", "gpu.power_limit_max"]),
    ("nvmlDeviceGetNvLinkState", &[]),
];

/// A GPU that has all but retired pages.
const EQUIPPED: &str = "utilization = 50
fans = { speed = [30], rpm = [2100] }
[gpu.ecc]
l1 = {}
l2 = {}
register = {}
texture = {}
shared = {}
cbu = {}
";

#[test]
fn any_one_call_may_be_unsupported_and_costs_its_own_signals_only() -> Result<()> {
    let well = gpu(GPU0, EQUIPPED);
    let baseline = complete(&Rig::with(&well, quick)?, GPU0)?;
    ensure!(baseline.failing.is_empty(), "{:?}", baseline.failing);
    // Retired pages are of older boards.
    let lacks: Vec<&String> = baseline.unsupported.iter().collect();
    ensure!(lacks.iter().all(|name| name.starts_with("gpu.retired_pages")) && lacks.len() == 3, "{lacks:?}");
    for (function, lost) in FUNCTIONS.iter().copied() {
        let rig = Rig::with(&(well.clone() + &fault(function, "error = \"NOT_SUPPORTED\"")), quick)?;
        let current = complete(&rig, GPU0).with_context(|| format!("without {function}"))?;
        ensure!(current.failing.is_empty(), "without {function}: {:?}", current.failing);
        let gone: BTreeSet<String> = names(&baseline).difference(&names(&current)).cloned().collect();
        let expected: BTreeSet<String> = lost.iter().map(ToString::to_string).collect();
        ensure!(gone == expected, "without {function}: {gone:?} is gone, {expected:?} should be");
    }
    Ok(())
}

#[test]
fn on_chip_errors_are_seen_with_a_driver_that_counts_them_as_a_location_only() -> Result<()> {
    let counts = "[gpu.ecc]\ncorrected = 9\nuncorrected = 8\ncorrected_aggregate = 90\nuncorrected_aggregate = 80\n\
                  sram_corrected = 7\nsram_uncorrected = 6\nsram_corrected_aggregate = 70\nsram_uncorrected_aggregate = 60\n";
    let older = fault("nvmlDeviceGetSramEccErrorStatus", "error = \"FUNCTION_NOT_FOUND\"");
    let current = complete(&Rig::with(&(gpu(GPU0, counts) + &older), quick)?, GPU0)?;
    for (kind, value) in [
        (Kind::GpuEccSramCorrected, 7),
        (Kind::GpuEccSramUncorrected, 6),
        (Kind::GpuEccSramCorrectedTotal, 70),
        (Kind::GpuEccSramUncorrectedTotal, 60),
    ] {
        let seen = current.values.get(&kind).map(|(value, _)| *value);
        ensure!(seen == Some(value), "{kind}: {value} is wanted; there is {seen:?}");
    }
    // One that fails is not one that is missing: the older way is not tried, and both are told.
    let sick = fault("nvmlDeviceGetSramEccErrorStatus", "error = \"UNKNOWN\"");
    let current = complete(&Rig::with(&(gpu(GPU0, counts) + &sick), quick)?, GPU0)?;
    for name in ["gpu.ecc_sram_corrected", "gpu.ecc_sram_uncorrected_total", "gpu.ecc_sram_threshold"] {
        ensure!(current.failing.contains_key(name), "{name} is not failing: {:?}", current.failing);
    }
    Ok(())
}

#[test]
fn without_field_values_the_rest_is_seen() -> Result<()> {
    let rig = Rig::with(&(gpu(GPU0, "") + &fault("nvmlDeviceGetFieldValues", "error = \"NOT_SUPPORTED\"")), quick)?;
    let current = complete(&rig, GPU0)?;
    ensure!(current.failing.is_empty(), "{:?}", current.failing);
    for kind in [Kind::GpuTemperature, Kind::GpuPower, Kind::GpuEccUncorrected, Kind::GpuSmActive] {
        ensure!(current.values.contains_key(&kind), "{kind} is gone");
    }
    ensure!(current.unsupported.contains("gpu.power_instant") && current.unsupported.contains("gpu.nvlink_active"));
    Ok(())
}

#[test]
fn what_cannot_be_is_no_value() -> Result<()> {
    let spoilt = [
        ("nvmlDeviceGetPowerUsage", Kind::GpuPower),
        ("nvmlDeviceGetTemperature", Kind::GpuTemperature),
        ("nvmlDeviceGetUtilizationRates", Kind::GpuUtilization),
        ("nvmlDeviceGetClockInfo", Kind::GpuClockSm),
        ("nvmlDeviceGetMemoryInfo_v2", Kind::GpuMemory),
        ("nvmlDeviceGetFieldValues", Kind::GpuPowerInstant),
        ("nvmlDeviceGetCurrPcieLinkWidth", Kind::GpuPcieWidth),
        ("nvmlDeviceGetTotalEccErrors", Kind::GpuEccUncorrected),
    ];
    let mut scenario = gpu(GPU0, "power = 300") + &gpu(GPU1, "power = 400");
    for (function, _) in &spoilt {
        scenario += &fault(function, "gpu = 0\ncorrupt = \"ones\"");
    }
    let rig = Rig::with(&scenario, quick)?;
    let current = complete(&rig, GPU0)?;
    for (function, kind) in &spoilt {
        let why = current.failing.get(&kind.to_string()).map(String::as_str).unwrap_or_default();
        ensure!(why.contains("out of range"), "{function}: {kind} is {:?}, {why}", current.values.get(kind));
    }
    ensure!(current.values.contains_key(&Kind::GpuSmActive) && current.values.contains_key(&Kind::GpuBar1Used));
    let other = complete(&rig, GPU1)?;
    ensure!(other.failing.is_empty() && other.values[&Kind::GpuPower].0 == 400_000, "{other:?}");
    Ok(())
}

#[test]
fn a_text_that_is_not_utf8_is_a_fact_that_failed() -> Result<()> {
    let spoilt = ["nvmlDeviceGetName", "nvmlDeviceGetSerial", "nvmlDeviceGetVbiosVersion"];
    let mut scenario = gpu(GPU0, "") + &gpu(GPU1, "");
    for function in spoilt {
        scenario += &fault(function, "gpu = 0\ncorrupt = \"ones\"");
    }
    scenario += &fault("nvmlDeviceGetUUID", "gpu = 1\ncorrupt = \"ones\"");
    let rig = Rig::new(&scenario)?;
    let hello = rig.hello()?;
    let [info] = &hello.gpus[..] else { bail!("{hello:?}") };
    let failing: Vec<&str> = info.failing.iter().map(|(call, _)| call.as_str()).collect();
    ensure!(info.uuid == GPU0 && info.name.is_none() && failing == spoilt, "{info:?}");
    ensure!(info.pci.is_some() && info.cores.is_some() && info.minor == Some(0), "{info:?}");
    let [unreachable] = &hello.unreachable[..] else { bail!("{hello:?}") };
    ensure!(unreachable.index == 1 && unreachable.why.contains("utf-8"), "{unreachable:?}");
    rig.sample("the GPU with a name that cannot be read", |sample| sample.gpu == GPU0).map(drop)
}

#[test]
fn two_gpus_with_one_uuid_are_not_mixed_up() -> Result<()> {
    let scenario =
        format!("[driver]\nduplicate_uuids = true\n{}{}", gpu(GPU0, "power = 300"), gpu(GPU0, "power = 500"));
    let rig = Rig::new(&scenario)?;
    let hello = rig.hello()?;
    let ([seen], [unseen]) = (&hello.gpus[..], &hello.unreachable[..]) else { bail!("{hello:?}") };
    ensure!(unseen.why.contains(&format!("the UUID of GPU {}", seen.index)), "{unseen:?}");
    let power = if seen.index == 0 { 300_000 } else { 500_000 };
    for _ in 0..5 {
        rig.sample("one of them", |sample| sample.readings.contains(&(Kind::GpuPower, power)))?;
    }
    Ok(())
}

#[test]
fn gpus_that_come_and_go_are_counted_anew() -> Result<()> {
    let (one, two) = (gpu(GPU0, ""), gpu(GPU0, "") + &gpu(GPU1, ""));
    let rig = Rig::new(&one)?;
    ensure!(rig.hello()?.gpus.len() == 1);
    rig.rewrite(&two)?;
    let listed = |count: usize| {
        rig.wait("another greeting", |event| match event {
            NvmlEvent::Hello(hello) if hello.gpus.len() == count => Some(()),
            _ => None,
        })
    };
    listed(2)?;
    rig.sample("the new one", |sample| sample.gpu == GPU1)?;
    rig.rewrite(&one)?;
    let (why, _) = rig.blind(Some(GPU1))?;
    ensure!(!why.is_empty());
    rig.sample("the one that stayed", |sample| sample.gpu == GPU0).map(drop)
}

/// Symbols that came with drivers of the last years.
const NEWER: [&str; 7] = [
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetSramEccErrorStatus",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlGpmSampleAlloc",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
];

#[test]
fn a_library_of_an_older_abi_has_fewer_signals() -> Result<()> {
    let rig = Rig::with(&gpu(GPU0, "memory_used = \"8 GiB\""), |config| {
        quick(config);
        let library = config.library.clone().unwrap_or_default();
        // A symbol is found by the hash of its name and then by the name itself: with another name it is not there.
        let mut bytes = fs::read(&library).unwrap_or_default();
        for symbol in NEWER {
            let name = format!("\0{symbol}\0").into_bytes();
            let mut at = 0;
            while let Some(found) = bytes[at..].windows(name.len()).position(|window| window == name) {
                at += found + 1;
                bytes[at..at + 4].copy_from_slice(b"gone");
            }
        }
        fs::write(&library, bytes).unwrap_or_default();
    })?;
    let current = complete(&rig, GPU0)?;
    ensure!(current.failing.is_empty(), "{:?}", current.failing);
    for name in
        ["gpu.temperature_margin", "gpu.ecc_sram_threshold", "gpu.fabric_state", "gpu.sm_active", "gpu.memory_reserved"]
    {
        ensure!(current.unsupported.contains(name), "{name} is {:?}", current.values);
    }
    // What the first version of the call counts as used has what is reserved in it.
    ensure!(current.values[&Kind::GpuMemory].0 > 8 << 30, "{:?}", current.values[&Kind::GpuMemory]);
    ensure!(current.values.contains_key(&Kind::GpuThrottle), "its older name was not asked for");
    ensure!(current.values.contains_key(&Kind::GpuEccSramCorrected), "its older way was not asked");
    ensure!(current.values.contains_key(&Kind::GpuProcesses));
    Ok(())
}

#[test]
fn what_a_gpu_is_arrives_once_and_when_it_changes() -> Result<()> {
    let me = std::process::id();
    let text = |more: &str| {
        gpu(
            GPU0,
            &format!(
                "mig = [\"1g.10gb\", \"3g.40gb\"]\n{more}\n[[gpu.process]]\npid = {me}\nmemory = \"1 GiB\"\nmig = 1\n"
            ),
        ) + &gpu(GPU1, "persistence = true\n[gpu.nvlink]\nactive = 17\n")
    };
    let rig = Rig::with(&text(""), quick)?;
    let info = |what: &str, wanted: &dyn Fn(&GpuInfo) -> bool| {
        rig.wait(what, |event| match event {
            NvmlEvent::Info(info) if wanted(&info) => Some(*info),
            _ => None,
        })
    };
    let hello = rig.hello()?;
    let [cut, whole] = &hello.gpus[..] else { bail!("{hello:?}") };
    ensure!(cut.mig == Some(true) && cut.mig_devices.len() == 2, "{cut:?}");
    let large = &cut.mig_devices[1];
    ensure!(large.uuid.starts_with("MIG-") && large.slices == Some(3) && large.memory == Some(40 << 30), "{large:?}");
    ensure!(large.gpu_instance == Some(2) && large.compute_instance == Some(0), "{large:?}");
    ensure!(whole.mig == Some(false) && whole.persistence == Some(true), "{whole:?}");
    ensure!(whole.nvlinks.len() == 18 && whole.nvlinks.iter().filter(|link| link.active).count() == 17, "{whole:?}");
    ensure!(whole.nvlinks[0].version == Some(4) && whole.nvlinks[0].remote.is_some(), "{whole:?}");
    ensure!(whole.fabric.as_ref().is_some_and(|fabric| fabric.state == 3), "{whole:?}");
    ensure!(
        whole.failing.is_empty() && whole.serial.is_some() && whole.architecture.as_deref() == Some("Hopper"),
        "{whole:?}"
    );
    let peers = info("the neighbours", &|info| info.uuid == GPU1 && !info.peers.is_empty())?.peers;
    ensure!(peers.len() == 1 && peers[0].uuid == GPU0 && peers[0].shares == "system", "{peers:?}");
    // A process is on the MIG device that it is on.
    let sample = rig.sample("the process", |sample| sample.processes.as_ref().is_some_and(|p| !p.is_empty()))?;
    let first = sample.processes.as_ref().and_then(|processes| processes.first());
    ensure!(first.is_some_and(|it| it.gpu_instance == Some(2) && it.pid == me), "{sample:?}");
    rig.rewrite(&text("compute_mode = \"exclusive_process\""))?;
    let changed =
        info("the change", &|info| info.uuid == GPU0 && info.compute_mode.as_deref() == Some("ExclusiveProcess"))?;
    ensure!(changed.mig_devices == cut.mig_devices);
    Ok(())
}
