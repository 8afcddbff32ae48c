//! Events of a test: from fields to an event, and what the kernel makes of it under the policy.
//!
//! Invariant: a verdict is computed by the matchers that are tested against the kernel's, or it is given by the test. It is never
//! guessed: where a node would have to be asked, the test has to state it.

use failsafe_core::{
    Policy,
    event::{
        Access, Assurance, DriftSince, Event, EventKind, ExecKind, FactorClass, Field, Gain, GpuEvent, MemoryKind,
        NetOp, Verdict, Via, family,
    },
    policy::{Effect, Fit, WATCHABLE},
    subject::GpuId,
};
use failsafe_matchers::{
    calls::WatchedCall,
    rejudge::{Judged, Rejudge, Unknown},
    would::{Answer, Call, would},
};
use std::{collections::BTreeMap, net::IpAddr};

/// A value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// The fields that are given.
pub type Fields = BTreeMap<Field, Given>;

/// The event with these fields, as if the kernel had let it through.
///
/// # Errors
/// The field that is missing or wrong, and what was expected.
pub fn event(kind: EventKind, fields: &Fields, gpu: Option<&GpuId>) -> Result<Event, (Option<Field>, String)> {
    let read = Reader { fields };
    let (verdict, assurance) = (Verdict::Allowed, Assurance::Observed);
    let known_as = Vec::new();
    Ok(match kind {
        EventKind::Exec => {
            let path = read.path("/usr/bin/curl")?;
            let argv = read.text(Field::Argv)?.unwrap_or_else(|| path.clone());
            let kind = read.choice(Field::Kind, ExecKind::NAMES, ExecKind::ALL)?.unwrap_or(ExecKind::File);
            Event::Exec { path, known_as, argv, kind, verdict, assurance }
        }
        EventKind::Fork => Event::Fork { child: 4_242, verdict },
        EventKind::Exit => Event::Exit { status: read.small(Field::Status)?.unwrap_or(0) },
        EventKind::Open => {
            let path = read.path("/etc/shadow")?;
            let access = read.choice(Field::Access, Access::NAMES, Access::ALL)?.unwrap_or(Access::Read);
            Event::Open { path, known_as, access, verdict, assurance }
        }
        EventKind::Connect | EventKind::Send | EventKind::Bind | EventKind::Listen => {
            let op = match kind {
                EventKind::Connect => NetOp::Connect,
                EventKind::Send => NetOp::Send,
                EventKind::Bind => NetOp::Bind,
                _ => NetOp::Listen,
            };
            let address = read.address()?;
            let usual = if kind == EventKind::Send { 17 } else { 6 };
            let protocol = read.protocol()?.unwrap_or(usual);
            let port = read.small(Field::Port)?.unwrap_or(0);
            let inet = if address.is_ipv4() { 2 } else { 10 };
            let family = read.family()?.unwrap_or(inet);
            Event::Net { op, protocol, address, port, family, verdict, assurance }
        }
        EventKind::Socket => {
            let family = read.family()?.ok_or_else(|| missing(Field::Family, "family = \"packet\""))?;
            let protocol = read.protocol()?.unwrap_or(0);
            let (op, address, port) = (NetOp::Socket, IpAddr::from([0, 0, 0, 0]), 0);
            Event::Net { op, protocol, address, port, family, verdict, assurance }
        }
        EventKind::Syscall => {
            let name = read.needed(Field::Name, "name = \"ptrace\"")?;
            if !WATCHABLE.contains(&name.as_str()) {
                return Err((
                    Some(Field::Name),
                    format!("system call `{name}` cannot be watched; docs/policy.md lists them"),
                ));
            }
            Event::Syscall { name, args: [0; 3], via: Via::Fentry, verdict, assurance }
        }
        EventKind::Privilege => {
            let gain = read.choice(Field::Gain, Gain::NAMES, Gain::ALL)?;
            Event::Privilege {
                gain: gain.ok_or_else(|| missing(Field::Gain, "gain = \"setuid\""))?,
                verdict,
                assurance,
            }
        }
        EventKind::ExecMemory => {
            let kind = read.choice(Field::Kind, MemoryKind::NAMES, MemoryKind::ALL)?;
            let kind = kind.ok_or_else(|| missing(Field::Kind, "kind = \"write-exec\""))?;
            Event::ExecMemory { kind, verdict, assurance }
        }
        EventKind::Protect => {
            Event::Protect { what: read.needed(Field::What, "what = \"cgroup files\"")?, verdict, assurance }
        }
        EventKind::Budget => {
            let budget = read.needed(Field::Budget, "budget = \"store\"")?;
            Event::Budget { budget, address: read.address()?, bytes: 0, verdict }
        }
        EventKind::Dns => Event::Dns {
            name: read.needed(Field::Name, "name = \"models.example.org\"")?.to_ascii_lowercase(),
            address: read.address()?,
        },
        EventKind::Oom => Event::Oom { victim: 4_242 },
        EventKind::Leave => Event::Leave { pid: 4_242, mover: 4_242, mover_in_run: true, to: 1 },
        EventKind::ForeignThaw => Event::ForeignThaw { levels: 1 },
        EventKind::Drift => {
            let class = read.choice(Field::Class, FactorClass::NAMES, FactorClass::ALL)?;
            let since = read.choice(Field::Since, DriftSince::NAMES, DriftSince::ALL)?;
            Event::Drift {
                path: read.needed(Field::Path, "path = \"run/library/libnccl.so.2\"")?,
                old: Some("before".to_owned()),
                new: Some("now".to_owned()),
                class: class.ok_or_else(|| missing(Field::Class, "class = \"result\""))?,
                since: since.unwrap_or(DriftSince::Earlier),
            }
        }
        EventKind::Latched => Event::Latched,
        EventKind::ForeignGpuProcess => {
            Event::ForeignGpuProcess { gpu: gpu.map(ToString::to_string).unwrap_or_default(), of: None }
        }
        EventKind::Xid => {
            let code = read.small(Field::Code)?.ok_or_else(|| missing(Field::Code, "code = 79"))?;
            Event::Xid { code, slice: None }
        }
        EventKind::GpuEvent => {
            let what = read.choice(Field::What, GpuEvent::NAMES, GpuEvent::ALL)?;
            Event::Gpu { what: what.ok_or_else(|| missing(Field::What, "what = \"poison\""))? }
        }
    })
}

/// The verdict that a test states.
///
/// # Errors
/// What was expected.
pub fn verdict(fields: &Fields) -> Result<Option<Verdict>, (Option<Field>, String)> {
    Reader { fields }.choice(Field::Verdict, Verdict::NAMES, Verdict::ALL)
}

/// The assurance that a test states.
///
/// # Errors
/// What was expected.
pub fn assurance(fields: &Fields) -> Result<Option<Assurance>, (Option<Field>, String)> {
    Reader { fields }.choice(Field::Assurance, Assurance::NAMES, Assurance::ALL)
}

/// The event with this verdict.
#[must_use]
pub fn with(mut event: Event, now: Verdict, seen: Option<Assurance>) -> Event {
    let usual = if matches!(now, Verdict::Denied | Verdict::Latched | Verdict::DeadDaemon) {
        Assurance::BlockedInKernel
    } else {
        Assurance::Observed
    };
    match &mut event {
        Event::Exec { verdict, assurance, .. }
        | Event::Open { verdict, assurance, .. }
        | Event::Net { verdict, assurance, .. }
        | Event::Syscall { verdict, assurance, .. }
        | Event::Privilege { verdict, assurance, .. }
        | Event::ExecMemory { verdict, assurance, .. }
        | Event::Protect { verdict, assurance, .. } => (*verdict, *assurance) = (now, seen.unwrap_or(usual)),
        Event::Fork { verdict, .. } | Event::Budget { verdict, .. } => *verdict = now,
        _ => {}
    }
    event
}

/// What the kernel says to calls of a run under a policy, on a kernel with LSM.
pub struct Kernel<'p> {
    policy: &'p Policy,
    lists: Rejudge,
}

impl<'p> Kernel<'p> {
    /// Under this policy.
    pub fn under(policy: &'p Policy) -> Kernel<'p> {
        Kernel { policy, lists: Rejudge::by(policy) }
    }

    /// The event as the kernel reports it. `latched`: the run's egress is denied.
    ///
    /// # Errors
    /// Why the verdict is not known.
    pub fn judge(&mut self, event: &Event, latched: bool) -> Result<Event, String> {
        let now = match self.lists.judge(event) {
            Judged::As(judged) => judged.verdict().unwrap_or(Verdict::Allowed),
            Judged::Unreported | Judged::NoVerdict => return Ok(self.by_itself(event)),
            Judged::Unknown(Unknown::Kind(_)) => self.of_rules(event),
            Judged::Unknown(Unknown::HostName) => {
                return Err(
                    "whether the list allows the address depends on its host names: put an event `dns` before it, or \
                            state `verdict`"
                        .to_owned(),
                );
            }
            Judged::Unknown(Unknown::Path | Unknown::Held) => {
                return Err("its verdict is not known: state `verdict`".to_owned());
            }
        };
        let sends = matches!(event, Event::Net { op: NetOp::Connect | NetOp::Send, .. });
        let now = if latched && sends && now == Verdict::Allowed { Verdict::Latched } else { now };
        Ok(with(event.clone(), now, None))
    }

    /// What failsafe denies of itself.
    fn by_itself(&self, event: &Event) -> Event {
        let denied = matches!(event, Event::Protect { .. });
        if denied { with(event.clone(), Verdict::Denied, None) } else { event.clone() }
    }

    fn of_rules(&self, event: &Event) -> Verdict {
        let call = match event {
            Event::Open { path, access, .. } => {
                Some(Call::Open { path: path.clone(), write: *access == Access::Write })
            }
            Event::Syscall { name, .. } => WatchedCall::from_name(name).map(Call::Syscall),
            // A budget reports what it dropped; where the list only observes, what it would have dropped.
            Event::Budget { .. } => {
                let observes =
                    self.policy.egress.as_ref().is_some_and(|egress| egress.mode == failsafe_core::Mode::Observe);
                return if observes { Verdict::WouldDeny } else { Verdict::Denied };
            }
            _ => None,
        };
        if let Some(call) = call {
            return match would(self.policy, &call).answer {
                Answer::Denied | Answer::Stopped => Verdict::Denied,
                Answer::WouldDeny => Verdict::WouldDeny,
                // What failsafe denies to protect itself has an event of its own.
                Answer::Allowed | Answer::Depends(_) => Verdict::Allowed,
            };
        }
        let denies = self.policy.rules.iter().any(|rule| {
            rule.effect != Effect::Observe
                && rule.when.event().is_some_and(|wanted| wanted.fit(event, None) == Fit::Yes)
        });
        if denies { Verdict::Denied } else { Verdict::Allowed }
    }
}

struct Reader<'f> {
    fields: &'f Fields,
}

type Wrong = (Option<Field>, String);

fn missing(field: Field, example: &str) -> Wrong {
    (None, format!("expected `{}` beside `event`, such as {example}", field.name()))
}

fn wrong(field: Field, expected: &str) -> Wrong {
    (Some(field), format!("expected {expected}"))
}

impl Reader<'_> {
    fn text(&self, field: Field) -> Result<Option<String>, Wrong> {
        match self.fields.get(&field) {
            None => Ok(None),
            Some(Given::Text(text)) => Ok(Some(text.clone())),
            Some(Given::Number(_)) => Err(wrong(field, "a text in quotes")),
        }
    }

    fn needed(&self, field: Field, example: &str) -> Result<String, Wrong> {
        self.text(field)?.ok_or_else(|| missing(field, example))
    }

    /// Paths are absolute and resolved, as the kernel reports them.
    fn path(&self, example: &str) -> Result<String, Wrong> {
        let path = self.needed(Field::Path, &format!("path = \"{example}\""))?;
        if path.starts_with('/') { Ok(path) } else { Err(wrong(Field::Path, "the resolved absolute path of one file")) }
    }

    fn small<N: TryFrom<i64>>(&self, field: Field) -> Result<Option<N>, Wrong> {
        match self.fields.get(&field) {
            None => Ok(None),
            Some(Given::Number(n)) => N::try_from(*n).map(Some).map_err(|_| wrong(field, "a number in its range")),
            Some(Given::Text(_)) => Err(wrong(field, "a number")),
        }
    }

    fn address(&self) -> Result<IpAddr, Wrong> {
        let text = self.needed(Field::Address, "address = \"198.51.100.7\"")?;
        text.parse().map_err(|_| wrong(Field::Address, "one address, such as \"198.51.100.7\""))
    }

    fn protocol(&self) -> Result<Option<u8>, Wrong> {
        match self.fields.get(&Field::Protocol) {
            Some(Given::Text(text)) if text == "tcp" => Ok(Some(6)),
            Some(Given::Text(text)) if text == "udp" => Ok(Some(17)),
            Some(Given::Text(_)) => Err(wrong(Field::Protocol, "\"tcp\", \"udp\" or a number")),
            _ => self.small(Field::Protocol),
        }
    }

    fn family(&self) -> Result<Option<u16>, Wrong> {
        match self.fields.get(&Field::Family) {
            Some(Given::Text(text)) => family(text)
                .map(Some)
                .ok_or_else(|| wrong(Field::Family, "the name of an address family, or its number")),
            _ => self.small(Field::Family),
        }
    }

    fn choice<T: Copy>(&self, field: Field, names: &[&str], all: &[T]) -> Result<Option<T>, Wrong> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let chosen = names.iter().zip(all).find(|(name, _)| **name == text).map(|(_, value)| *value);
        chosen.map(Some).ok_or_else(|| wrong(field, &format!("one of {}", names.join(", "))))
    }
}

#[cfg(test)]
mod tests;
