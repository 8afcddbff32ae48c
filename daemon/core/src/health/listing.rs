//! What NVML's list of GPUs means for the GPUs that are known: one that is missing is a fault, and a place is kept for it.
//!
//! Invariants: a GPU that was ever listed stays known until an operator forgets it, also over restarts; a GPU that NVML counts
//! and that does not answer is a part of the node with a level of its own; while a GPU is missing, the others keep their
//! index, although NVML's own index shifts.

use super::{Slot, Stamp, Unreachable, level::Level, part::Part};
use crate::{subject::GpuId, xid::Advice};
use std::collections::{BTreeMap, BTreeSet};

/// The code of a GPU that was known and that NVML does not list.
pub(super) const MISSING: &str = "gpu-missing";
/// The code of a GPU that NVML counts and that returns an error.
pub(super) const UNREACHABLE: &str = "gpu-unreachable";

/// The name of a part whose UUID is not known, by NVML's index.
fn unnamed(index: u32) -> GpuId {
    GpuId(format!("index:{index}"))
}

fn is_unnamed(gpu: &GpuId) -> bool {
    gpu.0.starts_with("index:")
}

/// Takes in NVML's list.
pub(super) fn list(
    parts: &mut BTreeMap<GpuId, Part>,
    gpus: &BTreeMap<GpuId, Slot>,
    unreachable: &BTreeMap<u32, Unreachable>,
    now: Stamp,
) {
    let known = |gpu: &GpuId| !gpu.is_amd() && !gpu.is_mig() && !is_unnamed(gpu);
    let missing: Vec<GpuId> = parts.keys().filter(|gpu| known(gpu) && !gpus.contains_key(*gpu)).cloned().collect();
    place(parts, gpus, &missing, now);
    // One GPU that is missing and one that does not answer are the same. Of several it cannot be determined which is which.
    let same = match (&missing[..], unreachable.first_key_value()) {
        ([gpu], Some((index, what))) if unreachable.len() == 1 => Some((gpu, *index, what)),
        _ => None,
    };
    if let Some((gpu, index, what)) = same
        && let Some(part) = parts.get_mut(gpu)
    {
        does_not_answer(part, &format!("NVML's GPU {index}, and the only one that is missing"), what, now);
    } else {
        for (index, what) in unreachable {
            let part = parts.entry(unnamed(*index)).or_insert_with(|| Part::unseen(now));
            does_not_answer(part, &format!("NVML's GPU {index}"), what, now);
        }
        // Those that do not answer yet may be the missing ones.
        let surely = missing.len() > unreachable.len();
        for gpu in &missing {
            let Some(part) = parts.get_mut(gpu) else { continue };
            part.blind("NVML does not list it any more", now);
            if surely {
                let text = "the GPU was known and NVML does not list it; if it was removed on purpose: `failsafectl gpu forget`";
                part.note(MISSING, Level::Unhealthy, text.into(), Advice::InspectHardware, now);
            }
        }
    }
    // One that was slow and answers now has its own name. What returned an error stays until somebody has dealt with it.
    let named = same.is_some();
    parts.retain(|gpu, part| {
        let index = gpu.0.strip_prefix("index:").and_then(|index| index.parse().ok());
        index.is_none_or(|index: u32| (!named && unreachable.contains_key(&index)) || part.is_missing())
    });
}

fn does_not_answer(part: &mut Part, who: &str, what: &Unreachable, now: Stamp) {
    part.blind(&format!("{who}: {}", what.why), now);
    if what.failed {
        let text = format!("{who} returns an error: {}", what.why);
        part.note(UNREACHABLE, Level::Unhealthy, text, Advice::ResetGpu, now);
    }
}

/// Gives each listed GPU its place.
fn place(parts: &mut BTreeMap<GpuId, Part>, gpus: &BTreeMap<GpuId, Slot>, missing: &[GpuId], now: Stamp) {
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    if !missing.is_empty() {
        taken.extend(parts.values().filter_map(|part| Some(part.slot()?.index)));
    }
    for (gpu, slot) in gpus {
        let part = parts.entry(gpu.clone()).or_insert_with(|| Part::unseen(now));
        let index = match part.slot() {
            Some(before) if !missing.is_empty() => before.index,
            _ if taken.contains(&slot.index) => (0..).find(|free| !taken.contains(free)).unwrap_or(slot.index),
            _ => slot.index,
        };
        taken.insert(index);
        part.put(Slot { index, ..slot.clone() });
    }
}
