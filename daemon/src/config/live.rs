//! Parts of the configuration that a reload replaces while the daemon runs, and what differs between two configurations.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// A part that is read anew at each use. No thread of the freeze path reads one: they wait for no lock.
#[derive(Debug, Clone, Default)]
pub struct Live<T>(Arc<RwLock<T>>);

impl<T: Copy> Live<T> {
    /// With this value.
    pub fn new(value: T) -> Live<T> {
        Live(Arc::new(RwLock::new(value)))
    }

    /// The present value.
    pub fn get(&self) -> T {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces it.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// The keys that the files set, with their values as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, String>);

impl Keys {
    pub(super) fn of(table: &toml::Table) -> Keys {
        fn add(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                match value {
                    toml::Value::Table(inner) => add(&key, inner, keys),
                    other => drop(keys.insert(key, other.to_string())),
                }
            }
        }
        let mut keys = BTreeMap::new();
        add("", table, &mut keys);
        Keys(keys)
    }

    /// The keys that are set otherwise in `new`, or in one of both only.
    pub fn changed(&self, new: &Keys) -> Vec<String> {
        let all: std::collections::BTreeSet<&String> = self.0.keys().chain(new.0.keys()).collect();
        all.into_iter().filter(|key| self.0.get(*key) != new.0.get(*key)).cloned().collect()
    }
}
