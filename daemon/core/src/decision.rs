//! Decisions, the actions in them, and the outcomes that come back.
//!
//! ```text
//! Decision ─► Action (plain data) ─► interpreter in the daemon ─► Outcome ─► Input
//! ```

use crate::{
    actor::Request,
    digest::PolicyDigest,
    event::Event,
    signal::{Kind, Signal, Value},
    subject::{RunId, Subject},
    time::{MonoTime, Span},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a rule, an operator or the daemon itself wants done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Tell people.
    Notify,
    /// Keep evidence: process tree, counters, last signals.
    Snapshot,
    /// Deny all egress of the run in the kernel.
    Block,
    /// Freeze every level of the run's cgroup.
    Freeze,
    /// Kill every process of the run.
    Kill,
    /// Thaw the run and lift its egress latch. Only an operator's.
    Thaw,
    /// Move a process that escaped back into the run's cgroup.
    Recapture {
        /// The process.
        pid: u32,
    },
    /// Place nothing new on the GPU that the rule tripped on.
    CordonGpu,
    /// Place nothing new on the node.
    CordonNode,
}

impl Action {
    /// The names a policy may write, in the order in which they are carried out.
    pub const IN_POLICY: [Action; 7] = [
        Action::Block,
        Action::Freeze,
        Action::CordonGpu,
        Action::CordonNode,
        Action::Snapshot,
        Action::Kill,
        Action::Notify,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Action::Notify => "notify",
            Action::Snapshot => "snapshot",
            Action::Block => "block",
            Action::Freeze => "freeze",
            Action::Kill => "kill",
            Action::Thaw => "thaw",
            Action::Recapture { .. } => "recapture",
            Action::CordonGpu => "cordon-gpu",
            Action::CordonNode => "cordon-node",
        }
    }

    /// Whether the action stops or bounds the run.
    pub fn contains(self) -> bool {
        matches!(self, Action::Block | Action::Freeze | Action::Kill | Action::Recapture { .. })
    }

    /// What the action is known not to reach; shown by `--dry-run` and in the incident.
    pub fn known_leaks(self) -> &'static [&'static str] {
        match self {
            Action::Freeze => &[
                "kernels already queued on a GPU run on",
                "root outside the run can thaw its cgroup; failsafed re-asserts at its next sample",
                "a task in uninterruptible sleep (D state) freezes only when it wakes",
            ],
            Action::Block => &["RDMA, NVLink and shared memory do not pass through the blocked hooks"],
            Action::Kill => {
                &["a task in uninterruptible sleep dies only when it wakes", "GPU memory can take seconds to come back"]
            }
            Action::CordonGpu | Action::CordonNode => {
                &["what runs there goes on", "a scheduler that does not ask failsafe places work all the same"]
            }
            Action::Notify | Action::Snapshot | Action::Thaw | Action::Recapture { .. } => &[],
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Recapture { pid } => write!(f, "recapture pid {pid}"),
            other => f.write_str(other.name()),
        }
    }
}

/// Whether a decision is carried out or only recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Carried out.
    #[default]
    Enforce,
    /// Recorded as what would have been done.
    Observe,
}

/// How sure the rule's owner is that a trip means what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// A hint.
    Low,
    /// Likely.
    #[default]
    Medium,
    /// As good as certain.
    High,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// For information.
    Info,
    /// Somebody should look.
    #[default]
    Warning,
    /// Somebody must look now.
    Critical,
}

/// The nth decision on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DecisionId {
    /// The run.
    pub run: RunId,
    /// Counted from 1 for each run.
    pub n: u32,
}

/// The nth incident of a run: all decisions from the first that contained it until it is thawed or ends.
///
/// Shown as `inc-` with the last 12 hex digits of the run's id and the number, e.g. `inc-5f0c9a1b2c3d-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IncidentId {
    /// The last 48 bits of the run's id: a UUIDv7's random part.
    pub run: u64,
    /// Counted from 1 for each run.
    pub n: u32,
}

impl IncidentId {
    /// The nth incident of `run`.
    pub fn new(run: RunId, n: u32) -> IncidentId {
        IncidentId { run: run.0.as_u128() as u64 & 0xffff_ffff_ffff, n }
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inc-{:012x}-{}", self.run, self.n)
    }
}

impl FromStr for IncidentId {
    type Err = String;
    fn from_str(text: &str) -> Result<IncidentId, String> {
        let parts = || {
            let (run, n) = text.strip_prefix("inc-")?.split_once('-')?;
            let run = (run.len() == 12).then(|| u64::from_str_radix(run, 16).ok())??;
            Some(IncidentId { run, n: n.parse().ok()? })
        };
        parts().ok_or_else(|| format!("`{text}` is not an incident id such as inc-5f0c9a1b2c3d-1"))
    }
}

impl Serialize for IncidentId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IncidentId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<IncidentId, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A value that was seen, as it stands in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The input's number.
    pub seq: u64,
    /// When.
    pub at: MonoTime,
    /// Whom it speaks of.
    pub subject: Subject,
    /// What was measured.
    pub kind: Kind,
    /// The value.
    pub value: Value,
    /// As of [`crate::Signal`].
    #[serde(default)]
    pub repeats: u64,
}

impl Observation {
    /// Of a signal.
    pub fn of(signal: &Signal) -> Observation {
        let Signal { seq, at, subject, kind, value, repeats, .. } = signal;
        Observation {
            seq: *seq,
            at: *at,
            subject: subject.clone(),
            kind: kind.clone(),
            value: value.clone(),
            repeats: *repeats,
        }
    }

    /// The value as a person reads it, with how many more there were.
    pub fn show(&self) -> String {
        let value = self.value.show(&self.kind);
        if self.repeats == 0 { value } else { format!("{value} (and {} more like it before)", self.repeats) }
    }

    /// The signal, of whom where that is not the run, and the value.
    pub fn words(&self) -> String {
        let of = match &self.subject {
            Subject::Run(_) => String::new(),
            other => format!(" of {other}"),
        };
        format!("{}{of}: {}", self.kind, self.show())
    }

    /// The event, where the value is one.
    pub fn event(&self) -> Option<&Event> {
        match &self.value {
            Value::Event(event) => Some(event),
            _ => None,
        }
    }
}

/// Why a decision was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A rule of the run's policy.
    Rule {
        /// The rule's id.
        rule: String,
        /// The condition in words, with the bound.
        condition: String,
        /// What went on before the trip: trips held back since the last decision of this rule.
        suppressed: u64,
    },
    /// Somebody's command.
    Operator(Request),
    /// failsafe's own upkeep of a containment.
    Upkeep {
        /// Which.
        what: Upkeep,
    },
}

/// What failsafe does of itself, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upkeep {
    /// A process left the run's cgroup.
    Escape,
    /// Somebody else thawed the contained run.
    ForeignThaw,
    /// A stop rule latched the run in the kernel, and its event was lost.
    Latched,
    /// The run was found frozen at the daemon's start, for no recorded reason.
    FoundFrozen,
    /// A sensor that the policy needs went blind.
    Blind,
    /// An action failed, or was interrupted by the daemon's end.
    Retry,
    /// The run differs from the one that it continues, and its policy holds such a run.
    Drift,
}

impl fmt::Display for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Upkeep::Escape => "escape",
            Upkeep::ForeignThaw => "foreign-thaw",
            Upkeep::Latched => "latched",
            Upkeep::FoundFrozen => "found-frozen",
            Upkeep::Blind => "blind",
            Upkeep::Retry => "retry",
            Upkeep::Drift => "drift",
        })
    }
}

/// What the core wants done, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Which decision.
    pub id: DecisionId,
    /// The incident it belongs to.
    pub incident: IncidentId,
    /// The instant of the input that caused it.
    pub at: MonoTime,
    /// Why.
    pub cause: Cause,
    /// What is to be done, in order.
    pub actions: Vec<Action>,
    /// Numbers of the inputs that caused it.
    pub because: Vec<u64>,
    /// The values seen.
    pub values: Vec<Observation>,
    /// How sure.
    pub confidence: Confidence,
    /// How bad.
    pub severity: Severity,
    /// Carried out, or only recorded.
    pub mode: Mode,
    /// The policy that the run is pinned to.
    pub policy: PolicyDigest,
}

impl Decision {
    /// The condition of its rule, the command, or what failsafe did by itself. `blind`: what was not seen, where that is the cause.
    pub fn condition(&self, blind: Option<&str>) -> String {
        match &self.cause {
            Cause::Rule { condition, .. } => condition.clone(),
            Cause::Operator(request) => {
                let actions: Vec<String> = self.actions.iter().map(ToString::to_string).collect();
                format!("{} by {} ({}): {}", actions.join(", "), request.actor, request.role, request.reason)
            }
            Cause::Upkeep { what } => match blind {
                Some(blind) => format!("failsafe: {what}: {blind}"),
                None => format!("failsafe: {what}"),
            },
        }
    }
}

/// One thing that was proved by reading it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was read, e.g. `cgroup.events frozen 1`.
    pub fact: String,
    /// What it said.
    pub seen: String,
}

/// How far an action got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Its name in recordings, where `Verdict` is that of an event.
#[serde(rename = "OutcomeVerdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Done, and read back.
    Proved,
    /// Done in part: each string says what was not proved.
    Partial(Vec<String>),
    /// Not done.
    Failed(String),
}

/// What came of one action of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The decision.
    pub decision: DecisionId,
    /// Its incident.
    pub incident: IncidentId,
    /// The action.
    pub action: Action,
    /// How far it got.
    pub verdict: Verdict,
    /// What was read back.
    pub proofs: Vec<Proof>,
    /// When the last proof was read.
    pub at: MonoTime,
    /// From the instant of the decision's cause to `at`.
    pub took: Span,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_ids_parse_back() {
        let run: RunId = "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap();
        let id = IncidentId::new(run, 3);
        assert_eq!(id.to_string(), "inc-5f0c9a1b2c3d-3");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["inc-5f0c9a1b2c3d", "inc-5f-1", "5f0c9a1b2c3d-1", "inc-5f0c9a1b2c3d-x"] {
            assert!(bad.parse::<IncidentId>().is_err(), "{bad}");
        }
    }
}
