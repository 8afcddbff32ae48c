//! What the environment of a process says of its GPUs. The run chooses it: it is shown, and nothing is decided by it.

use super::Listed;
use crate::runs::gpus::ClaimedGpus;
use failsafe_core::{GpuId, visible::clean};
use std::collections::BTreeSet;

/// Bytes of a value that are kept.
const VALUE: usize = 256;
/// Variables that say which GPUs a process is given, the most exact ones first, and whether a number in them is that of the driver. In
/// `CUDA_VISIBLE_DEVICES` it counts what the process sees, in an order of CUDA's.
const VARIABLES: [(&str, bool); 4] = [
    ("NVIDIA_VISIBLE_DEVICES", true),
    ("SLURM_STEP_GPUS", true),
    ("SLURM_JOB_GPUS", true),
    ("CUDA_VISIBLE_DEVICES", false),
];

/// What an environment says of GPUs: the first variable that names some of them, or else one that names all.
pub(super) fn claimed(environment: &[u8], pid: u32, listed: &Listed) -> Option<ClaimedGpus> {
    let of = |name: &str| {
        let mut all = environment.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok());
        all.find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
    };
    let found = || VARIABLES.iter().filter_map(|(name, is_index)| Some((*name, *is_index, of(name)?)));
    // Images of CUDA set `NVIDIA_VISIBLE_DEVICES=all`, whatever the container gets.
    let (name, is_index, value) = found().find(|(.., value)| *value != "all").or_else(|| found().next())?;
    let gpus = meant(value, is_index, listed);
    let value = clean(&value[..value.floor_char_boundary(VALUE)]);
    Some(ClaimedGpus { variable: name.to_owned(), value, gpus, pid })
}

/// The UUIDs of what a list names: by UUID, or its beginning; by index, where that is the driver's.
fn meant(value: &str, is_index: bool, listed: &Listed) -> BTreeSet<GpuId> {
    if value == "all" {
        return listed.iter().map(|(gpu, ..)| gpu.clone()).collect();
    }
    let one = |item: &str| {
        let by_uuid = |gpu: &GpuId| item.len() >= "GPU-0".len() && item.starts_with("GPU-") && gpu.0.starts_with(item);
        let index = item.parse::<u32>().ok().filter(|_| is_index);
        let mut fits = listed.iter().filter(|(gpu, at, _)| by_uuid(gpu) || index == Some(*at));
        fits.next().filter(|_| fits.next().is_none()).map(|(gpu, ..)| gpu.clone())
    };
    value.split(',').filter_map(|item| one(item.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Listed {
        let gpu = |name: &str, index, minor| (GpuId(name.into()), index, Some(minor));
        // Their minor numbers are in another order.
        vec![gpu("GPU-aaaa-1", 0, 3), gpu("GPU-aabb-2", 1, 0)]
    }

    fn names(claimed: Option<ClaimedGpus>) -> (String, Vec<String>) {
        let claimed = claimed.unwrap();
        (claimed.variable, claimed.gpus.into_iter().map(|gpu| gpu.0).collect())
    }

    #[test]
    fn an_environment_names_gpus_by_uuid_and_by_the_drivers_index() {
        let read = |text: &str| names(claimed(text.replace(' ', "\0").as_bytes(), 7, &listed()));
        let gpus = |name: &str, gpus: &[&str]| (name.to_owned(), gpus.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(read("A=1 SLURM_JOB_GPUS=1 B=2"), gpus("SLURM_JOB_GPUS", &["GPU-aabb-2"]));
        assert_eq!(read("NVIDIA_VISIBLE_DEVICES=0,1"), gpus("NVIDIA_VISIBLE_DEVICES", &["GPU-aaaa-1", "GPU-aabb-2"]));
        assert_eq!(read("CUDA_VISIBLE_DEVICES=GPU-aab"), gpus("CUDA_VISIBLE_DEVICES", &["GPU-aabb-2"]));
        // An index of CUDA's is of what the process sees; a beginning that fits two names none.
        for unknown in ["0", "GPU-aa", "GPU-", "MIG-1", "", "NoDevFiles", "-1", "7"] {
            assert_eq!(
                read(&format!("CUDA_VISIBLE_DEVICES={unknown}")),
                gpus("CUDA_VISIBLE_DEVICES", &[]),
                "{unknown}"
            );
        }
        let both = "NVIDIA_VISIBLE_DEVICES=all SLURM_STEP_GPUS=0";
        assert_eq!(read(both), gpus("SLURM_STEP_GPUS", &["GPU-aaaa-1"]), "what names all says least");
        assert_eq!(read("NVIDIA_VISIBLE_DEVICES=all").1.len(), 2);
        assert_eq!(claimed(b"XCUDA_VISIBLE_DEVICES=0\0PATH=/bin", 7, &listed()), None);
        let long = format!("CUDA_VISIBLE_DEVICES={}", "\u{1b}0,".repeat(1_000));
        let value = claimed(long.as_bytes(), 7, &listed()).unwrap().value;
        assert!(!value.contains('\u{1b}') && value.len() < 2_000, "{value}");
    }
}
