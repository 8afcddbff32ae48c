//! A run is judged alike alone and among others, and its decisions are numbered without gaps.

use super::*;

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
