//! Changes have two known values, and are bounded.

use super::*;
use crate::factor::Missing;

fn fact(path: &str, value: impl Into<Option<&'static str>>) -> Fact {
    let value = value.into().map_or(Json::Null, Json::from);
    Fact::measured(path, "a test", Ok(value))
}

fn unread(path: &str) -> Fact {
    Fact::measured(path, "a test", Err(Missing::unavailable("it cannot be read")))
}

fn changes(drift: &Drift) -> Vec<(&str, Option<&str>, Option<&str>)> {
    drift.changes.iter().map(|it| (it.path.as_str(), it.old.as_deref(), it.new.as_deref())).collect()
}

const LIBC: &str = "run/library/libc.so.6";
const BLAS: &str = "run/library/libopenblas.so.0";

fn libraries(all: &[(&str, &'static str)]) -> Vec<Fact> {
    let mut facts: Vec<Fact> = all.iter().map(|(path, id)| fact(path, *id)).collect();
    facts.push(fact("run/library", "complete"));
    facts
}

#[test]
fn a_library_that_appears_changes_and_disappears_is_a_change_each_time_with_both_values() {
    let (table, all) = (Table::built_in().unwrap(), |_: &str| true);
    let mut known = Known::default();
    assert!(known.is_empty());
    assert!(known.take(&libraries(&[(LIBC, "a")]), &table, all).is_empty(), "the first reading is no change");
    let drift = known.take(&libraries(&[(LIBC, "a"), (BLAS, "b")]), &table, all);
    assert_eq!(changes(&drift), [(BLAS, None, Some("b"))]);
    assert_eq!(drift.changes[0].class, FactorClass::Result);
    let drift = known.take(&libraries(&[(LIBC, "a"), (BLAS, "c")]), &table, all);
    assert_eq!(changes(&drift), [(BLAS, Some("b"), Some("c"))]);
    let drift = known.take(&libraries(&[(LIBC, "a")]), &table, all);
    assert_eq!(changes(&drift), [(BLAS, Some("c"), None)]);
    // It comes and goes: that is known by now.
    for reading in [&[(LIBC, "a"), (BLAS, "c")][..], &[(LIBC, "a")]] {
        assert!(known.take(&libraries(reading), &table, all).is_empty());
    }
}

#[test]
fn what_becomes_unknown_or_known_is_no_change() {
    let (table, all) = (Table::built_in().unwrap(), |_: &str| true);
    let mut known = Known::default();
    let first = [fact("run/cpu/count", "4"), unread("node/cpu/model"), fact(LIBC, "a"), unread("run/library")];
    assert!(known.take(&first, &table, all).is_empty());
    let second = [unread("run/cpu/count"), fact("node/cpu/model", "x"), fact(BLAS, "b"), unread("run/library")];
    assert!(known.take(&second, &table, all).is_empty(), "the group was not known: neither appears nor disappears");
    assert!(known.take(&libraries(&[(LIBC, "a"), (BLAS, "b")]), &table, all).is_empty());
    let later = [fact("run/cpu/count", "2"), fact("node/cpu/model", "x")];
    assert_eq!(changes(&known.take(&later, &table, all)), [("run/cpu/count", Some("4"), Some("2"))]);
    // Known to be absent is a value.
    let mut known = Known::default();
    known.take(&[fact("run/env/OMP_NUM_THREADS", None)], &table, all);
    let drift = known.take(&[fact("run/env/OMP_NUM_THREADS", "2")], &table, all);
    assert_eq!(changes(&drift), [("run/env/OMP_NUM_THREADS", None, Some("2"))]);
}

#[test]
fn identity_and_what_does_not_count_are_no_changes() {
    let table = Table::built_in().unwrap();
    let mut known = Known::default();
    let of = |id: &'static str| [fact("node/gpu/0/uuid", id), fact("node/gpu/0/model", id), fact("run/cpu/count", id)];
    let counts = |path: &str| !path.starts_with("node/gpu/0/");
    known.take(&of("a"), &table, counts);
    assert_eq!(changes(&known.take(&of("b"), &table, counts)), [("run/cpu/count", Some("a"), Some("b"))]);
}

#[test]
fn a_run_that_changes_all_the_time_is_reported_a_few_times_and_the_rest_is_counted() {
    let (table, all) = (Table::built_in().unwrap(), |_: &str| true);
    let mut known = Known::default();
    let (mut reported, mut left_out) = (0, 0);
    for n in 0..20 {
        let drift = known.take(&[fact("run/cpu/count", if n % 2 == 0 { "1" } else { "2" })], &table, all);
        (reported, left_out) = (reported + drift.changes.len(), left_out + drift.left_out);
    }
    assert_eq!((reported, left_out), (4, 15));
    // Libraries with new names, without end.
    let mut known = Known::default();
    known.take(&libraries(&[]), &table, all);
    let (mut reported, mut left_out) = (0, 0);
    for n in 0..200 {
        let mut facts = libraries(&[]);
        facts.push(fact(&format!("run/library/lib{n}.so"), "x"));
        let drift = known.take(&facts, &table, all);
        (reported, left_out) = (reported + drift.changes.len(), left_out + drift.left_out);
    }
    assert_eq!(reported, 256);
    assert_eq!(left_out, 200 + 199 - 256, "each appears, and each but the last disappears");
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known, "it survives a restart of the daemon");
}

#[test]
fn a_long_value_is_cut_and_compared_by_its_digest() {
    let (table, all) = (Table::built_in().unwrap(), |_: &str| true);
    let long = |last: &str| Fact::measured("run/command", "a test", Ok(Json::Text("x".repeat(5_000) + last)));
    let mut known = Known::default();
    known.take(&[long("a")], &table, all);
    assert!(known.take(&[long("a")], &table, all).is_empty());
    let drift = known.take(&[long("b")], &table, all);
    assert_eq!(drift.changes.len(), 1);
    assert!(drift.changes[0].new.as_ref().unwrap().len() < VALUE);
}

#[test]
fn a_restart_differs_in_what_both_know_and_not_in_libraries_that_may_still_be_loaded() {
    let (table, all) = (Table::built_in().unwrap(), |_: &str| true);
    let mut known = Known::default();
    let mut last = libraries(&[(LIBC, "a"), (BLAS, "b")]);
    last.extend([fact("run/env/OMP_NUM_THREADS", "1"), unread("node/memory")]);
    known.take(&last, &table, all);
    let mut restart = libraries(&[(LIBC, "other"), ("run/library/libnew.so", "n")]);
    restart.extend([fact("run/env/OMP_NUM_THREADS", "2"), fact("node/memory", "x"), fact("node/cpu/model", "y")]);
    let drift = known.differences(&restart, &table, all);
    let expected = [
        ("run/env/OMP_NUM_THREADS", Some("1"), Some("2")),
        (LIBC, Some("a"), Some("other")),
        ("run/library/libnew.so", None, Some("n")),
    ];
    assert_eq!(changes(&drift), expected);
    assert!(known.differences(&last, &table, all).is_empty());
}
