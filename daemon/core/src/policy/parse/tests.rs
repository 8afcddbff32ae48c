//! Policies, good and bad: every mistake has its place and its own message.

use super::*;
use crate::policy::{Bound, Condition, Op};
use crate::signal::Kind;
use crate::time::Span;

mod amounts;
mod detect;
mod effects;
mod mistakes;
mod templates;
mod trees;

const GOOD: &str = r#"
[policy]
name = "trainer"
version = 3
owner = "safety@example.org"

[egress]
allow = [
    { cidr = "10.0.0.0/8", ports = [443, "8000-8999"], protocol = "tcp" },
    { cidr = "::1/128" },
]

[syscalls]
watch = ["bpf"]

[[rule]]
id = "too-hot"
rationale = "above 90 C the card throttles and its memory is at risk"
severity = "critical"
when = { signal = "gpu.temperature", above = "90 C", clear = "80 C", for = "3s" }
actions = ["notify", "freeze"]

[[rule]]
id = "no-tracing"
rationale = "a trainer traces nobody"
when = { event = "syscall", name = ["ptrace", "setns"] }
actions = ["notify"]

[[rule]]
id = "burst"
rationale = "weights do not leave at this rate"
when = { signal = "net.egress_bytes", above = "10 MiB/s", over = "2s" }
actions = ["freeze"]
"#;

fn errors(text: &str) -> String {
    parse("p.toml", text).unwrap_err().to_string()
}

fn with_rule(when: &str) -> String {
    format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n\n[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = {when}\nactions = [\"freeze\"]\n"
    )
}

#[test]
fn a_good_policy_is_read_whole() {
    let policy = parse("p.toml", GOOD).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(policy.watch.iter().map(String::as_str).collect::<Vec<_>>(), ["bpf", "ptrace", "setns"]);
    let Condition::Threshold { kind, op, bound, clear, hold, over } = &policy.rules[0].when else { panic!() };
    assert_eq!((kind, *op, *over), (&Kind::GpuTemperature, Op::Above, None));
    assert_eq!((*bound, *clear, *hold), (Bound::Integer(90_000), Bound::Integer(80_000), Span::from_secs(3)));
    let Condition::Threshold { over, .. } = &policy.rules[2].when else { panic!() };
    assert_eq!(*over, Some(Span::from_secs(2)));
    assert_eq!(policy.rules[0].owner, "safety@example.org");
}

#[test]
fn the_digest_is_over_content_not_layout() {
    let policy = parse("a", GOOD).unwrap();
    let spaced = parse("b", &format!("# a comment\n{}", GOOD.replace("when = {", "when  =  {"))).unwrap();
    assert_eq!(policy.digest(), spaced.digest());
    for (from, to) in
        [("90 C", "91 C"), ("version = 3", "version = 4"), ("10.0.0.0/8", "10.0.0.0/9"), ("\"bpf\"", "\"keyctl\"")]
    {
        assert_ne!(parse("c", &GOOD.replace(from, to)).unwrap().digest(), policy.digest(), "{from} -> {to}");
    }
}

#[test]
fn numbers_of_derived_signals_are_of_the_policy_and_its_digest() {
    let plain = parse("p", GOOD).unwrap();
    let with = |numbers: &str| format!("{GOOD}\n[derived]\n{numbers}\n");
    let own = parse("p", &with("spinning = { power = \"20 %\" }\necc_rate = { over = \"1h\" }")).unwrap();
    assert_eq!((own.derived.spinning.power, own.derived.spinning.utilization), (20_000, 95_000));
    assert_eq!(own.derived.ecc_rate, Span::from_secs(3_600));
    assert_ne!(own.digest(), plain.digest());
    // As without the section, also for policies that were kept or recorded before there was one.
    assert_eq!(parse("p", &with("spinning = { power = \"35 %\" }")).unwrap().digest(), plain.digest());
    let kept = serde_json::to_string(&plain).unwrap();
    assert!(!kept.contains("derived\":"), "{kept}");
    assert_eq!(serde_json::from_str::<Policy>(&kept).unwrap(), plain);
    assert_eq!(serde_json::from_str::<Policy>(&serde_json::to_string(&own).unwrap()).unwrap(), own);
    let line = GOOD.lines().count() + 3;
    for (numbers, column, expected) in [
        ("spinning = { power = \"120 %\" }", 22, "derived.spinning.power: `120 %`, expected a share from"),
        ("idle_power = { power = 5 }", 24, "derived.idle_power.power: `5`, expected a share from"),
        ("stalled = { low = \"99 %\" }", 11, "derived.stalled: low is 99 % and high 99 %, expected low below high"),
        ("ecc_rate = { over = \"soon\" }", 21, "derived.ecc_rate.over: `soon` is not a duration"),
        ("straggler = { over = \"1s\" }", 22, "derived.straggler.over: `1s`, expected a duration from 10.0 s"),
    ] {
        let told = errors(&with(numbers));
        assert!(told.starts_with(&format!("p.toml:{line}:{column}: {expected}")), "{told}");
    }
    assert!(errors(&with("spining = {}")).contains("did you mean `spinning`?"));
}

#[test]
fn settings_of_a_metric_are_in_the_digest_and_their_absence_is_not() {
    let with = |when: &str| parse("p", &with_rule(&format!("{{ signal = \"metric.loss\", above = 50.0{when} }}")));
    let plain = with("").unwrap();
    assert!(!serde_json::to_string(&plain).unwrap().contains("metrics"));
    assert!(!serde_json::to_string(&plain.rules).unwrap().contains("\"metric\""));
    assert_eq!(with(", over = \"any\"").unwrap().digest(), plain.digest());
    for when in [", over = \"all\"", ", grace = \"2m\"", ", stale = \"2m\"", ", rearm = \"after 5m\""] {
        let own = with(when).unwrap();
        assert_ne!(own.digest(), plain.digest(), "{when}");
        assert_eq!(serde_json::from_str::<Policy>(&serde_json::to_string(&own).unwrap()).unwrap(), own);
    }
    assert_eq!(with(", over = \"max\"").unwrap().rules[0].condition(), "metric.loss above 50 over max of the series");
    for (when, expected) in [
        (", over = \"maxx\"", "did you mean `max`?"),
        (", over = \"2s\"", "expected one of any, all, mean, max, min"),
        (", grace = \"10 ms\"", "expected at least 1.0 s"),
        (", stale = \"soon\"", "not a duration"),
    ] {
        let text = with(when).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let other = errors(&with_rule("{ signal = \"process.count\", above = 3, grace = \"2m\" }"));
    assert!(other.contains("`grace` is for rules on metric.NAME"), "{other}");
    let mean = errors(&with_rule("{ signal = \"metric.loss\", is = \"not-finite\", over = \"mean\" }"));
    assert!(mean.contains("expected any or all"), "{mean}");
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_a_suggestion() {
    let text = GOOD.replace("severity = ", "severty = ");
    insta::assert_snapshot!(errors(&text));
}

#[test]
fn a_wrong_unit_is_named_with_its_place() {
    insta::assert_snapshot!(errors(&GOOD.replace("90 C", "90 W")));
}

#[test]
fn contradictory_bounds_are_refused() {
    insta::assert_snapshot!(errors(&GOOD.replace("80 C", "95 C")));
    assert!(errors(&with_rule("{ signal = \"metric.loss\", above = 5, below = 3 }")).contains("no value is both"));
    assert!(errors(&with_rule("{ signal = \"metric.loss\", above = 3, below = 5 }")).contains("two rules for a band"));
}

#[test]
fn each_mistake_has_its_own_message() {
    for (when, expected) in [
        ("{ signal = \"gpu.temprature\", above = \"90 C\" }", "did you mean `gpu.temperature`?"),
        ("{ signal = \"gpu.temperature\", above = 90 }", "the bound needs its unit"),
        ("{ signal = \"gpu.temperature\", above = \"90 C/s\" }", "it has no rate"),
        ("{ signal = \"metric.loss\", above = \"5 C\" }", "without a unit"),
        ("{ signal = \"metric.loss\", above = nan }", "finite"),
        ("{ signal = \"metric.loss\", is = \"nan\" }", "not-finite"),
        ("{ signal = \"process.count\", is = \"not-finite\" }", "always finite"),
        ("{ signal = \"metric.loss\" }", "expected `above`, `below`, `is`, `detect` or `absent`"),
        ("{ signal = \"metric.loss\", above = 3, port = 4 }", "field of events"),
        ("{ signal = \"metric.loss\", above = 3, for = \"soon\" }", "not a duration"),
        ("{ event = \"conect\" }", "did you mean `connect`?"),
        ("{ event = \"exec\", port = 4 }", "no field `port`"),
        ("{ event = \"connect\", address = \"10.0.0.0/99\" }", "not a network"),
        ("{ event = \"connect\", verdict = \"deny\" }", "one of allowed, denied, would-deny"),
        ("{ event = \"syscall\" }", "expected `name`"),
        ("{ event = \"syscall\", name = \"ptrac\" }", "did you mean `ptrace`?"),
        ("{ above = 3 }", "expected `signal`, `event`, `all`"),
    ] {
        let got = errors(&with_rule(when));
        assert!(got.contains(expected), "{when}\n{got}");
        assert!(got.starts_with("p.toml:8:"), "{when}\n{got}");
    }
    assert!(errors(&with_rule("{ event = \"oom\" }").replace("[\"freeze\"]", "[\"thaw\"]")).contains("for operators"));
    assert!(errors(&with_rule("{ event = \"oom\" }").replace("[\"freeze\"]", "[]")).contains("no actions"));
    assert!(
        errors(&format!("{GOOD}\n{}", GOOD[GOOD.find("[[rule]]").unwrap()..].to_owned()))
            .contains("another rule has the id `too-hot` already")
    );
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = GOOD.replace("90 C", "90 W").replace("10.0.0.0/8", "10/8").replace("\"bpf\"", "\"bfp\"");
    assert_eq!(parse("p", &text).unwrap_err().list.len(), 3);
}

#[test]
fn a_huge_policy_is_refused_unread() {
    assert!(errors(&"#".repeat(MAX_BYTES + 1)).contains("at most"));
}

proptest::proptest! {
    /// A policy comes from outside: whatever it holds, it is read or refused with a place inside the text.
    #[test]
    fn any_text_is_read_or_refused(
        full in proptest::bool::ANY,
        cut in 0usize..2000,
        insert in "[ -~\n\u{e9}]{0,12}",
        length in 0usize..40,
    ) {
        let good = if full { effects::FULL } else { GOOD };
        let cut = (0..=cut % good.len()).rev().find(|i| good.is_char_boundary(*i)).unwrap();
        let end = (cut + length).min(good.len());
        let text = format!("{}{insert}{}", &good[..cut], &good[end..]);
        if let Err(wrong) = parse("p", &text) {
            let lines = text.lines().count().max(1) + 1;
            proptest::prop_assert!(!wrong.list.is_empty() && wrong.list.iter().all(|d| d.line <= lines && d.column > 0));
        }
    }
}
