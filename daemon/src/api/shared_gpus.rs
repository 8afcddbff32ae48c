//! Warnings about GPUs that a run holds together with another run: a rule on such a GPU judges what both do.
//!
//! Invariant: of a run that the caller may not see, the caller learns only that there is one.

use super::{authorize::Principal, health};
use crate::runs::{FoundRun, Registry};
use failsafe_core::{GpuId, RunId, input::Run};
use std::collections::{BTreeMap, BTreeSet};

/// Which live runs hold which GPUs.
pub(super) struct Holders(BTreeMap<GpuId, BTreeSet<RunId>>);

impl Holders {
    /// As it is now.
    pub(super) fn now(registry: &Registry) -> Holders {
        Holders(health::held(registry))
    }

    /// One text for each GPU of a live run that another live run holds, too. Empty for every other run.
    pub(super) fn warnings(&self, registry: &Registry, who: &Principal, found: &FoundRun) -> Vec<String> {
        let FoundRun::Live(live) = found else { return Vec::new() };
        let gpus = live.status().gpus.clone();
        let warning = |gpu: &GpuId| {
            let others = self.0.get(gpu)?.iter().filter(|id| **id != live.run.id);
            let others = others.filter_map(|id| registry.get(*id)).filter(|other| meet(&live.run, &other.run, gpu));
            let (mut named, mut hidden) = (Vec::new(), 0);
            for other in others {
                match who.may_see(other.known()) {
                    Some(_) => named.push(format!("run {} ({})", other.run.name, other.run.id)),
                    None => hidden += 1,
                }
            }
            text(gpu, named, hidden)
        };
        gpus.iter().filter_map(warning).collect()
    }
}

/// Whether two runs that hold a GPU are in each other's way. MIG devices that only one of them has are its own.
fn meet(one: &Run, other: &Run, gpu: &GpuId) -> bool {
    match (one.mig.get(gpu), other.mig.get(gpu)) {
        (Some(one), Some(other)) => !one.is_disjoint(other),
        _ => true,
    }
}

fn text(gpu: &GpuId, mut named: Vec<String>, hidden: usize) -> Option<String> {
    match hidden {
        0 => {}
        1 => named.push("a run of another user".to_owned()),
        more => named.push(format!("{more} runs of other users")),
    }
    (!named.is_empty()).then(|| format!("{gpu} is also held by {}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use failsafe_core::PolicyDigest;

    #[test]
    fn runs_on_mig_devices_of_their_own_do_not_meet() {
        let gpu = GpuId("GPU-1".into());
        let on = |devices: &[&str]| {
            let mut run = testing::run("01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d", 1, PolicyDigest([1; 32]));
            if !devices.is_empty() {
                run.mig.insert(gpu.clone(), devices.iter().map(|device| (*device).to_owned()).collect());
            }
            run
        };
        assert!(meet(&on(&[]), &on(&[]), &gpu), "both have all of it");
        assert!(meet(&on(&["MIG-a"]), &on(&[]), &gpu), "one has all of it");
        assert!(meet(&on(&["MIG-a", "MIG-b"]), &on(&["MIG-b"]), &gpu));
        assert!(!meet(&on(&["MIG-a"]), &on(&["MIG-b"]), &gpu));
    }

    #[test]
    fn a_run_that_the_caller_may_not_see_is_counted_and_not_named() {
        let gpu = GpuId("GPU-1".into());
        let warning =
            |named: &[&str], hidden| text(&gpu, named.iter().map(|name| (*name).to_owned()).collect(), hidden);
        assert_eq!(warning(&[], 0), None);
        assert_eq!(warning(&["run a (1)"], 0).unwrap(), "GPU-1 is also held by run a (1)");
        assert_eq!(warning(&["run a (1)"], 1).unwrap(), "GPU-1 is also held by run a (1), a run of another user");
        assert_eq!(warning(&[], 2).unwrap(), "GPU-1 is also held by 2 runs of other users");
    }
}
