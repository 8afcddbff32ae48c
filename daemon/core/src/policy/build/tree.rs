//! A `when` of several parts, and one test with what only such a condition can have (`absent`, `keep_firing_for`, `phase`,
//! `warm_up`).

use super::Builder;
use crate::{
    policy::{
        Amount, Condition, Leaf, Node, Over, Test, Tree,
        diagnostic::quote,
        raw::{RawBranch, RawWhen},
        tree::{MAX_COUNT, MAX_LEAVES},
    },
    signal::Kind,
    time::Span,
};
use std::ops::Range;
use toml::Spanned;

/// The shortest time for which a signal can count as absent: a value that does not change is read again after 4 s only.
const ABSENT_LEAST: Span = Span::from_secs(10);
/// The longest window of an event, and the longest time for which a signal can be absent.
const LONGEST: Span = Span::from_secs(7 * 24 * 3_600);

/// Whether a `when` is more than one plain test.
pub(super) fn is_tree(when: &RawWhen) -> bool {
    !when.branches.is_empty()
        || when.at_least.is_some()
        || when.absent.is_some()
        || when.detect.is_some()
        || when.count.is_some()
        || !when.relative.is_empty()
        || when.keep.is_some()
        || when.phase.is_some()
        || when.warm_up.is_some()
}

impl Builder<'_> {
    pub(super) fn tree(&mut self, when: &RawWhen) -> Option<Condition> {
        self.confidence_beside(when);
        let keep = when.keep.as_ref().map_or(Some(Span(0)), |text| self.duration(text));
        let warm_up = when.warm_up.as_ref().map(|text| self.warm_up(text));
        let mut leaves = 0;
        let of_parts = !when.branches.is_empty() || when.at_least.is_some();
        let hold =
            if of_parts { when.hold.as_ref().map_or(Some(Span(0)), |text| self.duration(text)) } else { Some(Span(0)) };
        let node = self.node(when, &mut leaves, true);
        if leaves > MAX_LEAVES {
            let message = format!("the condition has {leaves} tests, expected at most {MAX_LEAVES}: write two rules");
            self.error(when.span.clone(), message, None);
            return None;
        }
        let node = match warm_up {
            None => node?,
            Some(test) => {
                let (node, test) = (node?, test?);
                if matches!(test, Test::Steps { .. }) && !has_metric(&node) {
                    let message = "steps come with the metrics of the run, but no test of the condition is on a metric: \
                                   expected a time";
                    self.error(when.warm_up.as_ref().map_or(when.span.clone(), Spanned::span), message, None);
                    return None;
                }
                with(Some(node), test)?
            }
        };
        Some(Condition::Tree(Tree { root: node, hold: hold?, keep: keep? }))
    }

    /// The test that holds once the warm-up is over.
    fn warm_up(&mut self, text: &Spanned<String>) -> Option<Test> {
        Some(match self.time_or_steps(text)? {
            Amount::Time(after) => Test::Age { after },
            Amount::Steps(after) => Test::Steps { after },
        })
    }

    /// `confidence` of a whole rule is not a part of its condition.
    pub(super) fn confidence_beside(&mut self, when: &RawWhen) {
        if let Some(confidence) = &when.confidence {
            let message = "`confidence` in `when` is for one test of `all`, `any`, `not` or `of`";
            self.error(confidence.span(), message, Some("`confidence` belongs beside `when`, not in it".into()));
        }
    }

    fn node(&mut self, when: &RawWhen, leaves: &mut usize, outermost: bool) -> Option<Node> {
        let of_parts = !when.branches.is_empty() || when.at_least.is_some();
        if !outermost {
            self.outermost_only(when);
        }
        let phase = when.phase.as_ref().map(|phase| Test::Phase { phase: *phase.get_ref() });
        *leaves += usize::from(phase.is_some()) + usize::from(outermost && when.warm_up.is_some());
        if !of_parts && when.signal.is_none() && when.event.is_none() && !when.unreadable {
            // A phase alone is a test. A warm-up alone is none, and is refused below.
            if let Some(phase) = phase {
                self.without_test(when);
                return Some(leaf(phase));
            }
        }
        let node = if of_parts { self.branch(when, leaves, outermost) } else { self.leaf(when, leaves) };
        match phase {
            Some(phase) => with(node, phase),
            None => node,
        }
    }

    /// Fields that go for the whole rule.
    fn outermost_only(&mut self, when: &RawWhen) {
        let texts = [
            ("keep_firing_for", &when.keep),
            ("warm_up", &when.warm_up),
            ("rearm", &when.rearm),
            ("grace", &when.grace),
            ("stale", &when.stale),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                let message =
                    format!("`{name}` is for the whole condition: write it in `when`, beside the outermost part");
                self.error(text.span(), message, None);
            }
        }
    }

    /// Fields of a test, where there is none.
    fn without_test(&mut self, when: &RawWhen) {
        for (name, span) in fields_of_tests(when).chain(when.hold.as_ref().map(|text| ("for", text.span()))) {
            let message = format!("`{name}` has no effect without `signal` or `event` beside it");
            self.error(span, message, None);
        }
    }

    fn branch(&mut self, when: &RawWhen, leaves: &mut usize, outermost: bool) -> Option<Node> {
        let tested = [("signal", &when.signal), ("event", &when.event)];
        let tested = tested.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
        let confidence = when.confidence.as_ref().filter(|_| !outermost).map(|c| ("confidence", c.span()));
        let hold = when.hold.as_ref().filter(|_| !outermost).map(|text| ("for", text.span()));
        for (name, span) in tested.chain(fields_of_tests(when)).chain(confidence).chain(hold) {
            let message = match name {
                "for" => "`for` is for one test, or for the whole condition beside the outermost part".to_owned(),
                _ => format!("`{name}` is for one test: write it in a table of its own in the list"),
            };
            self.error(span, message, None);
        }
        let mut built = None;
        for (n, branch) in when.branches.iter().enumerate() {
            if n > 0 {
                let first = when.branches.first().map_or("", |first| first.name);
                let message = format!(
                    "expected one of `all`, `any`, `not` and `at_least` with `of`, found `{}` beside `{first}`",
                    branch.name
                );
                self.error(branch.span.clone(), message, Some("put one of them into a part of the other".into()));
            }
            let node = self.parts(when, branch, leaves);
            built = built.or(node);
        }
        match (&when.at_least, when.branches.iter().any(|branch| branch.name == "of")) {
            (Some(n), false) => {
                let message = "`at_least` is for a list `of`, such as at_least = 2, of = [{ ... }, { ... }, { ... }]";
                self.error(n.span(), message, None);
                None
            }
            _ => built,
        }
    }

    fn parts(&mut self, when: &RawWhen, branch: &RawBranch, leaves: &mut usize) -> Option<Node> {
        let parts: Vec<Option<Node>> = branch.parts.iter().map(|part| self.node(part, leaves, false)).collect();
        let given = parts.len();
        let parts: Option<Vec<Node>> = parts.into_iter().collect();
        if given == 0 {
            if !when.unreadable {
                self.error(
                    branch.span.clone(),
                    format!("`{}` is empty, expected at least one part", branch.name),
                    None,
                );
            }
            return None;
        }
        match branch.name {
            "all" => parts.map(Node::All),
            "any" => parts.map(Node::Any),
            "not" => parts.and_then(|parts| parts.into_iter().next()).map(|part| Node::Not(Box::new(part))),
            _ => {
                let Some(n) = &when.at_least else {
                    if !when.unreadable {
                        let message = "expected `at_least` beside `of`: how many of its parts must hold";
                        self.error(branch.span.clone(), message, None);
                    }
                    return None;
                };
                let number = usize::try_from(*n.get_ref()).ok().filter(|n| (1..=given).contains(n));
                if number.is_none() {
                    let message = format!("`{}`, expected a number from 1 to {given}, the parts of `of`", n.get_ref());
                    self.error(n.span(), message, None);
                }
                Some(Node::AtLeast { n: number?, of: parts? })
            }
        }
    }

    fn leaf(&mut self, when: &RawWhen, leaves: &mut usize) -> Option<Node> {
        *leaves += 1;
        let confidence = when.confidence.as_ref().map(|confidence| *confidence.get_ref());
        let (test, hold) = match (&when.absent, &when.signal) {
            (Some(absent), Some(signal)) if when.event.is_none() => (self.absent(when, absent, signal)?, Span(0)),
            (Some(absent), None) if when.event.is_none() => {
                self.error(absent.span(), "expected `signal` beside `absent`: what has no value", None);
                return None;
            }
            _ if when.detect.is_some() => self.detected(when)?,
            _ if !when.relative.is_empty() => self.compared(when)?,
            _ => self.test(when)?,
        };
        Some(Node::Leaf(Leaf { test, hold, confidence }))
    }

    fn test(&mut self, when: &RawWhen) -> Option<(Test, Span)> {
        let condition = self.single(when);
        let within = self.within(when);
        let count = self.count(when);
        let condition = condition?;
        let series = match (&condition, &when.over) {
            (Condition::Threshold { kind: Kind::Metric(_), .. } | Condition::NotFinite { .. }, Some(text)) => {
                self.over_series(text, Some(&condition))
            }
            _ => Over::Any,
        };
        match condition {
            Condition::Threshold { kind, op, bound, clear, hold, over } => {
                Some((Test::Threshold { kind, op, bound, clear, over, series }, hold))
            }
            Condition::NotFinite { kind } => Some((Test::NotFinite { kind, series }, Span(0))),
            Condition::Event(wanted) => match count? {
                None => Some((Test::Event { wanted, within: within? }, Span(0))),
                Some(count) => Some((Test::Count { wanted, count, within: within? }, Span(0))),
            },
            Condition::Tree(_) => None,
        }
    }

    /// The window of an event.
    fn within(&mut self, when: &RawWhen) -> Option<Span> {
        match (&when.event, &when.within) {
            (Some(event), None) => {
                if !when.unreadable {
                    let message = "expected `within` beside `event`: for how long after it happened it holds, such as \
                                   within = \"30s\"";
                    self.error(event.span(), message, None);
                }
                None
            }
            (None, Some(within)) => {
                self.error(within.span(), "`within` is for events, not for signals", None);
                None
            }
            (Some(_), Some(within)) => self.some_time(within, Span(1)),
            (None, None) => None,
        }
    }

    /// How many times an event must have happened; `Some(None)` where once is enough.
    fn count(&mut self, when: &RawWhen) -> Option<Option<u32>> {
        let Some(count) = &when.count else { return Some(None) };
        if when.event.is_none() {
            self.error(count.span(), "`count` is for events, not for signals", None);
            return None;
        }
        let number = u32::try_from(*count.get_ref()).ok().filter(|n| (2..=MAX_COUNT).contains(n));
        if number.is_none() {
            let message = format!("`{}`, expected a whole number from 2 to {MAX_COUNT}", count.get_ref());
            let help = "without `count`, one event within the window is enough";
            self.error(count.span(), message, Some(help.into()));
        }
        number.map(Some)
    }

    fn absent(&mut self, when: &RawWhen, absent: &Spanned<String>, signal: &Spanned<String>) -> Option<Test> {
        let is_metric = signal.get_ref().starts_with("metric.");
        let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
        let literals = literals.into_iter().filter_map(|(name, literal)| Some((name, literal.as_ref()?.span())));
        let texts = [("is", &when.is), ("for", &when.hold), ("within", &when.within)];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
        let fields = when.fields.iter().map(|(name, value)| (*name, value.span()));
        let detect = when.detect.iter().map(|detect| ("detect", detect.span.clone()));
        let count = when.count.iter().map(|count| ("count", count.span()));
        let relative = when.relative.iter().map(|relative| (relative.side, relative.span.clone()));
        for (name, span) in literals.chain(relative).chain(texts).chain(detect).chain(count).chain(fields) {
            self.error(span, format!("`{name}` cannot stand beside `absent`"), None);
        }
        let (kind, known) = self.signal(signal);
        let least = if is_metric { Span::from_secs(1) } else { ABSENT_LEAST };
        let series = match (&kind, &when.over) {
            (Some(kind), Some(_)) => self.each_series(when, kind, "`absent` judges each series by itself"),
            _ => Over::All,
        };
        let after = self.some_time(absent, least)?;
        kind.filter(|_| known).map(|kind| Test::Absent { kind, after, series })
    }

    /// A duration of at least `least`, and not so long that nothing would ever come of it.
    pub(super) fn some_time(&mut self, text: &Spanned<String>, least: Span) -> Option<Span> {
        let span = self.duration(text)?;
        if span < least || span > LONGEST {
            let least = if least == Span(1) { "more than 0".to_owned() } else { format!("at least {least}") };
            let message = format!("{}, expected {least} and at most 7 days", quote(text.get_ref()));
            self.error(text.span(), message, None);
            return None;
        }
        Some(span)
    }
}

/// The fields of a test that are given.
fn fields_of_tests(when: &RawWhen) -> impl Iterator<Item = (&'static str, Range<usize>)> + '_ {
    let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
    let texts = [("over", &when.over), ("is", &when.is), ("absent", &when.absent), ("within", &when.within)];
    let literals = literals.into_iter().filter_map(|(name, literal)| Some((name, literal.as_ref()?.span())));
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
    let detect = when.detect.iter().map(|detect| ("detect", detect.span.clone()));
    let count = when.count.iter().map(|count| ("count", count.span()));
    let relative = when.relative.iter().map(|relative| (relative.side, relative.span.clone()));
    literals
        .chain(relative)
        .chain(texts)
        .chain(detect)
        .chain(count)
        .chain(when.fields.iter().map(|(name, value)| (*name, value.span())))
}

/// Whether a test of it judges a metric of the run.
fn has_metric(node: &Node) -> bool {
    let is = matches!(node, Node::Leaf(leaf) if leaf.test.kinds().any(|kind| matches!(kind, Kind::Metric(_))));
    is || node.parts().iter().any(has_metric)
}

fn leaf(test: Test) -> Node {
    Node::Leaf(Leaf { test, hold: Span(0), confidence: None })
}

/// `node` and this test; the test alone where there is no other.
fn with(node: Option<Node>, test: Test) -> Option<Node> {
    match node? {
        Node::All(mut parts) => {
            parts.push(leaf(test));
            Some(Node::All(parts))
        }
        other => Some(Node::All(vec![other, leaf(test)])),
    }
}
