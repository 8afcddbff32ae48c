//! The models and what newer boards have: NVLink, GPM, MIG, the fabric; and values that no GPU would give.

use crate::sim::Sim;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor, TopologyLevel};
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::structs::device::FieldId;
use std::fs;

const MODELS: [(&str, &str, u32); 6] = [
    ("A100", "NVIDIA A100-SXM4-80GB", 12),
    ("H100", "NVIDIA H100 80GB HBM3", 18),
    ("H200", "NVIDIA H200", 18),
    ("B200", "NVIDIA B200", 18),
    ("L4", "NVIDIA L4", 0),
    ("GH200", "NVIDIA GH200 480GB", 18),
];

fn field(device: &Device<'_>, id: u32) -> Result<String, NvmlError> {
    let values = device.field_values_for(&[FieldId(id)])?;
    let value = values.into_iter().next().unwrap()?;
    value.value.map(|it| format!("{it:?}"))
}

#[test]
fn every_model_is_itself() {
    for (model, name, links) in MODELS {
        let sim = Sim::new(&format!("[[gpu]]\nmodel = \"{model}\"\ntemperature = 50\ncount = 16\n"));
        let nvml = sim.nvml();
        assert_eq!(nvml.device_count().unwrap(), 16);
        let device = nvml.device_by_index(15).unwrap();
        assert_eq!(device.name().unwrap(), name);
        assert_eq!(field(&device, 91).unwrap(), format!("U32({links})"));
        assert_eq!(device.link_wrapper_for(0).is_active().is_ok(), links > 0);
        assert!(device.architecture().is_ok() && device.max_clock_info(Clock::SM).unwrap() > 1_000);
        assert_eq!(device.gpm_support().unwrap(), !["A100", "L4"].contains(&model), "{model}");
        let mine = nvml.device_by_index(14).unwrap();
        let far = nvml.device_by_index(0).unwrap();
        assert_eq!(nvml.topology_common_ancestor(&device, &mine).unwrap(), TopologyLevel::Node);
        assert_eq!(nvml.topology_common_ancestor(&device, &far).unwrap(), TopologyLevel::System);
    }
}

#[test]
fn link_errors_are_counted_where_the_generation_counts_them() {
    for (model, total, own) in [("A100", 38, None), ("H100", 163, Some(38)), ("B200", 208, Some(163))] {
        let sim =
            Sim::new(&format!("[[gpu]]\nmodel = \"{model}\"\n[gpu.nvlink]\ncrc = [[0, 0], [10, 40]]\nactive = 10\n"));
        sim.at(5.0);
        let nvml = sim.nvml();
        let device = nvml.device_by_index(0).unwrap();
        assert_eq!(field(&device, total).unwrap(), "U64(20)", "{model}");
        if let Some(older) = own {
            assert!(matches!(field(&device, older), Err(NvmlError::NotSupported)), "{model}");
        }
        assert!(device.link_wrapper_for(9).is_active().unwrap() && !device.link_wrapper_for(10).is_active().unwrap());
    }
}

#[test]
fn gpm_is_the_mean_between_two_samples() {
    let sim =
        Sim::new("[[gpu]]\nmodel = \"H100\"\nutilization = 90\nsm_active = [[0, 20], [10, 40]]\ntensor_active = 7.5\n");
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    let before = device.gpm_sample().unwrap();
    sim.at(10.0);
    let now = device.gpm_sample().unwrap();
    let ids = [GpmMetricId::SmUtil, GpmMetricId::AnyTensorUtil, GpmMetricId::Fp64Util];
    let metrics = gpm_metrics_get(&nvml, &before, &now, &ids).unwrap();
    assert_eq!(metrics[0].as_ref().unwrap().value, 30.0);
    assert_eq!(metrics[1].as_ref().unwrap().value, 7.5);
    assert!(matches!(metrics[2], Err(NvmlError::NotSupported)));
}

#[test]
fn mig_devices_have_their_own_memory_and_processes() {
    let me = std::process::id();
    let sim = Sim::new(&format!(
        "[[gpu]]\nmodel = \"H100\"\nmig = [\"1g.10gb\", \"3g.40gb\"]\nutilization = 80\n\
         [[gpu.process]]\npid = {me}\nmemory = \"4 GiB\"\nmig = 1\n"
    ));
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!((device.mig_mode().unwrap().current, device.mig_device_count().unwrap()), (1, 7));
    assert!(matches!(device.utilization_rates(), Err(NvmlError::NotSupported)), "a whole GPU has none in MIG mode");
    let (small, large) = (device.mig_device_by_index(0).unwrap(), device.mig_device_by_index(1).unwrap());
    assert!(matches!(device.mig_device_by_index(2), Err(NvmlError::NotFound)));
    assert!(small.uuid().unwrap().starts_with("MIG-") && small.uuid().unwrap() != large.uuid().unwrap());
    assert!(large.mig_is_mig_device_handle().unwrap() && !device.mig_is_mig_device_handle().unwrap());
    assert_eq!(large.mig_parent_device().unwrap().uuid().unwrap(), device.uuid().unwrap());
    assert_eq!(large.attributes().unwrap().gpu_instance_slice_count, 3);
    let memory = large.memory_info().unwrap();
    assert_eq!((memory.total, memory.used), (40 << 30, 4 << 30));
    assert!(small.running_compute_processes().unwrap().is_empty());
    let process = &device.running_compute_processes().unwrap()[0];
    assert_eq!((process.pid, process.gpu_instance_id, process.compute_instance_id), (me, Some(2), Some(0)));
    assert!(matches!(small.temperature(TemperatureSensor::Gpu), Err(NvmlError::InvalidArg)));
}

#[test]
fn values_may_be_noisy_repeated_or_recorded() {
    let sim = Sim::new("[[gpu]]\nmodel = \"L4\"\n");
    fs::write(sim.path("r.csv"), "seconds,power,temperature\n0,30,40\n10,50,60\n").unwrap();
    sim.rewrite(
        "[[gpu]]\nmodel = \"L4\"\ntemperature = { csv = \"r.csv\", column = \"temperature\", repeat = 10 }\n\
         power = { keyframes = [[0, 30], [10, 50]], repeat = 10 }\nutilization = { value = 50, noise = 10, seed = 3 }\n",
    );
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    let mut seen = Vec::new();
    for t in 0..20 {
        sim.at(f64::from(t));
        seen.push(device.utilization_rates().unwrap().gpu);
        assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 40 + 2 * (t % 10) as u32);
    }
    assert!(seen.iter().all(|it| (40..=60).contains(it)) && seen.iter().any(|it| *it != seen[0]), "{seen:?}");
    assert_eq!(
        device.total_energy_consumption().unwrap(),
        400_000 + 351_000,
        "mJ: 40 W for 10 s, then 30 to 48 W for 9 s"
    );
}

#[test]
fn corrupt_answers_are_as_the_fault_defines_them() {
    let sim = Sim::new(
        "[[gpu]]\nmodel = \"H100\"\n[[fault]]\nfunction = \"nvmlDevice*\"\nfrom = 1.0\nuntil = 2.0\ncorrupt = \"ones\"\n",
    );
    let nvml = sim.nvml();
    let device = nvml.device_by_index(0).unwrap();
    assert!(device.name().is_ok());
    sim.at(1.0);
    assert!(matches!(device.name(), Err(NvmlError::Utf8Error(_))));
    assert_eq!(device.power_usage().unwrap(), u32::MAX);
    assert_eq!(device.memory_info().unwrap().used, u64::MAX);
    assert_eq!(field(&device, 186).unwrap(), format!("U32({})", u32::MAX));
    sim.at(2.0);
    assert!(device.name().is_ok() && device.power_usage().unwrap() < 100_000);
}
