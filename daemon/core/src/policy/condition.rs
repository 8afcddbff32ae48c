//! Conditions: built once from TOML, evaluated without allocation.

use super::{
    Over,
    tree::{Leaf, PHASE_METRIC, Test, Tree},
};
use crate::{
    event::{CUT, Event, EventKind, Field, FieldValue, Verdict},
    signal::{Claimed, Kind, Real, Source, Value},
    subject::Process,
    time::Span,
    unit::Unit,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Which side of the bound trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Strictly above.
    Above,
    /// Strictly below.
    Below,
}

/// A bound in the signal's own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// For integer signals.
    Integer(i64),
    /// For the run's own metrics.
    Real(Real),
}

impl Bound {
    /// Whether `value` is strictly on the `op` side. A NaN is on neither side: [`Condition::NotFinite`] is for it.
    pub fn passed(self, op: Op, value: &Value) -> bool {
        match (self, value) {
            (Bound::Integer(bound), Value::Integer(value)) => match op {
                Op::Above => *value > bound,
                Op::Below => *value < bound,
            },
            (Bound::Real(Real(bound)), Value::Real(Real(value)))
            | (Bound::Real(Real(bound)), Value::Claimed(Claimed { value: Real(value), .. })) => match op {
                Op::Above => *value > bound,
                Op::Below => *value < bound,
            },
            _ => false,
        }
    }

    /// As a policy has it.
    pub fn show(self, unit: Unit) -> String {
        match self {
            Bound::Integer(value) => unit.show_bound(value),
            Bound::Real(real) => real.to_string(),
        }
    }
}

/// A pattern for one field of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// Text that begins so (written `abc*`).
    Prefix(String),
    /// Text that ends so (written `*abc`).
    Suffix(String),
    /// Text that holds this (written `*abc*`).
    Holds(String),
    /// A number.
    Number(i64),
    /// A network.
    Net(IpNet),
}

/// Whether a pattern or a condition fits, as far as what was read says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It does not.
    No,
    /// It may: what decides it is in a part that was cut.
    Unknown,
    /// It does.
    Yes,
}

impl Pattern {
    /// Whether the value fits, which may be cut ([`CUT`]).
    pub fn fit(&self, value: FieldValue<'_>) -> Fit {
        match value {
            FieldValue::Text(text) => match text.split_once(CUT) {
                Some((head, rest)) => self.fit_cut(head, rest.rsplit_once(CUT).map_or(rest, |(_, tail)| tail)),
                None => self.fits(value).into(),
            },
            value => self.fits(value).into(),
        }
    }

    /// Of a text of which the beginning and the end are known.
    fn fit_cut(&self, head: &str, tail: &str) -> Fit {
        let (yes, maybe) = match self {
            Pattern::Exact(p) => (false, p.len() > head.len() + tail.len() && p.starts_with(head) && p.ends_with(tail)),
            Pattern::Prefix(p) => (head.starts_with(p.as_str()), p.starts_with(head)),
            Pattern::Suffix(p) => (tail.ends_with(p.as_str()), p.ends_with(tail)),
            Pattern::Holds(p) => (head.contains(p.as_str()) || tail.contains(p.as_str()), true),
            Pattern::Number(_) | Pattern::Net(_) => (false, false),
        };
        if yes {
            Fit::Yes
        } else if maybe {
            Fit::Unknown
        } else {
            Fit::No
        }
    }

    /// Whether the value fits.
    pub fn fits(&self, value: FieldValue<'_>) -> bool {
        match (self, value) {
            (Pattern::Exact(p), FieldValue::Text(t)) => p == t,
            (Pattern::Prefix(p), FieldValue::Text(t)) => t.starts_with(p.as_str()),
            (Pattern::Suffix(p), FieldValue::Text(t)) => t.ends_with(p.as_str()),
            (Pattern::Holds(p), FieldValue::Text(t)) => t.contains(p.as_str()),
            (Pattern::Number(p), FieldValue::Number(n)) => *p == n,
            (Pattern::Net(net), FieldValue::Address(address)) => net.contains(&address),
            _ => false,
        }
    }
}

impl From<bool> for Fit {
    fn from(fits: bool) -> Fit {
        if fits { Fit::Yes } else { Fit::No }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(p) => f.write_str(p),
            Pattern::Prefix(p) => write!(f, "{p}*"),
            Pattern::Suffix(p) => write!(f, "*{p}"),
            Pattern::Holds(p) => write!(f, "*{p}*"),
            Pattern::Number(n) => n.fmt(f),
            Pattern::Net(net) => net.fmt(f),
        }
    }
}

/// A field and the patterns of which one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldMatch {
    /// The field.
    pub field: Field,
    /// Any of these.
    pub any_of: Vec<Pattern>,
}

/// An event with field matches, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMatch {
    /// The event's kind.
    pub kind: EventKind,
    /// The field matches.
    pub fields: Vec<FieldMatch>,
}

impl EventMatch {
    /// The patterns of a field; `None` where it is not given, and anything fits.
    pub fn given(&self, field: Field) -> Option<&[Pattern]> {
        self.fields.iter().find(|m| m.field == field).map(|m| m.any_of.as_slice())
    }

    /// Whether the event matches. A field of several names or patterns fits as the best of them does, the whole as its worst field.
    pub fn fit(&self, event: &Event, process: Option<&Process>) -> Fit {
        self.fit_with(event, event.verdict(), process)
    }

    /// The same, had the kernel denied what it let through because the policy only observes.
    pub fn fit_if_denied(&self, event: &Event, process: Option<&Process>) -> Fit {
        match event.verdict() {
            Some(Verdict::WouldDeny) => self.fit_with(event, Some(Verdict::Denied), process),
            _ => Fit::No,
        }
    }

    fn fit_with(&self, event: &Event, verdict: Option<Verdict>, process: Option<&Process>) -> Fit {
        if event.kind() != self.kind || (verdict == Some(Verdict::Probe) && self.given(Field::Verdict).is_none()) {
            return Fit::No;
        }
        let of_field = |m: &FieldMatch| {
            let fit = |value| m.any_of.iter().map(|pattern| pattern.fit(value)).max().unwrap_or(Fit::No);
            let value = match m.field {
                Field::Verdict => verdict.map(|verdict| FieldValue::Text(verdict.name())),
                field => event.field(field, process),
            };
            let own = value.map_or(Fit::No, fit);
            let names = if m.field == Field::Path { event.known_as() } else { &[] };
            names.iter().map(|name| fit(FieldValue::Text(name))).fold(own, Fit::max)
        };
        self.fields.iter().map(of_field).min().unwrap_or(Fit::Yes)
    }

    /// Whether the event surely matches.
    pub fn matches(&self, event: &Event, process: Option<&Process>) -> bool {
        self.fit(event, process) == Fit::Yes
    }
}

/// How often a value of a metric is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judgements {
    /// However many series there are.
    pub once: u64,
    /// Over the series of the metric.
    pub by_series: u64,
}

/// When a rule trips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A signal beyond a bound.
    Threshold {
        /// The signal.
        kind: Kind,
        /// Which side.
        op: Op,
        /// The bound, per second where `over` is set.
        bound: Bound,
        /// The rule clears when the value is back on the other side of this; the bound itself unless given.
        clear: Bound,
        /// For how long it must hold without a break.
        hold: Span,
        /// For a rate: the window over which it is taken.
        over: Option<Span>,
    },
    /// A metric of the run is NaN or infinite.
    NotFinite {
        /// The signal.
        kind: Kind,
    },
    /// Something happened.
    Event(EventMatch),
    /// Several of these, or one with what only such a condition can have.
    Tree(Tree),
}

impl Condition {
    /// The sensors that it depends on.
    pub fn sources(&self) -> BTreeSet<Source> {
        match self {
            Condition::Threshold { kind, .. } | Condition::NotFinite { kind } => [kind.source()].into(),
            Condition::Event(wanted) => [event_source(wanted.kind)].into(),
            Condition::Tree(tree) => {
                let of = |leaf: &&Leaf| {
                    leaf.test.source().into_iter().chain(leaf.test.kinds().map(Kind::source)).collect::<Vec<_>>()
                };
                tree.leaves().iter().flat_map(of).collect()
            }
        }
    }

    /// The one event that it waits for, alone. Only such a condition can be given to the kernel with an effect.
    pub fn event(&self) -> Option<&EventMatch> {
        match self {
            Condition::Event(event) => Some(event),
            Condition::Threshold { .. } | Condition::NotFinite { .. } | Condition::Tree(_) => None,
        }
    }

    /// Every event that it waits for, alone or beside other tests: the kernel has to report these. Whoever adds a kind of condition
    /// decides here whether the kernel, the assessment of a policy and the watch lists see it.
    pub fn events(&self) -> Vec<&EventMatch> {
        match self {
            Condition::Event(event) => vec![event],
            Condition::Threshold { .. } | Condition::NotFinite { .. } => Vec::new(),
            Condition::Tree(tree) => tree.leaves().iter().filter_map(|leaf| leaf.test.event()).collect(),
        }
    }

    /// The signals that it judges; of a run's phase it is not one.
    pub fn signals(&self) -> Vec<&Kind> {
        match self {
            Condition::Threshold { kind, .. } | Condition::NotFinite { kind } => vec![kind],
            Condition::Event(_) => Vec::new(),
            Condition::Tree(tree) => tree.leaves().into_iter().flat_map(|leaf| leaf.test.kinds()).collect(),
        }
    }

    /// The numbers of the run's manifest that it reads.
    pub fn manifest_keys(&self) -> Vec<&str> {
        match self {
            Condition::Tree(tree) => tree.manifest_keys(),
            Condition::Threshold { .. } | Condition::NotFinite { .. } | Condition::Event(_) => Vec::new(),
        }
    }

    /// The metrics of the run that it judges.
    pub fn metrics(&self) -> BTreeSet<&str> {
        let mut metrics: BTreeSet<&str> = self.signals().into_iter().filter_map(metric_of).collect();
        if let Condition::Tree(tree) = self
            && tree.leaves().iter().any(|leaf| matches!(leaf.test, Test::Phase { .. }))
        {
            metrics.insert(PHASE_METRIC);
        }
        metrics
    }

    /// The metrics of which a value must come again and again: it is blind without. What waits for a value that does not come is not, and
    /// a phase is reported when it begins only.
    pub fn awaited_metrics(&self) -> BTreeSet<&str> {
        match self {
            Condition::Tree(tree) => {
                let tests = tree.leaves().into_iter().map(|leaf| &leaf.test);
                tests.filter(|test| !test.waits()).flat_map(Test::kinds).filter_map(metric_of).collect()
            }
            flat => flat.metrics(),
        }
    }

    /// What a value of the metric costs to judge by it.
    pub fn judgements(&self, metric: &str) -> Judgements {
        match self {
            Condition::Tree(tree) if self.metrics().contains(metric) => {
                // Every test of it is judged again, and each looks at all series.
                Judgements { once: 0, by_series: tree.leaves().len() as u64 }
            }
            // Over all series together they are `by_series`, see `Rule::judgements`.
            Condition::Threshold { kind: Kind::Metric(name), .. }
            | Condition::NotFinite { kind: Kind::Metric(name) }
                if name == metric =>
            {
                Judgements { once: 1, by_series: 0 }
            }
            _ => Judgements::default(),
        }
    }

    /// The signals of GPUs without which it is never met.
    pub fn reads(&self) -> Vec<&Kind> {
        match self {
            Condition::Threshold { kind, .. } => reads_of(kind).iter().collect(),
            Condition::NotFinite { .. } | Condition::Event(_) => Vec::new(),
            Condition::Tree(_) => self.signals().into_iter().flat_map(reads_of).collect(),
        }
    }

    /// Whether it can trip on a GPU of the run.
    pub fn is_of_gpus(&self) -> bool {
        match self {
            Condition::Threshold { kind, .. } | Condition::NotFinite { kind } => kind.is_of_a_gpu(),
            Condition::Event(wanted) => event_source(wanted.kind) == Source::Nvml,
            Condition::Tree(tree) => tree.is_of_gpus(),
        }
    }
}

/// The signals of a GPU that must be read for a signal.
pub(crate) fn reads_of(kind: &Kind) -> &[Kind] {
    if kind.is_read_of_a_gpu() { std::slice::from_ref(kind) } else { kind.made_of() }
}

fn metric_of(kind: &Kind) -> Option<&str> {
    if let Kind::Metric(name) = kind { Some(name) } else { None }
}

/// The sensor that an event comes from.
pub fn event_source(kind: EventKind) -> Source {
    match kind {
        EventKind::Xid | EventKind::GpuEvent | EventKind::ForeignGpuProcess => Source::Nvml,
        EventKind::ForeignThaw | EventKind::Latched | EventKind::Drift => Source::Guard,
        EventKind::Exec
        | EventKind::Fork
        | EventKind::Exit
        | EventKind::Open
        | EventKind::Connect
        | EventKind::Send
        | EventKind::Bind
        | EventKind::Listen
        | EventKind::Socket
        | EventKind::Syscall
        | EventKind::Privilege
        | EventKind::ExecMemory
        | EventKind::Protect
        | EventKind::Budget
        | EventKind::Dns
        | EventKind::Oom
        | EventKind::Leave => Source::Ebpf,
    }
}

/// A signal and its bound.
pub(super) fn show_bound(
    f: &mut fmt::Formatter<'_>,
    kind: &Kind,
    op: Op,
    bound: Bound,
    over: Option<Span>,
) -> fmt::Result {
    write!(f, "{kind} {} {}", side(op), bound.show(kind.unit()))?;
    if let Some(over) = over { write!(f, "/s over {over}") } else { Ok(()) }
}

pub(super) fn side(op: Op) -> &'static str {
    match op {
        Op::Above => "above",
        Op::Below => "below",
    }
}

/// The series that a metric is judged over, where it is not any.
pub(super) fn show_series(f: &mut fmt::Formatter<'_>, over: Over) -> fmt::Result {
    if over == Over::Any { Ok(()) } else { write!(f, " over {over} of the series") }
}

impl fmt::Display for EventMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}", self.kind.name())?;
        for FieldMatch { field, any_of } in &self.fields {
            write!(f, ", {} = ", field.name())?;
            for (i, pattern) in any_of.iter().enumerate() {
                write!(f, "{}{pattern}", if i > 0 { " or " } else { "" })?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Threshold { kind, op, bound, hold, over, .. } => {
                show_bound(f, kind, *op, *bound, *over)?;
                if *hold > Span(0) { write!(f, " for {hold}") } else { Ok(()) }
            }
            Condition::NotFinite { kind } => write!(f, "{kind} is NaN or infinite"),
            Condition::Event(wanted) => wanted.fmt(f),
            Condition::Tree(tree) => tree.fmt(f),
        }
    }
}
