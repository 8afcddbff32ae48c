//! The detectors, each over a short series that shows what it is for, and one that must leave it silent.

use super::*;
use crate::{policy::parse::parse, signal::Source, time::Span};

fn detectors(kinds: &[&str], numbers: &str) -> Detectors {
    let rules: String = kinds
        .iter()
        .map(|kind| {
            let bound = Kind::parse(kind).unwrap().unit().example();
            let bound = bound.split(" or ").next().unwrap();
            format!(
                "[[rule]]\nid = {kind:?}\nrationale = \"x\"\nwhen = {{ signal = {kind:?}, above = {bound} }}\nactions = [\"notify\"]\n"
            )
        })
        .collect();
    let policy = format!("[policy]\nname = \"p\"\nowner = \"o\"\n{numbers}{rules}");
    Detectors::of(&parse("p", &policy).unwrap_or_else(|e| panic!("{e}")))
}

struct Bench {
    detectors: Detectors,
    at: u64,
}

impl Bench {
    fn new(kinds: &[&str]) -> Bench {
        Bench::with(kinds, "")
    }

    /// With numbers of the policy's own.
    fn with(kinds: &[&str], numbers: &str) -> Bench {
        Bench { detectors: detectors(kinds, &format!("[derived]\n{numbers}\n")), at: 1_000 }
    }

    fn gpu(&mut self, gpu: &str, values: &[(Kind, i64)]) -> Vec<(Kind, i64)> {
        let mut out = Vec::new();
        for (kind, value) in values {
            let signal = Signal {
                seq: 7,
                at: MonoTime(self.at * 1_000_000_000),
                source: Source::Nvml,
                subject: Subject::Gpu(GpuId(gpu.into())),
                kind: kind.clone(),
                value: Value::Integer(*value),
                repeats: 0,
            };
            for derived in self.detectors.take(&signal) {
                assert_eq!((derived.seq, derived.at, &derived.subject), (7, signal.at, &signal.subject));
                let Value::Integer(value) = derived.value else { panic!("{derived:?}") };
                out.push((derived.kind, value));
            }
        }
        out
    }

    /// The same values every second; the last derived value.
    fn for_secs(&mut self, seconds: u64, values: &[(Kind, i64)]) -> Option<i64> {
        let mut last = None;
        for _ in 0..seconds {
            self.at += 1;
            last = self.gpu("a", values).last().map(|(_, value)| *value).or(last);
        }
        last
    }

    fn metric(&mut self) {
        let signal = Signal {
            seq: 7,
            at: MonoTime(self.at * 1_000_000_000),
            source: Source::App,
            subject: Subject::Run("01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap()),
            kind: Kind::Metric("loss".into()),
            value: Value::Real(crate::signal::Real(0.1)),
            repeats: 0,
        };
        assert!(self.detectors.take(&signal).is_empty());
    }
}

const SECOND: i64 = 1_000_000;

#[test]
fn a_rank_that_spins_in_a_collective_is_busy_at_low_power() {
    let mut b = Bench::new(&["gpu.derived.spinning"]);
    let values = |busy, share| [(Kind::GpuUtilization, busy), (Kind::GpuPowerShare, share)];
    assert_eq!(b.for_secs(61, &values(100_000, 12_000)), Some(60 * SECOND));
    assert_eq!(b.for_secs(1, &values(100_000, 80_000)), Some(0), "it works");
    assert_eq!(b.for_secs(5, &values(10_000, 12_000)), Some(0), "it idles");
}

#[test]
fn power_without_work_is_reported() {
    let mut b = Bench::new(&["gpu.derived.idle_power"]);
    let values = |busy, share| [(Kind::GpuUtilization, busy), (Kind::GpuPowerShare, share)];
    assert_eq!(b.for_secs(31, &values(0, 90_000)), Some(30 * SECOND));
    assert_eq!(b.for_secs(1, &values(99_000, 90_000)), Some(0));
}

#[test]
fn a_run_that_reports_steps_is_not_stalled() {
    let mut b = Bench::new(&["gpu.derived.stalled"]);
    let values = |busy, memory| [(Kind::GpuUtilization, busy), (Kind::GpuMemory, memory)];
    assert_eq!(b.for_secs(121, &values(100_000, 1 << 30)), Some(120 * SECOND));
    b.metric();
    assert_eq!(b.for_secs(10, &values(100_000, 1 << 30)), Some(10 * SECOND), "counted from the step on");
    b.for_secs(1, &values(100_000, 2 << 30));
    assert_eq!(b.for_secs(1, &values(100_000, 2 << 30)), Some(SECOND), "memory changed");
    assert_eq!(b.for_secs(1, &values(60_000, 2 << 30)), Some(0), "it moves");
    assert_eq!(b.for_secs(31, &values(0, 2 << 30)), Some(30 * SECOND), "nothing at all is a stall too");
}

#[test]
fn a_failed_fan_shows_as_a_slope() {
    let mut b = Bench::new(&["gpu.derived.thermal_slope"]);
    let mut last = None;
    for i in 0..90 {
        last = b.for_secs(1, &[(Kind::GpuTemperature, 60_000 + i * 200)]);
    }
    assert_eq!(last, Some(12_000), "0.2 C a second");
    assert_eq!(b.for_secs(70, &[(Kind::GpuTemperature, 78_000)]), Some(0));
}

#[test]
fn ecc_errors_are_counted_by_the_hour() {
    let mut b = Bench::new(&["gpu.derived.ecc_rate"]);
    let mut last = None;
    for i in 0..600 {
        last = b.for_secs(1, &[(Kind::GpuEccUncorrected, 0), (Kind::GpuEccCorrected, 1_000 + i / 6)]).or(last);
    }
    assert!((590..=610).contains(&last.unwrap()), "{last:?}");
    let reset = b.for_secs(1, &[(Kind::GpuEccCorrected, 0)]);
    assert_eq!(reset, None, "the driver was loaded anew: nothing is known");
}

#[test]
fn a_leak_only_grows() {
    let mut b = Bench::new(&["gpu.derived.memory_slope"]);
    let mut last = None;
    for i in 0..600 {
        last = b.for_secs(1, &[(Kind::GpuMemory, (1 << 30) + (i << 20))]).or(last);
    }
    assert_eq!(last, Some(3_600 << 20), "1 MiB a second");
    assert_eq!(b.for_secs(1, &[(Kind::GpuMemory, 1 << 30)]), Some(0), "some was given back");
}

#[test]
fn clocks_that_are_held_down_while_it_works_are_reported() {
    let mut b = Bench::new(&["gpu.derived.clock_held"]);
    let values = |busy, clock| [(Kind::GpuUtilization, busy), (Kind::GpuClockSmMax, 1_980), (Kind::GpuClockSm, clock)];
    assert_eq!(b.for_secs(21, &values(90_000, 600)), Some(20 * SECOND));
    assert_eq!(b.for_secs(5, &values(90_000, 1_900)), Some(0));
    assert_eq!(b.for_secs(5, &values(0, 300)), Some(0), "an idle GPU slows down by itself");
}

#[test]
fn the_straggler_is_the_one_below_the_others() {
    let mut b = Bench::new(&["gpu.derived.straggler"]);
    let mut last = BTreeMap::new();
    for _ in 0..90 {
        b.at += 1;
        for (gpu, busy) in [("a", 95_000), ("b", 96_000), ("c", 40_000), ("d", 95_500)] {
            for (_, value) in b.gpu(gpu, &[(Kind::GpuUtilization, busy)]) {
                last.insert(gpu, value);
            }
        }
    }
    assert_eq!(last, [("a", 500), ("b", 0), ("c", 55_500), ("d", 0)].into());
    b.detectors.set_gpus(&[GpuId("a".into())].into());
    b.at += 1;
    assert_eq!(b.gpu("a", &[(Kind::GpuUtilization, 1_000)]), [], "alone there is no straggler");
}

#[test]
fn the_straggler_that_the_others_wait_for_is_reported_by_its_clock() {
    // Values of tests/scenarios/gpu/straggler.toml: all at full utilisation, one of them slow.
    let straggles = |busy: i64, numbers: &str| {
        let mut b = Bench::with(&["gpu.derived.straggler"], numbers);
        let mut last = BTreeMap::new();
        for _ in 0..90 {
            b.at += 1;
            for (gpu, clock) in [("a", 1_980), ("b", 1_980), ("c", 1_095), ("d", 1_980)] {
                let values = [(Kind::GpuClockSmMax, 1_980), (Kind::GpuUtilization, busy), (Kind::GpuClockSm, clock)];
                for (_, value) in b.gpu(gpu, &values) {
                    last.insert(gpu, value);
                }
            }
        }
        last
    };
    assert_eq!(straggles(99_000, ""), [("a", 0), ("b", 0), ("c", 44_697), ("d", 0)].into());
    let none = BTreeMap::from([("a", 0), ("b", 0), ("c", 0), ("d", 0)]);
    assert_eq!(straggles(20_000, ""), none, "the clocks of GPUs that do not work say nothing");
    assert_eq!(straggles(20_000, "clock_held = { utilization = \"10 %\" }")["c"], 44_697);
}

#[test]
fn a_policys_own_numbers_change_what_is_reported() {
    // What two seconds of these values give, with the numbers as they are and with others.
    let load = |busy, share| vec![(Kind::GpuUtilization, busy), (Kind::GpuPowerShare, share)];
    let memory = |busy| vec![(Kind::GpuMemory, 1 << 30), (Kind::GpuUtilization, busy)];
    let clock = vec![(Kind::GpuUtilization, 60_000), (Kind::GpuClockSmMax, 1_000), (Kind::GpuClockSm, 800)];
    for (kind, values, numbers) in [
        ("spinning", load(90_000, 30_000), "spinning = { utilization = \"90 %\" }"),
        ("spinning", load(100_000, 40_000), "spinning = { power = \"41 %\" }"),
        ("idle_power", load(8_000, 60_000), "idle_power = { utilization = \"8 %\" }"),
        ("idle_power", load(0, 45_000), "idle_power = { power = \"44 %\" }"),
        ("stalled", memory(3_000), "stalled = { low = \"3 %\" }"),
        ("stalled", memory(97_000), "stalled = { high = \"97 %\" }"),
        ("clock_held", clock, "clock_held = { clock = \"81 %\" }"),
    ] {
        let kind = format!("gpu.derived.{kind}");
        let told = |numbers| Bench::with(&[&kind], numbers).for_secs(3, &values);
        assert_eq!((told(""), told(numbers)), (Some(0), Some(2 * SECOND)), "{numbers}");
    }
    for (kind, values, field) in [
        ("thermal_slope", vec![(Kind::GpuTemperature, 60_000)], "thermal_slope"),
        ("ecc_rate", vec![(Kind::GpuEccUncorrected, 0), (Kind::GpuEccCorrected, 7)], "ecc_rate"),
        ("memory_slope", vec![(Kind::GpuMemory, 1 << 30)], "memory_slope"),
    ] {
        let kind = format!("gpu.derived.{kind}");
        let told = |numbers: &str| Bench::with(&[&kind], numbers).for_secs(12, &values);
        let own = told(&format!("{field} = {{ over = \"20s\" }}"));
        assert_eq!((told(""), own), (None, Some(0)), "{field}: half of its window is enough");
    }
    let straggles = |numbers| {
        let mut b = Bench::with(&["gpu.derived.straggler"], numbers);
        let mut last = None;
        for _ in 0..12 {
            b.at += 1;
            for (gpu, busy) in [("a", 90_000), ("b", 20_000)] {
                last = b.gpu(gpu, &[(Kind::GpuUtilization, busy)]).last().map(|(_, value)| *value);
            }
        }
        last
    };
    assert_eq!((straggles(""), straggles("straggler = { over = \"20s\" }")), (None, Some(70_000)));
}

#[test]
fn only_what_the_policy_names_is_computed() {
    let mut b = Bench::new(&["gpu.temperature"]);
    assert_eq!(b.for_secs(100, &[(Kind::GpuTemperature, 60_000), (Kind::GpuUtilization, 100_000)]), None);
    assert!(b.detectors.gpus.is_empty());
}

#[test]
fn windows_stay_small() {
    let mut window = window::Window::new(Span::from_secs(600));
    for i in 0..100_000u64 {
        window.push(1, MonoTime(i * 50_000_000));
    }
    assert!(format!("{window:?}").matches("MonoTime").count() < 300);
}

#[test]
fn every_derived_signal_has_a_detector_and_what_it_is_made_of() {
    for kind in Kind::ALL {
        assert_eq!(
            kind.is_derived(),
            kind.to_string().starts_with("gpu.derived."),
            "{kind}: name it in `Kind::is_derived`, or it is taken for a signal that a sensor reads"
        );
        if !kind.is_derived() {
            continue;
        }
        assert!(!kind.made_of().is_empty(), "{kind}: name in `Kind::made_of` without which signals there is none");
        let gpu = Gpu::new(&BTreeSet::from([kind.clone()]), &Derived::default(), MonoTime(0));
        let made = gpu.detectors.len() == 1 || *kind == Kind::GpuDerivedStraggler;
        assert!(made, "{kind} has no detector: a rule on it would never trip. Add it to `Gpu::new`");
    }
}
