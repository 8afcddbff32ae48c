//! Blindness: of a sensor, of its silence, of one signal.

use super::*;
use crate::input::{Gap, Unread};

#[test]
fn blindness_is_reported_once_until_sight_returns() {
    let mut b = Bench::new();
    let gap = |seq, blind| {
        Input::Gap(Gap { seq, at: at(1), source: Source::Ebpf, run: None, gpu: None, what: "x".into(), lost: 0, blind })
    };
    let told = b.feed(gap(1, true));
    assert_eq!((rules(&told), told[0].actions.as_slice()), (vec!["blind".to_owned()], [Action::Notify].as_slice()));
    assert!(b.feed(gap(2, true)).is_empty());
    assert!(b.feed(gap(3, false)).is_empty());
    assert_eq!(b.feed(gap(4, true)).len(), 1);
    let mut b = Bench::with(&POLICY.replace("owner = \"o\"", "owner = \"o\"\non_blind = \"freeze\""));
    assert!(b.feed(gap(1, true))[0].actions.contains(&Action::Freeze));
}

#[test]
fn a_silent_sampler_is_blind() {
    let mut b = Bench::new();
    b.egress(0, 0);
    b.signal(9_000, Subject::Gpu(GpuId("GPU-0".into())), Kind::GpuTemperature, Value::Integer(1));
    assert!(b.feed(Input::Tick(at(10_000))).is_empty());
    let told = b.feed(Input::Tick(at(10_001)));
    assert_eq!(rules(&told), ["blind"]);
    b.egress(10_500, 0);
    assert!(b.feed(Input::Tick(at(10_600))).is_empty());
}

#[test]
fn a_signal_that_is_not_read_blinds_the_rules_on_it_and_no_others() {
    let unread = |seq, gpu: &str, kind, why: Option<&str>| {
        let (gpu, why) = (GpuId(gpu.into()), why.map(str::to_owned));
        Input::Unread(Unread { seq, at: at(1), source: Source::Nvml, gpu, kind, why })
    };
    let mut b = Bench::with(&POLICY.replace("owner = \"o\"", "owner = \"o\"\non_blind = \"freeze\""));
    assert!(b.feed(unread(1, "GPU-0", Kind::GpuPower, Some("x"))).is_empty(), "no rule is on it");
    assert!(b.feed(unread(2, "GPU-9", Kind::GpuTemperature, Some("x"))).is_empty(), "it is not the run's GPU");
    let told = b.feed(unread(3, "GPU-0", Kind::GpuTemperature, Some("x")));
    assert_eq!(rules(&told), ["blind"]);
    assert!(told[0].actions.contains(&Action::Freeze) && told[0].because == [3], "{told:?}");
    // Other signals of that GPU are read all the time.
    b.signal(2, Subject::Gpu(GpuId("GPU-0".into())), Kind::GpuUtilization, Value::Integer(1));
    assert!(b.feed(unread(4, "GPU-0", Kind::GpuTemperature, Some("x"))).is_empty(), "told once");
    assert!(b.feed(unread(5, "GPU-0", Kind::GpuTemperature, None)).is_empty());
    assert_eq!(b.feed(unread(6, "GPU-0", Kind::GpuTemperature, Some("x"))).len(), 1);
}
