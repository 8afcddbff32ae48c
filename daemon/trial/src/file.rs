//! A test file, as it is understood: what comes in at which time, and what is expected.

use crate::values::{Steps, Values};
use failsafe_core::{
    decision::{Action, Mode, Upkeep},
    event::{Assurance, Event, Verdict},
    input::Command,
    policy::{Policy, diagnostic::Diagnostics},
    signal::{Kind, Real, Series, Source},
    subject::{GpuId, Process},
    time::Span,
};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::read::{MAX_BYTES, policy_of, read};

/// Inputs of one test at most.
pub const MAX_INPUTS: u64 = 5_000_000;
/// The longest test.
pub const MAX_LENGTH: Span = Span::from_secs(7 * 24 * 3_600);

/// A test file.
#[derive(Debug, Clone, PartialEq)]
pub struct TestFile {
    /// Its tests.
    pub cases: Vec<Case>,
}

/// A policy, its tests, or what is wrong with them.
pub type Read = Result<TestFile, Diagnostics>;

/// One test.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// The GPUs of the run.
    pub gpus: BTreeSet<GpuId>,
    /// Of the noise.
    pub seed: u64,
    /// How long the run is watched.
    pub length: Span,
    /// What comes in.
    pub inputs: Vec<Feed>,
    /// What is expected.
    pub expect: Vec<Expect>,
    /// Decisions that are not expected do not fail the test.
    pub others: bool,
    /// What must hold of all decisions.
    pub properties: BTreeSet<Property>,
}

/// Inputs of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Its line in the file.
    pub line: usize,
    /// The first.
    pub at: Span,
    /// The time between two; 0 where there is one.
    pub every: Span,
    /// How many.
    pub count: u64,
    /// What.
    pub what: What,
}

/// What comes in.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Values of a signal.
    Values {
        /// The signal.
        kind: Kind,
        /// The GPUs, of a signal of GPUs.
        gpus: Vec<GpuId>,
        /// The series, of a metric.
        series: Series,
        /// The values.
        values: Values,
        /// The steps that come with them, of a metric.
        steps: Steps,
    },
    /// An event.
    Event {
        /// The event, as if it had been let through.
        event: Event,
        /// The verdict that the test states.
        verdict: Option<Verdict>,
        /// How surely it was seen, as the test states.
        assurance: Option<Assurance>,
        /// The process.
        process: Process,
        /// The GPUs, of an event of GPUs.
        gpus: Vec<GpuId>,
    },
    /// A sensor goes blind for a time.
    Blind(Source, Span),
    /// A sensor loses events.
    Lost(Source),
    /// A signal of GPUs cannot be read for a time.
    Unread(Kind, Vec<GpuId>, Span),
    /// An operator's command.
    Operator(Command),
    /// The run is bounded from here on, or only watched.
    Mode(Mode),
    /// Numbers of the run's manifest, by section and name.
    Manifest(BTreeMap<String, Real>),
    /// A series of metrics ends.
    Ends(Series),
}

/// An expected decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// Its line in the file.
    pub line: usize,
    /// Who decides.
    pub who: Who,
    /// Not before.
    pub from: Span,
    /// Not after.
    pub until: Span,
    /// Exactly these.
    pub actions: Option<BTreeSet<Action>>,
    /// Carried out, or only recorded.
    pub mode: Option<Mode>,
    /// So often.
    pub count: u64,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A rule, by its id and its place in the policy.
    Rule(String, usize),
    /// failsafe itself.
    Upkeep(Upkeep),
}

/// What must hold of all decisions of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// No decision of rules or of failsafe itself.
    NoDecision,
    /// Nothing is blocked, frozen or killed.
    NoContainment,
    /// Nothing is killed that was not frozen before.
    FreezeBeforeKill,
    /// Nothing is killed before a snapshot was taken.
    SnapshotBeforeKill,
    /// Every decision notifies.
    AlwaysNotify,
}

impl Property {
    /// Every property, by the name in test files.
    pub const ALL: [(&'static str, Property); 5] = [
        ("no-decision", Property::NoDecision),
        ("no-containment", Property::NoContainment),
        ("freeze-before-kill", Property::FreezeBeforeKill),
        ("snapshot-before-kill", Property::SnapshotBeforeKill),
        ("always-notify", Property::AlwaysNotify),
    ];

    /// The name in test files.
    pub fn name(self) -> &'static str {
        Property::ALL.iter().find(|(_, property)| *property == self).map_or("", |(name, _)| name)
    }
}

impl Feed {
    /// The time of the last input.
    pub fn last(&self) -> Span {
        Span(self.at.0.saturating_add(self.every.0.saturating_mul(self.count.saturating_sub(1))))
    }
}

/// The place of a rule in its policy.
pub(crate) fn place(policy: &Policy, id: &str) -> Option<usize> {
    policy.rules.iter().position(|rule| rule.id == id)
}
