//! The detectors beside independent implementations: `tests/fixtures/detectors/make.py` wrote what scipy and river find in the same
//! values.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_core::{
    MonoTime,
    detect::{self, Detect, Given, Range, Sample},
    signal::Real,
};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! fixtures {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../tests/fixtures/detectors/", $name, ".txt")))),*]
    };
}

const FIXTURES: &[(&str, &str)] = &fixtures! {
    "robust-z-above" "robust-z-below" "robust-z-both"
    "page-hinkley-above" "page-hinkley-below" "page-hinkley-both"
    "cusum-above" "cusum-below"
    "ewma-band-above" "ewma-band-below" "ewma-band-both"
    "adwin-both" "ks" "psi-psi" "psi-jensen-shannon" "plateau" "leak" "quantile-above" "quantile-below"
    "collapse" "identical" "burn-rate-above" "burn-rate-below"
    "rate-above" "rate-below"
};

/// The values.
const SERIES: &str = include_str!("../../../tests/fixtures/detectors/series.txt");

/// Methods that no library has and that are tested by themselves: they judge times, not values.
const WITHOUT: &[&str] = &["stall"];

fn given(range: &Range, text: &str) -> Given {
    match range {
        Range::Number { .. } | Range::Level => Given::Number(Real(text.parse().unwrap())),
        Range::Count { .. } => Given::Count(text.parse().unwrap()),
        Range::Choice(_) => Given::Choice(text.to_owned()),
        Range::Time { .. } => Given::Time(failsafe_core::time::Span::parse(text).unwrap()),
    }
}

/// The detector of a fixture's first line.
fn detect(head: &str) -> Detect {
    let mut words = head.trim_start_matches("# ").split_ascii_whitespace();
    let spec = detect::method(words.next().unwrap()).unwrap();
    let mut all = BTreeMap::new();
    for word in words {
        let (name, text) = word.split_once('=').unwrap();
        let param = spec.param(name).unwrap();
        all.insert(param.name, given(&param.range, text));
    }
    Detect::new(spec, all).unwrap()
}

#[test]
fn every_method_finds_what_the_reference_finds_with_the_same_score() {
    for (name, text) in FIXTURES {
        let (head, rows) = text.split_once('\n').unwrap();
        let mut started = detect(head).start(MonoTime(0));
        let sketch = name.starts_with("quantile");
        let accuracy = if sketch { 0.0101 } else { 1e-8 };
        let limit = head.split_once("limit=").map_or("0", |(_, rest)| rest.split(' ').next().unwrap());
        let limit: f64 = limit.parse().unwrap();
        let mut found = 0;
        assert_eq!(rows.lines().count(), SERIES.lines().count());
        for (n, (row, value)) in rows.lines().zip(SERIES.lines()).enumerate() {
            let mut parts = row.split(' ');
            let value: f64 = value.parse().unwrap();
            let (score, expected) = (parts.next().unwrap(), parts.next().unwrap() == "1");
            // Fixtures with a time have a value each second.
            let sample = Sample { value, at: MonoTime(n as u64 * 1_000_000_000), step: Some(n as u64) };
            let finding = started.take(sample);
            let place = format!("{name}, value {n}: {finding:?}, expected {row}");
            let Some(finding) = finding else {
                assert_eq!(score, "-", "{place}");
                continue;
            };
            found += usize::from(finding.found);
            // `*`: the reference has no score.
            let score = score.parse().unwrap_or(finding.score);
            assert!((finding.score - score).abs() < accuracy * score.abs().max(1.0), "{place}");
            // So near to its limit a score that is not exact may lie on either side.
            if !sketch || (score - limit).abs() > accuracy * limit {
                assert_eq!(finding.found, expected, "{place}");
            }
        }
        assert!(found > 0, "{name} finds nothing");
    }
}

#[test]
fn every_method_has_a_reference() {
    let with: BTreeSet<&str> = FIXTURES.iter().map(|(_, text)| text.split_ascii_whitespace().nth(1).unwrap()).collect();
    for spec in detect::ALL {
        assert!(with.contains(spec.name) != WITHOUT.contains(&spec.name), "{} has a fixture or a reason", spec.name);
    }
}
