//! A condition of several parts: `all`, `any`, `not` and `at_least` over tests of signals and events.
//!
//! Plain data, as it is stored and as the digest has it. [`crate::engine`] compiles it once for each run.

use super::{Bound, EventMatch, Op, Over, Relative, condition};
use crate::{
    decision::Confidence,
    detect::Detect,
    signal::{Kind, Source},
    time::Span,
};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// Tests in one condition at most.
pub const MAX_LEAVES: usize = 32;
/// Tests in the conditions of one policy that have several parts: each keeps a state for each series of its metric.
pub const MAX_POLICY_LEAVES: usize = 2_048;
/// How deep `all`, `any`, `not` and `at_least` may be nested: a test alone has depth 1.
pub const MAX_DEPTH: usize = 6;
/// Events that one test can count at most: it keeps the time of each.
pub const MAX_COUNT: u32 = 1_000;
/// The metric by which a run reports its phase.
pub const PHASE_METRIC: &str = "phase";

/// A condition of several parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Its parts.
    pub root: Node,
    /// For how long it must hold without a break before the rule trips.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hold: Span,
    /// For how long it must not hold before the rule is armed again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep: Span,
}

/// A part of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    /// Every one holds.
    All(Vec<Node>),
    /// At least one holds.
    Any(Vec<Node>),
    /// It does not hold.
    Not(Box<Node>),
    /// So many of them hold.
    AtLeast {
        /// How many.
        n: usize,
        /// Of these.
        of: Vec<Node>,
    },
    /// A test.
    Leaf(Leaf),
}

/// One test, with what goes for it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// What is tested.
    pub test: Test,
    /// For how long it must hold without a break.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hold: Span,
    /// How certain it is that the test means what it states; high unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// What is tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// A signal beyond a bound.
    Threshold {
        /// The signal.
        kind: Kind,
        /// Which side.
        op: Op,
        /// The bound, per second where `over` is set.
        bound: Bound,
        /// From here on it no longer holds.
        clear: Bound,
        /// For a rate: its window.
        over: Option<Span>,
        /// Of a metric: over which series.
        #[serde(default, skip_serializing_if = "is_any")]
        series: Over,
    },
    /// A signal beyond a bound that moves.
    Compare {
        /// The signal.
        kind: Kind,
        /// Which side.
        op: Op,
        /// The bound.
        than: Relative,
        /// Over which series: `any` or `all`.
        #[serde(default, skip_serializing_if = "is_any")]
        series: Over,
    },
    /// A metric of the run is NaN or infinite.
    NotFinite {
        /// The signal.
        kind: Kind,
        /// Over which series: `any` or `all`.
        #[serde(default, skip_serializing_if = "is_any")]
        series: Over,
    },
    /// A detector judges the values of a signal.
    Detect {
        /// The signal.
        kind: Kind,
        /// How.
        detect: Detect,
        /// Over which series: `any` or `all`.
        #[serde(default, skip_serializing_if = "is_any")]
        series: Over,
    },
    /// A signal has had no value for a time.
    Absent {
        /// The signal.
        kind: Kind,
        /// For how long.
        after: Span,
        /// Of a metric: `all` series, or `any` one that had values.
        #[serde(default = "all_series", skip_serializing_if = "is_all")]
        series: Over,
    },
    /// Something happened within a window before now.
    Event {
        /// What.
        wanted: EventMatch,
        /// The window.
        within: Span,
    },
    /// Something happened at least so many times within a window before now.
    Count {
        /// What.
        wanted: EventMatch,
        /// How many times.
        count: u32,
        /// The window.
        within: Span,
    },
    /// The run reports that it is in a phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// The run has been watched for a time.
    Age {
        /// For how long.
        after: Span,
    },
    /// The run has made steps since the first one that it reported.
    Steps {
        /// How many.
        after: u64,
    },
}

/// A phase of a training, which the run reports as the metric [`PHASE_METRIC`] by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The learning rate still grows.
    WarmUp,
    /// It trains.
    Train,
    /// It measures the model.
    Evaluate,
    /// It writes a checkpoint.
    Checkpoint,
}

impl Phase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Phase; 4] = [Phase::WarmUp, Phase::Train, Phase::Evaluate, Phase::Checkpoint];

    /// The name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Phase::WarmUp => "warm-up",
            Phase::Train => "train",
            Phase::Evaluate => "evaluate",
            Phase::Checkpoint => "checkpoint",
        }
    }

    /// The value of the metric.
    pub fn number(self) -> u8 {
        match self {
            Phase::WarmUp => 1,
            Phase::Train => 2,
            Phase::Evaluate => 3,
            Phase::Checkpoint => 4,
        }
    }
}

impl Node {
    /// The parts of it.
    pub fn parts(&self) -> &[Node] {
        match self {
            Node::All(of) | Node::Any(of) | Node::AtLeast { of, .. } => of,
            Node::Not(of) => std::slice::from_ref(of),
            Node::Leaf(_) => &[],
        }
    }

    /// How many of its parts must hold for it to hold; `not` and a test have no such number.
    pub fn needed(&self) -> usize {
        match self {
            Node::All(of) => of.len(),
            Node::Any(_) => 1,
            Node::AtLeast { n, .. } => *n,
            Node::Not(_) | Node::Leaf(_) => 1,
        }
    }

    fn collect<'t>(&'t self, out: &mut Vec<&'t Leaf>) {
        if let Node::Leaf(leaf) = self {
            out.push(leaf);
        }
        self.parts().iter().for_each(|part| part.collect(out));
    }
}

impl Tree {
    /// Its tests, in the order in which they are written.
    pub fn leaves(&self) -> Vec<&Leaf> {
        let mut out = Vec::new();
        self.root.collect(&mut out);
        out
    }

    /// The numbers of the run's manifest that it reads.
    pub fn manifest_keys(&self) -> Vec<&str> {
        self.leaves().into_iter().filter_map(|leaf| leaf.test.manifest_key()).collect()
    }

    /// Whether it is judged for each GPU of the run by itself: a test of it is on a signal or an event of a GPU.
    pub fn is_of_gpus(&self) -> bool {
        self.leaves().iter().any(|leaf| leaf.test.is_of_gpus())
    }
}

impl Test {
    /// The number of the run's manifest that it reads.
    pub fn manifest_key(&self) -> Option<&str> {
        if let Test::Compare { than, .. } = self { than.manifest() } else { None }
    }

    /// The signal that it judges. A phase and steps come with metrics, but are judged otherwise.
    pub fn kind(&self) -> Option<&Kind> {
        match self {
            Test::Threshold { kind, .. }
            | Test::Compare { kind, .. }
            | Test::NotFinite { kind, .. }
            | Test::Detect { kind, .. }
            | Test::Absent { kind, .. } => Some(kind),
            Test::Event { .. } | Test::Count { .. } | Test::Phase { .. } | Test::Age { .. } | Test::Steps { .. } => {
                None
            }
        }
    }

    /// The signals that it reads: what it judges, and what that is compared with.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        let other = if let Test::Compare { than, .. } = self { than.signal() } else { None };
        self.kind().into_iter().chain(other)
    }

    /// Whether it waits for a value that does not come: without values it is not blind.
    pub fn waits(&self) -> bool {
        match self {
            Test::Absent { .. } => true,
            Test::Detect { detect, .. } => detect.spec().waits,
            Test::Threshold { .. }
            | Test::Compare { .. }
            | Test::NotFinite { .. }
            | Test::Event { .. }
            | Test::Count { .. }
            | Test::Phase { .. }
            | Test::Age { .. }
            | Test::Steps { .. } => false,
        }
    }

    /// The event that it waits for.
    pub fn event(&self) -> Option<&EventMatch> {
        match self {
            Test::Event { wanted, .. } | Test::Count { wanted, .. } => Some(wanted),
            Test::Threshold { .. }
            | Test::Compare { .. }
            | Test::NotFinite { .. }
            | Test::Detect { .. }
            | Test::Absent { .. }
            | Test::Phase { .. }
            | Test::Age { .. }
            | Test::Steps { .. } => None,
        }
    }

    /// The sensor that it depends on.
    pub fn source(&self) -> Option<Source> {
        match self {
            Test::Phase { .. } => Some(Source::App),
            Test::Age { .. } => None,
            // They come with the metrics that the other tests judge.
            Test::Steps { .. } => None,
            Test::Event { wanted, .. } | Test::Count { wanted, .. } => Some(condition::event_source(wanted.kind)),
            other => other.kind().map(Kind::source),
        }
    }

    /// Whether it is judged for each GPU by itself.
    pub fn is_of_gpus(&self) -> bool {
        match self {
            Test::Event { wanted, .. } | Test::Count { wanted, .. } => {
                condition::event_source(wanted.kind) == Source::Nvml
            }
            other => other.kinds().any(Kind::is_of_a_gpu),
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)?;
        if self.hold > Span(0) {
            write!(f, ", for {}", self.hold)?;
        }
        if self.keep > Span(0) {
            write!(f, ", armed again after {} without it", self.keep)?;
        }
        Ok(())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, of: &[Node]| {
            f.write_char('(')?;
            for (n, part) in of.iter().enumerate() {
                write!(f, "{}{part}", if n > 0 { "; " } else { "" })?;
            }
            f.write_char(')')
        };
        match self {
            Node::All(of) => f.write_str("all of ").and_then(|()| list(f, of)),
            Node::Any(of) => f.write_str("any of ").and_then(|()| list(f, of)),
            Node::Not(of) => write!(f, "not ({of})"),
            Node::AtLeast { n, of } => write!(f, "at least {n} of ").and_then(|()| list(f, of)),
            Node::Leaf(leaf) => leaf.fmt(f),
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Test::Threshold { kind, op, bound, over, series, .. } => {
                condition::show_bound(f, kind, *op, *bound, *over)?;
                condition::show_series(f, *series)?;
            }
            Test::Compare { kind, op, than, series } => {
                write!(f, "{kind} {} {}", condition::side(*op), than.show(kind))?;
                condition::show_series(f, *series)?;
            }
            Test::NotFinite { kind, series } => {
                write!(f, "{kind} is NaN or infinite")?;
                condition::show_series(f, *series)?;
            }
            Test::Detect { kind, detect, series } => {
                write!(f, "{kind} {} ({})", detect.spec().name, detect.params(kind.unit()))?;
                condition::show_series(f, *series)?;
            }
            Test::Absent { kind, after, series } => {
                write!(f, "{kind} absent for {after}")?;
                if *series == Over::Any {
                    f.write_str(" in any of the series")?;
                }
            }
            Test::Event { wanted, within } => write!(f, "{wanted} within {within}")?,
            Test::Count { wanted, count, within } => {
                write!(f, "at least {count} times {wanted} within {within}")?;
            }
            Test::Phase { phase } => write!(f, "phase {}", phase.name())?,
            Test::Age { after } => write!(f, "the run watched for {after}")?,
            Test::Steps { after } => write!(f, "the run made {after} steps")?,
        }
        if self.hold > Span(0) { write!(f, " for {}", self.hold) } else { Ok(()) }
    }
}

fn is_zero(span: &Span) -> bool {
    *span == Span(0)
}

fn is_any(over: &Over) -> bool {
    *over == Over::Any
}

/// How the absence of a metric is judged where the policy does not say: no series has a value.
fn all_series() -> Over {
    Over::All
}

fn is_all(over: &Over) -> bool {
    *over == Over::All
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_numbered_in_their_order_from_1() {
        let numbers: Vec<u8> = Phase::ALL.iter().map(|phase| phase.number()).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
    }
}
