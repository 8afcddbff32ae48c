//! The enforcement level of each rule on a node: denied in the kernel, observed, or not seen, with the reason.
//!
//! Pure: the node's [`Grants`] are handed in by whoever probed it.

mod hooks;

use super::{Effect, EventMatch, FieldMatch, OnBlind, OnDead, Pattern, Policy, Rule, condition::event_source, groups};
use crate::{
    decision::Mode,
    event::{Assurance, EventKind, Field},
    signal::Source,
};
pub use hooks::refusing_hooks;
use hooks::{EGRESS, EXEC, FORK, Hook, LATCH, Need, Sight};
use std::collections::BTreeSet;

/// What a node's kernel grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// LSM hooks by name, e.g. `file_open`.
    pub lsm: BTreeSet<String>,
    /// Watched calls are seen at their own functions.
    pub fentry: bool,
    /// Watched calls are seen at the entry of every call.
    pub sys_enter: bool,
    /// Sockets that begin to listen are seen by a tracepoint.
    pub listens: bool,
    /// Credentials that an exec brings are seen before it has them.
    pub gains: bool,
    /// Hooks of a run's own cgroup, e.g. `connect4`, `dev`, `skb_egress`.
    pub cgroup: BTreeSet<String>,
    /// Why the programs are not pinned, so that they end with the daemon; `None`: they outlive it.
    pub unpinned: Option<String>,
}

impl Grants {
    fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::Lsm(name) => self.lsm.contains(name),
            Hook::Cgroup(name) => self.cgroup.contains(name),
        }
    }

    /// Without any program there is no tracepoint of process life either.
    fn nothing(&self) -> bool {
        self.lsm.is_empty() && self.cgroup.is_empty() && !self.fentry && !self.sys_enter
    }

    fn missing(&self, hooks: &[Hook]) -> Vec<String> {
        let missing = hooks.iter().filter(|hook| !self.has(**hook));
        missing
            .map(|hook| match hook {
                Hook::Lsm(name) => format!("lsm/{name}"),
                Hook::Cgroup(name) => format!("cgroup/{name}"),
            })
            .collect()
    }

    fn sees(&self, need: &Need) -> Option<Assurance> {
        if self.nothing() {
            return None;
        }
        let own = !need.hooks.is_empty() && self.missing(&need.hooks).is_empty();
        match need.sight {
            // The refusing hooks report only what they refuse: watched calls are told of by their own programs.
            Sight::Call if self.fentry => Some(Assurance::Observed),
            Sight::Call if self.sys_enter => Some(Assurance::ObservedUnreliable),
            Sight::Call => None,
            _ if own => Some(Assurance::Observed),
            Sight::Life => Some(Assurance::Observed),
            Sight::SysEnter => self.sys_enter.then_some(Assurance::ObservedUnreliable),
            Sight::Listen => self.listens.then_some(Assurance::Observed),
            Sight::Gain => self.gains.then_some(Assurance::Observed),
            Sight::Setuid => (self.gains && self.sys_enter).then_some(Assurance::ObservedUnreliable),
            Sight::Hooks => None,
        }
    }
}

/// What one rule or section is worth on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAssurance {
    /// The rule's id, or the section's name in brackets.
    pub rule: String,
    /// What it asks of the kernel.
    pub effect: Effect,
    /// What it gets; `None`: what it speaks of is not seen on this node.
    pub assurance: Option<Assurance>,
    /// Why it is not more; empty when it is all that was asked.
    pub detail: String,
}

impl RuleAssurance {
    /// Whether the kernel does here what was asked of it.
    pub fn holds(&self) -> bool {
        match self.effect {
            Effect::Observe => self.assurance.is_some(),
            Effect::Deny | Effect::Stop => self.assurance == Some(Assurance::BlockedInKernel),
        }
    }

    /// The name of what it gets.
    pub fn name(&self) -> &'static str {
        let none = if self.rule == ON_DEAD { "not enforced" } else { "not seen" };
        self.assurance.map_or(none, Assurance::name)
    }

    /// Whether a run may start all the same: beyond LSM `[limits]` are seen, and without pins the other bounds hold while a daemon runs.
    fn is_tolerated(&self, policy: &Policy) -> bool {
        self.rule == LIMITS || !self.is_asked(policy)
    }

    /// Whether the policy asks for it. `on_dead_daemon = "keep"` is what holds without a word of the policy.
    fn is_asked(&self, policy: &Policy) -> bool {
        self.rule != ON_DEAD || policy.on_dead_daemon != OnDead::Keep
    }
}

/// Bounds on making processes, as a rule.
const LIMITS: &str = "[limits]";
/// What stays in force without a daemon, as a rule.
const ON_DEAD: &str = "on_dead_daemon";

/// Every section and rule of `policy` that depends on the kernel, with what it is worth under `grants`.
pub fn assess(policy: &Policy, grants: &Grants) -> Vec<RuleAssurance> {
    let need = |what: &str, hooks: &[Hook], sight| Need { what: what.to_owned(), hooks: hooks.to_vec(), sight };
    let effect = |mode| if mode == Mode::Enforce { Effect::Deny } else { Effect::Observe };
    let mut out = Vec::new();
    if let Some(egress) = &policy.egress {
        out.push(judge("[egress]", effect(egress.mode), &[need("egress", &EGRESS, Sight::Hooks)], grants));
        if egress.allow.iter().any(|allow| allow.host.is_some()) {
            let names = [need("names", &[Hook::Cgroup("skb_ingress")], Sight::Hooks)];
            out.push(judge("[egress] hosts", Effect::Observe, &names, grants));
        }
        for budget in &egress.budgets {
            let over = [need("packets", &[Hook::Cgroup("skb_egress")], Sight::Hooks)];
            out.push(judge(&format!("[egress] budget {}", budget.name), effect(egress.mode), &over, grants));
        }
    }
    if let Some(exec) = &policy.exec {
        out.push(judge("[exec]", effect(exec.mode), &[need("exec", &[EXEC], Sight::Life)], grants));
    }
    if policy.limits.is_some() {
        out.push(judge(LIMITS, Effect::Deny, &[need("fork", &[FORK], Sight::Life)], grants));
    }
    let rules: Vec<RuleAssurance> = policy.rules.iter().filter_map(|rule| of_rule(policy, rule, grants)).collect();
    let refuses = |judged: &RuleAssurance| judged.assurance == Some(Assurance::BlockedInKernel);
    let bounded = out.iter().chain(&rules).any(refuses);
    out.extend(without_daemon(policy, grants, bounded));
    out.extend(rules);
    out
}

/// What the kernel keeps when the daemon is dead; `bounded`: it refuses something that then has to stay refused.
fn without_daemon(policy: &Policy, grants: &Grants, bounded: bool) -> Option<RuleAssurance> {
    let (rule, effect) = (ON_DEAD.to_owned(), Effect::Deny);
    let hooks = match policy.on_dead_daemon {
        OnDead::Keep if bounded => Vec::new(),
        OnDead::Keep => return None,
        OnDead::DenyEgress => EGRESS.to_vec(),
        OnDead::DenyAll => [&LATCH[..], &EGRESS].concat(),
    };
    if let Some(why) = &grants.unpinned {
        let detail = format!("the programs are not pinned, and end with the daemon: {why}");
        return Some(RuleAssurance { rule, effect, assurance: None, detail });
    }
    let need = Need { what: "the latch".to_owned(), hooks, sight: Sight::Hooks };
    (policy.on_dead_daemon != OnDead::Keep).then(|| judge(ON_DEAD, effect, &[need], grants))
}

/// What a rule on each kind of the kernel's events is worth under `grants` at its strictest: refused where a hook can refuse it,
/// else seen. Of system calls the least of all that can be watched.
pub fn kinds(grants: &Grants) -> Vec<RuleAssurance> {
    let of_ebpf = EventKind::ALL.iter().filter(|kind| event_source(**kind) == Source::Ebpf);
    let judged = of_ebpf.map(|kind| {
        let calls = || groups::WATCHABLE.iter().map(|call| Pattern::Exact((*call).to_owned())).collect();
        let fields = match kind {
            EventKind::Syscall => vec![FieldMatch { field: Field::Name, any_of: calls() }],
            _ => Vec::new(),
        };
        let needs = hooks::needs(&EventMatch { kind: *kind, fields }, grants);
        let refusable = *kind != EventKind::Dns && needs.iter().any(|need| !need.hooks.is_empty());
        judge(kind.name(), if refusable { Effect::Deny } else { Effect::Observe }, &needs, grants)
    });
    judged.collect()
}

fn of_rule(policy: &Policy, rule: &Rule, grants: &Grants) -> Option<RuleAssurance> {
    let Some(event) = rule.when.event() else { return of_parts(rule, grants) };
    if event_source(event.kind) != Source::Ebpf {
        return None;
    }
    let mut judged = judge(&rule.id, rule.effect, &hooks::needs(event, grants), grants);
    if event.kind == EventKind::Fork
        && rule.effect != Effect::Observe
        && policy.limits.is_none()
        && judged.assurance.is_some()
    {
        // The hook refuses forks beyond [limits] only.
        judged.assurance = Some(Assurance::Observed);
        judged.detail = "fork: the policy has no [limits], and no other fork is refused".to_owned();
    }
    let latch = grants.missing(&LATCH);
    if rule.effect == Effect::Stop && judged.assurance == Some(Assurance::BlockedInKernel) && !latch.is_empty() {
        judged.detail = format!("until it is frozen the run can still execute and open: no {}", latch.join(", "));
    }
    Some(judged)
}

/// A rule whose events are parts of a condition: the kernel reports them, and denies none of them. The daemon judges the whole.
fn of_parts(rule: &Rule, grants: &Grants) -> Option<RuleAssurance> {
    let events: Vec<&EventMatch> =
        rule.when.events().into_iter().filter(|event| event_source(event.kind) == Source::Ebpf).collect();
    let needs: Vec<Need> = events.iter().flat_map(|event| hooks::needs(event, grants)).collect();
    (!events.is_empty()).then(|| judge(&rule.id, Effect::Observe, &needs, grants))
}

fn judge(rule: &str, effect: Effect, needs: &[Need], grants: &Grants) -> RuleAssurance {
    let mut worst = Some(if effect == Effect::Observe { Assurance::Observed } else { Assurance::BlockedInKernel });
    // What falls short for one reason is told together.
    let mut why: Vec<(Vec<&str>, String)> = Vec::new();
    for need in needs {
        let missing = grants.missing(&need.hooks);
        let refused = !need.hooks.is_empty() && missing.is_empty();
        let seen = grants.sees(need);
        let got = if effect != Effect::Observe && refused { Some(Assurance::BlockedInKernel) } else { seen };
        let reason = match (effect, got) {
            (_, Some(Assurance::BlockedInKernel)) | (Effect::Observe, Some(Assurance::Observed)) => None,
            (Effect::Observe, Some(_)) => Some("only the entry of the call is seen".to_owned()),
            (_, _) if need.hooks.is_empty() && effect != Effect::Observe => Some("no hook refuses it".to_owned()),
            (Effect::Observe, None) if matches!(need.sight, Sight::Call | Sight::SysEnter) => {
                Some("neither fentry nor sys_enter is granted".to_owned())
            }
            (_, _) if missing.is_empty() => Some("no hook tells of it".to_owned()),
            (_, _) => Some(format!("no {}", missing.join(", "))),
        };
        if let Some(reason) = reason {
            match why.iter_mut().find(|(_, known)| *known == reason) {
                Some((whats, _)) => whats.push(&need.what),
                None => why.push((vec![&need.what], reason)),
            }
        }
        worst = match (worst, got) {
            (Some(worst), Some(got)) => Some(worst.max(got)),
            _ => None,
        };
    }
    let why: Vec<String> = why.iter().map(|(whats, reason)| format!("{}: {reason}", whats.join(", "))).collect();
    RuleAssurance { rule: rule.to_owned(), effect, assurance: worst, detail: why.join("; ") }
}

/// Rules and sections that are not enforced on this node as the policy asks, or that judge what is not seen.
pub fn broken(policy: &Policy, grants: &Grants) -> Vec<RuleAssurance> {
    let mut all = assess(policy, grants);
    all.retain(|judged| !judged.holds());
    all
}

/// Whether something that the policy asks for is not enforced on this node. What it does not ask for is in [`broken`] alone.
pub fn is_less_than_asked(policy: &Policy, grants: &Grants) -> bool {
    broken(policy, grants).iter().any(|judged| judged.is_asked(policy))
}

/// Why a policy may not be pinned on a node with these grants, or `None`; `on_blind = "continue"` always may.
pub fn refusal(policy: &Policy, grants: &Grants) -> Option<String> {
    if policy.on_blind == OnBlind::Continue {
        return None;
    }
    let mut broken = broken(policy, grants);
    broken.retain(|judged| !judged.is_tolerated(policy));
    let one = |judged: &RuleAssurance| match judged.effect {
        Effect::Observe => format!("what {} is about is not seen ({})", judged.rule, judged.detail),
        _ => format!("{} would be {}, not blocked-in-kernel ({})", judged.rule, judged.name(), judged.detail),
    };
    let lacks = |what: &str| broken.iter().any(|judged| judged.detail.contains(what));
    let mut advice = String::from("; ");
    if lacks("lsm/") {
        advice.push_str("boot with `bpf` in lsm=, or ");
    }
    if lacks("not pinned") {
        advice.push_str("let `bpffs` of failsafed.toml name a BPF file system, or ");
    }
    advice.push_str("let the policy say on_blind = \"continue\"");
    let list: Vec<String> = broken.iter().map(one).collect();
    (!list.is_empty()).then(|| format!("policy `{}`: {}{advice}", policy.name, list.join("; ")))
}

#[cfg(test)]
mod tests;
