//! Labels of a value (attributes of OTLP, labels of Prometheus, tags of statsd), which all formats treat alike.

use std::collections::BTreeMap;

/// The labels of one value, sorted by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    pub step: Option<String>,
    pub rank: Option<String>,
    pub others: BTreeMap<String, String>,
}

impl Labels {
    /// Adds one. The last of several with one key counts.
    pub fn add(&mut self, key: &str, value: String) {
        match key {
            "step" => self.step = Some(value),
            "rank" => self.rank = Some(value),
            _ => drop(self.others.insert(key.to_owned(), value)),
        }
    }
}
