//! Quantiles and samples within the width of their bucket, against the values that were observed.

use super::*;
use proptest::prelude::*;

fn explicit(bounds: &[f64], counts: &[u64]) -> Counts {
    Counts::Explicit(Explicit::new(bounds.to_vec(), counts.to_vec()).unwrap())
}

fn delta(counts: Counts) -> Report {
    Report { began: 0, made: 0, adds_up: false, least: None, greatest: None, counts }
}

fn cumulative(began: u64, counts: Counts) -> Report {
    Report { began, adds_up: true, ..delta(counts) }
}

fn part(values: &[(&str, f64)], wanted: &str) -> Vec<f64> {
    values.iter().filter(|(part, _)| *part == wanted).map(|(_, value)| *value).collect()
}

fn values(report: Report) -> Vec<(&'static str, f64)> {
    Earlier::default().interval("h", report).unwrap().values()
}

#[test]
fn quantiles_lie_evenly_within_their_bucket() {
    let values = values(delta(explicit(&[10.0, 20.0], &[5, 5, 0])));
    assert_eq!(part(&values, "p50"), [10.0]);
    assert_eq!(part(&values, "p90"), [18.0]);
    assert_eq!(part(&values, "sample"), [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0]);
}

#[test]
fn the_outer_buckets_end_at_the_least_and_the_greatest_value() {
    let counts = explicit(&[10.0, 20.0], &[1, 0, 1]);
    let known = Report { least: Some(8.0), greatest: Some(30.0), ..delta(counts.clone()) };
    assert_eq!(part(&values(known), "sample"), [9.0, 25.0]);
    assert_eq!(part(&values(delta(counts)), "sample"), [5.0, 20.0], "0, and the last bound");
    let below = delta(explicit(&[-10.0], &[1, 0]));
    assert_eq!(part(&values(below), "sample"), [-10.0]);
    let one = Report { least: Some(3.0), greatest: Some(5.0), ..delta(explicit(&[], &[2])) };
    assert_eq!(part(&values(one), "sample"), [3.5, 4.5]);
    assert!(values(delta(explicit(&[], &[2]))).is_empty(), "nothing is known of the values");
    let wrong = Report { least: Some(50.0), greatest: Some(f64::NAN), ..delta(explicit(&[10.0], &[1, 0])) };
    assert_eq!(part(&values(wrong), "sample"), [5.0], "what is not possible counts as not given");
}

#[test]
fn counts_that_add_up_are_those_since_the_report_before() {
    let mut earlier = Earlier::default();
    let mut samples = |began, counts: &[u64]| {
        let interval = earlier.interval("h", cumulative(began, explicit(&[10.0, 20.0], counts)));
        interval.map(|interval| part(&interval.values(), "sample"))
    };
    assert_eq!(samples(7, &[100, 0, 0]), None, "the first says nothing of an interval");
    assert_eq!(samples(7, &[100, 1, 0]), Some(vec![15.0]));
    assert_eq!(samples(7, &[100, 1, 0]), Some(vec![]), "nothing was observed");
    assert_eq!(samples(9, &[1, 0, 0]), None, "it is not known when the report before was made");
    assert_eq!(samples(9, &[0, 0, 0]), None, "a count that falls");
    assert_eq!(samples(9, &[1, 0, 0]), Some(vec![5.0]));
    let other = earlier.interval("h", cumulative(9, explicit(&[10.0], &[5, 0])));
    assert_eq!(other, None, "other bounds");
}

#[test]
fn counts_began_anew_only_if_they_began_after_the_report_before() {
    let mut earlier = Earlier::default();
    let mut samples = |began, made, counts: &[u64]| {
        let report = Report { made, ..cumulative(began, explicit(&[10.0, 20.0], counts)) };
        earlier.interval("h", report).map(|interval| part(&interval.values(), "sample"))
    };
    assert_eq!(samples(100, 200, &[9, 0, 0]), None);
    assert_eq!(samples(200, 300, &[0, 1, 0]), Some(vec![15.0]), "it began anew");
    assert_eq!(samples(101, 400, &[9, 9, 0]), None, "the counts of another process of that time");
    assert_eq!(samples(200, 500, &[0, 2, 0]), None, "they are not those of the report before");
}

#[test]
fn the_greatest_value_of_a_life_does_not_bound_an_interval() {
    let mut earlier = Earlier::default();
    let mut p99 = |began, made, count| {
        let counts = explicit(&[10.0, 30.0], &[100, 0, count]);
        let report = Report { made, least: Some(0.1), greatest: Some(3600.0), ..cumulative(began, counts) };
        earlier.interval("h", report).map(|interval| part(&interval.values(), "p99"))
    };
    assert_eq!(p99(1, 2, 1), None);
    assert_eq!(p99(1, 3, 3), Some(vec![30.0]), "3600 was observed in an earlier interval, or in this one");
    assert!(p99(3, 4, 100).unwrap()[0] > 3000.0, "the counts and the greatest value began anew");
}

#[test]
fn a_least_or_greatest_value_beyond_a_bucket_moves_no_value_out_of_it() {
    for (least, greatest) in [(None, Some(0.0)), (Some(50.0), None), (Some(50.0), Some(0.0))] {
        let report = Report { least, greatest, ..delta(explicit(&[10.0, 20.0, 30.0], &[2, 2, 2, 0])) };
        let samples = part(&values(report), "sample");
        assert!(samples.is_sorted(), "{least:?} {greatest:?}: {samples:?}");
        assert_eq!(samples[2..], [12.5, 17.5, 22.5, 27.5], "{least:?} {greatest:?}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut earlier = Earlier::default();
    let mut known = 0;
    for n in 0..2 * REMEMBERED {
        let counts = || explicit(&[1.0], &[1, 0]);
        earlier.interval(&n.to_string(), cumulative(1, counts()));
        known += usize::from(earlier.interval(&n.to_string(), cumulative(1, counts())).is_some());
    }
    assert_eq!((known, earlier.all.len()), (REMEMBERED, REMEMBERED));
    let mut earlier = Earlier::default();
    let bounds: Vec<f64> = (1..BUCKETS).map(|n| n as f64).collect();
    for n in 0..REMEMBERED {
        earlier.interval(&n.to_string(), cumulative(1, explicit(&bounds, &vec![1; BUCKETS])));
    }
    assert_eq!(earlier.buckets, REMEMBERED_BUCKETS);
}

#[test]
fn bounds_that_do_not_rise_and_too_many_are_refused() {
    for (bounds, counts) in [
        (vec![2.0, 1.0], vec![0; 3]),
        (vec![1.0, 1.0], vec![0; 3]),
        (vec![f64::NAN], vec![0; 2]),
        (vec![f64::INFINITY], vec![0; 2]),
        (vec![1.0], vec![0; 1]),
        ((0..BUCKETS).map(|n| n as f64).collect(), vec![0; BUCKETS + 1]),
    ] {
        assert_eq!(Explicit::new(bounds, counts), None);
    }
    let many = vec![1; BUCKETS / 2 + 1];
    for (scale, zero_threshold, positive) in [
        (21, 0.0, (0, &[1][..])),
        (0, -1.0, (0, &[1])),
        (0, f64::NAN, (0, &[1])),
        (0, 0.0, (i32::MAX, &[1, 1])),
        (0, 0.0, (0, &many)),
    ] {
        assert_eq!(Exponential::new(scale, 0, zero_threshold, positive, (0, &[])), None);
    }
}

fn exponential(scale: i32, zero: u64, positive: (i32, &[u64]), negative: (i32, &[u64])) -> Counts {
    Counts::Exponential(Exponential::new(scale, zero, 0.0, positive, negative).unwrap())
}

#[test]
fn an_exponential_histogram_has_its_exact_bounds() {
    // Scale 0: (1, 2], (2, 4], (4, 8]; mirrored (-4, -2]; and zero.
    let values = values(delta(exponential(0, 2, (0, &[0, 2, 0]), (1, &[2]))));
    let samples = part(&values, "sample");
    let expected = [-3.5, -2.5, 0.0, 0.0, 2.5, 3.5];
    assert!(samples.iter().zip(expected).all(|(is, wanted)| (is - wanted).abs() < 1e-12), "{samples:?}");
    let huge = exponential(-10, 0, (0, &[1]), (0, &[]));
    assert_eq!(Earlier::default().interval("h", delta(huge)), None, "a bound that is not finite");
}

#[test]
fn an_exponential_histogram_with_as_many_separate_buckets_as_are_taken_has_an_interval() {
    let most = (BUCKETS - 4) / 2;
    // Every other bucket is empty, so that each has a gap before it.
    let separate = |n: usize| (0..2 * n).map(|at| u64::from(at % 2 == 1)).collect::<Vec<_>>();
    let (positive, negative) = (separate(most / 2), separate(most - most / 2));
    let counts = exponential(3, 1, (0, &positive), (0, &negative));
    let interval = Earlier::default().interval("h", delta(counts)).unwrap();
    assert_eq!(interval.counts.total(), most as u64 + 1);
    assert_eq!(interval.counts.counts.len(), 2 * (most + 1) + 1);
    let more = separate(most / 2 + 1);
    assert_eq!(Exponential::new(3, 1, 0.0, (0, &more), (0, &negative)), None);
}

#[test]
fn an_exponential_histogram_that_lowers_its_scale_goes_on() {
    let mut earlier = Earlier::default();
    let first = exponential(1, 0, (0, &[1, 1, 1, 1]), (-3, &[1]));
    assert_eq!(earlier.interval("h", cumulative(1, first)), None);
    let second = exponential(0, 0, (0, &[2, 2, 3]), (-2, &[1]));
    let interval = earlier.interval("h", cumulative(1, second)).unwrap();
    let samples = part(&interval.values(), "sample");
    assert!(samples.len() == 3 && samples.iter().all(|value| (4.0..=8.0).contains(value)), "{samples:?}");
    let finer = exponential(3, 0, (0, &[9]), (0, &[]));
    assert_eq!(earlier.interval("h", cumulative(1, finer)), None, "a scale that rises");
}

/// Bounds of buckets of this width, from 0 to `end`.
fn bounds(width: f64, end: f64) -> Vec<f64> {
    (0..).map(|n| f64::from(n) * width).take_while(|bound| *bound < end).skip(1).collect()
}

fn counted(bounds: &[f64], values: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; bounds.len() + 1];
    for value in values {
        counts[bounds.partition_point(|bound| bound < value)] += 1;
    }
    counts
}

/// The smallest value with at least this part of all at or below it.
fn quantile(sorted: &[f64], of: f64) -> f64 {
    let rank = (of * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

proptest! {
    #[test]
    fn no_result_is_further_from_the_truth_than_its_bucket_is_wide(
        mut observed in proptest::collection::vec(0.0..100.0_f64, 1..300),
        width in 1.0..30.0_f64,
    ) {
        observed.sort_by(f64::total_cmp);
        let bounds = bounds(width, 100.0);
        let counts = counted(&bounds, &observed);
        let (least, greatest) = (observed.first().copied(), observed.last().copied());
        let report = Report { least, greatest, ..delta(Counts::Explicit(Explicit::new(bounds, counts).unwrap())) };
        let values = values(report);
        for (wanted, of) in QUANTILES {
            // It lies in the same bucket as the result, or at its edge.
            let truth = quantile(&observed, of);
            let got = part(&values, wanted)[0];
            prop_assert!((got - truth).abs() <= width + 1e-9, "{wanted}: {got}, {truth}, {width}");
        }
        let samples = part(&values, "sample");
        prop_assert_eq!(samples.len() as u64, (observed.len() as u64).min(SAMPLES));
        prop_assert!(samples.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9));
        prop_assert!(samples.iter().all(|value| (least.unwrap() - 1e-9..=greatest.unwrap() + 1e-9).contains(value)));
    }

    #[test]
    fn the_least_and_the_greatest_value_of_before_an_interval_change_no_result(
        before in proptest::collection::vec(-1_000.0..10_000.0_f64, 1..50),
        mut observed in proptest::collection::vec(0.0..90.0_f64, 1..300),
        width in 1.0..9.0_f64,
    ) {
        observed.sort_by(f64::total_cmp);
        let bounds = bounds(width, 100.0);
        let mut counts = counted(&bounds, &before);
        let life = before.iter().chain(&observed);
        let least = life.clone().copied().min_by(f64::total_cmp);
        let greatest = life.copied().max_by(f64::total_cmp);
        let mut earlier = Earlier::default();
        let mut report = |counts: &[u64]| {
            earlier.interval("h", Report { least, greatest, ..cumulative(7, explicit(&bounds, counts)) })
        };
        prop_assert_eq!(report(&counts), None);
        counts.iter_mut().zip(counted(&bounds, &observed)).for_each(|(all, more)| *all += more);
        let values = report(&counts).unwrap().values();
        for (wanted, of) in QUANTILES {
            let (got, truth) = (part(&values, wanted)[0], quantile(&observed, of));
            prop_assert!((got - truth).abs() <= width + 1e-9, "{wanted}: {got}, {truth}, {width}");
        }
    }

    #[test]
    fn a_least_or_greatest_value_that_is_wrong_moves_nothing_out_of_an_inner_bucket(
        mut observed in proptest::collection::vec(0.0..100.0_f64, 1..300),
        width in 1.0..30.0_f64,
        least in proptest::option::of(-1_000.0..1_000.0_f64),
        greatest in proptest::option::of(-1_000.0..1_000.0_f64),
    ) {
        observed.sort_by(f64::total_cmp);
        let bounds = bounds(width, 100.0);
        let counts = explicit(&bounds, &counted(&bounds, &observed));
        let values = values(Report { least, greatest, ..delta(counts) });
        for (wanted, of) in QUANTILES {
            let truth = quantile(&observed, of);
            let is_inner = bounds[0] < truth && bounds.last().is_some_and(|last| truth <= *last);
            let got = part(&values, wanted);
            prop_assert!(!is_inner || (got[0] - truth).abs() <= width + 1e-9, "{wanted}: {got:?}, {truth}, {width}");
        }
    }

    #[test]
    fn any_exponential_histogram_is_read(
        scale in -12..23_i32,
        zero: u64,
        threshold: f64,
        first: i32,
        positive in proptest::collection::vec(any::<u64>(), 0..20),
        negative in proptest::collection::vec(any::<u64>(), 0..20),
    ) {
        if let Some(read) = Exponential::new(scale, zero, threshold, (first, &positive), (first, &negative)) {
            let report = |adds_up| Report { adds_up, ..delta(Counts::Exponential(read.clone())) };
            let mut earlier = Earlier::default();
            for adds_up in [false, true, true] {
                if let Some(interval) = earlier.interval("h", report(adds_up)) {
                    prop_assert!(interval.values().iter().all(|(_, value)| value.is_finite()));
                }
            }
        }
    }
}
