//! At which moment in the life of a run a stored statement was made.

use failsafe_core::record::At;
use serde::{Deserialize, Serialize};

/// Of which run a stored statement is, and of which moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Moment {
    /// Which.
    pub at: At,
    /// The incident; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incident: String,
    /// The run's id.
    pub run: String,
    /// The run's name.
    pub name: String,
    /// When the factors of the run were read, ns since the epoch, as text: before the statement was made, where the processes had
    /// ended by then. Empty: they were never read.
    pub read_ns: String,
}

impl Moment {
    /// What is wrong with it.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        if self.incident.is_empty() == (self.at == At::Incident) {
            return Some("a moment names an incident, and only that of an incident does");
        }
        if !self.read_ns.is_empty() && self.read_ns.parse::<i64>().is_err() {
            return Some("the time at which the factors were read is no number");
        }
        (self.run.is_empty() || self.name.is_empty()).then_some("its moment names no run")
    }
}
