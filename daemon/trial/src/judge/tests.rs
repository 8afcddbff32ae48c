//! Decisions against expectations.

use crate::{file::read, test};
use failsafe_core::{Policy, policy::parse::parse};

fn policy() -> Policy {
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"oom\"\nrationale = \"x\"\n\
                when = { event = \"oom\" }\nactions = [\"notify\"]\ncooldown = \"1s\"\n";
    parse("p.toml", text).unwrap()
}

/// Three events, and what a test of them misses.
fn failures(expect: &str) -> Vec<String> {
    let text = format!(
        "[[test]]\nname = \"t\"\n{expect}\n[[test.input]]\nevent = \"oom\"\nat = \"5s\"\nevery = \"5s\"\nfor = \"15s\"\n"
    );
    let (policy, file) = (policy(), read("t", &text, &policy()).unwrap());
    let (verdict, _) = test(&policy, &file.cases[0]);
    verdict.failures.iter().map(|failure| format!("{} / {}", failure.expected, failure.happened)).collect()
}

#[test]
fn each_decision_meets_one_expectation() {
    let one = |time: &str| format!("[[test.expect]]\nrule = \"oom\"\n{time}\n");
    let all = |times: &[&str]| failures(&times.iter().map(|time| one(time)).collect::<String>());
    assert_eq!(all(&["", "", ""]), Vec::<String>::new());
    assert_eq!(all(&["count = 3"]), Vec::<String>::new());
    // The wide expectation does not take the decision that only the narrow one can meet.
    assert_eq!(all(&["", "by = \"12s\"", "at = \"5s\""]), Vec::<String>::new());
    assert_eq!(all(&["count = 2"]), ["no other decision / rule oom at 15 s: notify"]);
    assert_eq!(all(&["count = 4"]), ["rule oom 4 times, 1 missing / no such decision"]);
    assert_eq!(all(&["at = \"5s\"", "at = \"10s\"", "at = \"16s\""]), ["rule oom at 16 s / rule oom at 15 s: notify"]);
    let other = "actions = [\"freeze\", \"notify\"]\ncount = 3";
    assert!(all(&[other])[0].starts_with("rule oom 3 times, 3 missing: freeze, notify / rule oom at 5 s: notify;"));
    assert!(all(&["mode = \"observe\"\ncount = 3"])[0].contains("only observed"));
}

#[test]
fn others_are_allowed_where_the_test_allows_them_and_properties_always_hold() {
    assert_eq!(failures("others = true\nexpect = \"none\""), Vec::<String>::new());
    assert_eq!(failures("expect = \"none\"").len(), 3);
    assert_eq!(failures("properties = [\"no-containment\", \"always-notify\"]"), Vec::<String>::new());
    assert_eq!(failures("properties = [\"no-decision\"]").len(), 3);
}
