//! The engine on a bench: a policy, a run, and inputs in the order in which they are fed.

mod alone;
mod blind;
mod containment;
mod drift;
mod gpus;
mod observe;
mod observe_end;
mod pace;
mod replayed;
mod rules;
mod series;
mod trees;
mod upkeep;

use super::*;
use crate::time::MonoTime;
use crate::{
    actor::{Actor, LocalPeer},
    decision::{Action, Cause, DecisionId, IncidentId, Mode, Outcome, Verdict},
    event::{Assurance, Event, NetOp, Verdict as Net},
    input::{Command, Contained, Control, Run},
    policy::{PolicyDigest, parse::parse},
    replay::{ENGINE, Recorded, replay},
    signal::{Kind, Real, Value},
    subject::{GpuId, Process},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, sync::Arc};

const POLICY: &str = r#"
[policy]
name = "p"
owner = "o"

[[rule]]
id = "denied"
rationale = "x"
when = { event = "connect", verdict = "denied", port = 4444 }
actions = ["notify", "freeze"]

[[rule]]
id = "diverged"
rationale = "x"
when = { signal = "metric.loss", above = 10.0, clear = 5.0, for = "2s" }
actions = ["freeze"]

[[rule]]
id = "nan"
rationale = "x"
when = { signal = "metric.loss", is = "not-finite" }
mode = "observe"
actions = ["kill"]

[[rule]]
id = "burst"
rationale = "x"
when = { signal = "net.egress_bytes", above = "1 MB/s", over = "2s" }
actions = ["block"]

[[rule]]
id = "hot"
rationale = "x"
when = { signal = "gpu.temperature", above = "90 C" }
actions = ["freeze"]
"#;

struct Bench {
    policies: PolicySet,
    state: State,
    seq: u64,
    run: RunId,
    recording: Vec<Recorded>,
}

fn actor(uid: u32, pid: u32) -> Actor {
    Actor::Local(LocalPeer { uid, gid: Some(uid), pid: Some(pid), start_ticks: Some(3), cgroup: Some("/".into()) })
}

fn id(n: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(n))
}

fn started(run: RunId, policy: PolicyDigest) -> Run {
    Run {
        id: run,
        name: format!("run-{run}"),
        labels: Default::default(),
        owner_uid: 1000,
        cgroup: "failsafe/x".into(),
        cgroup_id: 7,
        boot_id: "b".into(),
        policy,
        gpus: [GpuId("GPU-0".into())].into(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    }
}

impl Bench {
    fn new() -> Bench {
        Bench::with(POLICY)
    }

    fn with(policy: &str) -> Bench {
        let policy = parse("p", policy).unwrap_or_else(|wrong| panic!("{wrong}"));
        let digest = policy.digest();
        let mut bench = Bench::of(policy);
        bench.feed(Input::RunStarted(started(id(1), digest)));
        bench
    }

    /// Without a run.
    fn of(policy: Policy) -> Bench {
        let (policies, state) = ([(policy.digest(), Arc::new(policy))].into(), State::default());
        Bench { policies, state, seq: 0, run: id(1), recording: Vec::new() }
    }

    fn feed(&mut self, input: Input) -> Vec<Decision> {
        let decisions = step(&self.policies, &mut self.state, &input);
        self.recording.push(Recorded::Input(input));
        self.recording.extend(decisions.iter().cloned().map(Recorded::Decision));
        decisions
    }

    /// The replay of all that was fed so far, as the engine of that number decided.
    fn replay(&self, engine: u32) -> crate::replay::Replay {
        let policy = Policy::clone(self.policies.values().next().unwrap());
        replay(policy, engine, self.recording.iter().cloned().map(Ok::<_, ()>)).unwrap()
    }

    fn signal(&mut self, ms: u64, subject: Subject, kind: Kind, value: Value) -> Vec<Decision> {
        self.seq += 1;
        let source = if matches!(value, Value::Event(_)) { Source::Ebpf } else { kind.source() };
        self.feed(Input::Signal(Signal { seq: self.seq, at: at(ms), source, subject, kind, value, repeats: 0 }))
    }

    fn loss(&mut self, ms: u64, loss: f64) -> Vec<Decision> {
        self.signal(ms, Subject::Run(self.run), Kind::Metric("loss".into()), Value::Real(Real(loss)))
    }

    fn event(&mut self, ms: u64, event: Event) -> Vec<Decision> {
        let process = Process { pid: 9, ppid: 1, uid: 1000, start_ns: 5, comm: "python".into() };
        self.signal(ms, Subject::Process { run: self.run, process }, Kind::Event, Value::Event(event))
    }

    /// An event that stands for `repeats` before it as well.
    fn repeated(&mut self, ms: u64, event: Event, repeats: u64) -> Vec<Decision> {
        self.seq += 1;
        let (subject, value) = (Subject::Run(self.run), Value::Event(event));
        let (at, source, kind) = (at(ms), Source::Ebpf, Kind::Event);
        self.feed(Input::Signal(Signal { seq: self.seq, at, source, subject, kind, value, repeats }))
    }

    fn egress(&mut self, ms: u64, bytes: i64) -> Vec<Decision> {
        self.signal(ms, Subject::Run(self.run), Kind::EgressBytes, Value::Integer(bytes))
    }

    fn control(&mut self, ms: u64, command: Command) -> Vec<Decision> {
        self.control_as("admin", ms, command)
    }

    fn control_as(&mut self, role: &str, ms: u64, command: Command) -> Vec<Decision> {
        self.seq += 1;
        let (role, reason) = (role.to_owned(), "because".to_owned());
        self.feed(Input::Control(Control {
            seq: self.seq,
            at: at(ms),
            run: self.run,
            command,
            actor: actor(0, 1),
            role,
            reason,
        }))
    }
}

fn at(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

fn connect(port: u16, verdict: Net) -> Event {
    let (address, assurance) = ("192.0.2.1".parse().unwrap(), Assurance::BlockedInKernel);
    Event::Net { op: NetOp::Connect, protocol: 6, address, port, family: 2, verdict, assurance }
}

fn rules(decisions: &[Decision]) -> Vec<String> {
    let cause = |d: &Decision| match &d.cause {
        Cause::Rule { rule, .. } => rule.clone(),
        Cause::Operator(_) => "operator".into(),
        Cause::Upkeep { what } => what.to_string(),
    };
    decisions.iter().map(cause).collect()
}
