//! Which factors of a node count for one of its runs.

use failsafe_attest::{Fact, Json};
use std::collections::BTreeSet;

/// Which factors count for a run: of the node's GPUs, only its own.
pub struct OwnGpus {
    /// Beginnings of the paths of its GPUs.
    gpus: Vec<String>,
}

impl OwnGpus {
    /// Of a run with these GPUs, by the facts of the node.
    pub fn new(facts: &[Fact], gpus: &BTreeSet<String>) -> OwnGpus {
        let own = |fact: &Fact| {
            let gpu = fact.path.strip_prefix("node/gpu/")?.strip_suffix("/uuid")?;
            match &fact.value {
                Ok(Json::Text(uuid)) if gpus.contains(uuid) => Some(format!("node/gpu/{gpu}/")),
                _ => None,
            }
        };
        OwnGpus { gpus: facts.iter().filter_map(own).collect() }
    }

    /// Whether the factor counts.
    pub fn counts(&self, path: &str) -> bool {
        match path.strip_prefix("node/") {
            Some(rest) if rest.starts_with("gpu/") => self.gpus.iter().any(|own| path.starts_with(own)),
            Some(rest) if rest == "gpu" || rest.starts_with("nvidia/") => !self.gpus.is_empty(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_gpus_only_those_of_the_run_count() {
        let fact = |path: &str, value: &str| Fact::measured(path, "a test", Ok(Json::from(value)));
        let facts = [fact("node/gpu/0/uuid", "GPU-a"), fact("node/gpu/1/uuid", "GPU-b")];
        let own = OwnGpus::new(&facts, &["GPU-b".to_owned()].into());
        let none = OwnGpus::new(&facts, &BTreeSet::new());
        for (path, with, without) in [
            ("node/gpu/0/power-limit", false, false),
            ("node/gpu/1/power-limit", true, false),
            ("node/gpu", true, false),
            ("node/nvidia/driver", true, false),
            ("node/cpu/model", true, true),
            ("run/library/libc.so.6", true, true),
        ] {
            assert_eq!((own.counts(path), none.counts(path)), (with, without), "{path}");
        }
    }
}
