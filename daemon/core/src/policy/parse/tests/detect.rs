//! `detect`: what is accepted, and what each mistake is answered with.

use super::{trees::of, *};
use crate::detect;

fn error(when: &str) -> String {
    parse("p", &of(when)).err().unwrap_or_else(|| panic!("{when} is accepted")).to_string()
}

#[test]
fn every_method_is_read_by_its_name_and_shown_with_its_parameters() {
    for spec in detect::ALL {
        let required: Vec<String> = spec
            .params
            .iter()
            .filter(|param| param.shown_default().is_none())
            .map(|param| match param.range {
                detect::Range::Time { .. } => format!(", {} = \"5m\"", param.name),
                _ => format!(", {} = 10", param.name),
            })
            .collect();
        let table = format!("signal = \"metric.x\", detect = {{ method = \"{}\"{} }}", spec.name, required.concat());
        let policy = parse("p", &of(&table)).unwrap_or_else(|error| panic!("{table}\n{error}"));
        let Condition::Tree(tree) = &policy.rules[0].when else { panic!("{table}") };
        assert!(tree.to_string().starts_with(&format!("metric.x {} (", spec.name)), "{tree}");
        let alone = format!("signal = \"metric.x\", detect = \"{}\"", spec.name);
        match required.is_empty() {
            true => assert_eq!(parse("p", &of(&alone)).unwrap().digest(), policy.digest()),
            false => assert!(error(&alone).contains("expected the parameter `"), "{}", error(&alone)),
        }
    }
}

#[test]
fn a_policy_with_a_detector_keeps_its_digest() {
    let text = of("signal = \"metric.loss\", detect = { method = \"robust-z\", limit = 8 }");
    let stored = serde_json::to_string(&parse("p", &text).unwrap().rules[0].when).unwrap();
    assert_eq!(
        stored,
        r#"{"tree":{"root":{"leaf":{"test":{"detect":{"kind":{"Metric":"loss"},"detect":{"method":"robust-z","params":{"limit":{"number":"8"},"of":{"count":5},"side":{"choice":"above"},"trips":{"count":3},"window":{"count":100}}}}}}}}}"#
    );
}

#[test]
fn each_mistake_is_answered_with_its_place_and_what_was_expected() {
    for (when, expected) in [
        ("signal = \"metric.loss\", detect = \"robust-x\"", "8:43: rule.r.when.detect: unknown method `robust-x`"),
        ("signal = \"metric.loss\", detect = \"robust-x\"", "did you mean `robust-z`?"),
        ("signal = \"metric.loss\", detect = { limit = 8 }", "missing field `method` in `detect`"),
        ("signal = \"metric.loss\", detect = { method = \"cusum\", limits = 8 }", "did you mean `limit`?"),
        (
            "signal = \"metric.loss\", detect = { method = \"robust-z\", window = 5 }",
            "rule.r.when.detect.window: `5`, expected a whole number from 10 to 2000",
        ),
        (
            "signal = \"metric.loss\", detect = { method = \"robust-z\", window = 2.5 }",
            "`2.5`, expected a whole number",
        ),
        (
            "signal = \"metric.loss\", detect = { method = \"robust-z\", limit = nan }",
            "expected a number from 1 to 1000",
        ),
        (
            "signal = \"metric.loss\", detect = { method = \"robust-z\", trips = 6 }",
            "`6`, expected at most 5, which is `of`",
        ),
        (
            "signal = \"metric.loss\", detect = { method = \"robust-z\", side = \"up\" }",
            "expected one of above, below, both",
        ),
        ("signal = \"metric.loss\", detect = { method = \"stall\", after = \"x\" }", "`x` is not a duration"),
        ("signal = \"metric.loss\", detect = { method = \"stall\" }", "expected the parameter `after` in `detect`"),
        ("signal = \"metric.loss\", detect = 3", "expected a method such as \"robust-z\""),
        ("signal = \"metric.loss\", detect = \"cusum\", above = 3", "`above` cannot stand beside `detect`"),
        ("signal = \"metric.loss\", detect = \"cusum\", absent = \"1m\"", "`detect` cannot stand beside `absent`"),
        ("signal = \"metric.loss\", detect = \"cusum\", over = \"mean\"", "no mean, expected any or all"),
        ("signal = \"net.egress_bytes\", detect = \"cusum\"", "net.egress_bytes is a total, which only grows"),
        ("detect = \"cusum\"", "expected `signal` beside `detect`"),
        ("all = [{ signal = \"metric.loss\", above = 3 }], detect = \"cusum\"", "`detect` is for one test"),
    ] {
        let error = error(when);
        assert!(error.contains(expected), "{when}\nexpected {expected}\n{error}");
    }
}

#[test]
fn the_memory_of_all_detectors_is_bounded() {
    let test = "{ signal = \"metric.loss\", detect = { method = \"robust-z\", window = 2000 } }";
    let many = |n: usize| of(&format!("all = [{}]", vec![test; n].join(", ")));
    assert!(parse("p", &many(8)).is_ok());
    let error = parse("p", &many(9)).unwrap_err().to_string();
    assert!(error.contains("bytes for each series up to this rule, expected at most 262144"), "{error}");
}
