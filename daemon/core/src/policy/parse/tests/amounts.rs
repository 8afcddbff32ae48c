//! How many rules and metrics a policy may have.

use super::*;
use crate::policy::{MAX_METRICS, MAX_RULES};

const TEMPLATE: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n[[template]]\nname = \"t\"\nparameters = [\"i\", \"m\"]\n\
    [[template.rule]]\nid = \"r${i}\"\nrationale = \"x\"\nwhen = { signal = \"metric.${m}\", above = 1 }\nactions = [\"notify\"]\n";

fn uses(n: usize, metric: impl Fn(usize) -> String) -> String {
    let one = |n| format!("[[use]]\ntemplate = \"t\"\nwith = {{ i = \"{n}\", m = \"{}\" }}\n", metric(n));
    TEMPLATE.to_owned() + &(0..n).map(one).collect::<String>()
}

#[test]
fn more_rules_than_the_limit_are_refused_with_place_and_number() {
    let written = |n: usize| uses(n, |_| "loss".to_owned());
    assert_eq!(parse("p.toml", &written(MAX_RULES)).unwrap().rules.len(), MAX_RULES);
    let wrong = errors(&written(4_500));
    let expected = "the policy has 4500 rules with those of its templates, expected at most 1024 rules";
    assert!(wrong.contains(expected) && wrong.contains("p.toml:7:1"), "{}", &wrong[..wrong.len().min(2_000)]);
    assert_eq!(wrong.matches("expected at most 1024 rules").count(), 1, "once, and nothing about the rules behind it");
}

#[test]
fn more_awaited_metrics_than_the_limit_are_refused_at_the_first_rule_beyond() {
    let written = |n: usize| uses(n, |n| format!("m{n}"));
    assert!(parse("p.toml", &written(MAX_METRICS)).is_ok());
    let wrong = errors(&written(MAX_METRICS + 10));
    assert_eq!(wrong.matches("need 257 metrics up to this rule, expected at most 256").count(), 1, "{wrong}");
}

#[test]
fn a_cooldown_below_a_second_is_for_rules_that_contain() {
    let with = |actions: &str, cooldown: &str| {
        format!(
            "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = {{ event = \"oom\" }}\n\
             actions = [{actions}]\ncooldown = \"{cooldown}\"\n"
        )
    };
    for (actions, cooldown) in [("\"notify\"", "999ms"), ("\"notify\", \"snapshot\"", "0s"), ("\"cordon-node\"", "1ms")]
    {
        let wrong = errors(&with(actions, cooldown));
        let expected = format!("p.toml:9:12: rule.r.cooldown: `{cooldown}` is too short, expected at least \"1s\"");
        assert!(wrong.contains(&expected), "{wrong}");
    }
    for (actions, cooldown) in [("\"notify\"", "1s"), ("\"notify\", \"freeze\"", "0s"), ("\"block\"", "1ms")] {
        assert!(parse("p.toml", &with(actions, cooldown)).is_ok(), "{actions} {cooldown}");
    }
}
