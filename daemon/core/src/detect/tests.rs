//! What holds for every method.

use super::*;
use crate::signal::Real;
use proptest::prelude::*;

const INDEX: &str = include_str!("../../../../docs/policy-index.md");

/// A method with as little memory as it can have; what is required is given.
fn smallest(spec: &'static Spec) -> Detect {
    let given = |param: &Param| match &param.range {
        // With as few values, more would not be reached.
        Range::Number { .. } if (spec.name, param.name) == ("psi", "limit") => Given::Number(Real(2.0)),
        Range::Level => Given::Number(Real(10.0)),
        Range::Count { least, .. } if ["window", "reference", "bins"].contains(&param.name) => Given::Count(*least),
        Range::Time { default: None, least, .. } => Given::Time(*least),
        _ => param.default().unwrap(),
    };
    Detect::new(spec, spec.params.iter().map(|param| (param.name, given(param))).collect()).unwrap()
}

/// A method with these counts and numbers.
fn with(spec: &'static Spec, given: &[(&'static str, f64)]) -> Result<Detect, (&'static str, String)> {
    let given = given.iter().map(|(name, value)| match spec.param(name).unwrap().range {
        Range::Count { .. } => (*name, Given::Count(*value as u64)),
        _ => (*name, Given::Number(Real(*value))),
    });
    Detect::new(spec, given.collect())
}

fn sample(n: u64, value: f64) -> Sample {
    Sample { value, at: MonoTime(n * 1_000_000_000), step: Some(n) }
}

#[test]
fn the_index_has_each_parameter_with_its_range_and_its_default() {
    let mut rows = Vec::new();
    for spec in ALL {
        for param in spec.params {
            let default = param.shown_default().map_or_else(|| "required".to_owned(), |shown| format!("`{shown}`"));
            let expected = param.expected();
            rows.push(format!("| `{}` | `{}` | {} | {expected} | {default} |", spec.name, param.name, param.what));
        }
    }
    let missing: Vec<&String> = rows.iter().filter(|row| !INDEX.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "docs/policy-index.md does not have these rows: {missing:#?}");
}

#[test]
fn names_are_unique_and_can_be_written() {
    for (n, spec) in ALL.iter().enumerate() {
        assert!(ALL.iter().skip(n + 1).all(|other| other.name != spec.name));
        assert_eq!(method(spec.name).unwrap().name, spec.name);
        for param in spec.params {
            assert!(param.name.bytes().all(|b| b.is_ascii_lowercase()) && param.name != "method");
        }
    }
}

#[test]
fn every_default_is_within_its_range() {
    for param in ALL.iter().flat_map(|spec| spec.params) {
        if let Some(default) = param.default() {
            assert_eq!(param.check(&default), Ok(()), "{}", param.name);
        }
    }
}

#[test]
fn a_detector_is_read_as_it_is_stored_and_refused_where_it_was_altered() {
    for spec in ALL {
        let detect = smallest(spec);
        let text = serde_json::to_string(&detect).unwrap();
        assert_eq!(serde_json::from_str::<Detect>(&text).unwrap(), detect);
        let bytes = postcard::to_allocvec(&detect).unwrap();
        assert_eq!(postcard::from_bytes::<Detect>(&bytes).unwrap(), detect);
    }
    let text = serde_json::to_string(&smallest(&robust_z::SPEC)).unwrap();
    for (from, to, why) in [
        (
            "\"window\":{\"count\":10}",
            "\"window\":{\"count\":999999999}",
            "`window` of robust-z: expected a whole number from 10",
        ),
        ("\"method\":\"robust-z\"", "\"method\":\"magic\"", "no detector `magic`"),
        ("\"of\":", "\"off\":", "robust-z has no parameter `off`"),
        ("\"trips\":{\"count\":3}", "\"trips\":{\"count\":9}", "`trips` of robust-z: expected at most 5"),
        ("\"limit\":{\"number\":\"6\"}", "\"limit\":{\"number\":\"NaN\"}", "`limit` of robust-z: expected a number"),
    ] {
        assert!(text.contains(from), "{text}");
        let error = serde_json::from_str::<Detect>(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_stall_counts_from_the_last_change_of_the_step() {
    let given = BTreeMap::from([("after", Given::Time(Span::from_secs(60)))]);
    let mut started = Detect::new(&stall::SPEC, given).unwrap().start(MonoTime(0));
    let at = |s: u64| MonoTime(s * 1_000_000_000);
    let mut take = |s: u64, step: Option<u64>| started.take(Sample { value: 1.0, at: at(s), step }).unwrap().found;
    assert!(!take(10, Some(7)));
    assert!(!take(69, Some(7)));
    assert!(take(70, Some(7)), "values come, but the step is the same");
    assert!(!take(71, Some(6)), "a step back is one, too: the run went back to a checkpoint");
    assert!(!started.wait(at(130)).unwrap().found);
    assert!(started.wait(at(131)).unwrap().found);
    started.skip(at(131), Span(u64::MAX));
    assert!(!started.wait(at(190)).unwrap().found, "time in which nothing could come does not count");
}

/// A burn rate over 10 minutes and 1 minute: 90 % of the values must be up to 10.
fn burn_rate(given: &[(&'static str, Given)]) -> Result<Detect, (&'static str, String)> {
    let number = |value| Given::Number(Real(value));
    let time = |seconds| Given::Time(Span::from_secs(seconds));
    let mut all = BTreeMap::from([
        ("limit", number(10.0)),
        ("objective", number(0.9)),
        ("factor", number(2.0)),
        ("long", time(600)),
        ("short", time(60)),
    ]);
    all.extend(given.iter().cloned());
    Detect::new(&burn_rate::SPEC, all)
}

#[test]
fn a_burn_rate_is_found_when_both_windows_burn_and_ends_with_the_short_one() {
    let mut started = burn_rate(&[]).unwrap().start(MonoTime(0));
    let mut found = Vec::new();
    for n in 0..1_400 {
        let bad = (700..900).contains(&n);
        let finding = started.take(sample(n, if bad { 11.0 } else { 10.0 }));
        assert_eq!(finding.is_some(), n >= 99, "100 values are needed: {n}");
        if finding.is_some_and(|finding| finding.found) {
            found.push(n);
        }
    }
    // More than 20 % of 600 values are bad from the 121st on; the long window is up to 10 s shorter.
    assert!((815..=820).contains(&found[0]), "{found:?}");
    // The long window has 200 bad values until 1300; the short one has less than a fifth after 48 good ones.
    assert!((945..=948).contains(found.last().unwrap()), "{found:?}");
    assert_eq!(found.len() as u64, found.last().unwrap() - found[0] + 1, "without a break");
}

#[test]
fn a_burn_rate_counts_nothing_from_before_its_window() {
    let mut started = burn_rate(&[("after", Given::Count(1))]).unwrap().start(MonoTime(0));
    for n in 0..300 {
        assert!(started.take(sample(n, 11.0)).unwrap().found);
    }
    assert_eq!(started.take(sample(900, 10.0)), Some(Finding { found: false, score: 0.0 }), "all bad values are old");
    assert_eq!(started.take(sample(1, 11.0)).unwrap().score, 0.5 / (1.0 - 0.9), "an older time counts as the newest");
}

#[test]
fn a_burn_rate_that_no_values_reach_is_refused() {
    burn_rate(&[("factor", Given::Number(Real(9.9)))]).unwrap();
    let (name, expected) = burn_rate(&[("factor", Given::Number(Real(10.0)))]).unwrap_err();
    assert_eq!((name, expected.starts_with("less than 10.0")), ("factor", true), "{expected}");
    let (name, expected) = burn_rate(&[("short", Given::Time(Span::from_secs(600)))]).unwrap_err();
    assert_eq!(name, "short");
    assert!(expected.contains("which is `long`"), "{expected}");
}

#[test]
fn a_comparison_that_no_window_can_fail_is_refused() {
    let small = |alpha| with(&ks::SPEC, &[("alpha", alpha), ("reference", 20.0), ("window", 20.0)]);
    let (name, expected) = small(1e-9).unwrap_err();
    assert_eq!((name, expected.starts_with("at least 4.3e-9")), ("alpha", true), "{expected}");
    small(4.4e-9).unwrap();
    with(&ks::SPEC, &[("alpha", 1e-12)]).unwrap();
    let bins =
        |limit, bins| with(&psi::SPEC, &[("limit", limit), ("bins", bins), ("reference", 20.0), ("window", 20.0)]);
    let (name, expected) = bins(5.0, 4.0).unwrap_err();
    assert_eq!((name, expected.contains("has 2.5") && expected.contains("is 3.5")), ("limit", true), "{expected}");
    bins(3.0, 4.0).unwrap();
}

/// What is accepted is found in the extreme case: windows that have no value in common with the first values.
#[test]
fn a_comparison_that_is_accepted_finds_a_window_of_other_values() {
    for spec in [&ks::SPEC, &psi::SPEC] {
        let least = smallest(spec);
        let mut started = least.start(MonoTime(0));
        for n in 0..20 {
            started.take(sample(n, n as f64));
        }
        let found = (20..40).filter_map(|n| started.take(sample(n, 1_000.0))).next_back().unwrap();
        assert!(found.found, "{}: {found:?}", spec.name);
    }
}

#[test]
fn cusum_finds_a_rise_after_a_value_that_no_sum_holds_among_the_first_ones() {
    for at in [0, 1, 7, 19] {
        for wild in [f64::MAX, f64::MIN, 1e300] {
            let mut started = with(&cusum::SPEC, &[("after", 20.0)]).unwrap().start(MonoTime(0));
            let usual = |n: u64| 1.0 + (n * 7 % 11) as f64 / 100.0;
            for n in 0..100 {
                started.take(sample(n, if n == at { wild } else { usual(n) }));
            }
            let found = (100..120).filter_map(|n| started.take(sample(n, 2.0 * usual(n)))).any(|finding| finding.found);
            assert!(found, "{wild} as value {at}");
        }
    }
}

/// Noise, and a rise that is hardly more than it: the sum wanders about its limit.
fn wandering(n: u64) -> f64 {
    // splitmix64.
    let mut x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let noise = ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1u32 << 24) - 0.5;
    3.0 + 0.1 * noise + if n >= 2_000 { 0.05 } else { 0.0 }
}

/// Each value with which it is found and was not before.
fn findings(engine: Option<u32>) -> Vec<u64> {
    let mut started = with(&cusum::SPEC, &[]).unwrap().start(MonoTime(0));
    if let Some(engine) = engine {
        started.decide_as(engine);
    }
    let (mut before, mut begins) = (false, Vec::new());
    for n in 0..4_000 {
        let found = started.take(sample(n, wandering(n))).is_some_and(|finding| finding.found);
        if found && !before {
            begins.push(n);
        }
        before = found;
    }
    begins
}

#[test]
fn cusum_finds_one_small_rise_once_and_earlier_engines_find_it_again_and_again() {
    let (now, earlier) = (findings(None), findings(Some(11)));
    assert!(matches!(now[..], [n] if (2_000..2_200).contains(&n)), "{now:?}");
    assert!(earlier.len() > 10 && earlier[0] == now[0], "{earlier:?}");
    assert_eq!(findings(Some(crate::replay::ENGINE)), now);
}

proptest! {
    #[test]
    fn no_series_of_finite_values_makes_a_detector_panic_or_give_a_score_that_is_not_finite(
        values in prop::collection::vec(
            prop_oneof![-5.0..5.0f64, Just(0.0), Just(-0.0), Just(f64::MAX), Just(f64::MIN), Just(f64::MIN_POSITIVE)],
            1..300,
        ),
        which in 0..ALL.len(),
    ) {
        let detect = smallest(ALL[which]);
        let mut started = detect.start(MonoTime(0));
        let mut copy = started.clone();
        for (n, value) in values.iter().enumerate() {
            let finding = started.take(sample(n as u64, *value));
            if let Some(finding) = finding {
                prop_assert!(finding.score.is_finite(), "{}: {finding:?}", ALL[which].name);
            }
            prop_assert_eq!(copy.take(sample(n as u64, *value)), finding, "a copy finds the same");
        }
    }

    #[test]
    fn a_detector_judges_a_series_that_became_usual_again(
        which in 0..ALL.len(),
        wild in prop::sample::select(vec![f64::MAX, f64::MIN, 1e300, -1e200]),
    ) {
        // Those that compare with everything that came cannot forget a value that no sum holds.
        let spec = ALL[which];
        prop_assume!(!["cusum"].contains(&spec.name));
        let mut started = smallest(spec).start(MonoTime(0));
        let usual = |n: u64| 1.0 + (n * 7 % 11) as f64 / 100.0;
        for n in 0..300 {
            started.take(sample(n, if n == 150 { wild } else { usual(n) }));
        }
        let judged = (300..700).filter_map(|n| started.take(sample(n, usual(n)))).count();
        prop_assert!(judged > 100, "{} judged {judged} of 400 values", spec.name);
    }
}

fn rate(given: &[(&'static str, Given)]) -> Result<Detect, (&'static str, String)> {
    let mut all = BTreeMap::from([("limit", Given::Number(Real(50.0))), ("over", Given::Time(Span::from_secs(10)))]);
    all.extend(given.iter().cloned());
    Detect::new(&rate::SPEC, all)
}

fn scores(detect: &Detect, values: impl IntoIterator<Item = (u64, f64)>) -> Vec<(u64, Option<Finding>)> {
    let mut started = detect.start(MonoTime(0));
    values.into_iter().map(|(n, value)| (n, started.take(sample(n, value)))).collect()
}

#[test]
fn a_rate_is_the_change_over_the_window_in_its_unit_of_time() {
    let per_minute = rate(&[("per", Given::Time(Span::from_secs(60)))]).unwrap();
    // One a second, and from 20 s on a half.
    let value = |n: u64| if n < 20 { n as f64 } else { 10.0 + n as f64 / 2.0 };
    for (n, finding) in scores(&per_minute, (0..60).map(|n| (n, value(n)))) {
        match n {
            0..10 => assert_eq!(finding, None, "{n}: the window is not full"),
            10..20 => assert_eq!(finding, Some(Finding { found: true, score: 60.0 }), "{n}"),
            30.. => assert_eq!(finding, Some(Finding { found: false, score: 30.0 }), "{n}"),
            _ => {}
        }
    }
}

#[test]
fn values_that_come_rarely_are_divided_by_the_time_between_them() {
    let found = scores(&rate(&[]).unwrap(), [(0, 0.0), (100, 10_000.0), (200, 10_000.0)]);
    assert_eq!(found[1].1, Some(Finding { found: true, score: 100.0 }));
    assert_eq!(found[2].1, Some(Finding { found: false, score: 0.0 }));
}

#[test]
fn a_total_that_falls_was_reset_and_a_level_has_fallen() {
    // A trainer counts tokens, and begins anew at 30 s.
    let values = || (0..60).map(|n| (n, 100.0 * (if n < 30 { n } else { n - 30 }) as f64));
    let choice = |name: &str| Given::Choice(name.to_owned());
    let total = scores(&rate(&[("of", choice("total"))]).unwrap(), values());
    assert!(total.iter().flat_map(|(_, finding)| finding).all(|finding| finding.score == 100.0), "{total:?}");
    assert!(total.iter().all(|(n, finding)| finding.is_some() == ((10..30).contains(n) || *n >= 40)), "{total:?}");
    let level = scores(&rate(&[("side", choice("below")), ("limit", Given::Number(Real(-50.0)))]).unwrap(), values());
    assert!(level[30].1.is_some_and(|finding| finding.found && finding.score < -150.0), "{:?}", level[30]);

    let negative = rate(&[("of", choice("total")), ("limit", Given::Number(Real(-1.0)))]);
    assert_eq!(negative.unwrap_err().0, "limit");
}

#[test]
fn a_change_beyond_all_numbers_is_found() {
    let found = scores(&rate(&[("per", Given::Time(Span::from_secs(86_400)))]).unwrap(), [(0, -1e308), (10, 1e308)]);
    assert_eq!(found[1].1, Some(Finding { found: true, score: f64::MAX }));
}

#[test]
fn a_thousand_values_a_second_are_a_bounded_window_with_the_same_rate() {
    let mut started = rate(&[]).unwrap().start(MonoTime(0));
    let mut last = None;
    for n in 0..60_000u64 {
        last = started.take(Sample { value: n as f64 / 10.0, at: MonoTime(n * 1_000_000), step: None });
    }
    let score = last.unwrap().score;
    assert!((score - 100.0).abs() < 1e-6, "{score}");
}
