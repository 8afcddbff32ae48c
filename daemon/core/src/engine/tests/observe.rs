//! Policies that only observe: what would have been denied trips the rules on denials, and nothing is done to the run.

use super::*;
use crate::{
    event::{Access, EventKind, ExecKind, Field, Gain, MemoryKind, Via, family},
    policy::{Bound, Condition, EventMatch, Op, Pattern, Rule},
    time::Span,
};
use std::net::IpAddr;

/// The policies of `policies/`, by name.
const SHIPPED: [(&str, &str); 5] = [
    ("exfiltration", include_str!("../../../../../policies/exfiltration.toml")),
    ("gpu-overheating", include_str!("../../../../../policies/gpu-overheating.toml")),
    ("lockdown", include_str!("../../../../../policies/lockdown.toml")),
    ("loss-divergence", include_str!("../../../../../policies/loss-divergence.toml")),
    ("trainer-baseline", include_str!("../../../../../policies/trainer-baseline.toml")),
];

/// The policy as an operator writes it for a trial: `mode = "observe"` in each section and rule, and no `effect`.
fn observing(text: &str) -> String {
    let replaced = |line: &&str| !line.starts_with("mode = ") && !line.starts_with("effect = ");
    let lines = text.lines().filter(replaced).map(|line| match line {
        "[egress]" | "[exec]" | "[[rule]]" => format!("{line}\nmode = \"observe\"\n"),
        line => format!("{line}\n"),
    });
    lines.collect()
}

/// A text that fits a pattern.
fn fitting(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Exact(text) | Pattern::Suffix(text) | Pattern::Holds(text) => text.clone(),
        Pattern::Prefix(text) => format!("{text}x"),
        Pattern::Number(number) => number.to_string(),
        Pattern::Net(net) => net.addr().to_string(),
    }
}

/// What the rule is on, as the kernel reports it under a policy that only observes.
fn event(wanted: &EventMatch) -> Event {
    let text =
        |field, other: &str| wanted.given(field).and_then(<[Pattern]>::first).map_or_else(|| other.to_owned(), fitting);
    let (allowed, would_deny, assurance) = (Net::Allowed, Net::WouldDeny, Assurance::Observed);
    let address: IpAddr = "203.0.113.7".parse().unwrap();
    let net = |op, family| Event::Net { op, protocol: 6, address, port: 443, family, verdict: would_deny, assurance };
    let named = |all: &[&str], name: &str| all.iter().position(|one| *one == name).unwrap();
    match wanted.kind {
        EventKind::Connect => net(NetOp::Connect, 2),
        EventKind::Send => net(NetOp::Send, 2),
        EventKind::Socket => {
            let number: u16 =
                text(Field::Family, "2").parse().or_else(|_| family(&text(Field::Family, "")).ok_or(())).unwrap();
            net(NetOp::Socket, number)
        }
        EventKind::Exec => {
            let kind = ExecKind::ALL[named(ExecKind::NAMES, &text(Field::Kind, "file"))];
            let path = text(Field::Path, "/tmp/x");
            Event::Exec { path, known_as: Vec::new(), argv: String::new(), kind, verdict: allowed, assurance }
        }
        EventKind::Open => {
            let path = text(Field::Path, "/tmp/x");
            Event::Open { path, known_as: Vec::new(), access: Access::Read, verdict: would_deny, assurance }
        }
        EventKind::Syscall => {
            let (name, args, via) = (text(Field::Name, "mount"), [0; 3], Via::Fentry);
            Event::Syscall { name, args, via, verdict: allowed, assurance }
        }
        EventKind::Privilege => {
            let gain = Gain::ALL[named(Gain::NAMES, &text(Field::Gain, "setuid"))];
            Event::Privilege { gain, verdict: would_deny, assurance }
        }
        EventKind::ExecMemory => {
            let kind = MemoryKind::ALL[named(MemoryKind::NAMES, &text(Field::Kind, "memfd"))];
            Event::ExecMemory { kind, verdict: would_deny, assurance }
        }
        EventKind::Budget => {
            Event::Budget { budget: text(Field::Budget, "store"), address, bytes: 1 << 30, verdict: would_deny }
        }
        // failsafe protects itself, and keeps `[limits]`, whatever the policy's mode is.
        EventKind::Protect => {
            let assurance = Assurance::BlockedInKernel;
            Event::Protect { what: text(Field::What, "state folder"), verdict: Net::Denied, assurance }
        }
        EventKind::Fork => Event::Fork { child: 0, verdict: Net::Denied },
        EventKind::Oom => Event::Oom { victim: 9 },
        EventKind::Xid => Event::Xid { code: text(Field::Code, "79").parse().unwrap(), slice: None },
        other => panic!("no violation of a rule on {other:?} is known here: add one"),
    }
}

/// The decisions that a violation of the rule leads to.
fn violate(bench: &mut Bench, rule: &Rule) -> Vec<Decision> {
    let run = Subject::Run(bench.run);
    let subject = |kind: &Kind| match kind.is_read_of_a_gpu() {
        true => Subject::Gpu(GpuId("GPU-0".into())),
        false => run.clone(),
    };
    match &rule.when {
        Condition::Event(wanted) => {
            let (event, gpu) = (event(wanted), Subject::Gpu(GpuId("GPU-0".into())));
            let subject = if wanted.kind == EventKind::Xid { gpu } else { run };
            bench.signal(1, subject, Kind::Event, Value::Event(event))
        }
        Condition::NotFinite { kind } => bench.signal(1, run, kind.clone(), Value::Real(Real(f64::NAN))),
        Condition::Threshold { kind, op, bound, hold, over, .. } => {
            let step = |number: f64| if *op == Op::Above { number + 1.0 } else { number - 1.0 };
            let value = |growth: f64| match bound {
                Bound::Real(Real(bound)) => Value::Real(Real(step(*bound))),
                Bound::Integer(bound) => {
                    let seconds = over.map_or(1.0, |over: Span| over.0 as f64 / 1e9);
                    Value::Integer((growth * (step(*bound as f64) * seconds)) as i64)
                }
            };
            let last = hold.0.max(over.map_or(0, |over| over.0)) / 1_000_000 + 1;
            let first = if over.is_some() { value(0.0) } else { value(1.0) };
            let mut all = bench.signal(1, subject(kind), kind.clone(), first);
            all.extend(bench.signal(last, subject(kind), kind.clone(), value(1.0)));
            all
        }
        Condition::Tree(tree) => panic!("no violation of a condition such as `{tree}` is known here: add one"),
    }
}

#[test]
fn each_rule_of_each_shipped_policy_records_a_violation_in_observe_mode_and_does_nothing() {
    let mut violated = 0;
    for (name, text) in SHIPPED {
        let text = observing(text);
        let policy = parse(name, &text).unwrap_or_else(|wrong| panic!("{wrong}"));
        for rule in &policy.rules {
            let mut bench = Bench::with(&text);
            let decisions = violate(&mut bench, rule);
            let of_rule = |d: &&Decision| matches!(&d.cause, Cause::Rule { rule: id, .. } if *id == rule.id);
            let decided: Vec<&Decision> = decisions.iter().filter(of_rule).collect();
            assert_eq!(decided.len(), 1, "{name}: {}: {decisions:?}", rule.id);
            assert!(decisions.iter().all(|decision| decision.mode == Mode::Observe), "{name}: {}", rule.id);
            let run = bench.state.run(bench.run).unwrap();
            assert!(!run.frozen && !run.blocked, "{name}: {}", rule.id);
            violated += 1;
        }
    }
    assert!(violated > 30, "{violated} rules are shipped");
}

fn denied_connects(egress: &str, rule: &str) -> String {
    format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n[egress]\nmode = \"{egress}\"\nallow = []\n[[rule]]\nid = \"out\"\nrationale = \"x\"\n\
         mode = \"{rule}\"\nwhen = {{ event = \"connect\", verdict = \"denied\" }}\nactions = [\"freeze\"]\n"
    )
}

fn connect(verdict: Net) -> Event {
    let (address, assurance) = ("203.0.113.7".parse().unwrap(), Assurance::Observed);
    Event::Net { op: NetOp::Connect, protocol: 6, address, port: 443, family: 2, verdict, assurance }
}

#[test]
fn a_rule_on_denials_matches_what_would_be_denied_only_where_the_policy_observes() {
    for (egress, rule, verdict, expected) in [
        ("observe", "observe", Net::WouldDeny, Some(Mode::Observe)),
        ("observe", "enforce", Net::WouldDeny, Some(Mode::Observe)),
        ("enforce", "observe", Net::WouldDeny, Some(Mode::Observe)),
        ("enforce", "observe", Net::Denied, Some(Mode::Observe)),
        ("enforce", "enforce", Net::Denied, Some(Mode::Enforce)),
        ("enforce", "enforce", Net::WouldDeny, None),
        ("observe", "observe", Net::Allowed, None),
        ("observe", "observe", Net::Probe, None),
    ] {
        let mut bench = Bench::with(&denied_connects(egress, rule));
        let modes: Vec<Mode> = bench.event(1, connect(verdict)).iter().map(|decision| decision.mode).collect();
        assert_eq!(modes, Vec::from_iter(expected), "[egress] {egress}, rule {rule}, {verdict:?}");
        let frozen = bench.state.run(bench.run).unwrap().frozen;
        assert_eq!(frozen, expected == Some(Mode::Enforce), "[egress] {egress}, rule {rule}, {verdict:?}");
    }
}

#[test]
fn a_section_that_observes_leaves_rules_on_other_events_as_they_are() {
    let fork = "[[rule]]\nid = \"forks\"\nrationale = \"x\"\nwhen = { event = \"fork\", verdict = \"denied\" }\nactions = [\"freeze\"]\n";
    let mut bench = Bench::with(&(denied_connects("observe", "observe") + "[limits]\nprocesses = 4\n" + fork));
    assert!(bench.event(1, Event::Fork { child: 0, verdict: Net::WouldDeny }).is_empty());
    assert_eq!(bench.event(2, Event::Fork { child: 0, verdict: Net::Denied })[0].mode, Mode::Enforce);
}

#[test]
fn a_recording_of_an_earlier_engine_replays_as_that_engine_decided() {
    let policy = parse("p", &denied_connects("observe", "observe")).unwrap();
    let policies = PolicySet::from([(policy.digest(), Arc::new(policy.clone()))]);
    let signal = Input::Signal(Signal {
        seq: 1,
        at: at(1),
        source: Source::Ebpf,
        subject: Subject::Run(id(1)),
        kind: Kind::Event,
        value: Value::Event(connect(Net::WouldDeny)),
        repeats: 0,
    });
    for (engine, decisions) in [(8, 0), (ENGINE, 1)] {
        let mut state = State::of(engine);
        let mut recording = Vec::new();
        for input in [Input::RunStarted(started(id(1), policy.digest())), signal.clone()] {
            let decided = step(&policies, &mut state, &input);
            recording.push(Recorded::Input(input));
            recording.extend(decided.into_iter().map(Recorded::Decision));
        }
        let again = replay(policy.clone(), engine, recording.iter().cloned().map(Ok::<_, ()>)).unwrap();
        assert_eq!(again.recorded.len(), decisions, "engine {engine}");
        assert!(again.identical(), "engine {engine}: {again:?}");
    }
}

fn set(mode: Mode) -> Input {
    Input::Mode { run: id(1), mode, at: at(0) }
}

fn command(bench: &mut Bench, ms: u64, command: Command) -> Vec<Decision> {
    let (actor, role, reason) = (actor(0, 1), "admin".into(), "x".into());
    bench.feed(Input::Control(Control { seq: 0, at: at(ms), run: id(1), command, actor, role, reason }))
}

#[test]
fn a_run_that_is_only_watched_is_left_alone_but_for_operators() {
    let mut bench = Bench::with(&denied_connects("enforce", "enforce"));
    bench.feed(set(Mode::Observe));
    let decided = bench.event(1, connect(Net::WouldDeny));
    assert_eq!(decided[0].mode, Mode::Observe, "what would be denied trips the rule on denials");
    assert_eq!(
        bench.event(1_000_000, connect(Net::Denied))[0].mode,
        Mode::Observe,
        "the kernel's tables were still the old ones"
    );
    assert!(!bench.state.run(id(1)).unwrap().frozen);
    let leave = || Event::Leave { pid: 9, mover: 9, mover_in_run: true, to: 1 };
    assert_eq!(bench.event(1_000_001, leave())[0].mode, Mode::Observe);

    assert_eq!(command(&mut bench, 1_000_002, Command::Freeze)[0].mode, Mode::Enforce);
    assert!(bench.state.run(id(1)).unwrap().frozen, "an operator's command is carried out");
    let thaw = Event::ForeignThaw { levels: 1 };
    assert_eq!(bench.event(1_000_003, thaw)[0].mode, Mode::Enforce, "and kept in force");
    assert_eq!(bench.event(1_000_004, leave())[0].mode, Mode::Enforce);
    command(&mut bench, 1_000_005, Command::Thaw);

    bench.feed(set(Mode::Enforce));
    assert_eq!(bench.event(2_000_000, connect(Net::Denied))[0].mode, Mode::Enforce);
    assert!(bench.state.run(id(1)).unwrap().frozen);
    bench.feed(set(Mode::Observe));
    assert!(bench.state.run(id(1)).unwrap().frozen, "what is frozen stays so");
}

#[test]
fn a_mode_before_the_start_holds_from_the_start_on_and_a_recording_with_it_replays() {
    let policy = parse("p", &denied_connects("enforce", "enforce")).unwrap();
    let policies = PolicySet::from([(policy.digest(), Arc::new(policy.clone()))]);
    let unexplained = Contained { frozen: true, unexplained: true, blocked: false };
    let run = Run { contained: unexplained, ..started(id(1), policy.digest()) };
    let mut state = State::default();
    let mut recording = Vec::new();
    let mut modes = Vec::new();
    for input in [set(Mode::Observe), Input::RunStarted(run.clone()), set(Mode::Enforce), set(Mode::Observe)] {
        let decided = step(&policies, &mut state, &input);
        modes.extend(decided.iter().map(|decision| decision.mode));
        recording.push(Recorded::Input(input));
        recording.extend(decided.into_iter().map(Recorded::Decision));
    }
    assert_eq!(modes, [Mode::Observe], "it was found frozen, which is not made worse");
    let again = replay(policy.clone(), ENGINE, recording.iter().cloned().map(Ok::<_, ()>)).unwrap();
    assert!(again.identical(), "{again:?}");
    let mut other = State::default();
    step(&policies, &mut other, &set(Mode::Observe));
    step(&policies, &mut other, &set(Mode::Enforce));
    assert_eq!(step(&policies, &mut other, &Input::RunStarted(run))[0].mode, Mode::Enforce);
}

#[test]
fn the_observing_form_of_each_shipped_policy_refuses_nothing() {
    for (name, text) in SHIPPED {
        let policy = parse(name, text).unwrap_or_else(|wrong| panic!("{wrong}")).observing();
        assert!(policy.rules.iter().all(|rule| rule.effect.is_observe() && policy.observes(rule)), "{name}");
        let sections = [policy.egress.as_ref().map(|e| e.mode), policy.exec.as_ref().map(|e| e.mode)];
        assert!(sections.iter().flatten().all(|mode| *mode == Mode::Observe), "{name}");
        assert!(policy.limits.is_none() && policy.on_dead_daemon == crate::policy::OnDead::Keep, "{name}");
    }
}
