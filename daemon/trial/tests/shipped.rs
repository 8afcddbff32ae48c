//! Every shipped policy has tests, they pass, and they reach every branch of it.

use failsafe_core::policy::parse::parse;
use failsafe_trial::{Coverage, file, test};
use std::path::{Path, PathBuf};

/// The shipped policies, without the tables that are not policies.
fn shipped() -> std::io::Result<Vec<(PathBuf, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.to_string_lossy().into_owned();
        if name.ends_with(".toml") && !name.ends_with(".test.toml") {
            let text = std::fs::read_to_string(&path)?;
            if text.lines().any(|line| line == "[policy]") {
                found.push((path, text));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_tests_of_every_shipped_policy_pass_and_reach_all_of_it() {
    let policies = shipped().unwrap();
    assert!(policies.len() >= 5, "{}", policies.len());
    let mut wrong = Vec::new();
    for (path, text) in policies {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let policy = parse(&name, &text).unwrap_or_else(|errors| panic!("{errors}"));
        let tests = path.with_extension("test.toml");
        let Ok(text) = std::fs::read_to_string(&tests) else {
            wrong.push(format!("{name}: {} is missing", tests.display()));
            continue;
        };
        let file = file::read(&tests.to_string_lossy(), &text, &policy).unwrap_or_else(|errors| panic!("{errors}"));
        let mut coverage = Coverage::of(&policy);
        for case in &file.cases {
            let (verdict, ran) = test(&policy, case);
            coverage.add(&ran.coverage);
            wrong.extend(verdict.failures.iter().map(|failure| format!("{name}: {}: {failure:?}", case.name)));
        }
        wrong.extend(coverage.missing().into_iter().map(|missing| format!("{name}: {missing}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_example_in_the_documentation_passes() {
    let text = include_str!("../../../docs/policy.md");
    let block = |start: &str| text.split(start).nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let policy = parse("trainer.toml", block("```toml\n")).unwrap_or_else(|errors| panic!("{errors}"));
    let file = file::read("trainer.test.toml", block("```toml test\n"), &policy).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.cases.len(), 2);
    for case in &file.cases {
        let (verdict, _) = test(&policy, case);
        assert!(verdict.passed(), "{}: {verdict:?}", case.name);
    }
}
