//! Templates: what they expand to, and what each mistake is answered with.

use super::*;

const HEAD: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

const SPIKE: &str = r#"
[[template]]
name = "spike"
parameters = ["id", "metric", "limit", "actions", "note"]
defaults = { limit = 6.0, actions = ["snapshot", "notify"], note = "keep evidence" }

[[template.rule]]
id = "${id}-spike"
rationale = "${metric} is ${limit} deviations away: ${note}"
when = { signal = "metric.${metric}", detect = { method = "robust-z", limit = "${limit}" } }
actions = "${actions}"

[[template.rule]]
id = "${id}-not-finite"
rationale = "it is lost; $${HOME} is a text"
when = { signal = "metric.${metric}", is = "not-finite" }
actions = ["freeze", "notify"]
"#;

fn text(uses: &str) -> String {
    format!("{HEAD}{SPIKE}{uses}")
}

#[test]
fn a_use_makes_the_rules_and_the_digest_that_somebody_would_write_out() {
    let used = "[[use]]\ntemplate = \"spike\"\nwith = { id = \"loss\", metric = \"loss\" }\n\
                [[use]]\ntemplate = \"spike\"\nwith = { id = \"norm\", metric = \"grad_norm\", limit = 8, actions = [\"notify\"], note = \"look\" }\n";
    let rule = |id: &str, why: &str, when: &str, actions: &str| {
        format!("[[rule]]\nid = \"{id}\"\nrationale = \"{why}\"\nwhen = {{ {when} }}\nactions = {actions}\n")
    };
    let lost = "it is lost; ${HOME} is a text";
    let written = [
        rule(
            "loss-spike",
            "loss is 6.0 deviations away: keep evidence",
            "signal = \"metric.loss\", detect = { method = \"robust-z\", limit = 6.0 }",
            "[\"snapshot\", \"notify\"]",
        ),
        rule("loss-not-finite", lost, "signal = \"metric.loss\", is = \"not-finite\"", "[\"freeze\", \"notify\"]"),
        rule(
            "norm-spike",
            "grad_norm is 8 deviations away: look",
            "signal = \"metric.grad_norm\", detect = { method = \"robust-z\", limit = 8 }",
            "[\"notify\"]",
        ),
        rule("norm-not-finite", lost, "signal = \"metric.grad_norm\", is = \"not-finite\"", "[\"freeze\", \"notify\"]"),
    ];
    let used = parse("p", &text(used)).unwrap_or_else(|wrong| panic!("{wrong}"));
    let written = parse("p", &format!("{HEAD}{}", written.concat())).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(used, written);
    assert_eq!(used.digest(), written.digest());
}

#[test]
fn a_parameter_is_not_expanded_again() {
    let used = "[[use]]\ntemplate = \"spike\"\nwith = { id = \"a\", metric = \"loss\", note = \"${id}\" }\n";
    let policy = parse("p", &text(used)).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(policy.rules[0].rationale, "loss is 6.0 deviations away: ${id}");
}

#[test]
fn each_mistake_of_a_template_or_its_use_names_its_place() {
    let with = |with: &str| format!("[[use]]\ntemplate = \"spike\"\nwith = {{ {with} }}\n");
    for (uses, expected) in [
        ("[[use]]\ntemplate = \"spke\"\n".to_owned(), "p.toml:22:12: use[1].template: there is no template `spke`"),
        ("[[use]]\n".to_owned(), "missing field `template`"),
        ("[[use]]\ntemplate = \"spike\"\nwth = {}\n".to_owned(), "did you mean `with`?"),
        (with("id = \"x\""), "expected a value in `with` for metric, which has no default"),
        (with("id = \"x\", metrik = \"loss\""), "the template has no parameter `metrik`\n"),
        (
            with("id = \"x\", metric = [\"loss\"]"),
            "expected a text or a number, which the template inserts, found a list",
        ),
        (with("id = \"x\", metric = \"lo ss\""), "unknown signal `metric.lo ss`"),
        (with("id = \"x\", metric = \"loss\", limit = \"much\""), "p.toml:23:45: use[1].with.limit"),
        (with("id = \"x\", metric = \"loss\", actions = [\"stop\"]"), "unknown action `stop`"),
        (
            [with("id = \"x\", metric = \"loss\""), with("id = \"x\", metric = \"loss\"")].concat(),
            "another rule has the id",
        ),
        ("[[template]]\nname = \"spike\"\nrule = []\n".to_owned(), "another template has the name `spike` already"),
        (
            "[[template]]\nname = \"t\"\n[[template.rule]]\nid = \"${x}\"\n".to_owned(),
            "has no parameter `x` in `parameters`",
        ),
        ("[[template]]\nname = \"t\"\n[[template.rule]]\nid = \"${x\"\n".to_owned(), "`${` without `}`"),
        ("[[template]]\nname = \"t\"\nparameters = [\"A\"]\nrule = []\n".to_owned(), "`A`, expected a parameter of"),
        ("[[template]]\nname = \"t\"\nparameters = [\"a\", \"a\"]\nrule = []\n".to_owned(), "is there twice"),
        ("[[template]]\nname = \"t\"\ndefaults = { a = 1 }\nrule = []\n".to_owned(), "has no parameter `a`"),
        ("[[template]]\nname = \"t\"\n".to_owned(), "missing field `rule`"),
    ] {
        let got = errors(&text(&uses));
        assert!(got.contains(expected), "{uses}\n{got}");
    }
}

#[test]
fn what_templates_expand_to_is_bounded() {
    let long = "x".repeat(100_000);
    let template = format!(
        "[[template]]\nname = \"t\"\nparameters = [\"id\"]\n[[template.rule]]\nid = \"${{id}}\"\nrationale = \"{long}\"\n\
         when = {{ event = \"oom\" }}\nactions = [\"notify\"]\n"
    );
    let uses = |n: usize| -> String {
        (0..n).map(|n| format!("[[use]]\ntemplate = \"t\"\nwith = {{ id = \"r{n}\" }}\n")).collect()
    };
    assert_eq!(parse("p", &format!("{HEAD}{template}{}", uses(10))).unwrap().rules.len(), 10);
    let got = errors(&format!("{HEAD}{template}{}", uses(2_000)));
    assert!(got.contains("expand to more than 1048576 bytes up to this use"), "{}", &got[..400]);
}
