//! Conditions of several parts: what is accepted, and what each mistake is answered with.

use super::*;
use crate::policy::{
    Node, Test,
    tree::{MAX_DEPTH, MAX_LEAVES, MAX_POLICY_LEAVES},
};

/// A policy of one rule with this `when`, which stands in line 8.
pub(super) fn of(when: &str) -> String {
    format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n\n[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = {{ {when} }}\nactions = [\"freeze\"]\n"
    )
}

fn tree(when: &str) -> crate::policy::Tree {
    let policy = parse("p", &of(when)).unwrap_or_else(|error| panic!("{when}\n{error}"));
    let Condition::Tree(tree) = &policy.rules[0].when else { panic!("{when}") };
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy, "it is kept as JSON: {json}");
    tree.clone()
}

const LOSS: &str = "{ signal = \"metric.loss\", above = 20 }";

#[test]
fn a_condition_of_one_test_has_the_form_and_the_digest_that_it_had() {
    for when in ["signal = \"metric.loss\", above = 20, clear = 5, for = \"3s\"", "event = \"oom\""] {
        let policy = parse("p", &of(when)).unwrap();
        assert!(!matches!(policy.rules[0].when, Condition::Tree(_)), "{when}");
    }
}

#[test]
fn conditions_are_shown_in_words() {
    for (when, words) in [
        (
            "all = [{ signal = \"metric.loss\", above = 20, for = \"3s\" }, { signal = \"net.egress_bytes\", above = \"1 GB\" }]",
            "all of (metric.loss above 20 for 3.0 s; net.egress_bytes above 1 GB)",
        ),
        (
            "any = [{ event = \"oom\", within = \"30s\" }, { not = { signal = \"metric.loss\", is = \"not-finite\", over = \"all\" } }], for = \"2s\"",
            "any of (event oom within 30.0 s; not (metric.loss is NaN or infinite over all of the series)), for 2.0 s",
        ),
        (
            "at_least = 2, of = [{ phase = \"train\" }, { signal = \"cpu.time\", above = \"10 s/s\" }, { signal = \"metric.loss\", absent = \"5s\" }]",
            "at least 2 of (phase train; cpu.time above 10000 ms/s over 5.0 s; metric.loss absent for 5.0 s)",
        ),
        (
            "any = [{ signal = \"metric.loss\", absent = \"5s\", over = \"any\" }, { signal = \"metric.step\", absent = \"5s\", over = \"all\" }]",
            "any of (metric.loss absent for 5.0 s in any of the series; metric.step absent for 5.0 s)",
        ),
        (
            "any = [{ event = \"connect\", verdict = \"denied\", count = 4, within = \"30s\" }, { event = \"oom\", within = \"1m\" }]",
            "any of (at least 4 times event connect, verdict = denied within 30.0 s; event oom within 60.0 s)",
        ),
        (
            "any = [{ signal = \"metric.loss\", above = { first = \"10m\", factor = 2 } }, { signal = \"memory.used\", above = { first = \"1m\", statistic = \"mean\", offset = \"1 GB\" } }, { signal = \"metric.a\", below = { signal = \"metric.b\" } }], warm_up = \"500 steps\"",
            "all of (any of (metric.loss above 2 times the median of its first 600.0 s; memory.used above the mean of its first \
             60.0 s plus 1 GB; metric.a below metric.b); the run made 500 steps)",
        ),
        (
            "signal = \"metric.accuracy\", below = { manifest = \"hyperparameters.base_accuracy\", factor = 0.9 }",
            "metric.accuracy below 0.9 times hyperparameters.base_accuracy of the run's manifest",
        ),
        (
            "signal = \"metric.loss\", above = 20, for = \"3s\", phase = \"evaluate\", warm_up = \"1m\", keep_firing_for = \"5s\"",
            "all of (metric.loss above 20 for 3.0 s; phase evaluate; the run watched for 60.0 s), armed again after 5.0 s \
             without it",
        ),
    ] {
        assert_eq!(tree(when).to_string(), words);
    }
}

#[test]
fn clear_goes_with_the_test() {
    let tree = tree("all = [{ signal = \"gpu.temperature\", above = \"90 C\", clear = \"80 C\" }]");
    let Node::All(parts) = &tree.root else { panic!() };
    let Node::Leaf(leaf) = &parts[0] else { panic!() };
    assert!(matches!(leaf.test, Test::Threshold { clear: crate::policy::Bound::Integer(80_000), .. }));
    assert!(tree.is_of_gpus());
}

#[test]
fn each_mistake_of_a_condition_names_its_place() {
    let deep = |n: usize| format!("{}{LOSS}{}", "{ all = [".repeat(n), "] }".repeat(n));
    let many = |n: usize| format!("all = [{}]", vec![LOSS; n].join(", "));
    for (when, expected) in [
        ("all = []", "`all` is empty"),
        ("all = 3", "found the number `3`"),
        (&format!("all = {LOSS}"), "expected a list of tables"),
        (&format!("not = [{LOSS}]"), "expected one table"),
        ("all = [3]", "expected a table"),
        (&format!("all = [{LOSS}], any = [{LOSS}]"), "found `any` beside `all`"),
        (&format!("all = [{LOSS}], signal = \"metric.loss\""), "`signal` is for one test"),
        (&format!("all = [{LOSS}], above = 3"), "`above` is for one test"),
        (&format!("all = [{LOSS}], path = \"/x\""), "`path` is for one test"),
        (&format!("of = [{LOSS}]"), "expected `at_least` beside `of`"),
        (&format!("all = [{LOSS}], at_least = 1"), "`at_least` is for a list `of`"),
        (&format!("at_least = 0, of = [{LOSS}]"), "expected a number from 1 to 1"),
        (&format!("at_least = 2, of = [{LOSS}]"), "expected a number from 1 to 1"),
        ("at_least = 2", "`at_least` is for a list `of`"),
        ("all = [{ }]", "expected `signal`, `event`, `all`"),
        ("all = [{ event = \"oom\" }]", "expected `within` beside `event`"),
        ("all = [{ event = \"oom\", within = \"0s\" }]", "more than 0 and at most 7 days"),
        ("all = [{ event = \"oom\", within = \"8d\" }]", "more than 0 and at most 7 days"),
        ("all = [{ event = \"oom\", within = \"9s\", for = \"3s\" }]", "`for` is for signals"),
        ("all = [{ signal = \"metric.loss\", above = 3, within = \"9s\" }]", "`within` is for events"),
        ("all = [{ signal = \"metric.los s\", above = 3 }]", "unknown signal"),
        ("all = [{ signal = \"metric.loss\", above = 3, over = \"sum\" }]", "expected one of any, all"),
        ("all = [{ signal = \"gpu.power\", above = \"1 C\" }]", "has the unit `C`"),
        (&format!("all = [{{ all = [{LOSS}], for = \"3s\" }}]"), "for the whole condition beside the outermost"),
        (&format!("all = [{{ all = [{LOSS}], keep_firing_for = \"3s\" }}]"), "`keep_firing_for` is for the whole"),
        ("all = [{ signal = \"metric.loss\", above = 3, grace = \"3s\" }]", "`grace` is for the whole condition"),
        (&format!("all = [{LOSS}], confidence = \"low\""), "`confidence` belongs beside `when`"),
        ("event = \"oom\", within = \"3s\"", "`within` is for an event in `all`"),
        ("event = \"oom\", count = 3", "expected `within` beside `event`"),
        ("event = \"oom\", count = 1, within = \"3s\"", "`1`, expected a whole number from 2 to 1000"),
        ("event = \"oom\", count = 1001, within = \"3s\"", "`1001`, expected a whole number from 2 to 1000"),
        ("event = \"oom\", count = -2, within = \"3s\"", "`-2`, expected a whole number from 2 to 1000"),
        ("event = \"oom\", count = \"3\", within = \"3s\"", "expected a whole number"),
        ("signal = \"metric.loss\", above = 3, count = 3", "`count` is for events"),
        ("signal = \"metric.loss\", absent = \"3m\", count = 3", "`count` cannot stand beside `absent`"),
        ("signal = \"metric.loss\", detect = \"cusum\", count = 3", "`count` cannot stand beside `detect`"),
        (&format!("all = [{LOSS}], count = 3"), "`count` is for one test"),
        ("phase = \"train\", count = 3", "`count` has no effect without `signal`"),
        ("signal = \"metric.loss\", above = { factor = 2 }", "expected `first`, `signal` or `manifest`"),
        ("signal = \"metric.loss\", above = {}", "expected `first`, `signal` or `manifest`"),
        ("signal = \"metric.loss\", above = { manifest = \"lr\" }", "expected a section and a name without `/`"),
        ("signal = \"metric.loss\", above = { manifest = \"code.commit\" }", "one of hyperparameters, config, seeds"),
        ("signal = \"metric.loss\", above = { manifest = \"config.\" }", "expected a section and a name"),
        ("signal = \"metric.loss\", above = { manifest = \"config.a/b\" }", "expected a section and a name"),
        ("signal = \"metric.loss\", above = { manifest = 3 }", "a text in quotes"),
        ("signal = \"gpu.power\", above = { manifest = \"config.most\" }", "has no unit"),
        (
            "signal = \"metric.loss\", above = { manifest = \"config.most\", first = \"1m\" }",
            "`first` cannot stand beside `manifest`",
        ),
        (
            "signal = \"metric.loss\", above = { manifest = \"config.most\", signal = \"metric.x\" }",
            "`signal` cannot stand beside `manifest`",
        ),
        (
            "signal = \"metric.loss\", above = { manifest = \"config.most\", statistic = \"mean\" }",
            "`statistic` cannot stand beside `manifest`",
        ),
        ("signal = \"metric.loss\", above = { first = \"1m\", signal = \"metric.x\" }", "found both"),
        ("signal = \"metric.loss\", above = { first = \"0s\" }", "more than 0 and at most 7 days"),
        ("signal = \"metric.loss\", above = { first = \"0 steps\" }", "a whole number of steps from 1"),
        ("signal = \"metric.loss\", above = { first = \"1.5 steps\" }", "a whole number of steps from 1"),
        ("signal = \"metric.loss\", above = { first = 10 }", "a text in quotes"),
        ("signal = \"metric.loss\", above = { first = \"1m\", factor = 0 }", "a number above 0"),
        ("signal = \"metric.loss\", above = { first = \"1m\", factor = -2.0 }", "a number above 0"),
        ("signal = \"metric.loss\", above = { first = \"1m\", factor = nan }", "a number above 0"),
        ("signal = \"metric.loss\", above = { first = \"1m\", factor = \"2\" }", "a number above 0"),
        ("signal = \"metric.loss\", above = { first = \"1m\", offset = \"2 C\" }", "expected a finite number"),
        ("signal = \"metric.loss\", above = { first = \"1m\", statistic = \"meen\" }", "did you mean `mean`?"),
        ("signal = \"metric.loss\", above = { frist = \"1m\" }", "did you mean `first`?"),
        (
            "signal = \"metric.loss\", above = { signal = \"metric.x\", statistic = \"mean\" }",
            "`statistic` is for `first`",
        ),
        ("signal = \"metric.loss\", above = { signal = \"gpu.power\" }", "they differ in unit or kind"),
        ("signal = \"metric.loss\", above = { signal = \"metric.loss\" }", "compared with itself"),
        ("signal = \"metric.loss\", above = { first = \"1m\" }, below = 3", "`below` cannot stand beside a table"),
        (
            "signal = \"metric.loss\", above = { first = \"1m\" }, below = { first = \"1m\" }",
            "`below` cannot stand beside a table",
        ),
        ("signal = \"metric.loss\", above = { first = \"1m\" }, clear = 3", "`clear` cannot stand beside a table"),
        ("signal = \"metric.loss\", above = { first = \"1m\" }, over = \"mean\"", "no mean, expected any or all"),
        ("signal = \"gpu.power\", above = { first = \"10 steps\" }", "steps are for metrics"),
        ("signal = \"net.egress_bytes\", above = { first = \"1m\" }", "which only grows"),
        ("above = { first = \"1m\" }", "expected `signal`"),
        ("event = \"oom\", above = { first = \"1m\" }, within = \"3s\"", "`event` cannot stand beside"),
        (&format!("all = [{LOSS}], above = {{ first = \"1m\" }}"), "`above` is for one test"),
        (
            "signal = \"metric.loss\", detect = \"cusum\", above = { first = \"1m\" }",
            "`above` cannot stand beside `detect`",
        ),
        (
            "signal = \"metric.loss\", absent = \"1m\", above = { first = \"1m\" }",
            "`above` cannot stand beside `absent`",
        ),
        ("signal = \"gpu.power\", above = \"1 W\", warm_up = \"10 steps\"", "no test of the condition is on a metric"),
        ("absent = \"5m\"", "expected `signal` beside `absent`"),
        ("signal = \"metric.loss\", absent = \"1ms\"", "at least 1.0 s"),
        ("signal = \"cpu.time\", absent = \"5s\"", "at least 10.0 s"),
        ("signal = \"metric.loss\", absent = \"5m\", above = 3", "`above` cannot stand beside `absent`"),
        ("event = \"oom\", absent = \"5m\"", "`absent` is for signals"),
        ("signal = \"metric.loss\", absent = \"5m\", over = \"mean\"", "no mean, expected any or all"),
        ("signal = \"gpu.power\", absent = \"5m\", over = \"any\"", "`over` is for metrics; gpu.power has no series"),
        ("phase = \"evalute\"", "did you mean `evaluate`?"),
        ("phase = \"train\", above = 3", "`above` has no effect without `signal`"),
        ("phase = \"train\", for = \"3s\"", "`for` has no effect without `signal`"),
        ("warm_up = \"3s\"", "expected `signal`, `event`, `all`"),
        (&deep(MAX_DEPTH)[2..deep(MAX_DEPTH).len() - 2], "nested deeper than 6 levels"),
        (&many(MAX_LEAVES + 1), "has 33 tests, expected at most 32"),
    ] {
        let got = errors(&of(when));
        assert!(got.contains(expected), "{when}\n{got}");
        assert!(got.starts_with("p.toml:8:"), "{when}\n{got}");
        assert!(got.contains("rule.r.when"), "{when}\n{got}");
    }
    tree(&deep(MAX_DEPTH - 1)[2..deep(MAX_DEPTH - 1).len() - 2]);
    tree(&many(MAX_LEAVES));
}

#[test]
fn the_tests_of_all_conditions_of_a_policy_are_limited() {
    let rules = |n: usize| {
        let many = format!("all = [{}]", vec![LOSS; MAX_LEAVES].join(", "));
        let (head, rule) =
            of(&many).split_once("[[rule]]").map(|(a, b)| (a.to_owned(), format!("[[rule]]{b}"))).unwrap();
        let rules: String = (0..n).map(|n| rule.replace("\"r\"", &format!("\"r{n}\""))).collect();
        parse("p", &format!("{head}{rules}"))
    };
    let most = MAX_POLICY_LEAVES / MAX_LEAVES;
    assert_eq!(rules(most).unwrap().rules.len(), most);
    let error = rules(most + 2).unwrap_err();
    assert_eq!(error.list.len(), 1, "{error}");
    assert_eq!(error.list[0].field, format!("rule.r{most}.id"));
}

#[test]
fn all_mistakes_of_a_condition_are_reported_at_once() {
    let list = "{ signal = \"metrics.loss\", above = 3 }, { event = \"omm\", within = \"3s\" }, { signal = \"cpu.time\", absent = \"x\" }";
    let error = parse("p", &of(&format!("any = [{list}]"))).unwrap_err();
    let fields: Vec<&str> = error.list.iter().map(|mistake| mistake.field.as_str()).collect();
    assert_eq!(fields, ["rule.r.when.any[1].signal", "rule.r.when.any[2].event", "rule.r.when.any[3].absent"]);
}

#[test]
fn the_kernel_is_given_no_effect_of_a_condition_of_several_parts() {
    let text = of("all = [{ event = \"exec\", within = \"3s\" }]").replace("actions", "effect = \"deny\"\nactions");
    assert!(errors(&text).contains("a condition of several parts is judged by the daemon"));
    let text = of("all = [{ event = \"syscall\", name = \"ptrace\", within = \"3s\" }]");
    assert!(parse("p", &text).unwrap().watch.contains("ptrace"), "the kernel has to report it");
}

#[test]
fn a_condition_that_never_holds_or_always_does_is_warned_of() {
    let warned = |when: &str| crate::policy::parse::check("p", &of(when)).unwrap().warnings.to_string();
    let never = "{ event = \"exec\", path = \"curl\", within = \"3s\" }";
    assert!(warned(&format!("all = [{LOSS}, {never}]")).contains("the rule never trips: a path begins with `/`"));
    assert!(warned(&format!("any = [{never}, {never}]")).contains("the rule never trips"));
    assert!(warned(&format!("at_least = 2, of = [{LOSS}, {never}, {never}]")).contains("the rule never trips"));
    assert!(warned(&format!("any = [{LOSS}, {never}]")).contains("a part of the condition never holds"));
    assert!(warned(&format!("all = [{LOSS}, {{ not = {never} }}]")).contains("a part of the condition never holds"));
    assert_eq!(warned(&format!("all = [{LOSS}, {LOSS}]")), "");
}

#[test]
fn a_condition_of_parts_needs_the_sensors_of_all_of_them() {
    let when = format!(
        "any = [{LOSS}, {{ event = \"exec\", within = \"3s\" }}, {{ signal = \"cpu.time\", absent = \"1m\" }}]"
    );
    let policy = parse("p", &of(&when)).unwrap();
    let needs: Vec<&str> = policy.needs().iter().map(|source| source.name()).collect();
    assert_eq!(needs, ["ebpf", "cgroup", "app"]);
    let awaited: Vec<&str> = policy.rules[0].when.awaited_metrics().into_iter().collect();
    assert_eq!(awaited, ["loss"]);
    let absent = parse("p", &of("signal = \"metric.step\", absent = \"5m\"")).unwrap();
    assert!(absent.rules[0].when.awaited_metrics().is_empty(), "its absence is what the rule waits for");
    assert_eq!(absent.rules[0].when.metrics().into_iter().collect::<Vec<_>>(), ["step"]);
}

const WORDS: &[&str] = &[
    "all = [",
    "any = [",
    "of = [",
    "not = ",
    "]",
    "{",
    "}",
    ", ",
    "at_least = 2",
    "signal = \"metric.loss\"",
    "above = 3",
    "event = \"oom\"",
    "within = \"3s\"",
    "absent = \"9s\"",
    "for = \"1s\"",
    "phase = \"train\"",
    "warm_up = \"1s\"",
    "keep_firing_for = \"2s\"",
    "confidence = \"low\"",
    "over = \"mean\"",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(3_000))]

    /// A condition is either built or refused: a rule is never left out in silence.
    #[test]
    fn a_condition_is_built_or_refused(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..24)) {
        if let Ok(policy) = parse("p", &of(&words.concat())) {
            proptest::prop_assert_eq!(policy.rules.len(), 1);
        }
    }
}
