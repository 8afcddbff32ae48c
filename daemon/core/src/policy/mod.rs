//! Policy: bounds as data. [`parse`](parse::parse) reads TOML strictly; [`check`] holds it against itself and a node;
//! the digest is over the canonical content, so comments and layout do not change it.

pub mod assurance;
mod build;
pub mod check;
pub mod condition;
pub mod derived;
pub mod diagnostic;
#[cfg(test)]
mod digest_tests;
mod egress;
pub mod fields;
pub mod groups;
mod guard;
pub mod include;
pub mod metric;
pub mod mistakes;
pub mod parse;
mod raw;
pub mod reference;
pub mod schema;
mod template;
pub mod tree;
pub mod truth;

pub use crate::digest::PolicyDigest;
pub use build::{LEAST_COOLDOWN, MAX_METRICS, MAX_RULES};
pub use condition::{Bound, Condition, EventMatch, FieldMatch, Fit, Judgements, Op, Pattern};
pub use derived::Derived;
pub use egress::{Budget, Egress, EgressAllow, MAX_BUDGETS, MAX_HOST, MAX_PORTS, Protocol};
pub use groups::WATCHABLE;
pub use guard::{Effect, ExecList, Limits, MAX_PATH, OnDead};
pub use metric::{MetricRule, Metrics, Over};
pub use raw::{MODES, OF_EVENTS, PHASES};
pub use reference::{Amount, Reference, Relative, Statistic};
pub use tree::{Leaf, Node, Phase, Test, Tree};
pub use truth::Truth;

use crate::{
    decision::{Action, Confidence, Mode, Severity},
    event::EventKind,
    signal::Source,
    time::Span,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The policies that runs are pinned to, by digest.
pub type PolicySet = BTreeMap<PolicyDigest, Arc<Policy>>;

/// What to do when a sensor that the policy needs cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnBlind {
    /// Refuse to start a run; tell people when it goes blind later.
    #[default]
    Refuse,
    /// Start all the same, and tell people.
    Continue,
    /// Refuse to start a run; freeze it when it goes blind later.
    Freeze,
}

/// What to do when a process leaves the run's cgroup by the run's own doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnEscape {
    /// Move it back.
    #[default]
    Recapture,
    /// Record it.
    Observe,
}

/// What to do with a run that differs from the one that it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnDrift {
    /// Record it, and tell people.
    #[default]
    Notify,
    /// Freeze it, before its command is executed where the difference is known by then.
    Hold,
}

impl OnDrift {
    fn is_default(&self) -> bool {
        *self == OnDrift::default()
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its id, unique in the policy.
    pub id: String,
    /// Why it exists.
    pub rationale: String,
    /// Who answers for it.
    pub owner: String,
    /// How bad a trip is.
    pub severity: Severity,
    /// How sure a trip is.
    pub confidence: Confidence,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Link to what to do next.
    pub playbook: Option<String>,
    /// Enforce or observe.
    pub mode: Mode,
    /// What the kernel does with a call that matches, before anybody decides anything.
    pub effect: Effect,
    /// When it trips.
    pub when: Condition,
    /// What is then done, in the order of [`Action::IN_POLICY`].
    pub actions: Vec<Action>,
    /// An event rule that tripped trips again only after this (or after a thaw).
    pub cooldown: Span,
    /// How it judges a metric of the run.
    #[serde(default, skip_serializing_if = "MetricRule::is_default")]
    pub metric: MetricRule,
}

/// The memory of one state of a rule for one series, in bytes, with what the heap adds.
const LEVEL_BYTES: usize = 256;

impl Rule {
    /// What a value of the metric costs to judge by this rule.
    pub fn judgements(&self, metric: &str) -> Judgements {
        let found = self.when.judgements(metric);
        if self.metric.over == Over::Any {
            found
        } else {
            Judgements { once: 0, by_series: found.once + found.by_series }
        }
    }

    /// The memory that it needs for each series of the run's metrics.
    fn bytes_of_series(&self) -> usize {
        let states = match &self.when {
            Condition::Tree(tree) => tree.leaves().len(),
            flat => flat.metrics().len(),
        };
        states * LEVEL_BYTES + build::bytes(&self.when)
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// Version, counted by its owner.
    pub version: u32,
    /// Who answers for it; the default owner of its rules.
    pub owner: String,
    /// What it is for.
    pub description: String,
    /// What to do without sight.
    pub on_blind: OnBlind,
    /// What to do with escapes.
    pub on_escape: OnEscape,
    /// What to do with a restart that differs from its predecessor.
    #[serde(default, skip_serializing_if = "OnDrift::is_default")]
    pub on_drift: OnDrift,
    /// What the kernel does when no daemon has been seen for [`Policy::dead_after`].
    pub on_dead_daemon: OnDead,
    /// How long the daemon must not have been seen.
    pub dead_after: Span,
    /// The egress allow-list.
    pub egress: Option<Egress>,
    /// The list of programs that the run may execute.
    pub exec: Option<ExecList>,
    /// Bounds that the kernel keeps on making processes.
    pub limits: Option<Limits>,
    /// Names of watched system calls: those listed, and those that rules name.
    pub watch: BTreeSet<String>,
    /// Where the states begin that `gpu.derived.*` tells.
    #[serde(default, skip_serializing_if = "Derived::is_default")]
    pub derived: Derived,
    /// When the run's metrics count as missing.
    #[serde(default, skip_serializing_if = "Metrics::is_default")]
    pub metrics: Metrics,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// The digest over the canonical content.
    pub fn digest(&self) -> PolicyDigest {
        // Only maps with ordered string keys and integers are in a Policy, so serialising it cannot fail; an empty
        // content would still give a digest of its own rather than another policy's.
        PolicyDigest::of_content(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The sensors whose blindness leaves a rule of this policy blind.
    pub fn needs(&self) -> BTreeSet<Source> {
        let mut needs: BTreeSet<Source> = self.rules.iter().flat_map(|rule| rule.when.sources()).collect();
        let sections = self.egress.is_some() || self.exec.is_some() || self.limits.is_some();
        if sections || !self.watch.is_empty() || self.on_dead_daemon != OnDead::Keep {
            needs.insert(Source::Ebpf);
        }
        needs.remove(&Source::Guard);
        needs
    }

    /// Whether the policy only observes what the rule judges, by the rule's own `mode` or that of the section: then the kernel denies
    /// nothing of it.
    pub fn observes(&self, rule: &Rule) -> bool {
        rule.mode == Mode::Observe || rule.when.event().is_some_and(|event| self.observes_event(event))
    }

    /// Whether the section that denies what the event is about only observes.
    pub fn observes_event(&self, event: &EventMatch) -> bool {
        let section = match event.kind {
            EventKind::Connect | EventKind::Send | EventKind::Socket | EventKind::Budget => {
                self.egress.as_ref().map(|egress| egress.mode)
            }
            EventKind::Exec => self.exec.as_ref().map(|exec| exec.mode),
            _ => None,
        };
        section == Some(Mode::Observe)
    }

    /// The same policy where nothing is refused: for the kernel's side of a run that is only watched. What would have been refused is
    /// reported. Bounds on making processes are left out, because the kernel does not report them without refusing.
    #[must_use]
    pub fn observing(&self) -> Policy {
        let mut out = self.clone();
        out.on_dead_daemon = OnDead::Keep;
        out.limits = None;
        if let Some(egress) = &mut out.egress {
            egress.mode = Mode::Observe;
        }
        if let Some(exec) = &mut out.exec {
            exec.mode = Mode::Observe;
        }
        for rule in &mut out.rules {
            (rule.mode, rule.effect) = (Mode::Observe, Effect::Observe);
        }
        out
    }

    /// The memory that its rules need for each series of a run's metrics, in bytes.
    pub fn bytes_of_series(&self) -> usize {
        self.rules.iter().map(Rule::bytes_of_series).sum()
    }

    /// The rule of that id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}
