//! The ready scenarios do what their comments say; bad ones say what is wrong.

use crate::sim::{Sim, scenarios};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enum_wrappers::device::{TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use std::process::Command;
use std::{env, fs, thread};

#[test]
fn every_ready_scenario_is_valid() {
    let mut seen = 0;
    for entry in fs::read_dir(scenarios()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "toml") {
            let scenario = nvidia_ml::Scenario::load(&path).unwrap();
            assert!(scenario.gpu_count() > 0, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 17);
}

#[test]
fn the_readme_shows_a_valid_scenario() {
    let readme = include_str!("../../README.md");
    let block = readme.split("```toml\n").nth(1).and_then(|it| it.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("now"), "0").unwrap();
    let path = folder.path().join("readme.toml");
    fs::write(&path, block).unwrap();
    assert_eq!(nvidia_ml::Scenario::load(&path).unwrap().gpu_count(), 1);
}

#[test]
fn overheating_crosses_the_slowdown_threshold_and_throttles() {
    let sim = Sim::ready("overheating.toml");
    let nvml = sim.nvml();
    let (hot, cool) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    let slowdown = hot.temperature_threshold(TemperatureThreshold::Slowdown).unwrap();
    assert!(hot.temperature(TemperatureSensor::Gpu).unwrap() < 65);
    sim.at(10.0);
    assert!(hot.temperature(TemperatureSensor::Gpu).unwrap() > slowdown);
    assert!(cool.temperature(TemperatureSensor::Gpu).unwrap() < slowdown);
    assert!(hot.current_throttle_reasons().unwrap().contains(ThrottleReasons::HW_THERMAL_SLOWDOWN));
}

#[test]
fn healthy_stays_within_every_limit() {
    let sim = Sim::ready("healthy.toml");
    let nvml = sim.nvml();
    for t in 0..120 {
        sim.at(f64::from(t));
        for index in 0..nvml.device_count().unwrap() {
            let device = nvml.device_by_index(index).unwrap();
            assert!(device.current_throttle_reasons().unwrap().is_empty());
            assert!(device.temperature(TemperatureSensor::Gpu).unwrap() < 70);
            assert!(device.power_usage().unwrap() < device.enforced_power_limit().unwrap());
        }
    }
}

#[test]
fn xid79_is_reported_once_and_the_gpu_is_lost() {
    let sim = Sim::ready("xid79.toml");
    let nvml = sim.nvml();
    let (lost, well) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    let set = nvml.create_event_set().unwrap();
    let set = lost.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert!(lost.power_usage().is_ok());
    sim.at(3.0);
    assert_eq!(set.wait(0).unwrap().event_data, Some(XidError::Value(79)));
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    assert!(matches!(lost.power_usage(), Err(NvmlError::GpuLost)));
    assert!(matches!(lost.uuid(), Err(NvmlError::GpuLost)));
    assert!(well.power_usage().is_ok());
    assert_eq!(nvml.device_count().unwrap(), 2);
}

#[test]
fn hang_never_returns_and_ends_with_the_fault() {
    let sim = Sim::ready("hang.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert!(device.power_usage().is_ok());
    sim.at(1e6);
    thread::scope(|scope| {
        let hung = scope.spawn(|| device.power_usage());
        assert!(device.temperature(TemperatureSensor::Gpu).is_ok());
        assert!(!hung.is_finished());
        sim.rewrite("[[gpu]]\nmodel = \"H100\"\n");
        sim.await_return(&hung);
        assert!(hung.join().unwrap().is_ok());
    });
}

#[test]
fn a_fan_that_stops_heats_the_gpu() {
    let sim = Sim::ready("fan-failure.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!((device.num_fans().unwrap(), device.fan_speed(0).unwrap()), (1, 62));
    sim.at(20.0);
    assert_eq!(device.fan_speed(0).unwrap(), 0);
    assert!(device.temperature(TemperatureSensor::Gpu).unwrap() > 92);
    assert!(device.current_throttle_reasons().unwrap().contains(ThrottleReasons::HW_THERMAL_SLOWDOWN));
}

/// The XIDs that a scenario tells up to `until`.
fn xids(name: &str, until: f64) -> Vec<u64> {
    let sim = Sim::ready(name);
    let nvml = sim.nvml();
    let mut set = nvml.create_event_set().unwrap();
    for index in 0..nvml.device_count().unwrap() {
        set = nvml.device_by_index(index).unwrap().register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    }
    sim.at(until);
    let mut told = Vec::new();
    while let Ok(event) = set.wait(0) {
        let Some(XidError::Value(code)) = event.event_data else { panic!("an XID without a number") };
        told.push(code);
    }
    told
}

#[test]
fn the_xids_of_the_scenarios_come_in_their_order() {
    for (name, expected) in [
        ("ecc-storm.toml", &[48, 94][..]),
        ("row-remap-failure.toml", &[63, 64]),
        ("xid48.toml", &[48, 45]),
        ("xid63-64.toml", &[63, 64]),
        ("xid94-95.toml", &[94, 95]),
        ("xid119-120.toml", &[119, 120]),
        ("nvlink-error.toml", &[74]),
        ("healthy.toml", &[]),
    ] {
        assert_eq!(xids(name, 20.0), expected, "{name}");
    }
}

fn fields(device: &Device<'_>, ids: &[u32]) -> Vec<u64> {
    let ids: Vec<FieldId> = ids.iter().map(|id| FieldId(*id)).collect();
    let values = device.field_values_for(&ids).unwrap().into_iter();
    let number = |value| match value {
        SampleValue::U32(value) => u64::from(value),
        SampleValue::U64(value) => value,
        other => panic!("{other:?}"),
    };
    values.map(|it| number(it.unwrap().value.unwrap())).collect()
}

/// Correctable, uncorrectable, pending, failure; and the recovery action.
const ROWS: [u32; 5] = [142, 143, 144, 145, 230];

#[test]
fn memory_that_fails_is_counted_remapped_and_in_the_end_not() {
    let sim = Sim::ready("ecc-storm.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    sim.at(10.0);
    assert_eq!(fields(&device, &[3, 4, 144]), [50_000, 1, 1]);
    drop(nvml);

    let sim = Sim::ready("row-remap-failure.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(fields(&device, &ROWS), [4, 1, 0, 0, 0]);
    sim.at(2.0);
    assert_eq!(fields(&device, &ROWS), [4, 2, 1, 0, 4]);
    sim.at(6.0);
    assert_eq!(fields(&device, &ROWS), [4, 4, 1, 1, 1]);
}

#[test]
fn xid_scenarios_leave_their_marks() {
    for (name, at, ids, expected) in [
        ("xid48.toml", 3.0, &[4, 144, 230][..], &[1, 1, 1][..]),
        ("xid63-64.toml", 3.0, &[143, 144, 145, 230], &[1, 1, 0, 0]),
        ("xid63-64.toml", 8.0, &[143, 144, 145, 230], &[1, 1, 1, 1]),
        ("xid94-95.toml", 8.0, &[4, 12, 230], &[2, 1, 4]),
    ] {
        let sim = Sim::ready(name);
        let nvml = sim.nvml();
        sim.at(at);
        assert_eq!(fields(&nvml.device_by_index(0).unwrap(), ids), expected, "{name} at {at}");
    }
    let sim = Sim::ready("xid119-120.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    sim.at(8.0);
    assert!(matches!(device.power_usage(), Err(NvmlError::ResetRequired)));
}

#[test]
fn nvlink_error_ends_with_a_link_down() {
    let sim = Sim::ready("nvlink-error.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert!(device.link_wrapper_for(17).is_active().unwrap());
    sim.at(10.0);
    assert_eq!(fields(&device, &[161, 162, 163]), [900, 12, 4_000]);
    assert!(!device.link_wrapper_for(17).is_active().unwrap() && device.link_wrapper_for(16).is_active().unwrap());
}

#[test]
fn power_and_utilisation_part_ways() {
    let sim = Sim::ready("power-brake.toml");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(1).unwrap();
    sim.at(4.0);
    assert_eq!((device.utilization_rates().unwrap().gpu, device.power_usage().unwrap()), (98, 210_000));
    assert!(device.current_throttle_reasons().unwrap().contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN));
    drop(nvml);

    let sim = Sim::ready("crypto-miner.toml");
    fs::write(sim.path("miner.pid"), std::process::id().to_string()).unwrap();
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    for t in 0..30 {
        sim.at(f64::from(t));
        assert!(device.power_usage().unwrap() > 395_000 && device.memory_info().unwrap().used < 7 << 30);
    }
    assert_eq!(device.running_compute_processes().unwrap()[0].pid, std::process::id());
    drop(nvml);

    let sim = Sim::ready("straggler.toml");
    let nvml = sim.nvml();
    assert_eq!(nvml.device_count().unwrap(), 8);
    sim.at(10.0);
    let slow: Vec<u32> =
        (0..8).filter(|index| nvml.device_by_index(*index).unwrap().clock_info(Clock::SM).unwrap() < 1_200).collect();
    assert_eq!(slow, [5]);
}

#[test]
fn a_driver_reload_voids_everything_and_ends() {
    let sim = Sim::ready("driver-reload.toml");
    let nvml = sim.nvml();
    sim.at(3.0);
    assert!(matches!(nvml.device_count(), Err(NvmlError::Uninitialized)));
    assert!(matches!(sim.try_nvml(), Err(NvmlError::DriverNotLoaded)));
    sim.at(8.0);
    assert_eq!(sim.nvml().device_count().unwrap(), 1);
}

#[test]
fn the_mig_scenario_has_devices_with_processes() {
    let sim = Sim::ready("mig.toml");
    fs::write(sim.path("large.pid"), std::process::id().to_string()).unwrap();
    let nvml = sim.nvml();
    let (cut, whole) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    assert_eq!((cut.mig_mode().unwrap().current, whole.mig_mode().unwrap().current), (1, 0));
    assert_eq!(cut.running_compute_processes().unwrap()[0].gpu_instance_id, Some(3));
}

/// Not a test: what the tests below run in a process of its own, to read its stderr.
#[test]
#[ignore = "run by the tests of this file"]
fn child_initialises() {
    let path = nvidia_ml::library_path().unwrap();
    match Nvml::builder().lib_path(path.as_os_str()).init() {
        Ok(_) => eprintln!("initialised"),
        Err(error) => eprintln!("refused: {error:?}"),
    }
}

fn init_in_child(scenario: Option<&str>) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "scenarios::child_initialises", "--ignored", "--nocapture"]);
    command.env_remove(nvidia_ml::SCENARIO_ENV);
    if let Some(path) = scenario {
        command.env(nvidia_ml::SCENARIO_ENV, path);
    }
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}

#[test]
fn a_bad_scenario_fails_the_init_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    fs::write(&path, "[[gpu]]\nmodel = \"H100\"\npower = \"lots\"\n").unwrap();
    let said = init_in_child(path.to_str());
    assert!(said.contains("refused: Unknown"), "{said}");
    let expected = format!("nvml-sim: {}:3:9: gpu.power: \"lots\" is not a power in W", path.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn no_scenario_is_no_driver() {
    let said = init_in_child(None);
    assert!(said.contains("refused: DriverNotLoaded") && said.contains("FAILSAFE_NVML_SCENARIO"), "{said}");
    let said = init_in_child(Some("/nonexistent/x.toml"));
    assert!(said.contains("cannot read the scenario /nonexistent/x.toml: No such file"), "{said}");
}
