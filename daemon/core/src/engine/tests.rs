//! The engine, rule by rule; and that a run is judged alike alone and among others.

mod blind;
mod containment;
mod drift;
mod gpus;
mod observe;
mod observe_end;
mod series;
mod trees;

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
        self.seq += 1;
        let (role, reason) = ("admin".to_owned(), "because".to_owned());
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

#[test]
fn what_the_kernel_held_back_is_counted_as_what_the_cooldown_held_back() {
    let mut b = Bench::new();
    let first = b.repeated(3, connect(4444, Net::Denied), 2);
    assert!(matches!(first[0].cause, Cause::Rule { suppressed: 2, .. }), "{first:?}");
    assert_eq!(first[0].values[0].repeats, 2);
    assert!(first[0].values[0].show().ends_with(" (and 2 more like it before)"), "{}", first[0].values[0].show());
    assert!(b.repeated(1003, connect(4444, Net::Denied), 40).is_empty());
    assert!(b.repeated(2003, connect(443, Net::Denied), 500).is_empty(), "of another the rule knows nothing");
    let again = b.repeated(10_004, connect(4444, Net::Denied), 7);
    assert!(matches!(again[0].cause, Cause::Rule { suppressed: 48, .. }), "{again:?}");
}

#[test]
fn an_event_rule_trips_on_all_its_fields_and_cools_down() {
    let mut b = Bench::new();
    assert!(b.event(1, connect(443, Net::Denied)).is_empty());
    assert!(b.event(2, connect(4444, Net::Allowed)).is_empty());
    let trip = b.event(3, connect(4444, Net::Denied));
    assert_eq!(rules(&trip), ["denied"]);
    assert_eq!(trip[0].actions, [Action::Freeze, Action::Notify]);
    assert_eq!((trip[0].because.as_slice(), trip[0].at), ([3].as_slice(), at(3)));
    assert!(b.event(4, connect(4444, Net::Denied)).is_empty());
    let again = b.event(10_004, connect(4444, Net::Denied));
    assert!(matches!(again[0].cause, Cause::Rule { suppressed: 1, .. }), "{again:?}");
    assert_eq!(again[0].incident, trip[0].incident, "one containment is one incident");
}

#[test]
fn a_thaw_rearms_event_rules_and_closes_the_incident() {
    let mut b = Bench::new();
    let first = b.event(3, connect(4444, Net::Denied));
    assert!(b.state.run(b.run).unwrap().frozen);
    let thaw = b.control(4, Command::Thaw);
    assert_eq!(thaw[0].actions, [Action::Thaw, Action::Notify]);
    assert_eq!(thaw[0].incident, first[0].incident);
    assert!(!b.state.run(b.run).unwrap().frozen);
    let second = b.event(5, connect(4444, Net::Denied));
    assert_eq!(second[0].incident.n, first[0].incident.n + 1);
}

#[test]
fn a_threshold_holds_trips_once_and_clears_below_its_own_bound() {
    let mut b = Bench::new();
    assert!(b.loss(0, 11.0).is_empty());
    assert!(b.loss(1_000, 9.0).is_empty(), "the break starts the hold anew");
    assert!(b.loss(1_500, 11.0).is_empty());
    assert!(b.loss(3_400, 11.0).is_empty());
    assert_eq!(rules(&b.loss(3_500, 11.0)), ["diverged"]);
    assert!(b.loss(9_000, 99.0).is_empty());
    for (ms, loss) in [(10_000, 7.0), (11_000, 11.0), (14_000, 11.0)] {
        assert!(b.loss(ms, loss).is_empty(), "7 is not below the clear bound of 5");
    }
    assert!(b.loss(15_000, 4.0).is_empty());
    assert!(b.loss(16_000, 11.0).is_empty());
    assert_eq!(rules(&b.loss(18_000, 11.0)), ["diverged"]);
}

#[test]
fn nan_trips_its_own_rule_only_and_observing_contains_nothing() {
    let mut b = Bench::new();
    let trip = b.loss(0, f64::NAN);
    assert_eq!(rules(&trip), ["nan"]);
    assert_eq!(trip[0].mode, Mode::Observe);
    assert!(b.loss(1, f64::INFINITY).is_empty(), "still not finite: no second trip");
    assert!(b.loss(2, 1.0).is_empty());
    let second = b.loss(3, f64::INFINITY);
    assert_eq!(rules(&second), ["nan"]);
    assert_ne!(trip[0].incident, second[0].incident, "what contains nothing opens no incident to join");
}

#[test]
fn a_run_cannot_fill_memory_with_names_of_metrics() {
    let mut b = Bench::new();
    for n in 0..1_000 {
        let kind = Kind::Metric(format!("m{n}"));
        b.signal(n, Subject::Run(b.run), kind, Value::Real(Real(1.0)));
    }
    assert_eq!(b.state.last_signals(b.run).len(), 256);
    assert_eq!(rules(&b.loss(2_000, f64::NAN)), ["nan"], "rules see what is not kept");
}

#[test]
fn a_rate_is_taken_over_its_window() {
    let mut b = Bench::new();
    for ms in (0..5_000).step_by(500) {
        assert!(b.egress(ms, i64::try_from(ms).unwrap() * 999).is_empty(), "0.999 MB/s");
    }
    assert!(b.egress(5_000, 4_996_000).is_empty(), "1.999 MB in 2 s");
    assert_eq!(rules(&b.egress(5_500, 8_000_000)), ["burst"]);
    let mut b = Bench::new();
    assert!(b.egress(0, 0).is_empty());
    assert_eq!(
        rules(&b.egress(100, 2_000_001)),
        ["burst"],
        "what passes the bound whatever follows needs no full window"
    );
    assert!(b.state.run(b.run).unwrap().blocked);
    let mut b = Bench::new();
    assert!(b.egress(0, 50_000_000).is_empty() && b.egress(1_000, 0).is_empty(), "a reset is no growth");
}

#[test]
fn an_escape_is_recaptured_and_a_foreign_thaw_frozen_again() {
    let mut b = Bench::new();
    let leave = |mover_in_run| Event::Leave { pid: 9, mover: 9, mover_in_run, to: 1 };
    assert_eq!(b.event(1, leave(true))[0].actions, [Action::Recapture { pid: 9 }, Action::Notify]);
    assert!(b.event(2, Event::ForeignThaw { levels: 1 }).is_empty(), "not frozen: nobody's thaw is foreign");
    b.control(3, Command::Freeze);
    let again = b.event(4, Event::ForeignThaw { levels: 1 });
    assert_eq!(
        (rules(&again), again[0].actions.as_slice()),
        (vec!["foreign-thaw".to_owned()], [Action::Freeze, Action::Notify].as_slice())
    );
    assert_eq!(
        b.event(5, leave(false))[0].actions[0],
        Action::Recapture { pid: 9 },
        "nobody moves a frozen process out"
    );
    b.control(6, Command::Thaw);
    assert_eq!(b.event(7, leave(false))[0].actions, [Action::Notify], "an operator may move a running one");
}

#[test]
fn a_failed_containment_is_decided_again_but_not_for_ever() {
    let mut b = Bench::new();
    let first = b.event(3, connect(4444, Net::Denied)).remove(0);
    let mut n = first.id.n;
    for _ in 0..3 {
        let again = b.feed(Input::Outcome(failed(b.run, n, first.incident)));
        assert_eq!((rules(&again), again[0].actions[0]), (vec!["retry".to_owned()], Action::Freeze));
        n = again[0].id.n;
    }
    assert!(b.feed(Input::Outcome(failed(b.run, n, first.incident))).is_empty());
}

fn failed(run: RunId, n: u32, incident: IncidentId) -> Outcome {
    Outcome {
        decision: DecisionId { run, n },
        incident,
        action: Action::Freeze,
        verdict: Verdict::Failed("interrupted".into()),
        proofs: vec![],
        at: at(9),
        took: Span(0),
    }
}

#[test]
fn an_adopted_frozen_run_is_still_guarded_and_counts_on() {
    let mut b = Bench::new();
    let digest = *b.policies.keys().next().unwrap();
    let adopted = Run {
        decisions: 4,
        incidents: 2,
        contained: Contained { frozen: true, ..Contained::default() },
        ..started(id(2), digest)
    };
    b.feed(Input::RunStarted(adopted));
    b.run = id(2);
    let again = b.event(4, Event::ForeignThaw { levels: 1 });
    assert_eq!((again[0].id.n, again[0].incident.n), (5, 2));
}

#[test]
fn a_run_found_frozen_for_no_recorded_reason_is_held_by_a_decision_of_its_own() {
    let mut b = Bench::new();
    let digest = *b.policies.keys().next().unwrap();
    let contained = Contained { frozen: true, blocked: false, unexplained: true };
    let adopted = Run { decisions: 4, incidents: 2, contained, ..started(id(2), digest) };
    let held = b.feed(Input::RunStarted(adopted));
    assert_eq!(rules(&held), ["found-frozen"]);
    assert_eq!((held[0].id.n, held[0].incident.n), (5, 3), "an incident of its own");
    b.run = id(2);
    let thaw = b.control(9, Command::Thaw);
    assert_eq!(thaw[0].incident, held[0].incident);
}

fn any_input(run: u128) -> impl Strategy<Value = (u64, Input)> {
    let run = id(run);
    let values = prop_oneof![
        (0.0..20.0f64).prop_map(|v| (Kind::Metric("loss".into()), Value::Real(Real(v)))),
        Just((Kind::Metric("loss".into()), Value::Real(Real(f64::NAN)))),
        (0.0..20.0f64, 0u8..3)
            .prop_map(|(v, rank)| (Kind::Metric("loss".into()), series::claimed(&rank.to_string(), v))),
        (0i64..9_000_000).prop_map(|v| (Kind::EgressBytes, Value::Integer(v))),
        Just((Kind::Event, Value::Event(connect(4444, Net::Denied)))),
        Just((Kind::Event, Value::Event(Event::ForeignThaw { levels: 1 }))),
        (80_000i64..99_000).prop_map(|v| (Kind::GpuTemperature, Value::Integer(v))),
    ];
    (values, 0u8..6, 1u64..3_000).prop_map(move |((kind, value), other, ms)| {
        let input = match other {
            0 => Input::Tick(MonoTime(0)),
            1 => Input::Control(Control {
                seq: 0,
                at: MonoTime(0),
                run,
                command: Command::Thaw,
                actor: actor(0, 0),
                role: "admin".into(),
                reason: "r".into(),
            }),
            _ => {
                let subject =
                    if kind == Kind::GpuTemperature { Subject::Gpu(GpuId("GPU-0".into())) } else { Subject::Run(run) };
                Input::Signal(Signal { seq: 0, at: MonoTime(0), source: Source::App, subject, kind, value, repeats: 0 })
            }
        };
        (ms, input)
    })
}

fn stamp(inputs: Vec<(u64, Input)>) -> Vec<Input> {
    let (mut now, mut seq) = (MonoTime(0), 0);
    let stamped = inputs.into_iter().map(|(ms, mut input)| {
        now.0 += ms * 1_000_000;
        seq += 1;
        match &mut input {
            Input::Signal(s) => (s.at, s.seq) = (now, seq),
            Input::Control(c) => (c.at, c.seq) = (now, seq),
            Input::Tick(at) => *at = now,
            _ => {}
        }
        input
    });
    stamped.collect()
}

proptest! {
    /// What a recording of one run rests on: the other runs' inputs change nothing.
    #[test]
    fn a_run_is_judged_alike_alone_and_among_others(inputs in proptest::collection::vec(prop_oneof![any_input(1), any_input(2)], 0..80)) {
        let policy = parse("p", POLICY).unwrap();
        let digest = policy.digest();
        let policies: PolicySet = [(digest, Arc::new(policy))].into();
        let mut all = vec![Input::RunStarted(started(id(1), digest)), Input::RunStarted(started(id(2), digest))];
        all.extend(stamp(inputs));
        let (mut whole, mut alone) = (State::default(), State::default());
        for input in &all {
            let together: Vec<Decision> = step(&policies, &mut whole, input).into_iter().filter(|d| d.id.run == id(1)).collect();
            if concerns(&whole, input, id(1)) {
                prop_assert_eq!(step(&policies, &mut alone, input), together);
            } else {
                prop_assert!(together.is_empty());
            }
        }
    }

    /// Decisions are numbered without gaps, and a thaw is never decided but by an operator.
    #[test]
    fn decisions_are_numbered_and_only_people_thaw(inputs in proptest::collection::vec(any_input(1), 0..80)) {
        let mut b = Bench::new();
        let mut n = 0;
        for input in stamp(inputs) {
            for decision in b.feed(input) {
                n += 1;
                prop_assert_eq!(decision.id.n, n);
                let operator = matches!(decision.cause, Cause::Operator(_));
                prop_assert!(operator || !decision.actions.contains(&Action::Thaw));
            }
        }
    }
}

#[test]
fn a_replay_takes_the_numbers_of_derived_signals_from_the_recorded_policy() {
    let policy = |numbers: &str| {
        let rule = "[[rule]]\nid = \"spins\"\nrationale = \"x\"\n\
                    when = { signal = \"gpu.derived.spinning\", above = \"3 s\" }\nactions = [\"freeze\"]\n";
        let text = format!("[policy]\nname = \"p\"\nowner = \"o\"\n[derived]\n{numbers}\n{rule}");
        parse("p", &text).unwrap_or_else(|e| panic!("{e}"))
    };
    let own = policy("spinning = { power = \"50 %\" }");
    let policies = PolicySet::from([(own.digest(), Arc::new(own.clone()))]);
    let (mut state, mut recording) = (State::default(), Vec::new());
    let gpu = GpuId("a".into());
    let run = Run { gpus: [gpu.clone()].into(), ..started(id(1), own.digest()) };
    let mut inputs = vec![Input::RunStarted(run)];
    for second in 1..10 {
        for (kind, value) in [(Kind::GpuUtilization, 100_000), (Kind::GpuPowerShare, 40_000)] {
            inputs.push(Input::Signal(Signal {
                seq: second,
                at: MonoTime(second * 1_000_000_000),
                source: Source::Nvml,
                subject: Subject::Gpu(gpu.clone()),
                kind,
                value: Value::Integer(value),
                repeats: 0,
            }));
        }
    }
    for input in inputs {
        let decisions = step(&policies, &mut state, &input);
        recording.push(Recorded::Input(input));
        recording.extend(decisions.into_iter().map(Recorded::Decision));
    }
    // The policy as the recording's header holds it.
    let kept: Policy = serde_json::from_slice(&serde_json::to_vec(&own).unwrap()).unwrap();
    let of = |policy| replay(policy, ENGINE, recording.iter().cloned().map(Ok::<_, ()>)).unwrap();
    let again = of(kept);
    assert_eq!(again.recorded.len(), 1, "{:?}", again.recorded);
    assert!(again.identical(), "{again:?}");
    assert!(of(policy("")).replayed.is_empty(), "40 % is no low power unless the policy says so");
}

#[test]
fn a_recording_with_another_wording_of_a_condition_replays_to_the_same_decisions() {
    let policy = |bound: &str| {
        let rule = format!(
            "[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = {{ signal = \"memory.used\", above = \"{bound}\" }}\nactions = [\"freeze\"]\n"
        );
        parse("p", &format!("[policy]\nname = \"p\"\nowner = \"o\"\n{rule}")).unwrap()
    };
    let own = policy("10 GB");
    let policies = PolicySet::from([(own.digest(), Arc::new(own.clone()))]);
    let mut state = State::default();
    let signal = Input::Signal(Signal {
        seq: 1,
        at: MonoTime(1_000_000_000),
        source: Source::Cgroup,
        subject: Subject::Run(id(1)),
        kind: Kind::Memory,
        value: Value::Integer(11_000_000_000),
        repeats: 0,
    });
    let mut recording = Vec::new();
    for input in [Input::RunStarted(started(id(1), own.digest())), signal] {
        let decisions = step(&policies, &mut state, &input);
        recording.push(Recorded::Input(input));
        recording.extend(decisions.into_iter().map(Recorded::Decision));
    }
    let Some(Recorded::Decision(Decision { cause: Cause::Rule { condition, .. }, .. })) = recording.last_mut() else {
        panic!("{recording:?}")
    };
    assert_eq!(condition, "memory.used above 10 GB");
    // As the version before this one worded it.
    "memory.used above 9.3 GiB".clone_into(condition);
    let of = |policy| replay(policy, ENGINE, recording.iter().cloned().map(Ok::<_, ()>)).unwrap();
    assert!(of(own).identical());
    assert!(!of(policy("9 GB")).identical(), "another bound is another decision");
}
