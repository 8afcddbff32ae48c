//! What the kernel would have said of a recorded event under another policy, as far as the event itself says it.
//!
//! Recomputed are the verdicts of the allow-list of destinations and of what may be executed. Invariant: an event of which this
//! cannot be known keeps the verdict that was recorded, and is counted as such ([`Unknown`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use failsafe_core::{
    Policy,
    decision::Mode,
    event::{Assurance, CUT, Event, EventKind, ExecKind, NetOp, Verdict},
    policy::{Condition, Effect as RuleEffect},
};
use failsafe_ebpf::abi::{effect, point};

use crate::compile::{self, Resolver};
use crate::egress::{EgressMode, EgressPolicy, UDP, verdict};
use crate::rules::{Effect, NOTHING, Rules, effects, stricter};

/// Addresses of hosts that are remembered.
const LEARNT: usize = 16_384;

/// Why the verdict of an event stays as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// The list has host names, and the recording has no answer of a name server that allows or excludes the address.
    HostName,
    /// The run was latched, or no daemon was seen: whether it would have been so under another policy is not known.
    Held,
    /// The event has no whole path as the kernel resolved it.
    Path,
    /// Verdicts of this kind are not recomputed.
    Kind(EventKind),
}

impl Unknown {
    /// In words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Unknown::HostName => {
                "network: the policy allows host names, and the recording has no DNS answer for the address".to_owned()
            }
            Unknown::Held => {
                "refused by a latch or because no daemon was seen: only under the recorded policy".to_owned()
            }
            Unknown::Path => format!("{}: the recording has no whole path", EventKind::Exec.name()),
            Unknown::Kind(kind) => format!("{}: verdicts of this kind are not recomputed", kind.name()),
        }
    }

    /// Whether a verdict that stays as recorded could be another under `new`, and that matters: what gives events of the kind their verdict
    /// differs, and `new` judges such events, or the recorded policy denied some.
    #[must_use]
    pub fn matters(self, old: &Policy, new: &Policy) -> bool {
        let Unknown::Kind(kind) = self else { return old != new };
        let section = match kind {
            EventKind::Fork => old.limits != new.limits,
            EventKind::Socket | EventKind::Budget => old.egress != new.egress,
            _ => false,
        };
        fn rules(policy: &Policy, kind: EventKind) -> Vec<(&Condition, RuleEffect, Mode)> {
            let of_kind = policy.rules.iter().filter(|rule| rule.when.events().iter().any(|event| event.kind == kind));
            of_kind.map(|rule| (&rule.when, rule.effect, rule.mode)).collect()
        }
        let (before, now) = (rules(old, kind), rules(new, kind));
        let denied = before.iter().any(|(_, effect, _)| *effect != RuleEffect::Observe);
        section || before != now && (denied || !now.is_empty())
    }
}

/// What becomes of an event under the other policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It has no verdict of a policy.
    NoVerdict,
    /// It would have been reported like this.
    As(Event),
    /// It would not have been reported: it says only that a rule watches, which the other policy does not have. What happened
    /// has an event of its own.
    Unreported,
    /// Not known; it stays as it is.
    Unknown(Unknown),
}

/// Judges events by another policy.
pub struct Rejudge {
    egress: EgressPolicy,
    rules: Rules,
    /// Addresses that name servers gave for hosts of the list: the hosts' places in the rules. Of an address that found no room it is not
    /// known what allows it.
    learnt: BTreeMap<IpAddr, BTreeSet<usize>>,
}

impl Rejudge {
    /// By this policy. The node's own files are not asked: what only they allow is not known.
    #[must_use]
    pub fn by(policy: &Policy) -> Self {
        let resolver = Resolver::default();
        // What a call is refused by concerns no verdict that is recomputed.
        Self {
            egress: compile::egress(policy, &resolver),
            rules: compile::rules(policy, 0, &resolver),
            learnt: BTreeMap::new(),
        }
    }

    /// The next event of the recording.
    #[must_use]
    pub fn judge(&mut self, event: &Event) -> Judged {
        let (now, recorded) = match event {
            Event::Dns { name, address } => {
                let hosts = self.rules.hosts.iter().enumerate().filter(|(_, host)| host.covers(name));
                let hosts: Vec<usize> = hosts.map(|(at, _)| at).collect();
                if !hosts.is_empty() && (self.learnt.len() < LEARNT || self.learnt.contains_key(address)) {
                    self.learnt.entry(*address).or_default().extend(hosts);
                }
                return Judged::NoVerdict;
            }
            Event::Net { op: NetOp::Connect | NetOp::Send, verdict, .. } => (self.net(event), *verdict),
            Event::Exec { verdict, .. } => (self.exec(event), *verdict),
            // What protects failsafe itself is no part of a policy.
            Event::Protect { .. } => return Judged::NoVerdict,
            other if other.verdict().is_none() => return Judged::NoVerdict,
            other => return Judged::Unknown(Unknown::Kind(other.kind())),
        };
        match now {
            Err(unknown) => Judged::Unknown(unknown),
            // Held or not, what the policy itself refuses is reported as its refusal.
            Ok(now) if now != Verdict::Denied && matches!(recorded, Verdict::Latched | Verdict::DeadDaemon) => {
                Judged::Unknown(Unknown::Held)
            }
            Ok(Verdict::Allowed) if recorded == Verdict::WouldDeny && event.kind() == EventKind::Exec => {
                Judged::Unreported
            }
            Ok(now) => Judged::As(with(event, now)),
        }
    }

    fn net(&self, event: &Event) -> Result<Verdict, Unknown> {
        let Event::Net { op, protocol, address, port, verdict: recorded, .. } = event else {
            return Err(Unknown::Kind(event.kind()));
        };
        let named = |rules| verdict(rules, *address, *port, *protocol);
        let sends_nothing = *op == NetOp::Connect && (*protocol == UDP || *recorded == Verdict::Probe);
        if named(&self.rules.net_denied) {
            return Ok(if sends_nothing { Verdict::Probe } else { Verdict::Denied });
        }
        if self.egress.mode == EgressMode::Off
            || named(&self.egress.rules)
            || self.is_learnt(*address, *port, *protocol)
        {
            return Ok(Verdict::Allowed);
        }
        if !self.rules.hosts.is_empty() {
            return Err(Unknown::HostName);
        }
        Ok(match self.egress.mode {
            _ if sends_nothing => Verdict::Probe,
            EgressMode::Enforce => Verdict::Denied,
            EgressMode::Observe | EgressMode::Off => Verdict::WouldDeny,
        })
    }

    fn is_learnt(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        let of_address = self.learnt.get(&address).into_iter().flatten();
        let mut hosts = of_address.filter_map(|at| self.rules.hosts.get(*at));
        hosts.any(|host| host.allows(port, protocol))
    }

    fn exec(&self, event: &Event) -> Result<Verdict, Unknown> {
        let Event::Exec { path, known_as, argv, kind, verdict: recorded, .. } = event else {
            return Err(Unknown::Kind(event.kind()));
        };
        // What was refused or watched comes from the hook, with the kernel's own path. What was executed comes with the path as it
        // was given; the kernel's own, of a script its interpreter's, stands beside it where it is another.
        let resolved = match recorded {
            Verdict::Allowed => known_as.first().unwrap_or(path),
            _ => path,
        };
        let is_script = *kind == ExecKind::Script && *recorded == Verdict::Allowed;
        let paths = std::iter::once(resolved).chain(is_script.then_some(path));
        let mut of_paths = NOTHING;
        let mut whole = true;
        for path in paths {
            if path.starts_with('/') && !path.contains(CUT) {
                of_paths = stricter(of_paths, effects(&self.rules, path));
            } else {
                whole = false;
            }
        }
        let said = if argv == MAPPED { of_paths.map } else { of_paths.exec.max(self.of_kind(*kind)) };
        match said {
            said if said >= effect::DENY => Ok(Verdict::Denied),
            _ if !whole && (self.rules.exec.is_some() || !self.rules.paths.is_empty()) => Err(Unknown::Path),
            effect::OBSERVE => Ok(Verdict::WouldDeny),
            _ => Ok(Verdict::Allowed),
        }
    }

    /// What rules say of files of a kind, whatever their paths; `Observe` is reported with the execution itself.
    fn of_kind(&self, kind: ExecKind) -> u8 {
        let bit = match kind {
            ExecKind::File => return effect::NONE,
            ExecKind::Memfd => point::EXEC_MEMFD,
            ExecKind::Deleted => point::EXEC_DELETED,
            ExecKind::Script => point::EXEC_SCRIPT,
        };
        let has = |mask: u64| mask >> bit & 1 == 1;
        if has(self.rules.stop | self.rules.deny) { Effect::Deny.byte() } else { effect::NONE }
    }
}

/// Stands in the place of arguments where a file was mapped executable.
const MAPPED: &str = "(mapped executable)";

/// The event with another verdict.
fn with(event: &Event, now: Verdict) -> Event {
    let mut event = event.clone();
    if let Event::Net { verdict, assurance, .. } | Event::Exec { verdict, assurance, .. } = &mut event
        && *verdict != now
    {
        *verdict = now;
        *assurance = if now == Verdict::Denied { Assurance::BlockedInKernel } else { Assurance::Observed };
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    fn by(text: &str) -> Rejudge {
        Rejudge::by(&parse("t.toml", &format!("[policy]\nname = \"t\"\nowner = \"o\"\n{text}")).unwrap())
    }

    fn connect(to: &str, protocol: u8, verdict: Verdict) -> Event {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let (address, port, assurance) = (to.ip(), to.port(), Assurance::Observed);
        Event::Net { op: NetOp::Connect, protocol, address, port, family: 2, verdict, assurance }
    }

    fn exec(path: &str, known_as: &[&str], kind: ExecKind, verdict: Verdict) -> Event {
        let known_as = known_as.iter().map(|name| (*name).to_owned()).collect();
        Event::Exec { path: path.into(), known_as, argv: "x".into(), kind, verdict, assurance: Assurance::Observed }
    }

    fn verdict_of(judged: &Judged) -> Option<Verdict> {
        if let Judged::As(event) = judged { event.verdict() } else { None }
    }

    #[test]
    fn a_destination_is_judged_by_the_other_list() {
        let list = "allow = [{ cidr = \"10.0.0.0/8\", ports = 443, protocol = \"tcp\" }]\n";
        let mut enforced = by(&format!("[egress]\n{list}"));
        let mut observed = by(&format!("[egress]\nmode = \"observe\"\n{list}"));
        let mut open = by("");
        for (to, protocol, recorded, expected) in [
            ("10.1.2.3:443", 6, Verdict::Denied, [Verdict::Allowed, Verdict::Allowed, Verdict::Allowed]),
            ("10.1.2.3:80", 6, Verdict::Allowed, [Verdict::Denied, Verdict::WouldDeny, Verdict::Allowed]),
            ("192.0.2.1:443", 6, Verdict::WouldDeny, [Verdict::Denied, Verdict::WouldDeny, Verdict::Allowed]),
            // A connect of a datagram socket sends nothing.
            ("192.0.2.1:53", 17, Verdict::Allowed, [Verdict::Probe, Verdict::Probe, Verdict::Allowed]),
        ] {
            let event = connect(to, protocol, recorded);
            let judged = [&mut enforced, &mut observed, &mut open].map(|by| verdict_of(&by.judge(&event)).unwrap());
            assert_eq!(judged, expected, "{to}");
        }
        let Judged::As(denied) = enforced.judge(&connect("10.1.2.3:80", 6, Verdict::Allowed)) else { panic!() };
        assert_eq!(denied.assurance(), Some(Assurance::BlockedInKernel));
    }

    #[test]
    fn what_a_host_name_allows_is_known_where_its_answer_is_recorded() {
        let mut by = by("[egress]\nallow = [{ host = \"*.example.org\", ports = 443, protocol = \"tcp\" }]\n");
        let event = connect("192.0.2.1:443", 6, Verdict::Denied);
        assert_eq!(by.judge(&event), Judged::Unknown(Unknown::HostName));
        let answer = Event::Dns { name: "a.example.org".into(), address: "192.0.2.1".parse().unwrap() };
        assert_eq!(by.judge(&answer), Judged::NoVerdict);
        assert_eq!(verdict_of(&by.judge(&event)), Some(Verdict::Allowed));
        let other_port = connect("192.0.2.1:80", 6, Verdict::Denied);
        assert_eq!(by.judge(&other_port), Judged::Unknown(Unknown::HostName), "another name may have that address");
        let stranger = Event::Dns { name: "example.org".into(), address: "192.0.2.2".parse().unwrap() };
        let _ = by.judge(&stranger);
        assert_eq!(by.judge(&connect("192.0.2.2:443", 6, Verdict::Denied)), Judged::Unknown(Unknown::HostName));
    }

    #[test]
    fn a_program_is_judged_by_the_other_list() {
        let mut list = by("[exec]\nallow = [\"/usr/bin/*\", \"/bin/sh\"]\n");
        for (path, known_as, kind, recorded, expected) in [
            ("python3", &["/usr/bin/python3"][..], ExecKind::File, Verdict::Allowed, Verdict::Allowed),
            // A link on the list to a program that is not.
            ("/usr/bin/tool", &["/opt/tool"], ExecKind::File, Verdict::Allowed, Verdict::Denied),
            ("/tmp/x", &[], ExecKind::File, Verdict::Allowed, Verdict::Denied),
            ("/bin/sh", &[], ExecKind::File, Verdict::Denied, Verdict::Allowed),
            // Both the script and its interpreter are executed.
            ("/tmp/script", &["/bin/sh"], ExecKind::Script, Verdict::Allowed, Verdict::Denied),
            ("/usr/bin/script", &["/bin/sh"], ExecKind::Script, Verdict::Allowed, Verdict::Allowed),
        ] {
            let judged = list.judge(&exec(path, known_as, kind, recorded));
            assert_eq!(verdict_of(&judged), Some(expected), "{path}");
        }
        let relative = exec("./x", &[], ExecKind::File, Verdict::Allowed);
        assert_eq!(list.judge(&relative), Judged::Unknown(Unknown::Path));
        let watched = exec("/usr/bin/python3", &[], ExecKind::File, Verdict::WouldDeny);
        assert_eq!(list.judge(&watched), Judged::Unreported);
        assert_eq!(verdict_of(&by("").judge(&relative)), Some(Verdict::Allowed), "no rule is on paths");
    }

    #[test]
    fn what_cannot_be_known_stays_as_it_was() {
        let mut by = by("[egress]\nallow = [{ cidr = \"10.0.0.0/8\" }]\n");
        let held = connect("10.1.2.3:443", 6, Verdict::Latched);
        assert_eq!(by.judge(&held), Judged::Unknown(Unknown::Held));
        let both = connect("192.0.2.1:443", 6, Verdict::Latched);
        assert_eq!(
            verdict_of(&by.judge(&both)),
            Some(Verdict::Denied),
            "the policy refuses it whether it is held or not"
        );
        let fork = Event::Fork { child: 1, verdict: Verdict::Allowed };
        assert_eq!(by.judge(&fork), Judged::Unknown(Unknown::Kind(EventKind::Fork)));
        assert_eq!(by.judge(&Event::Exit { status: 0 }), Judged::NoVerdict);
    }
}
