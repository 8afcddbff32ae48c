//! Which of a node's GPUs, and of their parts, a run is judged by.

use super::*;
use crate::event::Slice;

#[test]
fn a_gpu_rule_is_judged_per_gpu_of_the_run() {
    let mut b = Bench::new();
    let hot = |b: &mut Bench, ms, gpu: &str, mc| {
        b.signal(ms, Subject::Gpu(GpuId(gpu.into())), Kind::GpuTemperature, Value::Integer(mc))
    };
    assert!(hot(&mut b, 0, "GPU-1", 95_000).is_empty(), "not this run's GPU");
    assert_eq!(rules(&hot(&mut b, 1, "GPU-0", 95_000)), ["hot"]);
    b.feed(Input::RunGpus {
        run: b.run,
        gpus: BTreeSet::from([GpuId("GPU-0".into()), GpuId("GPU-1".into())]),
        at: at(2),
    });
    assert!(hot(&mut b, 3, "GPU-0", 96_000).is_empty());
    assert_eq!(rules(&hot(&mut b, 4, "GPU-1", 95_000)), ["hot"]);
}

/// Signals of GPUs are given to runs with GPUs only, however the run got or lost them.
#[test]
fn each_run_that_a_gpu_concerns_is_judged_by_it_after_any_change_of_its_gpus() {
    let policy = parse("p", POLICY).unwrap();
    let digest = policy.digest();
    let mut b = Bench::of(policy);
    let gpu = |n: u32| GpuId(format!("GPU-{n}"));
    let hot = |b: &mut Bench, ms, n| {
        let (subject, kind, value) = (Subject::Gpu(gpu(n)), Kind::GpuTemperature, Value::Integer(95_000));
        let signal = Signal { seq: ms, at: at(ms), source: Source::Nvml, subject, kind, value, repeats: 0 };
        let input = Input::Signal(signal);
        let concerned: BTreeSet<RunId> = (1..=4).map(id).filter(|run| concerns(&b.state, &input, *run)).collect();
        let on_gpus: BTreeSet<RunId> = b.state.on_gpus().collect();
        assert!(concerned.is_subset(&on_gpus), "{concerned:?} {on_gpus:?}");
        let decided: BTreeSet<RunId> = b.feed(input).iter().map(|decision| decision.id.run).collect();
        (concerned, decided)
    };
    let runs = |ids: &[u128]| ids.iter().copied().map(id).collect::<BTreeSet<RunId>>();
    for n in 1..=3 {
        let gpus = if n == 1 { BTreeSet::new() } else { [gpu(0)].into() };
        b.feed(Input::RunStarted(Run { gpus, ..started(id(n), digest) }));
    }
    b.feed(Input::RunStarted(Run {
        gpus: BTreeSet::new(),
        mig: [(gpu(0), ["GPU-9".to_owned()].into())].into(),
        ..started(id(4), digest)
    }));
    assert_eq!(hot(&mut b, 1, 0), (runs(&[2, 3]), runs(&[2, 3])));
    assert_eq!(hot(&mut b, 2, 9).0, runs(&[4]), "its MIG device");
    b.feed(Input::RunGpus { run: id(1), gpus: [gpu(1)].into(), at: at(500) });
    b.feed(Input::RunGpus { run: id(2), gpus: BTreeSet::new(), at: at(500) });
    b.feed(Input::RunEnded { run: id(3), at: at(500) });
    assert_eq!(hot(&mut b, 501, 1), (runs(&[1]), runs(&[1])));
    assert_eq!(hot(&mut b, 502, 0).0, runs(&[]));
    assert_eq!(b.state.on_gpus().collect::<BTreeSet<_>>(), runs(&[1, 4]));
}

#[test]
fn an_xid_of_a_gpu_instance_reaches_the_runs_that_have_a_device_of_it() {
    const XID: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n\
        [[rule]]\nid = \"xid\"\nrationale = \"x\"\nwhen = { event = \"xid\" }\nactions = [\"notify\"]\n";
    let policy = parse("p", XID).unwrap();
    let (digest, gpu) = (policy.digest(), GpuId("GPU-0".into()));
    let policies: PolicySet = [(digest, Arc::new(policy))].into();
    let mut state = State::default();
    let devices = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    // The first has the whole card.
    for (n, mig) in [(1, &[][..]), (2, &["MIG-a"]), (3, &["MIG-b", "MIG-c"])] {
        let mut run = started(id(n), digest);
        if !mig.is_empty() {
            run.mig = [(gpu.clone(), devices(mig))].into();
        }
        step(&policies, &mut state, &Input::RunStarted(run));
    }
    let mut seq = 0;
    let mut told = |slice: Option<Slice>| {
        seq += 1;
        let value = Value::Event(Event::Xid { code: 94, slice });
        let (subject, source, kind) = (Subject::Gpu(gpu.clone()), Source::Nvml, Kind::Event);
        let signal = Signal { seq, at: at(seq * 10_000), source, subject, kind, value, repeats: 0 };
        let input = Input::Signal(signal);
        let concerned: Vec<u128> = (1..=3).filter(|n| concerns(&state, &input, id(*n))).collect();
        let decided: Vec<u128> = step(&policies, &mut state, &input).iter().map(|it| it.id.run.0.as_u128()).collect();
        assert_eq!(decided, concerned);
        decided
    };
    let of = |names: &[&str]| Some(Slice { gpu_instance: 5, compute_instance: None, devices: devices(names) });
    assert_eq!(told(None), [1, 2, 3], "of the whole card");
    assert_eq!(told(of(&["MIG-a"])), [1, 2]);
    assert_eq!(told(of(&["MIG-a", "MIG-b"])), [1, 2, 3]);
    assert_eq!(told(of(&["MIG-d"])), [1]);
    assert_eq!(told(of(&[])), [1, 2, 3], "which devices it is was not known: nobody is spared");
}

#[test]
fn a_run_on_mig_devices_is_judged_by_their_signals_and_by_the_rest_of_their_card() {
    let rule = |id: &str, when: &str| {
        format!("[[rule]]\nid = \"{id}\"\nrationale = \"x\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n")
    };
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n".to_owned()
        + &rule("busy", "signal = \"gpu.utilization\", above = \"50 %\"")
        + &rule("hot", "signal = \"gpu.temperature\", above = \"90 C\"");
    let policy = parse("p", &text).unwrap();
    let digest = policy.digest();
    let mut b = Bench::of(policy);
    let (card, own, other) = (GpuId("GPU-0".into()), GpuId("MIG-a".into()), GpuId("MIG-b".into()));
    let mut run = started(b.run, digest);
    run.mig = [(card.clone(), [own.0.clone()].into())].into();
    b.feed(Input::RunStarted(run));
    // The run's GPUs are told anew when one of its processes is seen on the card.
    b.feed(Input::RunGpus { run: b.run, gpus: [card.clone()].into(), at: at(1) });
    let mut told =
        |ms, gpu: &GpuId, kind, value| rules(&b.signal(ms, Subject::Gpu(gpu.clone()), kind, Value::Integer(value)));
    assert!(told(2, &card, Kind::GpuUtilization, 99_000).is_empty(), "the card's is not the run's");
    assert!(told(3, &other, Kind::GpuUtilization, 99_000).is_empty(), "its neighbour's");
    assert_eq!(told(4, &own, Kind::GpuUtilization, 99_000), ["busy"]);
    assert_eq!(told(5, &card, Kind::GpuTemperature, 95_000), ["hot"]);
    let unread = |gpu: &GpuId, kind| {
        let (seq, at, source, gpu) = (9, at(6), Source::Nvml, gpu.clone());
        Input::Unread(crate::input::Unread { seq, at, source, gpu, kind, why: Some("x".into()) })
    };
    let concerned = |input| concerns(&b.state, &input, b.run);
    assert!(concerned(unread(&own, Kind::GpuMemory)) && !concerned(unread(&card, Kind::GpuMemory)));
    assert!(concerned(unread(&card, Kind::GpuTemperature)) && !concerned(unread(&other, Kind::GpuMemory)));
}
