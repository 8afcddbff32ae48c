//! The schema of policies against the reader: what the reader takes is valid, and a table of mistakes is not. `jsonschema` judges.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]
#![expect(clippy::disallowed_methods, reason = "the shipped policies are read, and what is skipped is written down")]

use failsafe_core::policy::{parse::parse, schema::schema};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

#[path = "../../../tests/skip.rs"]
mod skip;

/// Reads `{schema, files: [[name, value, valid]]}`; prints the names of those that are judged otherwise.
const JUDGE: &str = "
import json, sys, jsonschema
given = json.load(sys.stdin)
jsonschema.Draft7Validator.check_schema(given['schema'])
judge = jsonschema.Draft7Validator(given['schema'])
for name, value, valid in given['files']:
    errors = [error.message[:200] for error in judge.iter_errors(value)]
    if (not errors) != valid:
        print(name, errors[:2])
";

/// Files that the schema judges otherwise than stated; `None`: there is nobody who could judge.
fn judged_otherwise(files: &[(String, String, bool)]) -> Option<String> {
    let has = Command::new("python3").args(["-W", "ignore", "-c", "import jsonschema"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        skip::skip("python3 with jsonschema is not installed");
        return None;
    }
    let one =
        |(name, text, valid): &(String, String, bool)| json!([name, toml::from_str::<Value>(text).unwrap(), valid]);
    let input = json!({ "schema": schema(), "files": files.iter().map(one).collect::<Vec<_>>() });
    let mut child = Command::new("python3")
        .args(["-W", "ignore", "-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

const HEAD: &str = "[policy]\nname = \"example\"\nowner = \"docs\"\n";

#[test]
fn every_shipped_policy_and_every_example_of_the_documents_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join("policies")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.lines().any(|line| line == "[policy]") {
            files.push((path.display().to_string(), text, true));
        }
    }
    assert!(files.len() >= 11, "{}", files.len());
    for document in ["README.md", "docs/policy.md", "docs/policy-rules.md", "docs/policy-index.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for (n, block) in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).enumerate() {
            let head = if block.contains("[policy]") { "" } else { HEAD };
            files.push((format!("{document} example {n}"), format!("{head}{block}"), true));
        }
    }
    assert!(files.len() >= 40, "{}", files.len());
    for (name, text, _) in &files {
        parse(name, text).unwrap_or_else(|errors| panic!("{errors}"));
    }
    if let Some(otherwise) = judged_otherwise(&files) {
        assert_eq!(otherwise, "");
    }
}

#[test]
fn mistakes_are_not_valid() {
    let rule = |rest: &str| format!("{HEAD}[[rule]]\nid = \"r\"\nrationale = \"x\"\n{rest}\n");
    let when = |when: &str| rule(&format!("when = {{ {when} }}\nactions = [\"notify\"]"));
    let loss = "signal = \"metric.loss\", above = 20";
    let texts = [
        String::new(),
        "[policy]\nname = \"p\"\n".into(),
        "[policy]\nname = \"a b\"\nowner = \"o\"\n".into(),
        format!("{HEAD}on_blnd = \"freeze\"\n"),
        format!("{HEAD}on_blind = \"stop\"\n"),
        format!("{HEAD}version = \"1\"\n"),
        format!("{HEAD}dead_after = 30\n"),
        format!("{HEAD}dead_after = \"30 apples\"\n"),
        format!("{HEAD}[egres]\n"),
        format!("{HEAD}[egress]\n"),
        format!("{HEAD}[egress]\nallow = [{{ cidr = \"10.0.0.0/8\", host = \"a.example.org\" }}]\n"),
        format!("{HEAD}[egress]\nallow = [{{ port = 443 }}]\n"),
        format!("{HEAD}[egress]\nallow = []\n[[egress.budget]]\nname = \"b\"\nto = [\"10.0.0.0/8\"]\n"),
        format!("{HEAD}[exec]\nallow = \"/usr/bin/*\"\n"),
        format!("{HEAD}[limits]\n"),
        format!("{HEAD}[limits]\nprocesses = 0\n"),
        format!("{HEAD}[syscalls]\nwatch = [\"read\"]\n"),
        when("signal = \"metric.loss\", detect = \"stall\""),
        when("signal = \"metric.loss\", detect = { method = \"stall\" }"),
        format!("{HEAD}[derived]\nspinning = {{ utilisation = \"95 %\" }}\n"),
        rule("actions = [\"notify\"]"),
        rule(&format!("when = {{ {loss} }}")),
        rule(&format!("when = {{ {loss} }}\nactions = []")),
        rule(&format!("when = {{ {loss} }}\nactions = [\"thaw\"]")),
        rule(&format!("when = {{ {loss} }}\nactions = [\"notify\", \"notify\"]")),
        rule(&format!("when = {{ {loss} }}\nactions = [\"notify\"]\nseverity = \"bad\"")),
        when("signal = \"metrics.loss\", above = 20"),
        when("signal = \"metric.loss\""),
        when("signal = \"metric.loss\", abvoe = 20"),
        when("signal = \"metric.loss\", is = \"nan\""),
        when("signal = \"metric.loss\", above = 20, event = \"oom\""),
        when("signal = \"metric.loss\", above = 20, path = \"/x\""),
        when("signal = \"metric.loss\", above = 20, for = 3"),
        when("event = \"connekt\""),
        when("event = \"oom\", path = \"/x\""),
        when("event = \"connect\", verdict = \"refused\""),
        when("event = \"connect\", above = 3"),
        when("event = \"open\", path = []"),
        when("signal = \"metric.loss\", detect = \"robust\""),
        when("signal = \"metric.loss\", detect = { method = \"robust-z\", limits = 8 }"),
        when("signal = \"metric.loss\", above = { factor = 2 }"),
        when("signal = \"metric.loss\", above = { first = \"10m\", signal = \"metric.x\" }"),
        when("signal = \"metric.loss\", above = { first = \"10m\", factor = 0 }"),
        when("signal = \"metric.loss\", above = { first = \"10m\", statistic = \"mode\" }"),
        when("signal = \"metric.loss\", above = { first = \"ten steps\" }"),
        when("signal = \"metric.loss\", above = 20, warm_up = \"ten steps\""),
        when("event = \"oom\", count = 3"),
        when("event = \"oom\", count = 1, within = \"3s\""),
        when("signal = \"metric.loss\", above = 20, count = 3"),
        when("for = \"3s\""),
        when(&format!("all = {{ {loss} }}")),
        when(&format!("at_least = 2, any = [{{ {loss} }}]")),
        when(&format!("of = [{{ {loss} }}]")),
        when(&format!("{loss}, phase = \"training\"")),
    ];
    let files: Vec<(String, String, bool)> = texts.iter().map(|text| (text.clone(), text.clone(), false)).collect();
    for (name, text, _) in &files {
        assert!(parse("p", text).is_err(), "the reader takes it: {name}");
    }
    if let Some(otherwise) = judged_otherwise(&files) {
        assert_eq!(otherwise, "");
    }
}
