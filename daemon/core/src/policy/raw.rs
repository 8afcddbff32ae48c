//! A policy as it stands in TOML: its fields by name and type. [`super::build`] gives them meaning.
//!
//! A field that is missing or could not be read is `None`; the mistake is noted already.

use super::{
    OnBlind, OnDead, OnDrift, OnEscape, Phase, Protocol, Statistic,
    fields::{Fields, Known},
    mistakes::Mistakes,
    template,
    tree::MAX_DEPTH,
};
use crate::{
    decision::{Confidence, Mode, Severity},
    event::EventKind,
};
use std::{collections::BTreeMap, ops::Range};
use toml::{Spanned, de::DeTable};

mod detect;
mod names;
mod relative;
mod when;

pub(super) use super::fields::{Literal, OneOrMany};
pub(super) use detect::RawDetect;
pub(super) use names::*;
pub use names::{MODES, OF_EVENTS, PHASES};
pub(super) use relative::RawRelative;
pub(super) use when::{RawBranch, RawWhen};

pub(super) struct RawPolicy {
    pub policy: RawHead,
    pub egress: Option<RawEgress>,
    pub exec: Option<RawExec>,
    pub limits: Option<RawLimits>,
    pub syscalls: Option<Spanned<Vec<Spanned<String>>>>,
    pub derived: RawDerived,
    pub metrics: RawMetrics,
    pub rules: Vec<RawRule>,
}

impl RawPolicy {
    pub(super) fn read(wrong: &mut Mistakes, root: &DeTable<'_>) -> RawPolicy {
        let mut root = Fields::of_table(wrong, root, 0..0, &Known::new("the policy file", SECTIONS));
        let head = root.table(wrong, "policy", &Known::new("the section [policy]", HEAD));
        if head.is_none() && !root.has("policy") {
            let help = "write `[policy]`, `name = \"...\"` and `owner = \"...\"` at the top".to_owned();
            wrong.missing(0..0, "missing section [policy], which names the policy and its owner", Some(help));
        }
        let includes = root.span_of("include");
        let with_includes = includes.is_some();
        if let Some(span) = includes {
            // Whoever enforces a policy reads no further file: which one it is would be another person's choice.
            let message = "the daemon does not read other files: `include` works only in a file that failsafectl reads";
            let help = "write the output of `failsafectl policy resolve FILE` into the policy folder".to_owned();
            wrong.error(span, message, Some(help));
        }
        let written = root.tables(wrong, "rule", "[[rule]]").into_iter();
        let mut rules: Vec<RawRule> = written.map(|(table, span)| RawRule::read(wrong, table, span)).collect();
        // The templates may be in the included files: without them, their uses cannot be judged.
        let mut not_judged = Mistakes::default();
        let of_templates = if with_includes { &mut not_judged } else { &mut *wrong };
        for (table, span) in template::rules(of_templates, &mut root) {
            rules.push(RawRule::read(wrong, &table, span));
        }
        RawPolicy {
            policy: head.map_or_else(RawHead::default, |head| RawHead::read(wrong, head)),
            egress: root
                .table(wrong, "egress", &Known::new("the section [egress]", EGRESS))
                .map(|table| RawEgress::read(wrong, table)),
            exec: root
                .table(wrong, "exec", &Known::new("the section [exec]", EXEC))
                .map(|table| RawExec::read(wrong, table)),
            limits: root
                .table(wrong, "limits", &Known::new("the section [limits]", LIMITS))
                .map(|table| RawLimits::read(wrong, table)),
            syscalls: root.table(wrong, "syscalls", &Known::new("the section [syscalls]", SYSCALLS)).and_then(
                |mut table| {
                    table.require(
                        wrong,
                        "watch",
                        "the system calls to watch, such as watch = [\"ptrace\", \"@mount\"]",
                    );
                    table.texts(wrong, "watch", "[\"ptrace\", \"@mount\"]")
                },
            ),
            derived: root
                .table(wrong, "derived", &Known::new("the section [derived]", DERIVED))
                .map_or_else(RawDerived::default, |table| RawDerived::read(wrong, table)),
            metrics: root.table(wrong, "metrics", &Known::new("the section [metrics]", METRICS)).map_or_else(
                RawMetrics::default,
                |mut table| RawMetrics { grace: table.duration(wrong, "grace"), stale: table.duration(wrong, "stale") },
            ),
            rules,
        }
    }
}

#[derive(Default)]
pub(super) struct RawHead {
    pub name: Option<Spanned<String>>,
    pub version: Option<Spanned<i64>>,
    pub owner: Option<String>,
    pub description: Option<String>,
    pub on_blind: OnBlind,
    pub on_escape: OnEscape,
    pub on_drift: OnDrift,
    pub on_dead_daemon: Option<OnDead>,
    pub dead_after: Option<Spanned<String>>,
    /// The section's header.
    pub span: Range<usize>,
    /// `on_dead_daemon` is there, readable or not.
    pub has_on_dead_daemon: bool,
}

impl RawHead {
    fn read(wrong: &mut Mistakes, mut table: Fields<'_>) -> RawHead {
        table.require(wrong, "name", "the policy's name, such as name = \"trainer\"");
        table.require(wrong, "owner", "who answers for the policy, such as owner = \"ml-safety@example.org\"");
        RawHead {
            name: table.text(wrong, "name"),
            version: table.whole_number(wrong, "version"),
            owner: table.text(wrong, "owner").map(Spanned::into_inner),
            description: table.text(wrong, "description").map(Spanned::into_inner),
            on_blind: table.choice(wrong, "on_blind", ON_BLIND).unwrap_or_default(),
            on_escape: table.choice(wrong, "on_escape", ON_ESCAPE).unwrap_or_default(),
            on_drift: table.choice(wrong, "on_drift", ON_DRIFT).unwrap_or_default(),
            on_dead_daemon: table.choice(wrong, "on_dead_daemon", ON_DEAD),
            dead_after: table.duration(wrong, "dead_after"),
            has_on_dead_daemon: table.has("on_dead_daemon"),
            span: table.span,
        }
    }
}

pub(super) struct RawEgress {
    pub mode: Mode,
    pub allow: Vec<RawAllow>,
    pub budget: Vec<RawBudget>,
    pub dns_servers: Vec<Spanned<String>>,
}

impl RawEgress {
    fn read(wrong: &mut Mistakes, mut table: Fields<'_>) -> RawEgress {
        let form = "{ cidr = \"10.0.0.0/8\" } or { host = \"*.example.org\" }";
        if !table.has("allow") {
            let place = if table.has("budget") { "`[[egress.budget]]` needs the list `allow` in [egress]" } else { "" };
            let message = if place.is_empty() { "missing field `allow` in the section [egress]" } else { place };
            let help = "write [egress] with allow = [{ cidr = \"10.0.0.0/8\" }]; a run that may reach every destination has \
                        allow = [{ cidr = \"0.0.0.0/0\" }, { cidr = \"::/0\" }]";
            wrong.missing(
                table.span.clone(),
                format!("{message}: the destinations that the run may reach"),
                Some(help.to_owned()),
            );
        }
        RawEgress {
            mode: table.choice(wrong, "mode", MODES).unwrap_or_default(),
            allow: table
                .tables(wrong, "allow", form)
                .into_iter()
                .map(|(entry, span)| RawAllow::read(wrong, entry, span))
                .collect(),
            budget: table
                .tables(wrong, "budget", "[[egress.budget]]")
                .into_iter()
                .map(|(entry, span)| RawBudget::read(wrong, entry, span))
                .collect(),
            dns_servers: table
                .texts(wrong, "dns_servers", "[\"10.0.0.53\"]")
                .map_or_else(Vec::new, Spanned::into_inner),
        }
    }
}

pub(super) struct RawAllow {
    pub cidr: Option<Spanned<String>>,
    pub host: Option<Spanned<String>>,
    pub ports: Option<Spanned<OneOrMany>>,
    pub protocol: Option<Protocol>,
    pub span: Range<usize>,
    pub unreadable: bool,
}

impl RawAllow {
    fn read(wrong: &mut Mistakes, table: &DeTable<'_>, span: Range<usize>) -> RawAllow {
        let mut table = Fields::of_table(wrong, table, span, &Known::new("an entry of `allow`", ALLOW));
        RawAllow {
            cidr: table.text(wrong, "cidr"),
            host: table.text(wrong, "host"),
            ports: table.one_or_many(wrong, "ports"),
            protocol: table.choice(wrong, "protocol", PROTOCOLS),
            span: table.span,
            unreadable: table.unreadable,
        }
    }
}

pub(super) struct RawBudget {
    pub name: Option<Spanned<String>>,
    pub to: Option<Spanned<Vec<Spanned<String>>>>,
    pub bytes: Option<Spanned<Literal>>,
    pub rate: Option<Spanned<Literal>>,
    pub span: Range<usize>,
    pub unreadable: bool,
}

impl RawBudget {
    fn read(wrong: &mut Mistakes, table: &DeTable<'_>, span: Range<usize>) -> RawBudget {
        let mut table = Fields::of_table(wrong, table, span, &Known::new("[[egress.budget]]", BUDGET));
        table.require(wrong, "name", "the budget's name, such as name = \"storage\"");
        table.require(wrong, "to", "the networks that it limits, such as to = [\"10.20.0.0/16\"]");
        RawBudget {
            name: table.text(wrong, "name"),
            to: table.texts(wrong, "to", "[\"10.20.0.0/16\"]"),
            bytes: table.literal(wrong, "bytes"),
            rate: table.literal(wrong, "rate"),
            span: table.span,
            unreadable: table.unreadable,
        }
    }
}

pub(super) struct RawExec {
    pub mode: Mode,
    pub allow: Vec<Spanned<String>>,
}

impl RawExec {
    fn read(wrong: &mut Mistakes, mut table: Fields<'_>) -> RawExec {
        table.require(wrong, "allow", "the programs that the run may execute, such as allow = [\"/usr/bin/*\"]");
        RawExec {
            mode: table.choice(wrong, "mode", MODES).unwrap_or_default(),
            allow: table.texts(wrong, "allow", "[\"/usr/bin/*\"]").map_or_else(Vec::new, Spanned::into_inner),
        }
    }
}

pub(super) struct RawLimits {
    pub processes: Option<Spanned<i64>>,
    pub forks_per_second: Option<Spanned<i64>>,
    pub span: Range<usize>,
    pub unreadable: bool,
}

impl RawLimits {
    fn read(wrong: &mut Mistakes, mut table: Fields<'_>) -> RawLimits {
        RawLimits {
            processes: table.whole_number(wrong, "processes"),
            forks_per_second: table.whole_number(wrong, "forks_per_second"),
            span: table.span,
            unreadable: table.unreadable,
        }
    }
}

#[derive(Default)]
pub(super) struct RawMetrics {
    pub grace: Option<Spanned<String>>,
    pub stale: Option<Spanned<String>>,
}

/// The numbers of `[derived]`, each under its full name.
#[derive(Default)]
pub(super) struct RawDerived {
    pub shares: BTreeMap<(&'static str, &'static str), Spanned<Literal>>,
    pub stalled: Option<Range<usize>>,
    pub overs: BTreeMap<&'static str, Spanned<String>>,
}

impl RawDerived {
    fn read(wrong: &mut Mistakes, mut table: Fields<'_>) -> RawDerived {
        let mut derived = RawDerived::default();
        for (name, known) in DERIVED_SHARES {
            let Some(mut pair) = table.table(wrong, name, &Known::new("this state of [derived]", known)) else {
                continue;
            };
            for field in *known {
                if let Some(share) = pair.literal(wrong, field) {
                    derived.shares.insert((name, field), share);
                }
            }
            if *name == "stalled" {
                derived.stalled = Some(pair.span);
            }
        }
        for name in DERIVED_OVERS {
            let Some(mut one) = table.table(wrong, name, &Known::new("this signal of [derived]", OVER)) else {
                continue;
            };
            one.require(wrong, "over", "the time over which it is taken, such as over = \"60s\"");
            if let Some(over) = one.duration(wrong, "over") {
                derived.overs.insert(name, over);
            }
        }
        derived
    }
}

pub(super) struct RawRule {
    pub id: Option<Spanned<String>>,
    pub rationale: Option<Spanned<String>>,
    pub owner: Option<String>,
    pub severity: Severity,
    pub confidence: Confidence,
    pub labels: BTreeMap<String, String>,
    pub playbook: Option<String>,
    pub mode: Mode,
    pub effect: Option<Spanned<String>>,
    pub when: Option<RawWhen>,
    pub actions: Option<Spanned<Vec<Spanned<String>>>>,
    pub cooldown: Option<Spanned<String>>,
    /// The rule's header.
    pub span: Range<usize>,
}

impl RawRule {
    fn read(wrong: &mut Mistakes, table: &DeTable<'_>, span: Range<usize>) -> RawRule {
        let known = Known {
            elsewhere: Some((
                WHEN,
                "in `when`, such as when = { signal = \"metric.loss\", above = 50.0, for = \"3s\" }",
            )),
            ..Known::new("[[rule]]", RULE)
        };
        let mut table = Fields::of_table(wrong, table, span, &known);
        table.require(wrong, "id", "the rule's name, such as id = \"too-hot\"");
        table.require(wrong, "rationale", "why the rule exists, for the person who is called at night");
        table.require(
            wrong,
            "when",
            "what trips the rule, such as when = { signal = \"gpu.temperature\", above = \"90 C\" }",
        );
        table.require(wrong, "actions", "what is done then, such as actions = [\"freeze\", \"notify\"]");
        RawRule {
            id: table.text(wrong, "id"),
            rationale: table.text(wrong, "rationale"),
            owner: table.text(wrong, "owner").map(Spanned::into_inner),
            severity: table.choice(wrong, "severity", SEVERITIES).unwrap_or_default(),
            confidence: table.choice(wrong, "confidence", CONFIDENCES).unwrap_or_default(),
            labels: table.labels(wrong, "labels"),
            playbook: table.text(wrong, "playbook").map(Spanned::into_inner),
            mode: table.choice(wrong, "mode", MODES).unwrap_or_default(),
            effect: table.text(wrong, "effect"),
            when: RawWhen::of_rule(wrong, &mut table),
            actions: table.texts(wrong, "actions", "[\"freeze\", \"notify\"]"),
            cooldown: table.duration(wrong, "cooldown"),
            span: table.span,
        }
    }
}
