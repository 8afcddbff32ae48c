//! Recordings replay to the same decisions.

use super::*;

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
    assert!(of(policy("")).replayed.is_empty(), "40 % is low power only by the numbers of the policy");
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
