//! From TOML to meaning: units, names, ranges and contradictions are checked here, all of them, before one is reported.

mod derived;
mod detect;
mod egress;
mod guard;
mod metric;
mod never;
mod relative;
mod tree;
mod when;

use super::{
    Condition, Effect, EventMatch, Pattern, Policy, Rule,
    diagnostic::{did_you_mean, quote},
    groups,
    mistakes::Mistakes,
    raw::{RawPolicy, RawRule},
    tree::MAX_POLICY_LEAVES,
};
use crate::{
    decision::Action,
    detect::MAX_BYTES,
    event::{EventKind, Field},
    time::Span,
};
pub(super) use detect::bytes;
use never::Sections;
use std::{collections::BTreeSet, ops::Range};
use toml::Spanned;

/// The least cooldown of a rule that contains nothing: each of its decisions is an entry of the log.
pub const LEAST_COOLDOWN: Span = Span::from_secs(1);
/// An event rule trips again only after this unless the rule says otherwise.
const COOLDOWN: Span = Span::from_secs(10);
/// The window of a rate unless the rule says otherwise.
const RATE_WINDOW: Span = Span::from_secs(5);

/// Rules of a policy, those of its templates included. Any user can give a policy, and the thread that freezes judges each rule on each
/// event of a run.
pub const MAX_RULES: usize = 1_024;
/// Metrics of which the rules of a policy await values: each is looked at once a second.
pub const MAX_METRICS: usize = 256;

/// Builds the policy. What is wrong is added to `wrong`; the policy holds only where nothing is.
pub(super) fn build(wrong: &mut Mistakes, raw: RawPolicy) -> Policy {
    let mut b = Builder { wrong };
    let name = raw.policy.name.as_ref().map(|name| b.name(name)).unwrap_or_default();
    let version = raw.policy.version.as_ref().map_or(1, |version| b.version(version));
    let mut watch: BTreeSet<String> = BTreeSet::new();
    for call in raw.syscalls.iter().flat_map(|calls| calls.get_ref()) {
        watch.extend(b.syscalls(call.get_ref(), call.span()).iter().map(|call| (*call).to_owned()));
    }
    let egress = raw.egress.map(|egress| b.egress(&egress));
    let exec = raw.exec.map(|exec| b.exec_list(&exec));
    let limits = raw.limits.map(|limits| b.limits(&limits));
    let derived = b.derived(&raw.derived);
    let metrics = b.metrics(&raw.metrics);
    let dead_after = b.dead_after(&raw.policy);
    let owner = raw.policy.owner.unwrap_or_default();
    let (mut rules, mut places): (Vec<Rule>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let no_rules = raw.rules.is_empty();
    let (mut tests, mut memory) = (0, 0);
    let mut awaited: BTreeSet<String> = BTreeSet::new();
    let written = raw.rules.len();
    for (number, rule) in raw.rules.into_iter().enumerate() {
        if number == MAX_RULES {
            let message = format!(
                "the policy has {written} rules with those of its templates, expected at most {MAX_RULES} rules up to this one"
            );
            let help = "write one rule with several patterns, or one condition with `any`, in place of several rules";
            b.error(rule.span.clone(), message, Some(help.into()));
            break;
        }
        if let Some(id) = &rule.id
            && !taken.insert(id.get_ref().clone())
        {
            b.error(id.span(), format!("another rule has the id {} already", quote(id.get_ref())), None);
        }
        let span = rule.id.as_ref().map_or_else(|| rule.span.clone(), Spanned::span);
        if let Some(built) = b.rule(rule, &owner) {
            for EventMatch { fields, .. } in built.when.events().iter().filter(|e| e.kind == EventKind::Syscall) {
                for pattern in fields.iter().filter(|m| m.field == Field::Name).flat_map(|m| &m.any_of) {
                    if let Pattern::Exact(call) = pattern {
                        watch.insert(call.clone());
                    }
                }
            }
            b.budget_stop(&built, egress.as_ref(), span.clone());
            let before = tests;
            tests += if let Condition::Tree(tree) = &built.when { tree.leaves().len() } else { 0 };
            if before <= MAX_POLICY_LEAVES && tests > MAX_POLICY_LEAVES {
                let message = format!(
                    "the conditions of the policy have more than {MAX_POLICY_LEAVES} tests in `all`, `any`, `not` and `of`, \
                     expected at most so many up to this rule"
                );
                b.error(span.clone(), message, None);
            }
            let (before, own) = (memory, detect::bytes(&built.when));
            memory += own;
            if before <= MAX_BYTES && memory > MAX_BYTES {
                let message = format!(
                    "the detectors and counts of the policy need {memory} bytes for each series up to this rule, expected \
                     at most {MAX_BYTES}: use shorter windows, smaller counts, or fewer of them"
                );
                b.error(span.clone(), message, None);
            }
            let before = awaited.len();
            awaited.extend(built.when.awaited_metrics().into_iter().map(str::to_owned));
            if before <= MAX_METRICS && awaited.len() > MAX_METRICS {
                let message = format!(
                    "the rules of the policy need {} metrics up to this rule, expected at most {MAX_METRICS}",
                    awaited.len()
                );
                b.error(span.clone(), message, None);
            }
            rules.push(built);
            places.push(span);
        }
    }
    let sections = Sections { egress: egress.is_some(), exec: exec.is_some(), limits: limits.is_some() };
    // Mistakes come first: what else is amiss with a rule is seen once it can be read.
    if !b.wrong.any() {
        b.never(&rules, &places, sections);
    }
    if no_rules {
        b.no_rules(raw.policy.span, egress.is_some() || exec.is_some() || limits.is_some());
    }
    Policy {
        name,
        version,
        owner,
        description: raw.policy.description.unwrap_or_default(),
        on_blind: raw.policy.on_blind,
        on_escape: raw.policy.on_escape,
        on_drift: raw.policy.on_drift,
        on_dead_daemon: raw.policy.on_dead_daemon.unwrap_or_default(),
        dead_after,
        egress,
        exec,
        limits,
        watch,
        derived,
        metrics,
        rules,
    }
}

struct Builder<'a> {
    wrong: &'a mut Mistakes,
}

impl Builder<'_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.wrong.error(span, message, help);
    }

    /// A suggestion out of `candidates`; none once mistakes are only counted.
    fn suggest<'c>(&self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
        if self.wrong.full() { None } else { did_you_mean(word, candidates) }
    }

    fn no_rules(&mut self, span: Range<usize>, sections: bool) {
        let message = if sections {
            "the policy has no rules: the kernel enforces its sections, but nobody is notified and no run is frozen"
        } else {
            "the policy has no rules and no sections: it limits nothing"
        };
        self.wrong.warning(span, message, Some("add a [[rule]]; docs/policy.md has examples".into()));
    }

    fn version(&mut self, version: &Spanned<i64>) -> u32 {
        u32::try_from(*version.get_ref()).unwrap_or_else(|_| {
            let message = format!("`{}`, expected a whole number from 0 to {}", version.get_ref(), u32::MAX);
            self.error(version.span(), message, None);
            1
        })
    }

    fn name(&mut self, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !good {
            let message = format!("{}, expected 1 to 64 characters of letters, digits, `-`, `_`, `.`", quote(text));
            self.error(name.span(), message, None);
        }
        text.clone()
    }

    /// The calls that a name or a group stands for; none when it is unknown.
    fn syscalls(&mut self, name: &str, span: Range<usize>) -> &'static [&'static str] {
        if let Some(calls) = groups::expand(name) {
            return calls;
        }
        let help = self.suggest(name, groups::names()).unwrap_or_else(|| {
            let groups: Vec<&str> = groups::GROUPS.iter().map(|(group, _)| *group).collect();
            format!("the groups are {}; docs/policy.md lists their calls", groups.join(", "))
        });
        self.error(span, format!("system call {} cannot be watched", quote(name)), Some(help));
        &[]
    }

    fn duration(&mut self, text: &Spanned<String>) -> Option<Span> {
        let span = Span::parse(text.get_ref());
        if span.is_none() {
            let message = format!(
                "{} is not a duration, expected for example \"500 ms\", \"3s\", \"2m\", \"1h30m\" or \"7d\"",
                quote(text.get_ref())
            );
            self.error(text.span(), message, None);
        }
        span
    }

    fn rule(&mut self, raw: RawRule, policy_owner: &str) -> Option<Rule> {
        let id = raw.id.as_ref().map(|id| self.name(id));
        if let Some(rationale) = raw.rationale.as_ref().filter(|text| text.get_ref().trim().is_empty()) {
            self.error(rationale.span(), "the text is empty, expected why this rule exists", None);
        }
        let actions = raw.actions.as_ref().and_then(|actions| self.actions(actions));
        let is_signal =
            raw.when.as_ref().is_some_and(|when| when.event.is_none() && !when.unreadable && !tree::is_tree(when));
        let cooldown = raw.cooldown.as_ref().and_then(|text| {
            if is_signal {
                let message = "`cooldown` is for rules on events; a rule on a signal trips again after it cleared";
                self.error(text.span(), message, None);
            }
            self.duration(text)
        });
        let when = raw.when.as_ref().and_then(|when| self.condition(when));
        let metric = raw.when.as_ref().map(|raw| self.metric_rule(raw, when.as_ref())).unwrap_or_default();
        let effect = self.effect(&raw, when.as_ref()).unwrap_or_default();
        let mut actions = actions?;
        if let (Some(text), Some(given)) = (&raw.cooldown, cooldown)
            && given < LEAST_COOLDOWN
            && !is_signal
            && effect != Effect::Stop
            && !actions.iter().any(|action| action.contains())
        {
            let message = format!(
                "{} is too short, expected at least \"1s\": a rule that neither freezes nor blocks nor kills decides at most once a second",
                quote(text.get_ref())
            );
            self.error(text.span(), message, None);
        }
        if effect == Effect::Stop && !actions.contains(&Action::Freeze) {
            actions = Action::IN_POLICY.into_iter().filter(|a| *a == Action::Freeze || actions.contains(a)).collect();
        }
        Some(Rule {
            id: id?,
            rationale: raw.rationale?.into_inner(),
            owner: raw.owner.unwrap_or_else(|| policy_owner.to_owned()),
            severity: raw.severity,
            confidence: raw.confidence,
            labels: raw.labels,
            playbook: raw.playbook,
            mode: raw.mode,
            effect,
            when: when?,
            actions,
            cooldown: cooldown.unwrap_or(COOLDOWN),
            metric,
        })
    }

    /// The actions in the order in which they are carried out, whatever the order they are written in.
    fn actions(&mut self, raw: &Spanned<Vec<Spanned<String>>>) -> Option<Vec<Action>> {
        let names = || Action::IN_POLICY.iter().map(|action| action.name());
        let expected = || names().collect::<Vec<_>>().join(", ");
        if raw.get_ref().is_empty() {
            self.error(raw.span(), format!("no actions, expected at least one of {}", expected()), None);
            return None;
        }
        let mut given: Vec<Action> = Vec::new();
        for text in raw.get_ref() {
            let name = text.get_ref().as_str();
            match Action::IN_POLICY.into_iter().find(|action| action.name() == name) {
                Some(action) if given.contains(&action) => {
                    self.error(text.span(), format!("the action `{name}` is given twice"), None);
                }
                Some(action) => given.push(action),
                None if name == Action::Thaw.name() => {
                    let message = "`thaw` is for operators, not for policies: a policy cannot thaw a run";
                    self.error(text.span(), message, None);
                }
                None => {
                    let help = self.suggest(name, names());
                    self.error(
                        text.span(),
                        format!("unknown action {}, expected one of {}", quote(name), expected()),
                        help,
                    );
                }
            }
        }
        Some(Action::IN_POLICY.into_iter().filter(|action| given.contains(action)).collect())
    }
}
