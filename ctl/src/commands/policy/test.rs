//! `policy test`: runs the tests of policies, and prints what differs from what they expect.

use super::resolve;
use crate::{
    args::PolicyTestArgs,
    commands::file_name,
    exit::{Exit, Fail},
    render::{json, policy_test as page, print},
};
use failsafe_core::{Policy, policy::diagnostic::Diagnostics};
use failsafe_trial::{Coverage, file};
use page::{File, Tested};
use std::path::{Path, PathBuf};

/// What a test file's name ends with.
const SUFFIX: &str = ".test.toml";

pub(in crate::commands) fn test(args: &PolicyTestArgs) -> Result<Exit, Fail> {
    if args.tests.is_some() && args.files.len() != 1 {
        return Err(Fail::usage("--tests is for one policy"));
    }
    let mut files = Vec::new();
    let mut invalid = false;
    for path in &args.files {
        let (policy, tests) = places(path, args.tests.as_deref())?;
        match tested(policy, tests, args.only.as_deref())? {
            Ok(file) => files.push(file),
            Err(errors) => {
                invalid = true;
                note!("{errors}");
            }
        }
    }
    let passed = files.iter().all(File::passed);
    let covered = !args.require_coverage || files.iter().all(|file| file.coverage.missing().is_empty());
    if let Some(path) = &args.junit {
        let failed = |error: std::io::Error| Fail::because(format!("cannot write {}", path.display()), &error);
        std::fs::write(path, page::junit(&files)).map_err(failed)?;
    }
    if files.is_empty() && !args.output.json() {
        return Ok(Exit::Error);
    }
    print(&if args.output.json() {
        json::text(&page::json(&files, passed && !invalid, args.require_coverage.then_some(covered)))
    } else {
        page::text(&files, args.require_coverage)
    })?;
    if args.only.is_some() && !invalid && files.iter().all(|file| file.tests.is_empty()) {
        return Err(Fail::new(Exit::NotFound, "no test has a name that contains the text of --only"));
    }
    Ok(if passed && covered && !invalid { Exit::Done } else { Exit::Error })
}

/// The files of the policy and of its tests. The tests may name another policy.
fn places(path: &Path, tests: Option<&Path>) -> Result<(Option<PathBuf>, PathBuf), Fail> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(tests) = tests {
        return Ok((Some(path.to_owned()), tests.to_owned()));
    }
    if name.ends_with(SUFFIX) {
        return Ok((None, path.to_owned()));
    }
    let Some(stem) = name.strip_suffix(".toml") else {
        let message = format!("{}: expected a policy NAME.toml or its tests NAME{SUFFIX}", path.display());
        return Err(Fail::usage(message).advise("name the test file of another policy with --tests FILE"));
    };
    let beside = path.with_file_name(format!("{stem}{SUFFIX}"));
    if beside.exists() {
        return Ok((Some(path.to_owned()), beside));
    }
    let advice = format!("write {}, or name another file with --tests; docs/policy.md shows how", beside.display());
    Err(Fail::new(Exit::Error, format!("{} has no tests", path.display())).advise(advice))
}

/// Reads and runs the tests of one file.
fn tested(policy: Option<PathBuf>, tests: PathBuf, only: Option<&str>) -> Result<Result<File, Diagnostics>, Fail> {
    let read = |path: &Path| {
        let failed = |error: std::io::Error| Fail::because(format!("cannot read {}", path.display()), &error);
        std::fs::read_to_string(path).map_err(failed)
    };
    let text = read(&tests)?;
    let policy = policy.unwrap_or_else(|| named(&tests, &text));
    let found: Policy = match resolve::read(&policy)? {
        Ok(whole) => whole.checked.policy,
        Err(errors) => return Ok(Err(errors)),
    };
    let file = match file::read(&file_name(&tests), &text, &found) {
        Ok(file) => file,
        Err(errors) => return Ok(Err(errors)),
    };
    let mut coverage = Coverage::of(&found);
    let mut results = Vec::new();
    for case in file.cases.iter().filter(|case| only.is_none_or(|only| case.name.contains(only))) {
        let (verdict, ran) = failsafe_trial::test(&found, case);
        coverage.add(&ran.coverage);
        let (inputs, held_back) = (ran.inputs, ran.held_back);
        results.push(Tested { name: case.name.clone(), line: case.line, verdict, inputs, held_back });
    }
    Ok(Ok(File {
        name: file_name(&tests),
        policy: found.name.clone(),
        digest: found.digest().to_string(),
        tests: results,
        coverage,
    }))
}

/// The policy that a test file names, or the one that has its name.
fn named(tests: &Path, text: &str) -> PathBuf {
    match file::policy_of(text) {
        Some(name) => tests.parent().map_or_else(|| PathBuf::from(&name), |folder| folder.join(&name)),
        None => {
            let name = tests.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            tests.with_file_name(format!("{}.toml", name.trim_end_matches(SUFFIX)))
        }
    }
}
