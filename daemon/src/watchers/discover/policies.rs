//! The policies that rules name, as they were read last.

use super::Refusal;
use crate::policies::load;
use failsafe_core::{
    Policy, PolicyDigest,
    discover::{Rule, Rules},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// A policy by its name.
#[derive(Debug, Default)]
struct One {
    /// As it was read the last time that it could be used.
    good: Option<(Arc<Policy>, PolicyDigest)>,
    /// Why it cannot be used as it is now.
    error: Option<String>,
}

/// All that rules name.
#[derive(Debug)]
pub(super) struct Policies {
    folder: PathBuf,
    all: BTreeMap<String, One>,
}

impl Policies {
    /// Nothing is read yet.
    pub fn new(folder: PathBuf, rules: &Rules) -> Policies {
        let names = rules.iter().flat_map(Rule::policies);
        Policies { folder, all: names.map(|name| (name.clone(), One::default())).collect() }
    }

    /// Reads all of them again.
    pub fn read(&mut self, rules: &Rules, refusal: &Refusal) {
        for (name, one) in &mut self.all {
            let used_by = || {
                let rules: Vec<&str> = rules
                    .iter()
                    .filter(|rule| rule.policies().any(|used| used == name))
                    .map(|rule| rule.name.as_str())
                    .collect();
                format!("rule {} of discovery", rules.join(", "))
            };
            let is_shadow = rules.iter().all(|rule| rule.policy != *name);
            let found = load(&self.folder, name).map_err(|why| why.to_string());
            // A shadow bounds nobody, so what this node cannot enforce does not matter.
            let found = found.and_then(|named| match refusal(&named.policy).filter(|_| !is_shadow) {
                Some(why) => Err(format!("policy `{name}` is not accepted by this node: {why}")),
                None => Ok(named.policy),
            });
            match found {
                Ok(policy) => {
                    let digest = policy.digest();
                    *one = One { good: Some((Arc::new(policy), digest)), error: None };
                }
                Err(why) => {
                    let instead = match one.good {
                        Some(_) => "the policy stays in use as it was read before",
                        None if is_shadow => "runs are judged without this shadow",
                        None => "matching cgroups get no run",
                    };
                    one.error = Some(format!("{}: {why}: {instead}", used_by()));
                }
            }
        }
    }

    /// The policy of that name, with its digest.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn with_digest(&self, name: &str) -> Result<(Arc<Policy>, PolicyDigest), String> {
        let one = self.all.get(name);
        one.and_then(|one| one.good.clone()).ok_or_else(|| {
            one.and_then(|one| one.error.clone()).unwrap_or_else(|| format!("policy `{name}` was not read yet"))
        })
    }

    /// What is wrong with it now.
    pub fn error(&self, name: &str) -> Option<String> {
        self.all.get(name)?.error.clone()
    }

    /// What is wrong with all of them.
    pub fn errors(&self) -> impl Iterator<Item = String> {
        self.all.values().filter_map(|one| one.error.clone())
    }
}
