//! A policy as it stands in TOML: every field known, nothing else accepted. [`super::build`] gives it meaning.

use super::{Effect, OnBlind, OnDead, OnEscape, Protocol};
use crate::decision::{Action, Confidence, Mode, Severity};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub policy: RawHead,
    pub egress: Option<RawEgress>,
    pub exec: Option<RawExec>,
    pub limits: Option<Spanned<RawLimits>>,
    pub syscalls: Option<RawSyscalls>,
    #[serde(default)]
    pub derived: RawDerived,
    #[serde(default)]
    pub metrics: RawMetrics,
    #[serde(default)]
    pub rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHead {
    pub name: Spanned<String>,
    #[serde(default = "one")]
    pub version: u32,
    pub owner: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub on_blind: OnBlind,
    #[serde(default)]
    pub on_escape: OnEscape,
    pub on_dead_daemon: Option<OnDead>,
    pub dead_after: Option<Spanned<String>>,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEgress {
    #[serde(default)]
    pub mode: Mode,
    pub allow: Vec<Spanned<RawAllow>>,
    #[serde(default)]
    pub budget: Vec<RawBudget>,
    #[serde(default)]
    pub dns_servers: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    pub name: Spanned<String>,
    pub to: Spanned<Vec<Spanned<String>>>,
    pub bytes: Option<Spanned<Literal>>,
    pub rate: Option<Spanned<Literal>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExec {
    #[serde(default)]
    pub mode: Mode,
    pub allow: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub processes: Option<Spanned<i64>>,
    pub forks_per_second: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAllow {
    pub cidr: Option<Spanned<String>>,
    pub host: Option<Spanned<String>>,
    pub ports: Option<Spanned<OneOrMany>>,
    pub protocol: Option<Protocol>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSyscalls {
    pub watch: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub grace: Option<Spanned<String>>,
    pub stale: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDerived {
    pub spinning: Option<RawLoad>,
    pub idle_power: Option<RawLoad>,
    pub stalled: Option<Spanned<RawPinned>>,
    pub clock_held: Option<RawHeld>,
    pub thermal_slope: Option<RawOver>,
    pub ecc_rate: Option<RawOver>,
    pub memory_slope: Option<RawOver>,
    pub straggler: Option<RawOver>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLoad {
    pub utilization: Option<Spanned<Literal>>,
    pub power: Option<Spanned<Literal>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPinned {
    pub low: Option<Spanned<Literal>>,
    pub high: Option<Spanned<Literal>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeld {
    pub utilization: Option<Spanned<Literal>>,
    pub clock: Option<Spanned<Literal>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOver {
    pub over: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub id: Spanned<String>,
    pub rationale: Spanned<String>,
    pub owner: Option<String>,
    #[serde(default)]
    pub severity: Severity,
    #[serde(default)]
    pub confidence: Confidence,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub playbook: Option<String>,
    #[serde(default)]
    pub mode: Mode,
    pub effect: Option<Spanned<Effect>>,
    pub when: Spanned<RawWhen>,
    pub actions: Spanned<Vec<Spanned<Action>>>,
    pub cooldown: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWhen {
    pub signal: Option<Spanned<String>>,
    pub above: Option<Spanned<Literal>>,
    pub below: Option<Spanned<Literal>>,
    pub clear: Option<Spanned<Literal>>,
    #[serde(rename = "for")]
    pub hold: Option<Spanned<String>>,
    pub over: Option<Spanned<String>>,
    pub is: Option<Spanned<String>>,
    pub grace: Option<Spanned<String>>,
    pub stale: Option<Spanned<String>>,
    pub rearm: Option<Spanned<String>>,
    pub event: Option<Spanned<String>>,
    pub path: Option<Spanned<OneOrMany>>,
    pub argv: Option<Spanned<OneOrMany>>,
    pub comm: Option<Spanned<OneOrMany>>,
    pub uid: Option<Spanned<OneOrMany>>,
    pub address: Option<Spanned<OneOrMany>>,
    pub port: Option<Spanned<OneOrMany>>,
    pub protocol: Option<Spanned<OneOrMany>>,
    pub family: Option<Spanned<OneOrMany>>,
    pub verdict: Option<Spanned<OneOrMany>>,
    pub assurance: Option<Spanned<OneOrMany>>,
    pub name: Option<Spanned<OneOrMany>>,
    pub kind: Option<Spanned<OneOrMany>>,
    pub access: Option<Spanned<OneOrMany>>,
    pub gain: Option<Spanned<OneOrMany>>,
    pub what: Option<Spanned<OneOrMany>>,
    pub budget: Option<Spanned<OneOrMany>>,
    pub code: Option<Spanned<OneOrMany>>,
    pub status: Option<Spanned<OneOrMany>>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged, expecting = "expected a number or a text with a unit, such as 100 or \"85 C\"")]
pub(super) enum Literal {
    Integer(i64),
    Float(f64),
    Text(String),
}

#[derive(Deserialize, Clone)]
#[serde(untagged, expecting = "expected a text, a number, or a list of them")]
pub(super) enum OneOrMany {
    One(Literal),
    Many(Vec<Literal>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[Literal] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}
