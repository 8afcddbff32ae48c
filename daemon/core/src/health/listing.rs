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

/// The index that each listed GPU is shown with. While a GPU that was listed `before` is missing, the others keep theirs, and one
/// that takes its number from NVML gets a free one: an index is no identity.
pub fn places(before: &BTreeMap<GpuId, u32>, listed: &BTreeMap<GpuId, u32>, missing: bool) -> BTreeMap<GpuId, u32> {
    let mut taken: BTreeSet<u32> = if missing { before.values().copied().collect() } else { BTreeSet::new() };
    let mut out = BTreeMap::new();
    for (gpu, listed) in listed {
        let index = match before.get(gpu) {
            Some(before) if missing => *before,
            _ if taken.contains(listed) => (0..).find(|free| !taken.contains(free)).unwrap_or(*listed),
            _ => *listed,
        };
        taken.insert(index);
        out.insert(gpu.clone(), index);
    }
    out
}

/// Gives each listed GPU its place.
fn place(parts: &mut BTreeMap<GpuId, Part>, gpus: &BTreeMap<GpuId, Slot>, missing: &[GpuId], now: Stamp) {
    let before = parts.iter().filter_map(|(gpu, part)| Some((gpu.clone(), part.slot()?.index))).collect();
    let listed = gpus.iter().map(|(gpu, slot)| (gpu.clone(), slot.index)).collect();
    let places = places(&before, &listed, !missing.is_empty());
    for (gpu, slot) in gpus {
        let index = places.get(gpu).copied().unwrap_or(slot.index);
        parts.entry(gpu.clone()).or_insert_with(|| Part::unseen(now)).put(Slot { index, ..slot.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(gpus: [(&str, u32); N]) -> BTreeMap<GpuId, u32> {
        gpus.into_iter().map(|(gpu, index)| (GpuId(gpu.to_owned()), index)).collect()
    }

    #[test]
    fn while_a_gpu_is_missing_the_others_keep_their_index_and_a_new_one_gets_a_free_one() {
        let before = of([("a", 0), ("b", 1), ("c", 2)]);
        // NVML counts on without `b`; `d` is new.
        let places = places(&before, &of([("a", 0), ("c", 1), ("d", 2)]), true);
        assert_eq!(places, of([("a", 0), ("c", 2), ("d", 3)]));
    }

    #[test]
    fn when_none_is_missing_the_index_is_nvmls() {
        let before = of([("a", 0), ("b", 1)]);
        assert_eq!(places(&before, &of([("a", 1), ("b", 0)]), false), of([("a", 1), ("b", 0)]));
    }
}
