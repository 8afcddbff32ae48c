//! Rules that the kernel carries out: what a policy says, and the user-space twin of the kernel's matcher of paths.
//!
//! [`effects`] says what the kernel makes of a path straight from the rules, and a property test holds it against the folded tables
//! ([`crate::fold`]).
//!
//! Invariants, here and in `ebpf/src/paths.h`:
//! - of several rules that match, the strictest holds, whatever their order;
//! - an allow-list of programs is the rule "deny" on every path that no entry of it covers; libraries are not programs.

use std::net::IpAddr;

use failsafe_ebpf::abi::{Effects, RULE_PATH, effect};

use crate::egress::EgressRule;
use crate::hosts::{BudgetRule, HostRule, WatchedName};

/// Longest path of a rule, in bytes: the kernel's key has room for it and its NUL.
pub const PATH_MAX: usize = RULE_PATH - 8;

/// What a rule does where it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Report it.
    Observe,
    /// Refuse it.
    Deny,
    /// Refuse it, latch the run, stop the thread.
    Stop,
}

impl Effect {
    /// As the kernel's tables have it.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::None => effect::NONE,
            Self::Observe => effect::OBSERVE,
            Self::Deny => effect::DENY,
            Self::Stop => effect::STOP,
        }
    }
}

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Executed as a program, or mapped executable.
    Exec,
    /// Opened for reading.
    Read,
    /// Opened for writing.
    Write,
}

/// A path, or all that begin so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathPattern {
    /// Absolute.
    pub path: String,
    /// All paths that begin with it, byte for byte.
    pub prefix: bool,
}

impl PathPattern {
    /// Whether `path` fits.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        if self.prefix { path.starts_with(&self.path) } else { path == self.path }
    }

    /// As the kernel's table has it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.path.clone().into_bytes();
        if !self.prefix {
            bytes.push(0);
        }
        bytes
    }
}

/// A rule on paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Which.
    pub pattern: PathPattern,
    /// Used how.
    pub usage: Use,
    /// What then.
    pub effect: Effect,
}

/// Programs that a run may execute; all others meet the effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecList {
    /// Of those not listed: `Observe` or `Deny`.
    pub others: Effect,
    /// The list.
    pub allow: Vec<PathPattern>,
}

/// What the kernel does when no daemon was seen for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// For how long, nanoseconds.
    pub after_ns: u64,
    /// Exec and open are refused too, not only what could leave the host.
    pub all: bool,
}

/// All rules of a run that the kernel carries out, apart from the egress allow-list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Calls and points (bits as in `fs_run_cfg`) that are reported by tracing programs.
    pub watch: u64,
    /// ... that are refused.
    pub deny: u64,
    /// ... that stop the run.
    pub stop: u64,
    /// No rule can tell an exec that is only observed from one that is allowed: it is reported once, by the exec itself.
    pub exec_once: bool,
    /// They are those of a run that is only observed: what its policy denies is let through.
    pub observing: bool,
    /// Paths; those that are devices when the run begins are held by their numbers as well.
    pub paths: Vec<PathRule>,
    /// Programs that may run.
    pub exec: Option<ExecList>,
    /// Socket families.
    pub families: Vec<(u16, Effect)>,
    /// Local addresses and ports to listen on, as they are bound: all addresses (`0.0.0.0`, `::`) are one of their own.
    pub listen: Vec<(EgressRule, Effect)>,
    /// ... to bind; `Observe` is `Watch::bind`'s.
    pub bind: Vec<(EgressRule, Effect)>,
    /// Without a daemon.
    pub dead: Option<Dead>,
    /// Processes that may live at once; 0 = any number.
    pub max_procs: u32,
    /// Processes made a second; 0 = any number.
    pub max_forks: u32,
    /// failsafe's own things are out of the run's reach.
    pub protect: bool,
    /// Hosts of the allow-list.
    pub hosts: Vec<HostRule>,
    /// Destinations that nothing may be sent to, whatever the allow-list says.
    pub net_denied: Vec<EgressRule>,
    /// Those of them that stop the run.
    pub net_stops: Vec<EgressRule>,
    /// Names whose answers are told, of the allow-list or not.
    pub names: Vec<WatchedName>,
    /// Name servers whose answers are believed.
    pub dns_servers: Vec<IpAddr>,
    /// Budgets, in the order of their classes, which count from 1.
    pub budgets: Vec<BudgetRule>,
}

/// No effect on any use.
pub const NOTHING: Effects = Effects { exec: 0, map: 0, read: 0, write: 0 };

/// Of each use the stricter effect.
#[must_use]
pub fn stricter(a: Effects, b: Effects) -> Effects {
    Effects { exec: a.exec.max(b.exec), map: a.map.max(b.map), read: a.read.max(b.read), write: a.write.max(b.write) }
}

/// What the rules say of a path, straight from them: the twin of the kernel's look-up.
#[must_use]
pub fn effects(rules: &Rules, path: &str) -> Effects {
    let named = named(rules, |pattern| pattern.fits(path));
    let listed = rules.exec.as_ref().map(|list| (list.others, list.allow.iter().any(|p| p.fits(path))));
    with_list(named, listed)
}

/// The strictest of the rules whose pattern `holds`, the list of programs left out.
pub fn named(rules: &Rules, holds: impl Fn(&PathPattern) -> bool) -> Effects {
    let mut all = NOTHING;
    for rule in rules.paths.iter().filter(|r| holds(&r.pattern)) {
        let e = rule.effect.byte();
        all = stricter(
            all,
            match rule.usage {
                Use::Exec => Effects { exec: e, map: e, ..NOTHING },
                Use::Read => Effects { read: e, ..NOTHING },
                Use::Write => Effects { write: e, ..NOTHING },
            },
        );
    }
    all
}

/// What is named, and the list of programs: the effect on those that it does not hold, and whether it holds this one.
#[must_use]
pub fn with_list(named: Effects, listed: Option<(Effect, bool)>) -> Effects {
    match listed {
        Some((others, false)) => stricter(named, Effects { exec: others.byte(), ..NOTHING }),
        _ => named,
    }
}
