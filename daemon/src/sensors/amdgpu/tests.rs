//! AMD's GPUs, over fixture trees of sysfs.

use super::*;
use std::{fs, sync::mpsc, time::Duration};

/// A tree as the amdgpu driver shows an MI300X, with the link that `device` is.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("devices/pci0000:00/0000:c1:00.0");
    let hwmon = device.join("hwmon/hwmon7");
    fs::create_dir_all(&hwmon).unwrap();
    fs::create_dir_all(device.join("ras")).unwrap();
    let card = root.path().join("class/drm/card1");
    fs::create_dir_all(&card).unwrap();
    std::os::unix::fs::symlink(&device, card.join("device")).unwrap();
    for (file, text) in [
        ("vendor", "0x1002\n"),
        ("unique_id", "9a1f3c5577e01234\n"),
        ("gpu_busy_percent", "97\n"),
        ("mem_busy_percent", "40\n"),
        ("mem_info_vram_used", "68719476736\n"),
        ("mem_info_vram_total", "206158430208\n"),
        ("current_link_speed", "32.0 GT/s PCIe\n"),
        ("max_link_speed", "32.0 GT/s PCIe\n"),
        ("current_link_width", "16\n"),
        ("max_link_width", "16\n"),
        ("pcie_replay_count", "3\n"),
        ("ras/umc_err_count", "ue: 1\nce: 42\n"),
    ] {
        fs::write(device.join(file), text).unwrap();
    }
    for (file, text) in [
        ("temp1_input", "61000\n"),
        ("temp1_crit", "100000\n"),
        ("temp1_emergency", "105000\n"),
        ("temp3_input", "54000\n"),
        ("power1_average", "500000000\n"),
        ("power1_cap", "750000000\n"),
        ("freq1_input", "2100000000\n"),
    ] {
        fs::write(hwmon.join(file), text).unwrap();
    }
    root
}

#[test]
fn each_file_is_its_signal_in_the_catalogues_unit() {
    let root = tree();
    let all = cards(root.path());
    assert_eq!(all.len(), 1);
    let card = &all[0];
    assert_eq!((card.id.as_str(), card.index), ("amdgpu-9a1f3c5577e01234", 1));
    assert_eq!(card.pci.as_deref(), Some("0000:c1:00.0"));
    let sample = card.sample();
    for (kind, value) in [
        (Kind::GpuUtilization, 97_000),
        (Kind::GpuMemory, 64 << 30),
        (Kind::GpuMemoryShare, 33_333),
        (Kind::GpuTemperature, 61_000),
        (Kind::GpuTemperatureSlowdown, 100_000),
        (Kind::GpuMemoryTemperature, 54_000),
        (Kind::GpuPower, 500_000),
        (Kind::GpuPowerShare, 66_666),
        (Kind::GpuClockSm, 2_100),
        (Kind::GpuPcieGeneration, 5),
        (Kind::GpuPcieWidth, 16),
        (Kind::GpuEccUncorrected, 1),
        (Kind::GpuEccCorrected, 42),
    ] {
        assert_eq!(sample.readings.get(&kind), Some(&value), "{kind}");
    }
    assert!(sample.unsupported.contains(&Kind::GpuClockMemory), "no such file");
    assert_eq!(sample.failing, []);
}

#[test]
fn a_value_that_cannot_be_is_failing() {
    for (file, text, kind) in [
        ("gpu_busy_percent", "4294967295\n", Kind::GpuUtilization),
        ("mem_info_vram_total", "0\n", Kind::GpuMemoryTotal),
        ("hwmon/hwmon7/temp1_input", "65535000\n", Kind::GpuTemperature),
        ("hwmon/hwmon7/temp1_input", "-1000\n", Kind::GpuTemperature),
        ("hwmon/hwmon7/power1_average", "4294967295000000\n", Kind::GpuPowerAverage),
        ("pcie_replay_count", "4294967295\n", Kind::GpuPcieReplays),
    ] {
        let root = tree();
        fs::write(root.path().join("class/drm/card1/device").join(file), text).unwrap();
        let sample = cards(root.path())[0].sample();
        assert!(!sample.readings.contains_key(&kind), "{kind}");
        assert!(sample.failing.iter().any(|(failing, _)| *failing == kind), "{kind}: {:?}", sample.failing);
    }
}

#[test]
fn what_cannot_be_understood_is_failing_and_stops_nothing() {
    let root = tree();
    let device = root.path().join("class/drm/card1/device");
    fs::write(device.join("gpu_busy_percent"), [0xff, 0xfe, b'\n']).unwrap();
    fs::write(device.join("mem_info_vram_used"), "99999999999999999999999\n").unwrap();
    fs::write(device.join("ras/umc_err_count"), "").unwrap();
    fs::write(device.join("current_link_speed"), "Unknown\n").unwrap();
    fs::write(device.join("pcie_replay_count"), "-5\n").unwrap();
    let sample = cards(root.path())[0].sample();
    let failing: Vec<&Kind> = sample.failing.iter().map(|(kind, _)| kind).collect();
    for kind in
        [Kind::GpuUtilization, Kind::GpuMemory, Kind::GpuEccUncorrected, Kind::GpuPcieGeneration, Kind::GpuPcieReplays]
    {
        assert!(failing.contains(&&kind), "{kind}: {failing:?}");
        assert!(!sample.readings.contains_key(&kind), "{kind}");
    }
    assert_eq!(sample.readings.get(&Kind::GpuTemperature), Some(&61_000));
}

#[test]
fn other_vendors_and_connectors_are_no_amd_gpus() {
    let root = tree();
    let other = root.path().join("class/drm/card2/device");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("vendor"), "0x10de\n").unwrap();
    fs::create_dir_all(root.path().join("class/drm/card1-DP-1")).unwrap();
    fs::create_dir_all(root.path().join("class/drm/renderD128")).unwrap();
    assert_eq!(cards(root.path()).len(), 1);
    assert_eq!(cards(Path::new("/nonexistent")), []);
}

#[test]
fn the_sensor_reports_its_cards_and_then_their_values() {
    let root = tree();
    let (tx, rx) = mpsc::channel();
    let proc = tempfile::tempdir().unwrap();
    for folder in ["fd", "fdinfo"] {
        fs::create_dir_all(proc.path().join("77").join(folder)).unwrap();
    }
    std::os::unix::fs::symlink("/dev/dri/renderD128", proc.path().join("77/fd/5")).unwrap();
    fs::write(proc.path().join("77/fdinfo/5"), include_str!("../../../../tests/fixtures/amdgpu/fdinfo-6.1")).unwrap();
    let proc = crate::platform::ProcFs::new(proc.path());
    let sensor = Amdgpu::spawn(
        root.path().to_owned(),
        proc.clone(),
        Duration::from_millis(10),
        || [77].into(),
        move |event| {
            let _gone = tx.send(event);
        },
    );
    let next = || rx.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(matches!(next(), AmdgpuEvent::Cards(cards) if cards.len() == 1));
    for _ in 0..2 {
        let AmdgpuEvent::Sample { sample, .. } = next() else { panic!("no sample") };
        assert!(sample.readings.len() > 10 && sample.readings[&Kind::GpuProcesses] == 1, "{sample:?}");
        assert_eq!(sample.processes.iter().map(|it| (it.pid, it.memory)).collect::<Vec<_>>(), [(77, Some(8 << 30))]);
    }
    drop(sensor.unwrap());
}
