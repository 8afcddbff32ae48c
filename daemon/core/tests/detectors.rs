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
    "collapse" "identical"
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
        let mut found = 0;
        assert_eq!(rows.lines().count(), SERIES.lines().count());
        for (n, (row, value)) in rows.lines().zip(SERIES.lines()).enumerate() {
            let mut parts = row.split(' ');
            let value: f64 = value.parse().unwrap();
            let (score, expected) = (parts.next().unwrap(), parts.next().unwrap() == "1");
            // Fixtures with a time have a value each second.
            let sample = Sample { value, at: MonoTime(n as u64 * 1_000_000_000), step: Some(n as u64) };
            let finding = started.take(sample);
            assert_eq!(
                finding.map_or("-".to_owned(), |f| f.found.to_string()),
                match score {
                    "-" => "-".to_owned(),
                    _ => expected.to_string(),
                },
                "{name}, value {n}: {finding:?}, expected {row}"
            );
            if let Some(finding) = finding {
                let score: f64 = score.parse().unwrap();
                let far = (finding.score - score).abs() / score.abs().max(1.0);
                assert!(far < 1e-8, "{name}, value {n}: score {}, expected {score}", finding.score);
                found += usize::from(finding.found);
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
