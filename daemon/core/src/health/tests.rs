//! Health: what makes a part worse, what lets it recover, and what only an order does.

mod events;
mod facts;
mod signals;
mod xids;

use super::*;
use crate::{
    actor::{Actor, LocalPeer},
    signal::{Kind, Signal},
    subject::RunId,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const FRESH: Span = Span::from_secs(10);

fn s(seconds: u64) -> MonoTime {
    MonoTime((1_000 + seconds) * 1_000_000_000)
}

fn gpu(name: &str) -> GpuId {
    GpuId(format!("GPU-{name}"))
}

fn health(kept: Kept) -> Health {
    by(kept, Thresholds::built_in().unwrap())
}

fn by(kept: Kept, thresholds: Thresholds) -> Health {
    let catalogue = Arc::new(Catalogue::built_in().unwrap());
    let start = Start { at: s(0), wall_offset_ns: 1_700_000_000_000_000_000, fresh: FRESH, gpus: true };
    Health::new(catalogue, Arc::new(thresholds), kept, start)
}

fn signal(name: &str, kind: Kind, value: Value, at: MonoTime) -> Input {
    Input::Signal(Signal {
        seq: 1,
        at,
        source: Source::Nvml,
        subject: Subject::Gpu(gpu(name)),
        kind,
        value,
        repeats: 0,
    })
}

fn value(name: &str, kind: Kind, v: i64, at: MonoTime) -> Input {
    signal(name, kind, Value::Integer(v), at)
}

fn xid(name: &str, code: u64, at: MonoTime) -> Input {
    signal(name, Kind::Event, Value::Event(Event::Xid { code, slice: None }), at)
}

fn gap(name: Option<&str>, blind: bool, at: MonoTime) -> Input {
    let what = "hangs".into();
    Input::Gap(Gap { seq: 1, at, source: Source::Nvml, run: None, gpu: name.map(gpu), what, lost: 0, blind })
}

fn order(kind: OrderKind, target: Target) -> Order {
    let root = LocalPeer { uid: 0, gid: Some(0), pid: Some(7), start_ticks: Some(70), cgroup: Some("/".into()) };
    Order { kind, target, by: "user 0 (admin)".into(), actor: Some(Actor::Local(root)), why: "test".into() }
}

/// A node with GPUs a and b, both seen.
fn node_of_two() -> Health {
    let mut h = health(Kept::default());
    h.fact(&listed(&["a", "b"], s(0)));
    for name in ["a", "b"] {
        h.take(&value(name, Kind::GpuTemperature, 60_000, s(1)));
    }
    h
}

/// NVML lists these GPUs, in this order.
fn listed(names: &[&str], at: MonoTime) -> Fact {
    let slot = |index: usize| Slot { index: u32::try_from(index).unwrap(), ..Slot::default() };
    let gpus = names.iter().enumerate().map(|(index, name)| (gpu(name), slot(index))).collect();
    Fact::Listed { gpus, unreachable: BTreeMap::new(), at }
}

/// The same, with GPUs of these indices that do not answer.
fn listed_without(names: &[&str], unreachable: &[(u32, bool)], at: MonoTime) -> Fact {
    let Fact::Listed { gpus, .. } = listed(names, at) else { panic!("not a list") };
    let unreachable = unreachable
        .iter()
        .map(|(index, failed)| (*index, Unreachable { why: "Unknown Error".into(), failed: *failed }));
    Fact::Listed { gpus, unreachable: unreachable.collect(), at }
}

fn level(h: &Health, name: &str) -> Level {
    h.view().gpus[&gpu(name)].level
}

fn codes(h: &Health, name: &str) -> Vec<String> {
    h.view().gpus[&gpu(name)].reasons.iter().map(|r| r.code.clone()).collect()
}

#[test]
fn nothing_is_healthy_before_it_is_seen() {
    let mut h = health(Kept::default());
    assert_eq!(h.view().node.level, Level::Unknown);
    h.fact(&listed(&["a"], s(0)));
    assert_eq!((level(&h, "a"), h.view().node.level), (Level::Unknown, Level::Unknown));
    let changes = h.take(&value("a", Kind::GpuTemperature, 60_000, s(1)));
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!((level(&h, "a"), h.view().node.level), (Level::Healthy, Level::Healthy));
}

#[test]
fn a_node_without_gpus_is_seen_when_nvml_reports_none() {
    let mut h = health(Kept::default());
    h.fact(&listed(&[], s(0)));
    assert_eq!(h.view().node.level, Level::Healthy);
}

#[test]
fn a_gpu_that_falls_silent_is_unknown_and_an_old_answer_too() {
    let mut h = node_of_two();
    h.take(&value("b", Kind::GpuTemperature, 60_000, s(11)));
    h.take(&Input::Tick(s(12)));
    assert_eq!((level(&h, "a"), level(&h, "b")), (Level::Unknown, Level::Healthy));
    assert_eq!(h.view().node.level, Level::Degraded, "one GPU of two");
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(13)));
    assert_eq!(h.view().node.level, Level::Healthy);
    assert_eq!(h.view().at(s(20)).node.level, Level::Healthy);
    let stale = h.view().at(s(24));
    assert_eq!((stale.node.level, stale.gpus[&gpu("a")].level), (Level::Unknown, Level::Unknown));
}

#[test]
fn an_xid_that_needs_a_reset_stays_until_somebody_resets_it() {
    let mut h = node_of_two();
    let changes = h.take(&xid("a", 79, s(2)));
    assert_eq!(changes[0].added[0].code, "xid-79");
    assert_eq!(changes[0].added[0].advice, Advice::RebootNode);
    assert_eq!((level(&h, "a"), h.view().node.level), (Level::Unhealthy, Level::Degraded));
    assert!(h.take(&xid("a", 79, s(3))).is_empty(), "the same again is counted, not told");
    for t in 4..100_000 {
        if t % 1_000 == 0 {
            h.take(&value("a", Kind::GpuTemperature, 60_000, s(t)));
            h.take(&Input::Tick(s(t)));
        }
    }
    assert_eq!(level(&h, "a"), Level::Unhealthy);
    let mut h = health(serde_json::from_str(&serde_json::to_string(&h.keep()).unwrap()).unwrap());
    assert_eq!(level(&h, "a"), Level::Unhealthy, "also over a restart");
    let changes = h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(5)).unwrap();
    assert_eq!(changes[0].by.as_deref(), Some("user 0 (admin): test"));
    assert_eq!(changes[0].actor.as_ref().and_then(Actor::uid), Some(0));
    assert_eq!(level(&h, "a"), Level::Unknown, "not seen since the restart");
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(6)));
    assert_eq!(level(&h, "a"), Level::Healthy);
}

#[test]
fn blindness_is_unknown_and_sight_must_be_shown() {
    let mut h = node_of_two();
    h.take(&gap(None, true, s(2)));
    assert_eq!((h.view().node.level, level(&h, "a")), (Level::Unknown, Level::Unknown));
    h.take(&gap(None, false, s(3)));
    assert_eq!(level(&h, "a"), Level::Unknown, "no sample yet");
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(4)));
    assert_eq!(level(&h, "a"), Level::Healthy);
    h.fact(&Fact::Lost { gpu: gpu("a"), why: "nvmlDeviceGetUUID".into(), at: s(5) });
    assert_eq!((level(&h, "a"), codes(&h, "a")), (Level::Unhealthy, vec!["gpu-lost".to_owned()]));
}

#[test]
fn a_cordon_drains_and_a_reset_does_not_lift_it() {
    let mut h = node_of_two();
    h.order(&order(OrderKind::Cordon, Target::Gpu(gpu("a"))), s(2)).unwrap();
    assert_eq!((level(&h, "a"), h.view().node.level), (Level::Draining, Level::Degraded));
    h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(3)).unwrap();
    assert_eq!(level(&h, "a"), Level::Draining);
    h.order(&order(OrderKind::Uncordon, Target::Gpu(gpu("a"))), s(4)).unwrap();
    assert_eq!(level(&h, "a"), Level::Healthy);
    h.order(&order(OrderKind::Cordon, Target::Node), s(5)).unwrap();
    assert_eq!(h.view().node.level, Level::Draining);
    assert!(h.order(&order(OrderKind::Cordon, Target::Gpu(gpu("x"))), s(6)).is_err());
}

#[test]
fn placement_is_allowed_or_refused_with_the_reason() {
    let mut h = node_of_two();
    let mut held: BTreeMap<GpuId, BTreeSet<RunId>> = BTreeMap::new();
    let any = |count, degraded| Wanted { count, degraded, ..Wanted::default() };
    assert_eq!(h.view().placeable(&any(2, false), &held, &Equipment::new()).gpus.len(), 2);
    h.take(&value("a", Kind::GpuRemappedRowsPending, 1, s(2)));
    let answer = h.view().placeable(&any(2, false), &held, &Equipment::new());
    assert!(!answer.placeable && answer.reasons[0].contains("remapped_rows_pending"), "{answer:?}");
    assert_eq!(h.view().placeable(&any(1, false), &held, &Equipment::new()).gpus, [gpu("b")].into());
    // Constraints: what does not fit is told with the GPU, and GPUs that do not lie together are no set.
    let equipment = |name: &str, numa| (gpu(name), Traits { numa_node: Some(numa), ..Traits::default() });
    let apart: Equipment = [equipment("a", 0), equipment("b", 1)].into();
    let on_one = Constraints { same_numa_node: true, ..Constraints::default() };
    let two = Wanted { constraints: on_one.clone(), ..any(2, true) };
    let answer = h.view().placeable(&two, &held, &apart);
    assert!(!answer.placeable && answer.reasons.iter().any(|why| why.contains("lie together")), "{answer:?}");
    let named = Wanted { gpus: [gpu("a"), gpu("b")].into(), degraded: true, constraints: on_one, ..Wanted::default() };
    let answer = h.view().placeable(&named, &held, &apart);
    assert!(!answer.placeable && answer.reasons.iter().any(|why| why.contains("one NUMA node (0, 1)")), "{answer:?}");
    let one: Equipment = [equipment("a", 1), equipment("b", 1)].into();
    assert!(h.view().placeable(&named, &held, &one).placeable && h.view().placeable(&two, &held, &one).gpus.len() == 2);
    let without = Constraints { exclude: [gpu("b")].into(), ..Constraints::default() };
    let answer = h.view().placeable(&Wanted { constraints: without, ..any(1, false) }, &held, &one);
    assert!(!answer.placeable && answer.reasons.contains(&"GPU-b: it is excluded".to_owned()), "{answer:?}");
    assert!(h.view().placeable(&any(2, true), &held, &Equipment::new()).placeable);
    held.insert(gpu("b"), ["01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap()].into());
    let named = Wanted { gpus: [gpu("b")].into(), ..Wanted::default() };
    let answer = h.view().placeable(&named, &held, &Equipment::new());
    assert!(!answer.placeable && answer.reasons[0].contains("held by run"), "{answer:?}");
    assert!(h.view().placeable(&Wanted { shared: true, ..named }, &held, &Equipment::new()).placeable);
    let unknown = Wanted { gpus: [gpu("x")].into(), ..Wanted::default() };
    assert!(!h.view().placeable(&unknown, &held, &Equipment::new()).placeable);
    assert!(h.view().placeable(&Wanted::default(), &held, &Equipment::new()).placeable, "the node itself");
    h.order(&order(OrderKind::Cordon, Target::Node), s(3)).unwrap();
    assert!(!h.view().placeable(&Wanted { degraded: true, ..Wanted::default() }, &held, &Equipment::new()).placeable);
    assert!(
        !node_of_two().view().at(s(100)).placeable(&any(1, true), &BTreeMap::new(), &Equipment::new()).placeable,
        "a stale answer is no yes"
    );
}

#[test]
fn nothing_is_started_on_what_is_draining_or_unhealthy_without_a_word() {
    let mut h = node_of_two();
    let (a, both) = ([gpu("a")].into(), [gpu("a"), gpu("b")].into());
    h.take(&value("a", Kind::GpuRemappedRowsPending, 1, s(2)));
    h.take(&gap(Some("b"), true, s(2)));
    assert!(h.view().closed(&both).is_empty(), "degraded, and not seen");
    h.take(&xid("a", 79, s(3)));
    h.order(&order(OrderKind::Cordon, Target::Gpu(gpu("b"))), s(3)).unwrap();
    let closed = h.view().closed(&both);
    assert_eq!(closed.iter().map(|c| c.level).collect::<Vec<_>>(), [Level::Unhealthy, Level::Draining]);
    assert!(closed[0].to_string().starts_with("GPU-a is unhealthy: XID 79"), "{}", closed[0]);
    assert!(!closed[0].why.contains("remapped"), "what only degrades it is no reason: {}", closed[0]);
    assert_eq!(closed[1].to_string(), "GPU-b is draining: cordoned by user 0 (admin): test");
    h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(4)).unwrap();
    assert!(h.view().closed(&a).is_empty());
    h.order(&order(OrderKind::Cordon, Target::Node), s(5)).unwrap();
    assert_eq!(h.view().closed(&a)[0].target, Target::Node);
    let without_gpu = h.view().closed(&BTreeSet::new());
    assert_eq!(without_gpu.iter().map(|c| c.target.clone()).collect::<Vec<_>>(), [Target::Node]);
    h.order(&order(OrderKind::Uncordon, Target::Node), s(6)).unwrap();
    assert!(h.view().closed(&BTreeSet::new()).is_empty(), "the cordoned GPU is none of its own");
}

fn over_a_restart(h: &Health) -> Health {
    health(serde_json::from_str(&serde_json::to_string(&h.keep()).unwrap()).unwrap())
}

#[test]
fn five_fatal_xids_within_a_day_are_more_than_resets_can_mend() {
    let mut h = node_of_two();
    let reset = order(OrderKind::Reset, Target::Gpu(gpu("a")));
    for (n, code) in [79, 95, 79, 119].into_iter().enumerate() {
        h.take(&xid("a", code, s(2 + n as u64 * 3_600)));
        assert!(!codes(&h, "a").contains(&"xid-fatal-repeated".to_owned()));
        h.order(&reset, s(3 + n as u64 * 3_600)).unwrap();
        // What is counted outlives both a reset and a restart.
        h = over_a_restart(&h);
    }
    let mut late = h.clone();
    h.take(&xid("b", 79, s(5 * 3_600)));
    h.take(&xid("a", 13, s(5 * 3_600)));
    assert_eq!(codes(&h, "a"), ["blind"], "another GPU's, and one of a program, are none of its");
    h.take(&xid("a", 95, s(5 * 3_600)));
    let reason = h.view().gpus[&gpu("a")].reasons.iter().find(|r| r.code == "xid-fatal-repeated").cloned().unwrap();
    assert_eq!((reason.level, reason.advice), (Level::Unhealthy, Advice::ContactSupport));
    late.take(&xid("a", 95, s(86_400 + 3_600)));
    assert!(!codes(&late, "a").contains(&"xid-fatal-repeated".to_owned()), "the first is older than a day");
}

#[test]
fn more_than_one_page_or_row_a_week_speaks_against_the_memory() {
    const DAY: u64 = 86_400;
    for (kind, other, code) in [
        (Kind::GpuRemappedRowsCorrectable, Kind::GpuRemappedRowsUncorrectable, "row-remap-rate"),
        (Kind::GpuRetiredPagesSingle, Kind::GpuRetiredPagesDouble, "retired-pages-rate"),
    ] {
        let mut h = node_of_two();
        h.take(&value("a", kind.clone(), 7, s(2)));
        assert!(codes(&h, "a").is_empty(), "how long it took for those is not known");
        h.take(&value("a", kind.clone(), 8, s(DAY)));
        assert!(codes(&h, "a").is_empty(), "one");
        h = over_a_restart(&h);
        h.take(&value("a", other, 0, s(2 * DAY)));
        h.take(&value("a", kind.clone(), 9, s(6 * DAY)));
        assert_eq!(codes(&h, "a"), [code], "the second in a week, over a restart");
        assert_eq!(level(&h, "a"), Level::Degraded);
        h.take(&value("a", kind.clone(), 9, s(8 * DAY - 1)));
        assert_eq!(codes(&h, "a"), [code]);
        h.take(&value("a", kind.clone(), 9, s(8 * DAY + 1)));
        assert!(codes(&h, "a").is_empty(), "a week after the first of them");
        h.take(&value("a", kind.clone(), 0, s(8 * DAY + 2)));
        h.take(&value("a", kind, 1, s(8 * DAY + 3)));
        assert_eq!(codes(&h, "a"), [code], "the one of day 6, and this one");
    }
}

#[test]
fn an_xid_that_is_reported_late_is_the_one_that_was_seen() {
    let mut h = node_of_two();
    let a = gpu("a");
    assert!(!h.knows_xid(&a, 79, s(5)));
    h.take(&xid("a", 79, s(5)));
    let to = ReadTo { boot_id: "b".into(), sequence: 7 };
    h.reads_to(to.clone());
    let mut h = over_a_restart(&h);
    assert_eq!(h.read_to(), Some(&to));
    assert!(h.knows_xid(&a, 79, s(4)) && h.knows_xid(&a, 79, s(9)), "the two clocks are not in step");
    assert!(!h.knows_xid(&a, 79, s(11)) && !h.knows_xid(&a, 95, s(5)) && !h.knows_xid(&gpu("b"), 79, s(5)));
    let changes = h.fact(&Fact::Xid { gpu: a.clone(), code: 95, at: s(11) });
    assert_eq!(changes[0].added[0].code, "xid-95");
    assert!(h.knows_xid(&a, 95, s(11)));
}

#[derive(Debug, Clone)]
enum Step {
    Value(u8, i64),
    Xid(u64),
    Gap(bool),
    Tick,
    Cordon(bool),
}

proptest! {
    /// Whatever comes, only a reset leaves `unhealthy`; revisions count up; the same steps give the same end.
    #[test]
    fn unhealthy_is_left_by_a_reset_only(
        steps in proptest::collection::vec((0u64..120, prop_oneof![
            (0u8..6, 0i64..700).prop_map(|(k, v)| Step::Value(k, v)),
            proptest::sample::select(vec![13u64, 45, 79, 94, 95, 162, 163, 12_345]).prop_map(Step::Xid),
            any::<bool>().prop_map(Step::Gap),
            Just(Step::Tick),
            any::<bool>().prop_map(Step::Cordon),
        ]), 1..60),
    ) {
        let run = || {
            let mut h = node_of_two();
            let (mut at, mut told, mut bad) = (2, h.view().revision, false);
            for (wait, step) in &steps {
                at += wait;
                let changes = match step {
                    Step::Value(k, v) => {
                        let kinds = [Kind::GpuTemperature, Kind::GpuRemappedRowsFailure, Kind::GpuEccUncorrected,
                            Kind::GpuRemappedRowsPending, Kind::GpuThrottle, Kind::GpuNvlinkCrcErrors];
                        h.take(&value("a", kinds[usize::from(*k)].clone(), *v, s(at)))
                    }
                    Step::Xid(code) => h.take(&xid("a", *code, s(at))),
                    Step::Gap(blind) => h.take(&gap(Some("a"), *blind, s(at))),
                    Step::Tick => h.take(&Input::Tick(s(at))),
                    Step::Cordon(on) => {
                        let kind = if *on { OrderKind::Cordon } else { OrderKind::Uncordon };
                        h.order(&order(kind, Target::Gpu(gpu("a"))), s(at)).unwrap()
                    }
                };
                for change in changes {
                    prop_assert!(change.revision > told);
                    told = change.revision;
                }
                bad |= level(&h, "a") == Level::Unhealthy;
                prop_assert!(!bad || level(&h, "a") == Level::Unhealthy);
            }
            Ok(h.view())
        };
        prop_assert_eq!(run()?, run()?);
    }
}

#[test]
fn a_nodes_own_thresholds_change_what_is_judged() {
    let own = "[[check]]\ncode = \"retired-pages-double-bit\"\nabove = 3\n\n\
               [[check]]\ncode = \"memory-temperature\"\nhold = \"5s\"\n\n\
               [[check]]\ncode = \"row-remap-rate\"\ngrows = 4\nwithin = \"24h\"\n\n\
               [[check]]\ncode = \"xid-fatal-repeated\"\ntimes = 1\n";
    let codes = |thresholds: Thresholds, inputs: &[Input]| -> BTreeSet<String> {
        let mut h = by(Kept::default(), thresholds);
        h.fact(&listed(&["a"], s(0)));
        inputs.iter().for_each(|input| drop(h.take(input)));
        h.view().gpus[&gpu("a")].reasons.iter().map(|reason| reason.code.clone()).collect()
    };
    let pages = [value("a", Kind::GpuRetiredPagesDouble, 4, s(1))];
    let hot = |seconds| value("a", Kind::GpuMemoryTemperature, 100_000, s(seconds));
    let hot = [value("a", Kind::GpuMemoryTemperatureLimit, 95_000, s(1)), hot(2), hot(8)];
    let remapped = |n, seconds| value("a", Kind::GpuRemappedRowsCorrectable, n, s(seconds));
    let remapped = [remapped(0, 1), remapped(4, 2)];
    let fatal = [xid("a", 79, s(1)), value("a", Kind::GpuTemperature, 60_000, s(2))];
    for (code, inputs, as_built_in) in [
        ("retired-pages-double-bit", &pages[..], false),
        ("memory-temperature", &hot, false),
        ("row-remap-rate", &remapped, true),
        ("xid-fatal-repeated", &fatal, false),
    ] {
        let own = Thresholds::parse("own.toml", own).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(codes(Thresholds::built_in().unwrap(), inputs).contains(code), as_built_in, "{code}, built in");
        assert_eq!(codes(own, inputs).contains(code), !as_built_in, "{code}, the node's own");
    }
}

/// A health that was kept by this one and restored after a restart.
fn restarted(h: &Health) -> Health {
    health(serde_json::from_str(&serde_json::to_string(&h.keep()).unwrap()).unwrap())
}

#[test]
fn a_gpu_that_is_missing_after_a_restart_is_unhealthy_until_it_is_forgotten() {
    let mut h = restarted(&node_of_two());
    h.fact(&listed(&["a"], s(20)));
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(21)));
    assert_eq!((level(&h, "a"), level(&h, "b")), (Level::Healthy, Level::Unhealthy));
    assert!(codes(&h, "b").contains(&"gpu-missing".to_owned()), "{:?}", codes(&h, "b"));
    assert_ne!(h.view().node.level, Level::Healthy);
    let mut h = restarted(&h);
    h.fact(&listed(&["a"], s(30)));
    assert_eq!(level(&h, "b"), Level::Unhealthy, "also after another restart");
    let target = |name| Target::Gpu(gpu(name));
    assert_eq!(h.order(&order(OrderKind::Forget, target("a")), s(31)), Err(OrderRefused::Present(gpu("a"))));
    assert_eq!(h.order(&order(OrderKind::Forget, Target::Node), s(31)), Err(OrderRefused::NotAGpu));
    assert_eq!(h.order(&order(OrderKind::Forget, target("c")), s(31)), Err(OrderRefused::NoSuchGpu(gpu("c"))));
    let changes = h.order(&order(OrderKind::Forget, target("b")), s(31)).unwrap();
    assert!(changes[0].by.is_some() && changes[0].removed.contains(&"gpu-missing".to_owned()), "{changes:?}");
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(32)));
    assert_eq!((h.view().gpus.len(), h.view().node.level), (1, Level::Healthy));
}

#[test]
fn a_gpu_that_returns_errors_from_the_start_is_not_healthy() {
    let mut h = health(Kept::default());
    h.fact(&listed_without(&["a"], &[(1, true)], s(0)));
    h.take(&value("a", Kind::GpuTemperature, 60_000, s(1)));
    let part = &h.view().gpus[&GpuId("index:1".into())];
    assert_eq!(part.level, Level::Unhealthy, "{part:?}");
    assert!(part.reasons[0].text.contains("Unknown Error"), "{part:?}");
    assert_ne!(h.view().node.level, Level::Healthy);
}

#[test]
fn a_gpu_that_is_slow_is_unknown_and_takes_its_name_when_it_answers() {
    let mut h = health(Kept::default());
    h.fact(&listed_without(&["a"], &[(1, false)], s(0)));
    assert_eq!(h.view().gpus[&GpuId("index:1".into())].level, Level::Unknown);
    h.fact(&listed(&["a", "b"], s(2)));
    assert_eq!(h.view().gpus.keys().cloned().collect::<Vec<_>>(), [gpu("a"), gpu("b")]);
}

#[test]
fn the_only_missing_gpu_is_the_one_that_returns_an_error() {
    let mut h = restarted(&node_of_two());
    h.fact(&listed_without(&["a"], &[(1, true)], s(20)));
    assert_eq!(codes(&h, "b"), ["gpu-unreachable", "blind"]);
    assert_eq!(h.view().gpus.len(), 2);
}

#[test]
fn the_other_gpus_keep_their_index_while_one_is_missing() {
    let mut h = health(Kept::default());
    h.fact(&listed(&["a", "b", "c"], s(0)));
    let mut h = restarted(&h);
    h.fact(&listed(&["a", "c"], s(20)));
    let index = |h: &Health, name| h.slots()[&gpu(name)].index;
    assert_eq!((index(&h, "a"), index(&h, "b"), index(&h, "c")), (0, 1, 2));
    h.order(&order(OrderKind::Forget, Target::Gpu(gpu("b"))), s(21)).unwrap();
    h.fact(&listed(&["a", "c"], s(22)));
    assert_eq!((index(&h, "a"), index(&h, "c")), (0, 1));
}

#[test]
fn a_link_that_was_up_is_expected_after_a_restart_and_after_a_reset() {
    let links = |h: &mut Health, links, from: u64| {
        for second in 0..99 {
            h.take(&value("a", Kind::GpuNvlinkActive, links, s(from + second)));
        }
        codes(h, "a").contains(&"nvlink-down".to_owned())
    };
    let mut h = node_of_two();
    assert!(!links(&mut h, 18, 10));
    assert!(links(&mut h, 17, 100));
    let mut h = restarted(&h);
    h.fact(&listed(&["a", "b"], s(200)));
    assert!(links(&mut h, 17, 201), "after a restart");
    h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(300)).unwrap();
    assert!(links(&mut h, 17, 301), "after a reset");
    let text = "[[check]]\ncode = \"nvlink-down\"\nexpected = 12\n";
    h.thresholds = Arc::new(Thresholds::parse("own.toml", text).unwrap());
    assert!(!links(&mut h, 17, 400), "12 are expected by the configuration");
    assert!(links(&mut h, 11, 500));
}

/// A damaged health.json is no reason for a node to be without a daemon.
#[test]
fn what_is_kept_may_have_any_numbers() {
    let mut h = health(Kept::default());
    h.take(&xid("a", 79, s(1)));
    let mut kept = serde_json::to_value(h.keep()).unwrap();
    kept["revision"] = u64::MAX.into();
    let gpu = kept["gpus"].as_object_mut().unwrap().values_mut().next().unwrap();
    for reason in gpu["reasons"].as_array_mut().unwrap() {
        (reason["count"], reason["since_ns"], reason["last_ns"]) = (u64::MAX.into(), i64::MIN.into(), i64::MAX.into());
    }
    let mut h = health(serde_json::from_value(kept).unwrap());
    let before = h.view().revision;
    for at in 2..5 {
        h.take(&xid("a", 79, s(at)));
        h.take(&xid("b", 79, s(at)));
        h.take(&Input::Tick(s(at)));
    }
    assert!(h.view().revision > before, "the revision goes on");
}
