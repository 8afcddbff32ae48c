//! GPUs, from what their sensors last saw. NVML is not called.

use super::{nvidia, shown};
use crate::{
    node::{GpuView, NodeView},
    sensors::nvml::GpuInfo,
};
use failsafe_attest::{Fact, Json, Missing};
use failsafe_core::{GpuId, Kind, signal::Source};
use std::{collections::BTreeMap, path::Path};

const SOURCE: &str = "NVML, as the sampler last read it";

/// What is known of the node's GPUs.
#[derive(Debug, Clone, Default)]
pub struct GpuFacts {
    gpus: Vec<GpuView>,
    /// Why NVML is not seen; `None`: it is.
    blind: Option<Missing>,
}

impl GpuFacts {
    /// From the sensors' view. `disabled`: the configuration does not look at NVML.
    pub fn of(node: &NodeView, disabled: bool) -> GpuFacts {
        let mut gpus: Vec<GpuView> = node.gpus.values().cloned().collect();
        gpus.sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));
        let blind = match node.sensors.get(&Source::Nvml).and_then(|sensor| sensor.blind.clone()) {
            _ if disabled => Some(Missing::not_asked("the configuration of failsafed disables NVML")),
            why => why.map(|why| Missing::unavailable(format!("NVML is not seen: {why}"))),
        };
        GpuFacts { gpus, blind }
    }
}

/// The facts of all GPUs.
pub(super) fn node(all: &GpuFacts, sys: &Path) -> Vec<Fact> {
    let pci = sys.join("bus/pci/devices");
    let number = |n: usize| Json::Int(i64::try_from(n).unwrap_or(0));
    let total = match (&all.blind, nvidia::on_pci(sys)) {
        (None, Ok(listed)) if listed > all.gpus.len() => {
            let seen = all.gpus.len();
            Err(Missing::unavailable(format!("PCI lists {listed} NVIDIA GPUs, the sensors see {seen} GPUs")))
        }
        (None, _) => Ok(number(all.gpus.len())),
        // Without NVML: that there is no NVIDIA GPU is known all the same.
        (Some(_), Ok(0)) => Ok(number(all.gpus.len())),
        (Some(blind), Ok(_)) => Err(blind.clone()),
        (Some(_), Err(missing)) => Err(missing),
    };
    let mut facts = vec![Fact::measured("node/gpu", format!("NVML and {}", shown(&pci)), total)];
    let indices: BTreeMap<&str, u32> = all.gpus.iter().map(|gpu| (gpu.uuid.0.as_str(), gpu.index)).collect();
    for (n, gpu) in all.gpus.iter().enumerate() {
        facts.extend(of(gpu, &indices).into_iter().map(|(name, value)| {
            let value = all.blind.clone().map_or(value, Err);
            Fact::measured(format!("node/gpu/{n}/{name}"), SOURCE, value)
        }));
    }
    facts
}

/// The facts of the GPUs that a run was given: what decides about its results.
pub(super) fn run(all: &GpuFacts, given: &[(GpuId, Vec<String>)]) -> Vec<Fact> {
    let number = Json::Int(i64::try_from(given.len()).unwrap_or(0));
    let mut facts = vec![Fact::measured("run/gpu", "the registration of the run", Ok(number))];
    let wanted = ["model", "cores", "mig", "uuid"];
    for (n, (id, slices)) in given.iter().enumerate() {
        let seen = all.gpus.iter().find(|gpu| gpu.uuid == *id);
        for name in wanted {
            let value = match seen {
                // A MIG device: its profile is what the run has.
                Some(gpu) if name == "mig" && !slices.is_empty() => profiles(&gpu.info, slices),
                Some(gpu) => value_of(gpu, name),
                None => Err(Missing::unavailable(format!("no sensor sees {id}"))),
            };
            let value = all.blind.clone().map_or(value, Err);
            facts.push(Fact::measured(format!("run/gpu/{n}/{name}"), SOURCE, value));
        }
    }
    facts
}

fn value_of(gpu: &GpuView, name: &str) -> Result<Json, Missing> {
    let found = of(gpu, &BTreeMap::new()).into_iter().find(|(fact, _)| *fact == name);
    found.map_or_else(|| Err(Missing::not_asked("the sensor does not read it")), |(_, value)| value)
}

fn profiles(info: &GpuInfo, slices: &[String]) -> Result<Json, Missing> {
    let profile = |uuid: &String| {
        let device = info.mig_devices.iter().find(|device| device.uuid == *uuid);
        let profile = device.and_then(|device| device.profile.clone());
        profile.map(Json::from).ok_or_else(|| Missing::unavailable(format!("the profile of {uuid} is not known")))
    };
    slices.iter().map(profile).collect::<Result<Vec<_>, _>>().map(Json::List)
}

fn of(gpu: &GpuView, indices: &BTreeMap<&str, u32>) -> Vec<(&'static str, Result<Json, Missing>)> {
    let info = &gpu.info;
    // Sensors of other vendors read less: then nothing is known of what they leave out.
    let read = !info.uuid.is_empty();
    let fact = |value: Option<Json>, calls: &[&str]| {
        if !read {
            return Err(Missing::not_asked("the sensor of this GPU does not read it"));
        }
        let failing = info.failing.iter().find(|(call, _)| calls.contains(&call.as_str()));
        match (value, failing) {
            (Some(value), _) => Ok(value),
            (None, Some((call, why))) => Err(Missing::unavailable(format!("{call}: {why}"))),
            // The call answers that this GPU does not have it.
            (None, None) => Ok(Json::Null),
        }
    };
    let text = |value: &Option<String>| value.as_deref().map(Json::from);
    let switch = |value: Option<bool>| value.map(|on| Json::from(if on { "on" } else { "off" }));
    let mib = |bytes: u64| Json::Text(format!("{} MiB", bytes >> 20));
    let list = |all: Vec<String>| Json::List(all.into_iter().map(Json::from).collect());
    let unless_failing = |value: Json, calls: &[&str]| {
        let fails = info.failing.iter().any(|(call, _)| calls.contains(&call.as_str()));
        fact((!fails).then_some(value), calls)
    };
    let mig_calls = [
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
    ];
    let link_calls = ["nvmlDeviceGetFieldValues", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkVersion"];
    let mig_devices = unless_failing(Json::Null, &mig_calls).and_then(|_| {
        let all: Vec<String> = info.mig_devices.iter().map(|device| device.uuid.clone()).collect();
        // Which one is not for every owner of a run.
        profiles(info, &all).map_err(|_| Missing::unavailable("the profile of a MIG device is not known"))
    });
    let links = info.nvlinks.iter().map(|link| match (link.active, link.version) {
        (true, Some(version)) => format!("up, version {version}"),
        (true, None) => "up".to_owned(),
        (false, _) => "down".to_owned(),
    });
    let mut peers: Vec<String> = info
        .peers
        .iter()
        .map(|peer| {
            let index = indices.get(peer.uuid.as_str()).map_or_else(|| "another".to_owned(), u32::to_string);
            format!("GPU {index}: {}", peer.shares)
        })
        .collect();
    peers.sort();
    let clock = |kind: Kind| gpu.readings.get(&kind).map(|mhz| format!("{mhz} MHz"));
    let clocks = match (clock(Kind::GpuClockSmMax), clock(Kind::GpuClockMemoryMax)) {
        (Some(sm), Some(memory)) => Ok(Json::Text(format!("at most {sm} (SM), {memory} (memory)"))),
        _ => Err(Missing::unavailable("the sampler has not read the highest clocks")),
    };
    let capability = info.compute_capability.map(|(major, minor)| Json::Text(format!("{major}.{minor}")));
    let power = info.power_limit.map(|milliwatts| Json::Text(format!("{milliwatts} mW")));
    vec![
        (
            "model",
            if gpu.name.is_empty() {
                fact(text(&info.name), &["nvmlDeviceGetName"])
            } else {
                Ok(Json::from(gpu.name.as_str()))
            },
        ),
        ("cores", fact(info.cores.map(Json::from), &["nvmlDeviceGetNumGpuCores"])),
        ("architecture", fact(text(&info.architecture), &["nvmlDeviceGetArchitecture"])),
        ("compute-capability", fact(capability, &["nvmlDeviceGetCudaComputeCapability"])),
        ("memory", fact(info.memory_total.map(mib), &["nvmlDeviceGetMemoryInfo_v2"])),
        ("mig", fact(switch(info.mig), &["nvmlDeviceGetMigMode"])),
        ("mig-devices", mig_devices),
        ("nvlink", unless_failing(list(links.collect()), &link_calls)),
        ("peers", unless_failing(list(peers), &["nvmlDeviceGetTopologyCommonAncestor"])),
        ("clocks", clocks),
        ("power-limit", fact(power, &["nvmlDeviceGetEnforcedPowerLimit"])),
        ("ecc", fact(switch(info.ecc), &["nvmlDeviceGetEccMode"])),
        ("vbios", fact(text(&info.vbios), &["nvmlDeviceGetVbiosVersion"])),
        ("inforom", fact(text(&info.inforom), &["nvmlDeviceGetInforomImageVersion"])),
        ("board-part", fact(text(&info.board_part), &["nvmlDeviceGetBoardPartNumber"])),
        ("numa-node", fact(info.numa_node.map(|node| Json::Int(node.into())), &[])),
        ("compute-mode", fact(text(&info.compute_mode), &["nvmlDeviceGetComputeMode"])),
        ("persistence", fact(switch(info.persistence), &["nvmlDeviceGetPersistenceMode"])),
        ("serial", fact(text(&info.serial), &["nvmlDeviceGetSerial"])),
        ("pci", fact(text(&info.pci), &["nvmlDeviceGetPciInfo_v3"])),
        ("uuid", Ok(Json::from(gpu.uuid.0.as_str()))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attest::files::{fixture, value},
        node::SensorView,
        sensors::nvml::MigDevice,
    };
    use failsafe_attest::Status;

    fn h100(index: u32) -> GpuView {
        let id = GpuId(format!("GPU-{index}"));
        let info = GpuInfo {
            uuid: id.0.clone(),
            index,
            cores: Some(16_896),
            ecc: Some(true),
            failing: vec![("nvmlDeviceGetVbiosVersion".into(), "unknown error".into())],
            mig_devices: vec![MigDevice {
                uuid: "MIG-1".into(),
                profile: Some("1g.10gb".into()),
                ..MigDevice::default()
            }],
            ..GpuInfo::default()
        };
        GpuView { index, name: "NVIDIA H100".into(), info, ..GpuView::new(id) }
    }

    fn seen(views: Vec<GpuView>) -> NodeView {
        NodeView { gpus: views.into_iter().map(|view| (view.uuid.clone(), view)).collect(), ..NodeView::default() }
    }

    #[test]
    fn what_a_gpu_does_not_have_is_absent_and_what_failed_has_no_value() {
        let all = GpuFacts::of(&seen(vec![h100(1), h100(0)]), false);
        let facts = node(&all, fixture(&[]).path());
        assert_eq!(value(&facts, "node/gpu"), Ok(Json::Int(2)));
        assert_eq!(value(&facts, "node/gpu/0/uuid"), Ok(Json::from("GPU-0")));
        assert_eq!(value(&facts, "node/gpu/1/cores"), Ok(Json::Int(16_896)));
        assert_eq!(value(&facts, "node/gpu/1/ecc"), Ok(Json::from("on")));
        assert_eq!(value(&facts, "node/gpu/1/mig"), Ok(Json::Null));
        assert!(value(&facts, "node/gpu/1/vbios").unwrap_err().reason.contains("unknown error"));
        assert!(value(&facts, "node/gpu/1/clocks").is_err());
    }

    #[test]
    fn a_list_of_which_a_part_failed_is_not_known() {
        let node_of = |change: &dyn Fn(&mut GpuInfo)| {
            let mut gpu = h100(0);
            change(&mut gpu.info);
            node(&GpuFacts::of(&seen(vec![gpu]), false), fixture(&[]).path())
        };
        let fails = |call: &str| node_of(&|info| info.failing.push((call.into(), "unknown error".into())));
        for (call, fact) in [("nvmlDeviceGetTopologyCommonAncestor", "peers"), ("nvmlDeviceGetUUID", "mig-devices")] {
            let missing = value(&fails(call), &format!("node/gpu/0/{fact}")).unwrap_err();
            assert!(missing.reason.contains(call), "{missing:?}");
        }
        let unnamed = node_of(&|info| info.mig_devices[0].profile = None);
        let missing = value(&unnamed, "node/gpu/0/mig-devices").unwrap_err();
        assert!(missing.reason.contains("profile of a MIG device is not known"), "{missing:?}");
        let whole = node_of(&|_| {});
        assert_eq!(value(&whole, "node/gpu/0/mig-devices"), Ok(Json::List(vec![Json::from("1g.10gb")])));
        assert_eq!(value(&whole, "node/gpu/0/peers"), Ok(Json::List(vec![])));
    }

    #[test]
    fn no_gpu_is_known_only_where_pci_has_none() {
        let of = |node: &NodeView, disabled, sys: &[(&str, &str)]| {
            value(&super::node(&GpuFacts::of(node, disabled), fixture(sys).path()), "node/gpu")
        };
        let pci = [("bus/pci/devices/0/vendor", "0x10de"), ("bus/pci/devices/0/class", "0x030200")];
        let mut blind = NodeView::default();
        blind.sensors.insert(Source::Nvml, SensorView { blind: Some("no library".into()), ..SensorView::default() });
        assert_eq!(of(&blind, false, &[]), Ok(Json::Int(0)));
        assert_eq!(of(&blind, true, &[]), Ok(Json::Int(0)));
        assert_eq!(of(&blind, false, &pci).unwrap_err().status, Status::Unavailable);
        assert_eq!(of(&blind, true, &pci).unwrap_err().status, Status::NotAsked);
        assert!(of(&NodeView::default(), false, &pci).unwrap_err().reason.contains("PCI lists 1"));
        blind.gpus = seen(vec![h100(0)]).gpus;
        let facts = super::node(&GpuFacts::of(&blind, false), fixture(&pci).path());
        assert!(value(&facts, "node/gpu/0/cores").is_err(), "stale facts are no facts");
    }

    #[test]
    fn a_run_has_the_facts_of_its_gpus_in_their_order() {
        let all = GpuFacts::of(&seen(vec![h100(0), h100(1)]), false);
        let given = [
            (GpuId("GPU-1".into()), vec![]),
            (GpuId("GPU-0".into()), vec!["MIG-1".into()]),
            (GpuId("gone".into()), vec![]),
        ];
        let facts = run(&all, &given);
        assert_eq!(value(&facts, "run/gpu"), Ok(Json::Int(3)));
        assert_eq!(value(&facts, "run/gpu/0/uuid"), Ok(Json::from("GPU-1")));
        assert_eq!(value(&facts, "run/gpu/1/mig"), Ok(Json::List(vec![Json::from("1g.10gb")])));
        assert!(value(&facts, "run/gpu/2/model").is_err());
    }
}
