//! A policy in plain words, and the answer of `policy would`.

use super::{clean, decision, explain, fill, table};
use failsafe_core::{
    decision::Mode,
    policy::{Condition, Effect, EventMatch, Leaf, Node, Op, Over, Policy, Protocol, Rule, Test, Tree},
    time::Span,
};
use failsafe_matchers::would::{Answer, Call, Destination, Would};
use serde_json::{Value, json as object};
use std::fmt::Write;

/// The width of paragraphs.
const WIDTH: usize = 90;

/// All rules of a policy.
pub fn page(policy: &Policy, rules: &[&Rule]) -> String {
    let mode = |mode| if mode == Mode::Observe { "only reports" } else { "denies" };
    let egress = policy.egress.as_ref().map(|egress| {
        let list = egress.allow.iter().map(|allow| {
            let to = allow.cidr.map_or_else(|| allow.host.clone().unwrap_or_default(), |net| net.to_string());
            let range = |(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
            let ports: Vec<String> = allow.ports.iter().map(range).collect();
            let ports = if ports.is_empty() { String::new() } else { format!(" port {}", ports.join(" or ")) };
            let protocol = match allow.protocol {
                None => "",
                Some(Protocol::Tcp) => " over tcp",
                Some(Protocol::Udp) => " over udp",
            };
            format!("{to}{ports}{protocol}")
        });
        format!("{} every destination but {}", mode(egress.mode), or_nothing(list.collect()))
    });
    let exec = policy.exec.as_ref().map(|exec| {
        let list = exec.allow.iter().map(ToString::to_string).collect();
        format!("{} every program but {}", mode(exec.mode), or_nothing(list))
    });
    let limits = policy.limits.map(|limits| {
        let processes = limits.processes.map(|n| format!("more than {n} processes"));
        let forks = limits.forks_per_second.map(|n| format!("more than {n} forks a second"));
        let both: Vec<String> = processes.into_iter().chain(forks).collect();
        format!("denies {}", both.join(" and "))
    });
    let mut out = table::pairs(
        "",
        [
            ("policy", format!("{} version {}", policy.name, policy.version)),
            ("owner", policy.owner.clone()),
            ("for", policy.description.clone()),
            ("[egress]", egress.unwrap_or_default()),
            ("[exec]", exec.unwrap_or_default()),
            ("[limits]", limits.unwrap_or_default()),
        ],
    );
    for one in rules {
        out.push('\n');
        out.push_str(&rule(policy, one));
    }
    out
}

fn or_nothing(list: Vec<String>) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// One rule.
pub fn rule(policy: &Policy, rule: &Rule) -> String {
    let mut out = format!("rule {}\n", clean(&rule.id));
    let mut section = |name: &str, lines: Vec<String>| {
        for (n, line) in lines.iter().enumerate() {
            let name = if n == 0 { name } else { "" };
            let _ = writeln!(out, "  {name:<9} {}", clean(line));
        }
    };
    section("why", fill(&rule.rationale, WIDTH));
    section("when", when(rule));
    section("then", fill(&then(policy, rule), WIDTH));
    section("again", fill(&again(rule), WIDTH));
    section("enforced", fill(&enforced(rule), WIDTH));
    let sure = format!("{}, confidence {}", explain::severity(rule.severity), explain::confidence(rule.confidence));
    section("severity", vec![format!("{sure}; owner {}", rule.owner)]);
    section("playbook", rule.playbook.clone().into_iter().collect());
    out
}

fn when(rule: &Rule) -> Vec<String> {
    match &rule.when {
        Condition::Tree(tree) => of_tree(tree),
        Condition::Event(wanted) => fill(&happens(wanted), WIDTH),
        Condition::NotFinite { kind } => vec![format!("{kind} is NaN or infinite{}", series(rule.metric.over))],
        Condition::Threshold { kind, op, bound, hold, over, .. } => {
            let hold = if *hold > Span(0) { format!(", for {hold}") } else { String::new() };
            let series = if kind.to_string().starts_with("metric.") { series(rule.metric.over) } else { "" };
            vec![format!("{}{series}{hold}", beyond(&kind.to_string(), *op, &bound.show(kind.unit()), *over))]
        }
    }
}

fn beyond(kind: &str, op: Op, bound: &str, over: Option<Span>) -> String {
    match (over, op) {
        (None, Op::Above) => format!("{kind} is above {bound}"),
        (None, Op::Below) => format!("{kind} is below {bound}"),
        (Some(over), Op::Above) => format!("{kind} grows by more than {bound} a second, over the last {over}"),
        (Some(over), Op::Below) => format!("{kind} grows by less than {bound} a second, over the last {over}"),
    }
}

fn series(over: Over) -> &'static str {
    match over {
        Over::Any => " in at least one series",
        Over::All => " in every series",
        Over::Mean => " as the mean of the series",
        Over::Max => " as the greatest of the series",
        Over::Min => " as the least of the series",
    }
}

fn happens(wanted: &EventMatch) -> String {
    format!("the {} happens", wanted.to_string().replacen(", ", " with ", 1))
}

fn of_tree(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    node(&tree.root, 0, &mut lines);
    if tree.hold > Span(0) {
        lines.push(format!("all this for {} without a break", tree.hold));
    }
    if tree.is_of_gpus() {
        lines.push("judged for each GPU of the run by itself".to_owned());
    }
    lines
}

fn node(part: &Node, depth: usize, lines: &mut Vec<String>) {
    let mark = if depth == 0 { String::new() } else { format!("{}- ", "  ".repeat(depth - 1)) };
    let head = match part {
        Node::Leaf(one) => leaf(one),
        Node::All(_) => "all of these hold:".to_owned(),
        Node::Any(_) => "at least one of these holds:".to_owned(),
        Node::AtLeast { n, of } => format!("at least {n} of these {} hold:", of.len()),
        Node::Not(_) => "this does not hold:".to_owned(),
    };
    lines.push(format!("{mark}{head}"));
    part.parts().iter().for_each(|one| node(one, depth + 1, lines));
}

fn leaf(leaf: &Leaf) -> String {
    let hold = if leaf.hold > Span(0) { format!(", for {}", leaf.hold) } else { String::new() };
    let text = match &leaf.test {
        Test::Threshold { kind, op, bound, clear, over, series: of } => {
            let of = if kind.to_string().starts_with("metric.") { series(*of) } else { "" };
            let until = match clear == bound {
                true => String::new(),
                false => {
                    let side = if *op == Op::Above { "at or below" } else { "at or above" };
                    format!(", and from then on until it is {side} {}", clear.show(kind.unit()))
                }
            };
            return format!("{}{of}{hold}{until}", beyond(&kind.to_string(), *op, &bound.show(kind.unit()), *over));
        }
        Test::Compare { kind, op, than, series: of } => {
            let (side, than) = (if *op == Op::Above { "above" } else { "below" }, than.show(kind));
            let of = if kind.to_string().starts_with("metric.") { series(*of) } else { "" };
            format!("{kind} is {side} {than}{of}")
        }
        Test::NotFinite { kind, series: of } => format!("{kind} is NaN or infinite{}", series(*of)),
        Test::Detect { kind, detect, series: of } => {
            let (spec, params) = (detect.spec(), detect.params(kind.unit()));
            format!("{kind} {}{}: {} with {params}", spec.finds, series(*of), spec.name)
        }
        Test::Absent { kind, after, series: Over::Any } => {
            format!("{kind} has had no value for {after} in at least one series that had values before")
        }
        Test::Absent { kind, after, .. } => format!("{kind} has had no value for {after}"),
        Test::Event { wanted, within } => {
            format!("the {} happened within the last {within}", wanted.to_string().replacen(", ", " with ", 1))
        }
        Test::Count { wanted, count, within } => {
            let wanted = wanted.to_string().replacen(", ", " with ", 1);
            format!("the {wanted} happened at least {count} times within the last {within}")
        }
        Test::Phase { phase } => format!("the run reports the phase {}", phase.name()),
        Test::Age { after } => format!("the run has been watched for {after}"),
        Test::Steps { after } => format!("the run has made {after} steps since the first one that it reported"),
    };
    format!("{text}{hold}")
}

fn then(policy: &Policy, rule: &Rule) -> String {
    let observes = rule.mode == Mode::Observe || policy.observes(rule);
    let actions = decision::actions(&rule.actions);
    if observes { format!("record that it would: {actions}. Nothing is done, as it only observes") } else { actions }
}

fn again(rule: &Rule) -> String {
    let rearm = rule.rearm().map(|after| format!(", or {after} after a thaw")).unwrap_or_default();
    match &rule.when {
        Condition::Event(_) => format!("at the next such event after {}, or after a thaw", rule.cooldown),
        Condition::NotFinite { kind } => format!("after {kind} was finite{rearm}"),
        Condition::Threshold { kind, op, clear, over, .. } => {
            let side = if *op == Op::Above { "at or below" } else { "at or above" };
            let rate = if over.is_some() { " a second" } else { "" };
            format!("after {kind} was {side} {}{rate}{rearm}", clear.show(kind.unit()))
        }
        Condition::Tree(tree) => {
            let keep = if tree.keep > Span(0) { format!(" for {}", tree.keep) } else { String::new() };
            let events =
                if rule.when.events().is_empty() { "" } else { ", or when an event of it happens after a thaw" };
            format!(
                "after the condition was false{keep}{rearm}{events}; not sooner than {} after the last",
                rule.cooldown
            )
        }
    }
}

fn is_absent(leaf: &Leaf) -> bool {
    matches!(leaf.test, Test::Absent { .. })
}

/// Whether a test of it is about a missing value.
fn has_absent(part: &Node) -> bool {
    matches!(part, Node::Leaf(leaf) if is_absent(leaf)) || part.parts().iter().any(has_absent)
}

/// What carries the rule out.
fn enforced(rule: &Rule) -> String {
    match (rule.effect, &rule.when) {
        (Effect::Deny, _) => "the kernel denies the call itself, where this node has the hook for it (`policy check --node`); the \
             daemon does the rest"
            .to_owned(),
        (Effect::Stop, _) => "the kernel denies the call and latches the run, where this node has the hook for it (`policy check \
             --node`); the daemon does the rest"
            .to_owned(),
        (Effect::Observe, Condition::Event(_)) => {
            "the daemon acts after the event; this rule makes the kernel deny nothing".to_owned()
        }
        (Effect::Observe, Condition::Threshold { .. } | Condition::NotFinite { .. }) => {
            "the daemon judges each value; the kernel denies nothing because of it".to_owned()
        }
        (Effect::Observe, Condition::Tree(tree)) if matches!(&tree.root, Node::Leaf(leaf) if is_absent(leaf)) => {
            "the daemon judges it once a second, and acts when there was no value for that time. A GPU signal that cannot be read is \
             unknown, and nothing happens. The kernel denies nothing because of it"
                .to_owned()
        }
        (Effect::Observe, Condition::Tree(tree)) if has_absent(&tree.root) => {
            "the daemon judges the condition at each value and event of it, and once a second. A test for a missing value holds \
             when there was none for its time; every other test is unknown while its value is missing, NaN or not seen, and nothing happens while \
             an unknown test decides. The kernel denies nothing because of it"
                .to_owned()
        }
        (Effect::Observe, Condition::Tree(_)) => "the daemon judges the condition at each value and event of it, and once a second; \
             while a value that decides is missing, NaN or not seen, it is unknown and nothing happens. The kernel denies nothing \
             because of it"
            .to_owned(),
    }
}

/// The same for programs.
pub fn json(policy: &Policy, rules: &[&Rule]) -> Value {
    let rules = rules.iter().map(|rule| {
        object!({
            "rule": rule.id,
            "why": rule.rationale,
            "when": when(rule),
            "then": then(policy, rule),
            "again": again(rule),
            "enforced": enforced(rule),
            "condition": rule.condition(),
        })
    });
    object!({ "policy": policy.name, "version": policy.version, "rules": rules.collect::<Vec<_>>() })
}

/// The answer of `policy would`.
pub fn answer(call: &Call, would: &Would<'_>) -> String {
    let by = if would.by.is_empty() { String::new() } else { format!(" by {}", would.by.join(" and ")) };
    let word = match &would.answer {
        Answer::Allowed if would.by.is_empty() => "ALLOWED: the policy limits nothing here".to_owned(),
        Answer::Allowed => format!("ALLOWED{by}"),
        Answer::WouldDeny => format!("ALLOWED, and reported as would-deny{by}"),
        Answer::Denied => format!("DENIED{by}"),
        Answer::Stopped => format!("DENIED{by}; the kernel latches the run, and the daemon freezes it"),
        Answer::Depends(why) => format!("KNOWN ON THE NODE ONLY: {why}"),
    };
    let mut out = format!("{}: {}\n", clean(&name(call)), clean(&word));
    for (rule, alone) in &would.matches {
        let actions = decision::actions(&rule.actions);
        let observe = if rule.mode == Mode::Observe { " (only observed)" } else { "" };
        let line = match alone {
            true => format!("  rule {} matches it: {actions}{observe}", rule.id),
            false => format!("  rule {} has it as one test of its condition: {}", rule.id, rule.condition()),
        };
        let _ = writeln!(out, "{}", clean(&line));
    }
    if matches!(would.answer, Answer::Denied | Answer::Stopped) {
        out.push_str("  `failsafectl policy check --node` shows whether the kernel of a node denies it\n");
    }
    out
}

fn name(call: &Call) -> String {
    match call {
        Call::Connect { to, port, protocol } => {
            let protocol = if *protocol == failsafe_matchers::egress::UDP { "udp" } else { "tcp" };
            match to {
                Destination::Address(address) => {
                    format!("connect {}/{protocol}", std::net::SocketAddr::new(*address, *port))
                }
                Destination::Name(host) => format!("connect {host}:{port}/{protocol}"),
            }
        }
        Call::Open { path, write } => format!("open {path} to {}", if *write { "write" } else { "read" }),
        Call::Exec(path) => format!("exec {path}"),
        Call::Syscall(call) => format!("syscall {}", call.name()),
    }
}

/// The same for programs.
pub fn answer_json(call: &Call, would: &Would<'_>) -> Value {
    let (word, why) = match &would.answer {
        Answer::Allowed => ("allowed", None),
        Answer::WouldDeny => ("would-deny", None),
        Answer::Denied => ("denied", None),
        Answer::Stopped => ("stopped", None),
        Answer::Depends(why) => ("depends", Some(why)),
    };
    let rules =
        would.matches.iter().map(|(rule, alone)| object!({ "rule": rule.id, "alone": alone, "actions": rule.actions }));
    object!({ "call": name(call), "answer": word, "why": why, "by": would.by, "rules": rules.collect::<Vec<_>>() })
}

// With its path, because a fuzz target has this file as a module of another folder.
#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
