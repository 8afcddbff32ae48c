//! Policies in plain words.

use super::*;
use failsafe_core::policy::parse::parse;
use failsafe_matchers::would::would;

const POLICY: &str = r#"
[policy]
name = "trainer"
owner = "ml-safety@example.org"
description = "a training job"

[egress]
allow = [{ cidr = "10.0.0.0/8", ports = 443, protocol = "tcp" }]

[[rule]]
id = "leaves"
rationale = "a trainer has no reason to connect elsewhere"
effect = "stop"
when = { event = "connect", verdict = "denied" }
actions = ["block", "freeze", "notify"]

[[rule]]
id = "loss"
rationale = "above 20 the weights are lost"
when = { signal = "metric.loss", above = 20, clear = 5, for = "3s", over = "mean", rearm = "after 5m" }
actions = ["freeze", "notify"]
playbook = "docs/playbooks/loss.md"

[[rule]]
id = "several"
rationale = "it left the path, and something was fetched or much was sent"
severity = "critical"
when = { all = [
  { signal = "metric.loss", above = 20, clear = 5, for = "10s" },
  { any = [
    { event = "exec", path = "/usr/bin/curl", within = "10m" },
    { event = "connect", verdict = "denied", count = 4, within = "30s" },
    { signal = "net.egress_bytes", above = "1 MB/s", over = "30s" },
    { not = { phase = "train" } },
  ] },
], for = "5s", keep_firing_for = "1m", warm_up = "10m" }
mode = "observe"
actions = ["freeze", "notify"]

[[rule]]
id = "baseline"
rationale = "it leaves its beginning"
when = { any = [{ signal = "metric.loss", above = { first = "10m", factor = 1.5 } }, { signal = "memory.used", above = { first = "5m", statistic = "mean", offset = "1 GB" }, for = "1m" }, { signal = "metric.val_loss", above = { signal = "metric.loss", factor = 1.2 }, over = "all" }], warm_up = "500 steps" }
actions = ["notify"]

[[rule]]
id = "no-step"
rationale = "it hangs"
when = { signal = "metric.step", absent = "5m" }
actions = ["notify"]
"#;

#[test]
fn each_rule_is_explained_in_plain_words() {
    let policy = parse("p", POLICY).unwrap();
    let rules: Vec<&Rule> = policy.rules.iter().collect();
    let text = page(&policy, &rules);
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH + 40), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_detector_is_explained_with_what_it_finds_and_its_parameters() {
    let start = POLICY.find("[[rule]]").unwrap();
    let rule = "[[rule]]\nid = \"spike\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                when = { signal = \"metric.loss\", detect = { method = \"robust-z\", limit = 8 } }\n";
    let policy = parse("p", &format!("{}{rule}", &POLICY[..start])).unwrap();
    let text = page(&policy, &policy.rules.iter().collect::<Vec<_>>());
    let words: Vec<&str> = text.split_whitespace().collect();
    let sentence = "when metric.loss is far from the median of the values before it, measured in robust standard deviations \
                    (MAD) in at least one series: robust-z with limit 8, window 100, trips 3, of 5, side above";
    assert!(words.join(" ").contains(sentence), "{text}");
}

#[test]
fn a_call_is_answered_with_what_decides_it_and_what_it_trips() {
    let policy = parse("p", POLICY).unwrap();
    let connect = |text: &str| {
        let to: std::net::SocketAddr = text.parse().unwrap();
        Call::Connect { to: Destination::Address(to.ip()), port: to.port(), protocol: 6 }
    };
    let calls = [connect("10.0.0.9:443"), connect("192.0.2.1:443"), Call::Exec("/usr/bin/curl".into())];
    let text: String = calls.iter().map(|call| answer(call, &would(&policy, call))).collect();
    insta::assert_snapshot!(text);
    let json = answer_json(&calls[1], &would(&policy, &calls[1]));
    assert_eq!(json["answer"], "stopped");
    assert_eq!(json["rules"][0]["rule"], "leaves");
}
