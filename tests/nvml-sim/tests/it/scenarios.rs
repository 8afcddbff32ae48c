//! The ready scenarios do what their comments say; bad ones say what is wrong.

use crate::sim::{Sim, scenarios};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
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
    assert!(seen >= 4);
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
fn xid79_is_told_once_and_the_gpu_is_lost() {
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
fn a_bad_scenario_fails_the_init_and_says_where() {
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
