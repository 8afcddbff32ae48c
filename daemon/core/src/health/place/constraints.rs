//! What a GPU must be and have for work to be placed on it, and which GPUs must lie together.

use crate::{subject::GpuId, unit::Unit};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a GPU as far as constraints ask; what is not known fits none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// Product name.
    pub model: Option<String>,
    /// Bytes of memory that are free now.
    pub memory_free: Option<u64>,
    /// MIG is on.
    pub mig: Option<bool>,
    /// Profiles of its MIG devices, such as `1g.10gb`: one for each device.
    pub mig_profiles: Vec<String>,
    /// Those of them that no run is given or on.
    pub mig_free: Vec<String>,
    /// NUMA node of its slot; negative where the machine has none.
    pub numa_node: Option<i32>,
    /// GPUs to which it has NVLinks that are up, directly or through a switch.
    pub linked: BTreeSet<GpuId>,
}

/// Every GPU's.
pub type Equipment = BTreeMap<GpuId, Traits>;

/// MIG as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigWanted {
    /// Whole GPUs only.
    Off,
    /// GPUs in MIG mode only.
    On,
    /// GPUs that have a MIG device of this profile.
    Profile(String),
}

impl MigWanted {
    /// `on`, `off`, or a profile such as `1g.10gb`.
    pub fn parse(text: &str) -> Option<MigWanted> {
        match text {
            "on" => Some(MigWanted::On),
            "off" => Some(MigWanted::Off),
            // NVIDIA writes them so: slices, memory, and what else the profile has.
            profile => {
                let (slices, rest) = profile.split_once("g.")?;
                let memory = rest.split_once("gb")?.0;
                let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                // A compute instance's begins with its own slices.
                let slices = slices.rsplit_once("c.").map_or(slices, |(_, slices)| slices);
                (number(slices) && number(memory)).then(|| MigWanted::Profile(profile.to_owned()))
            }
        }
    }
}

/// What each GPU must be and have, and how they must lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints {
    /// A part of the product's name, whatever its case.
    pub model: Option<String>,
    /// Bytes of memory that must be free on each.
    pub memory_free: Option<u64>,
    /// MIG mode, or a profile.
    pub mig: Option<MigWanted>,
    /// All of them on one NUMA node.
    pub same_numa_node: bool,
    /// Each of them with NVLinks to each other one.
    pub nvlinked: bool,
    /// None of these.
    pub exclude: BTreeSet<GpuId>,
}

impl Constraints {
    /// Why a GPU does not fit, one reason for each constraint that it misses.
    pub(super) fn against(&self, gpu: &GpuId, equipment: &Equipment, shared: bool) -> Vec<String> {
        let unknown = Traits::default();
        let has = equipment.get(gpu).unwrap_or(&unknown);
        let mut why = Vec::new();
        if self.exclude.contains(gpu) {
            why.push("it is excluded".to_owned());
        }
        if let Some(wanted) = &self.model {
            match &has.model {
                Some(model) if model.to_lowercase().contains(&wanted.to_lowercase()) => {}
                Some(model) => why.push(format!("it is {model}, `{wanted}` is wanted")),
                None => why.push(format!("what model it is is not known, `{wanted}` is wanted")),
            }
        }
        if let Some(wanted) = self.memory_free {
            let bytes = |bytes: u64| Unit::Bytes.show(i64::try_from(bytes).unwrap_or(i64::MAX));
            match has.memory_free {
                Some(free) if free >= wanted => {}
                Some(free) => why.push(format!("{} of its memory are free, {} are wanted", bytes(free), bytes(wanted))),
                None => why.push(format!("how much memory is free is not known, {} are wanted", bytes(wanted))),
            }
        }
        match (&self.mig, has.mig) {
            (None, _) | (Some(MigWanted::On), Some(true)) | (Some(MigWanted::Off), Some(false) | None) => {}
            (Some(MigWanted::Off), Some(true)) => why.push("it is in MIG mode, which is not wanted".to_owned()),
            (Some(MigWanted::On | MigWanted::Profile(_)), Some(false) | None) => {
                why.push("it is not in MIG mode".to_owned());
            }
            (Some(MigWanted::Profile(profile)), Some(true)) => {
                if !has.mig_profiles.contains(profile) {
                    let there = match &has.mig_profiles[..] {
                        [] => "none".to_owned(),
                        some => some.join(", "),
                    };
                    why.push(format!("it has no MIG device {profile}: it has {there}"));
                } else if !shared && !has.mig_free.contains(profile) {
                    why.push(format!("runs are on every MIG device {profile} that it has"));
                }
            }
        }
        why
    }

    /// Whether runs on other MIG devices of a card are in nobody's way.
    pub(super) fn is_of_slices(&self) -> bool {
        matches!(self.mig, Some(MigWanted::Profile(_)))
    }

    /// Why two GPUs do not lie together as is wanted, or `None`.
    pub(super) fn apart(&self, one: &GpuId, other: &GpuId, equipment: &Equipment) -> Option<String> {
        let (a, b) = (equipment.get(one), equipment.get(other));
        let numa = |it: Option<&Traits>| it.and_then(|it| it.numa_node).filter(|node| *node >= 0);
        if self.same_numa_node && (numa(a).is_none() || numa(a) != numa(b)) {
            let node_text = |it| numa(it).map_or_else(|| "an unknown one".to_owned(), |node| node.to_string());
            return Some(format!(
                "{one} and {other} are not known to be on one NUMA node ({}, {})",
                node_text(a),
                node_text(b)
            ));
        }
        let linked = |it: Option<&Traits>, to: &GpuId| it.is_some_and(|it| it.linked.contains(to));
        if self.nvlinked && !(linked(a, other) && linked(b, one)) {
            return Some(format!("{one} and {other} have no NVLink between them"));
        }
        None
    }

    /// The first `count` of `candidates`, in their order, that lie together as is wanted; `None` where no such set is.
    pub(super) fn together(
        &self,
        candidates: &[&GpuId],
        count: usize,
        equipment: &Equipment,
    ) -> Option<BTreeSet<GpuId>> {
        let mut chosen = Vec::with_capacity(count.min(candidates.len()));
        let mut steps = 0;
        self.extend(candidates, count, equipment, &mut chosen, &mut steps)
            .then(|| chosen.into_iter().cloned().collect())
    }

    /// Adds to `chosen` until it is whole; every set is tried, the earlier candidates first. What does not end in so many steps,
    /// dozens of GPUs tangled by half, is no answer.
    fn extend<'a>(
        &self,
        rest: &[&'a GpuId],
        count: usize,
        equipment: &Equipment,
        chosen: &mut Vec<&'a GpuId>,
        steps: &mut usize,
    ) -> bool {
        const STEPS: usize = 1 << 20;
        if chosen.len() == count {
            return true;
        }
        for (at, gpu) in rest.iter().enumerate() {
            *steps += 1;
            if *steps > STEPS || rest.len() - at < count - chosen.len() {
                return false;
            }
            if chosen.iter().all(|other| self.apart(other, gpu, equipment).is_none()) {
                chosen.push(gpu);
                if self.extend(&rest[at + 1..], count, equipment, chosen, steps) {
                    return true;
                }
                chosen.pop();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(n: u32) -> GpuId {
        GpuId(format!("GPU-{n}"))
    }

    /// Two NUMA nodes of four; links: a square on each node, and one across.
    fn machine() -> Equipment {
        let links = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (4, 5), (5, 6), (3, 4)];
        (0..8u32)
            .map(|n| {
                let of = links.iter().filter_map(|(a, b)| if *a == n { Some(*b) } else { (*b == n).then_some(*a) });
                let numa_node = i32::try_from(n / 4).ok();
                (gpu(n), Traits { numa_node, linked: of.map(gpu).collect(), ..Traits::default() })
            })
            .collect()
    }

    fn chosen(constraints: &Constraints, count: usize) -> Option<Vec<u32>> {
        let machine = machine();
        let candidates: Vec<&GpuId> = machine.keys().filter(|gpu| !constraints.exclude.contains(gpu)).collect();
        let set = constraints.together(&candidates, count, &machine)?;
        Some(set.iter().map(|gpu| gpu.0[4..].parse().unwrap()).collect())
    }

    #[test]
    fn sets_lie_together_also_where_the_first_choice_leads_nowhere() {
        let numa = Constraints { same_numa_node: true, ..Constraints::default() };
        assert_eq!(chosen(&numa, 4), Some(vec![0, 1, 2, 3]));
        assert_eq!(chosen(&numa, 5), None);
        let without = Constraints { exclude: [gpu(1)].into(), ..numa };
        assert_eq!(chosen(&without, 4), Some(vec![4, 5, 6, 7]), "three of the first node are left");
        let linked = Constraints { nvlinked: true, ..Constraints::default() };
        assert_eq!(chosen(&linked, 3), Some(vec![0, 1, 2]));
        assert_eq!(chosen(&linked, 4), None, "1 and 3 have no link");
        let across = Constraints { exclude: [0, 1, 2, 5].map(gpu).into(), ..linked.clone() };
        assert_eq!(chosen(&across, 2), Some(vec![3, 4]));
        let both = Constraints { same_numa_node: true, ..across };
        assert_eq!(chosen(&both, 2), None, "the link that is left goes from one node to the other");
        assert_eq!(chosen(&Constraints::default(), 8).map(|all| all.len()), Some(8));
    }

    #[test]
    fn what_is_not_known_fits_nothing() {
        let machine = Equipment::from([(gpu(0), Traits::default()), (gpu(1), Traits::default())]);
        let all = Constraints {
            model: Some("H100".into()),
            memory_free: Some(1 << 30),
            mig: Some(MigWanted::On),
            ..Constraints::default()
        };
        assert_eq!(all.against(&gpu(0), &machine, false).len(), 3);
        let numa = Constraints { same_numa_node: true, ..Constraints::default() };
        assert!(numa.apart(&gpu(0), &gpu(1), &machine).unwrap().contains("an unknown one"));
        // -1 is what sysfs says on a machine without nodes.
        let none = Traits { numa_node: Some(-1), ..Traits::default() };
        let machine = Equipment::from([(gpu(0), none.clone()), (gpu(1), none)]);
        assert!(numa.apart(&gpu(0), &gpu(1), &machine).is_some());
    }

    #[test]
    fn each_constraint_that_is_missed_is_reported() {
        let traits = Traits {
            model: Some("NVIDIA H100 80GB HBM3".into()),
            memory_free: Some(10 << 30),
            mig: Some(true),
            mig_profiles: vec!["1g.10gb".into(), "2g.20gb".into()],
            mig_free: vec!["1g.10gb".into()],
            ..Traits::default()
        };
        let machine = Equipment::from([(gpu(0), traits)]);
        let against = |constraints: Constraints| constraints.against(&gpu(0), &machine, false).join("; ");
        let none = Constraints::default;
        assert_eq!(against(Constraints { model: Some("h100".into()), ..none() }), "");
        assert_eq!(against(Constraints { memory_free: Some(10 << 30), ..none() }), "");
        assert_eq!(against(Constraints { mig: MigWanted::parse("1g.10gb"), ..none() }), "");
        let text = against(Constraints { model: Some("B200".into()), memory_free: Some(11 << 30), ..none() });
        assert!(text.contains("`B200` is wanted") && text.contains("10.0 GiB of its memory are free"), "{text}");
        let text = against(Constraints { mig: MigWanted::parse("3g.40gb"), ..none() });
        assert!(text.contains("no MIG device 3g.40gb: it has 1g.10gb, 2g.20gb"), "{text}");
        let taken = Constraints { mig: MigWanted::parse("2g.20gb"), ..none() };
        assert!(taken.against(&gpu(0), &machine, true).is_empty(), "shared");
        assert!(against(taken).contains("runs are on every MIG device 2g.20gb"));
        assert!(against(Constraints { mig: Some(MigWanted::Off), ..none() }).contains("is in MIG mode"));
        assert!(against(Constraints { exclude: [gpu(0)].into(), ..none() }).contains("excluded"));
    }

    #[test]
    fn profiles_are_written_as_nvidia_does() {
        for profile in ["1g.10gb", "7g.80gb", "1g.5gb+me", "1c.3g.20gb"] {
            assert_eq!(MigWanted::parse(profile), Some(MigWanted::Profile(profile.into())));
        }
        for wrong in ["", "yes", "1g", "g.10gb", "1g.gb", "1g.10", "big"] {
            assert_eq!(MigWanted::parse(wrong), None, "{wrong}");
        }
    }
}
