//! The built library through nvml-wrapper, as the daemon uses it.

use crate::sim::Sim;
use nvml_wrapper::bitmasks::InitFlags;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{
    Brand, Clock, ComputeMode, EccCounter, MemoryError, MemoryLocation, PcieUtilCounter, PerformanceState,
    TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::enums::device::{DeviceArchitecture, UsedGpuMemory};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const ONE: &str = "[[gpu]]\nmodel = \"H100\"\n";

fn temperature(device: &Device<'_>) -> Result<u32, NvmlError> {
    device.temperature(TemperatureSensor::Gpu)
}

fn only(nvml: &Nvml) -> Device<'_> {
    nvml.device_by_index(0).unwrap()
}

#[test]
fn versions_and_counts() {
    let sim = Sim::new(
        "[driver]\nversion = \"580.95.05\"\nnvml = \"13.580.95\"\ncuda = 13000\n[[gpu]]\nmodel = \"A100\"\ncount = 3\n",
    );
    let nvml = sim.nvml();
    assert_eq!(nvml.sys_driver_version().unwrap(), "580.95.05");
    assert_eq!(nvml.sys_nvml_version().unwrap(), "13.580.95");
    assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 13000);
    assert_eq!(nvml.device_count().unwrap(), 3);
    assert!(!nvml.sys_process_name(std::process::id(), 64).unwrap().is_empty());
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::InvalidArg)));
    nvml.shutdown().unwrap();
}

#[test]
fn a_gpu_is_found_by_every_name_and_knows_itself() {
    let sim = Sim::new(&format!("{ONE}{ONE}uuid = \"GPU-second\"\npci = \"0000:9a:00.0\"\nserial = \"77\"\n"));
    let nvml = sim.nvml();
    for device in [
        nvml.device_by_index(1).unwrap(),
        nvml.device_by_uuid("GPU-second").unwrap(),
        nvml.device_by_pci_bus_id("0000:9A:00.0").unwrap(),
    ] {
        assert_eq!((device.index().unwrap(), device.uuid().unwrap().as_str()), (1, "GPU-second"));
    }
    assert!(matches!(nvml.device_by_uuid("GPU-third"), Err(NvmlError::NotFound)));
    assert!(matches!(nvml.device_by_pci_bus_id("nonsense"), Err(NvmlError::InvalidArg)));

    let device = nvml.device_by_index(1).unwrap();
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(device.brand().unwrap(), Brand::Nvidia);
    assert_eq!(device.architecture().unwrap(), DeviceArchitecture::Hopper);
    assert_eq!(device.cuda_compute_capability().unwrap().major, 9);
    assert_eq!(device.num_cores().unwrap(), 16_896);
    assert_eq!(device.minor_number().unwrap(), 1);
    assert!(!device.vbios_version().unwrap().is_empty());
    assert_eq!(device.compute_mode().unwrap(), ComputeMode::Default);
    assert!(!device.is_in_persistent_mode().unwrap());
    assert_eq!(device.performance_state().unwrap(), PerformanceState::Zero);
    let pci = device.pci_info().unwrap();
    assert_eq!((pci.bus, pci.bus_id.as_str(), pci.pci_device_id), (0x9a, "00000000:9A:00.0", 0x2330_10de));
    assert_eq!((device.current_pcie_link_gen().unwrap(), device.max_pcie_link_width().unwrap()), (5, 16));
    assert_eq!(device.mig_mode().unwrap().current, 0);
    assert_eq!(device.num_fans().unwrap(), 0);
    assert!(matches!(device.fan_speed(0), Err(NvmlError::NotSupported)));
}

#[test]
fn signals_follow_the_scenario_in_time() {
    let sim = Sim::new(&format!(
        "{ONE}temperature = [[0, 60], [10, 80]]\npower = [[0, 300], [10, 500]]\nutilization = 90\n\
         memory_utilization = 40\nmemory_used = [[0, \"10 GiB\"], [10, \"30 GiB\"]]\nsm_clock = [[0, 1980], [10, 1000]]\n\
         power_limit = 650\nfan = 35\nencoder = 3\nthrottle = [[0, \"none\"], [5, \"sw_power_cap\"]]\npcie_replays = [[0, 0], [10, 10]]\n"
    ));
    let nvml = sim.nvml();
    let device = only(&nvml);
    let gib = |n: u64| n * 1024 * 1024 * 1024;

    assert_eq!(temperature(&device).unwrap(), 60);
    assert_eq!(device.current_throttle_reasons_strict().unwrap(), ThrottleReasons::empty());
    sim.at(5.0);
    assert_eq!(temperature(&device).unwrap(), 70);
    assert_eq!(device.power_usage().unwrap(), 400_000);
    assert_eq!(device.enforced_power_limit().unwrap(), 650_000);
    assert_eq!(device.power_management_limit_constraints().unwrap().min_limit, 200_000);
    assert_eq!(device.total_energy_consumption().unwrap(), 1_750_000, "mJ: (300 + 400) / 2 W for 5 s");
    let rates = device.utilization_rates().unwrap();
    assert_eq!((rates.gpu, rates.memory), (90, 40));
    assert_eq!(device.encoder_utilization().unwrap().utilization, 3);
    let memory = device.memory_info().unwrap();
    assert_eq!((memory.used, memory.total), (gib(20), 81_559 * 1024 * 1024));
    assert_eq!(memory.used + memory.free + memory.reserved, memory.total);
    assert_eq!(device.clock_info(Clock::SM).unwrap(), 1_490);
    assert_eq!(device.clock_info(Clock::Memory).unwrap(), 2_619);
    assert_eq!(device.max_clock_info(Clock::SM).unwrap(), 1_980);
    assert_eq!(device.current_throttle_reasons_strict().unwrap(), ThrottleReasons::SW_POWER_CAP);
    assert_eq!(device.fan_speed(0).unwrap(), 35);
    assert_eq!(device.pcie_replay_counter().unwrap(), 5);
    assert!(device.pcie_throughput(PcieUtilCounter::Receive).unwrap() > 0);
    assert_eq!(device.temperature_threshold(TemperatureThreshold::Slowdown).unwrap(), 89);
    assert_eq!(device.temperature_threshold(TemperatureThreshold::Shutdown).unwrap(), 92);
}

#[test]
fn ecc_and_field_values() {
    let sim = Sim::new(&format!(
        "{ONE}temperature = 50\npower = 250\n[gpu.ecc]\ncorrected = [[0, 0], [4, 8]]\nuncorrected = 1\n\
         uncorrected_aggregate = 4\nl2 = {{ corrected = 3 }}\n[gpu.rows]\npending = [[0, false], [3, true]]\nuncorrected = 2\n"
    ));
    let nvml = sim.nvml();
    let device = only(&nvml);
    sim.at(4.0);
    assert!(device.is_ecc_enabled().unwrap().currently_enabled);
    let total = |kind, counter| device.total_ecc_errors(kind, counter).unwrap();
    assert_eq!(total(MemoryError::Corrected, EccCounter::Volatile), 8);
    assert_eq!(total(MemoryError::Uncorrected, EccCounter::Volatile), 1);
    assert_eq!(total(MemoryError::Uncorrected, EccCounter::Aggregate), 4);
    let at = |location| device.memory_error_counter(MemoryError::Corrected, EccCounter::Volatile, location);
    assert_eq!(at(MemoryLocation::Device).unwrap(), 8);
    assert_eq!(at(MemoryLocation::L2Cache).unwrap(), 3);
    assert!(matches!(at(MemoryLocation::Texture), Err(NvmlError::NotSupported)));

    // Memory temperature, instant power, remapped rows (uncorrectable, pending), and one unknown.
    let ids = [82, 186, 143, 144, 60].map(FieldId);
    let values = device.field_values_for(&ids).unwrap();
    let read: Vec<_> =
        values.into_iter().map(|it| it.and_then(|sample| sample.value).map(|v| format!("{v:?}"))).collect();
    assert_eq!(read[0].as_deref().unwrap(), "U32(56)");
    assert_eq!(read[1].as_deref().unwrap(), "U32(250000)");
    assert_eq!(read[2].as_deref().unwrap(), "U32(2)");
    assert_eq!(read[3].as_deref().unwrap(), "U32(1)");
    assert!(matches!(read[4], Err(NvmlError::NotSupported)));
}

#[test]
fn processes_are_listed_in_every_version() {
    let own = std::process::id();
    let sim = Sim::new(&format!(
        "{ONE}utilization = 80\n[[gpu.process]]\npid_file = \"pid\"\nmemory = \"3 GiB\"\n\
         [[gpu.process]]\npid = 7\nmemory = 1024\nkind = \"graphics\"\n"
    ));
    let nvml = sim.nvml();
    let device = only(&nvml);
    assert_eq!(device.running_compute_processes().unwrap().len(), 0, "no pid file yet");
    assert_eq!(device.running_graphics_processes().unwrap()[0].pid, 7);
    fs::write(sim.path("pid"), own.to_string()).unwrap();
    let processes = device.running_compute_processes().unwrap();
    assert_eq!(processes.len(), 1);
    assert_eq!(processes[0].pid, own);
    assert!(matches!(processes[0].used_gpu_memory, UsedGpuMemory::Used(bytes) if bytes == 3 << 30));
    assert_eq!(processes[0].gpu_instance_id, None);
    let samples = device.process_utilization_stats(None).unwrap();
    assert_eq!(samples.iter().map(|it| (it.pid, it.sm_util)).collect::<Vec<_>>(), [(own, 40), (7, 40)]);
    assert_eq!(device.memory_info().unwrap().used, (3 << 30) + 1024, "what the processes hold");
}

#[test]
fn an_event_comes_at_its_time() {
    let sim = Sim::new(&format!("{ONE}{ONE}[[gpu.event]]\nat = 3.0\nxid = 79\n"));
    let nvml = sim.nvml();
    let device = nvml.device_by_index(1).unwrap();
    assert!(device.supported_event_types().unwrap().contains(EventTypes::CRITICAL_XID_ERROR));
    let set = nvml.create_event_set().unwrap();
    let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();

    let begun = Instant::now();
    assert!(matches!(set.wait(120), Err(NvmlError::Timeout)));
    assert!(begun.elapsed() >= Duration::from_millis(120), "the timeout is waited out");
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));

    thread::scope(|scope| {
        scope.spawn(|| {
            // Most of the time this is inside the wait below; before it would be right as well.
            thread::sleep(Duration::from_millis(30));
            sim.at(3.0);
        });
        let event = set.wait(20_000).unwrap();
        assert_eq!(event.device.index().unwrap(), 1);
        assert_eq!(event.event_type, EventTypes::CRITICAL_XID_ERROR);
        assert_eq!(event.event_data, Some(XidError::Value(79)));
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "the wait ended with the event");

    sim.at(9.0);
    let late = nvml.create_event_set().unwrap();
    let late = device.register_events(EventTypes::CRITICAL_XID_ERROR, late).unwrap();
    assert!(matches!(late.wait(0), Err(NvmlError::Timeout)), "an event before the registration is not given");
}

#[test]
fn on_the_wall_clock_time_begins_with_the_first_init() {
    let sim = Sim::wall(&format!("{ONE}temperature = [[0, 40], [1000, 240]]\n[[gpu.event]]\nat = 0.2\nxid = 13\n"));
    let nvml = sim.nvml();
    let begun = Instant::now();
    let device = only(&nvml);
    assert_eq!(temperature(&device).unwrap(), 40);
    let set = nvml.create_event_set().unwrap();
    let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert_eq!(set.wait(20_000).unwrap().event_data, Some(XidError::Value(13)));
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(150) && waited < Duration::from_secs(10), "{waited:?}");
    let energy = device.total_energy_consumption().unwrap();
    assert!(energy >= 14_000, "{energy} mJ: 70 W idle for at least 0.2 s");
}

#[test]
fn a_fault_fails_its_call_in_its_window_only() {
    let sim = Sim::new(&format!(
        "{ONE}{ONE}[[fault]]\nfunction = \"nvmlDeviceGetTemperature\"\ngpu = 0\nfrom = 2.0\nuntil = 5.0\nerror = \"GPU_IS_LOST\"\n"
    ));
    let nvml = sim.nvml();
    let (first, second) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    for (t, lost) in [(1.9, false), (2.0, true), (4.9, true), (5.0, false)] {
        sim.at(t);
        assert_eq!(matches!(temperature(&first), Err(NvmlError::GpuLost)), lost, "at {t}");
        assert!(temperature(&second).is_ok() && first.power_usage().is_ok());
    }
}

#[test]
fn a_hang_blocks_its_call_until_the_window_ends_and_no_other() {
    let sim = Sim::new(&format!(
        "{ONE}{ONE}[[fault]]\nfunction = \"nvmlDeviceGetPowerUsage\"\ngpu = 0\nuntil = 5.0\nhang = true\n"
    ));
    let nvml = sim.nvml();
    let (first, second) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    thread::scope(|scope| {
        let hung = scope.spawn(|| first.power_usage());
        for _ in 0..50 {
            assert!(second.power_usage().is_ok() && temperature(&first).is_ok());
        }
        // Nothing announces a call that does not return.
        thread::sleep(Duration::from_millis(30));
        assert!(!hung.is_finished(), "still inside the call");
        sim.at(5.0);
        sim.await_return(&hung);
        assert!(hung.join().unwrap().is_ok());
    });
}

#[test]
fn latency_is_added_to_the_call() {
    let sim = Sim::new(&format!("{ONE}[[fault]]\nfunction = \"nvmlDeviceGetT*\"\nlatency_us = 20000\n"));
    let nvml = sim.nvml();
    let device = only(&nvml);
    let begun = Instant::now();
    temperature(&device).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[test]
fn the_scenario_changes_while_it_runs() {
    let sim = Sim::new(&format!("{ONE}temperature = 50\n{ONE}"));
    let nvml = sim.nvml();
    let (first, second) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    let set = nvml.create_event_set().unwrap();
    let set = first.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert_eq!(temperature(&first).unwrap(), 50);
    sim.rewrite(&format!("{ONE}temperature = 51\n[[gpu.event]]\nat = 0\nxid = 48\n"));
    assert_eq!(temperature(&first).unwrap(), 51);
    assert!(matches!(temperature(&second), Err(NvmlError::GpuLost)), "a GPU that left is lost");
    assert_eq!(set.wait(0).unwrap().event_data, Some(XidError::Value(48)));
    sim.rewrite("[[gpu]]\nmodel = \n");
    assert_eq!(temperature(&first).unwrap(), 51, "a bad file keeps the last good one");
}

#[test]
fn initialisation_is_counted() {
    let sim = Sim::new(ONE);
    let first = sim.nvml();
    let second = Nvml::builder()
        .lib_path(nvidia_ml::library_path().unwrap().as_os_str())
        .flags(InitFlags::NO_GPUS)
        .init()
        .unwrap();
    let set = second.create_event_set().unwrap();
    first.shutdown().unwrap();
    assert_eq!(second.device_count().unwrap(), 1, "one of two shutdowns");
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)), "the other client's sets stay");
    // SAFETY: plain NVML calls without pointers or with a valid one.
    unsafe {
        let lib = second.lib();
        let mut count = 0;
        assert_eq!(lib.nvmlShutdown(), 0);
        assert_eq!(lib.nvmlDeviceGetCount_v2(&mut count), 1, "uninitialised");
        assert_eq!(lib.nvmlShutdown(), 1);
        assert_eq!(lib.nvmlInit_v2(), 0, "and again");
        assert_eq!(lib.nvmlDeviceGetCount_v2(&mut count), 0);
    }
    assert!(matches!(set.wait(0), Err(NvmlError::InvalidArg)), "the last shutdown voids event sets");
}

#[test]
fn bad_arguments_are_refused_not_followed() {
    let sim = Sim::new(ONE);
    let nvml = sim.nvml();
    let lib = nvml.lib();
    // SAFETY: null and wrong handles are what NVML answers with InvalidArgument; buffers are as long as said.
    unsafe {
        let device = only(&nvml).handle();
        let mut memory: nvml_wrapper_memory::Memory = nvml_wrapper_memory::Memory::default();
        assert_eq!(lib.nvmlDeviceGetTemperature(device, 0, std::ptr::null_mut()), 2);
        assert_eq!(lib.nvmlDeviceGetTemperature(device, 9, (&raw mut memory).cast()), 2);
        assert_eq!(lib.nvmlDeviceGetTemperature(std::ptr::null_mut(), 0, (&raw mut memory).cast()), 2);
        assert_eq!(lib.nvmlDeviceGetTemperature(device.byte_add(8), 0, (&raw mut memory).cast()), 2);
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, (&raw mut memory).cast()), 25, "version 0");
        memory.version = 40 | (1 << 24);
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, (&raw mut memory).cast()), 25, "version 1");
        memory.version = 40 | (2 << 24);
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, (&raw mut memory).cast()), 0);
        let mut short = [0; 8];
        assert_eq!(lib.nvmlDeviceGetUUID(device, short.as_mut_ptr(), 8), 7, "insufficient size");
        assert_eq!(lib.nvmlEventSetFree(std::ptr::null_mut()), 2);
        let text = std::ffi::CStr::from_ptr(lib.nvmlErrorString(15));
        assert_eq!(text.to_str().unwrap(), "GPU is lost");
    }
}

/// `nvmlMemory_v2_t` as a C caller has it.
mod nvml_wrapper_memory {
    #[repr(C)]
    #[derive(Default)]
    pub struct Memory {
        pub version: u32,
        pub sizes: [u64; 4],
    }
}
