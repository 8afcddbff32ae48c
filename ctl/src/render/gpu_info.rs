//! What a GPU is: `gpu describe`, as text and as JSON.

use super::{clean, json::readings, table};
use failsafe_core::{signal::Kind, unit::Unit};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::fmt::Write;

/// As text: a line for each fact that is known, then tables of what there is more than one of.
pub fn text(info: &pb::GpuInfo) -> String {
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let number = |n: &u32| n.to_string();
    let facts = [
        ("serial", info.serial.clone()),
        ("board part", info.board_part.clone()),
        ("device", info.minor.map(|minor| format!("/dev/nvidia{minor}"))),
        ("VBIOS", info.vbios.clone()),
        ("InfoROM", info.inforom.clone()),
        ("architecture", info.architecture.clone()),
        ("compute capability", info.compute_capability.clone()),
        ("CUDA cores", info.cores.as_ref().map(number)),
        ("NUMA node", info.numa_node.map(|node| node.to_string())),
        ("persistence mode", info.persistence.map(on)),
        ("compute mode", info.compute_mode.clone()),
        ("ECC", info.ecc.map(on)),
        ("MIG", info.mig.map(on)),
        ("fabric cluster", info.fabric.as_ref().map(|fabric| fabric.cluster.clone())),
        ("fabric clique", info.fabric.as_ref().map(|fabric| fabric.clique.to_string())),
        ("fabric state", info.fabric.as_ref().map(|fabric| fabric.state.to_string())),
    ];
    let mut out = table::pairs("", facts.into_iter().filter_map(|(name, fact)| Some((name, clean(&fact?)))));
    let known = |n: Option<u32>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    if !info.mig_devices.is_empty() {
        let rows = info.mig_devices.iter().map(|device| {
            let memory = device.memory.map(|bytes| Unit::Bytes.show(i64::try_from(bytes).unwrap_or(i64::MAX)));
            let (instance, compute) = (known(device.gpu_instance), known(device.compute_instance));
            let memory = memory.unwrap_or_else(|| "unknown".to_owned());
            let profile = clean(device.profile.as_deref().unwrap_or("unknown"));
            let told = |kind: Kind| {
                let seen = device.readings.iter().find(|reading| reading.name == kind.to_string());
                seen.map_or_else(|| "unknown".to_owned(), |reading| clean(&reading.text))
            };
            let (busy, used) = (told(Kind::GpuUtilization), told(Kind::GpuMemory));
            [clean(&device.uuid), profile, instance, compute, known(device.slices), busy, used, memory]
        });
        let head = [
            "MIG DEVICE",
            "PROFILE",
            "GPU INSTANCE",
            "COMPUTE INSTANCE",
            "SLICES",
            "UTILIZATION",
            "MEMORY USED",
            "MEMORY",
        ];
        let _ = write!(out, "\n{}", table::table(head, rows));
    }
    if !info.nvlinks.is_empty() {
        let rows = info.nvlinks.iter().map(|link| {
            let state = if link.active { "up" } else { "down" }.to_owned();
            [link.link.to_string(), state, known(link.version), clean(link.remote.as_deref().unwrap_or("unknown"))]
        });
        let _ = write!(out, "\n{}", table::table(["NVLINK", "STATE", "VERSION", "TO"], rows));
    }
    if !info.peers.is_empty() {
        let rows = info.peers.iter().map(|peer| [clean(&peer.uuid), clean(&peer.shares)]);
        let _ = write!(out, "\n{}", table::table(["OTHER GPU", "SHARES"], rows));
    }
    out
}

/// As JSON; what is not known is null.
pub fn json(info: &pb::GpuInfo) -> Value {
    let mig = |d: &pb::MigDevice| {
        json!({
            "uuid": d.uuid,
            "gpu_instance": d.gpu_instance,
            "compute_instance": d.compute_instance,
            "memory": d.memory,
            "slices": d.slices,
            "readings": readings(&d.readings),
            "unsupported": d.unsupported,
            "failing": d.failing,
        })
    };
    let link = |l: &pb::NvLink| json!({ "link": l.link, "active": l.active, "version": l.version, "remote": l.remote });
    let peer = |p: &pb::GpuPeer| json!({ "uuid": p.uuid, "shares": p.shares });
    let fabric = |f: &pb::GpuFabric| json!({ "cluster": f.cluster, "clique": f.clique, "state": f.state });
    json!({
        "serial": info.serial,
        "board_part": info.board_part,
        "minor": info.minor,
        "vbios": info.vbios,
        "inforom": info.inforom,
        "architecture": info.architecture,
        "compute_capability": info.compute_capability,
        "cores": info.cores,
        "numa_node": info.numa_node,
        "persistence": info.persistence,
        "compute_mode": info.compute_mode,
        "ecc": info.ecc,
        "mig": info.mig,
        "mig_devices": info.mig_devices.iter().map(mig).collect::<Vec<_>>(),
        "nvlinks": info.nvlinks.iter().map(link).collect::<Vec<_>>(),
        "peers": info.peers.iter().map(peer).collect::<Vec<_>>(),
        "fabric": info.fabric.as_ref().map(fabric),
        "failing": info.failing,
    })
}
