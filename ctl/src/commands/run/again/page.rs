//! What would be started and what differs, for `rerun --print` and for refusals.

use crate::render::{clean, count};
use failsafe_attest::Table;
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
};

/// Each difference with its reason and who found that.
pub(super) fn differences(of: &pb::RerunPlan, table: &Table) -> String {
    let mut out = String::new();
    for change in &of.differences {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "absent".to_owned(), clean);
        let _text = writeln!(
            out,
            "  {}  {} -> {}  [{}]",
            clean(&change.path),
            value(&change.old),
            value(&change.new),
            clean(&change.class)
        );
        if let Some((_, row)) = table.row(&change.path) {
            let _text = writeln!(out, "      {} ({})", row.reason, row.citation);
        }
    }
    for what in &of.unknown {
        let _text = writeln!(out, "  not known: {}", clean(what));
    }
    out
}

pub(super) fn shown(
    of: &pb::RerunPlan,
    environment: &BTreeMap<String, OsString>,
    checkpoint: Option<&pb::Checkpoint>,
    missing: &[String],
    table: &Table,
) -> String {
    let mut out =
        format!("run {} {}, {} {}\n", clean(&of.run_name), of.run_id, clean(&of.policy_name), of.policy_digest);
    let words: Vec<String> = of.command.iter().map(|word| quoted(word)).collect();
    let _text = writeln!(out, "command     {}", words.join(" "));
    let _text = writeln!(
        out,
        "directory   {}",
        if of.directory.is_empty() { "not stored".to_owned() } else { clean(&of.directory) }
    );
    match checkpoint {
        Some(it) => {
            let step = it.step.map_or_else(String::new, |step| format!("step {step}, "));
            let _text = writeln!(out, "checkpoint  {step}{} {} (not verified yet)", clean(&it.path), clean(&it.digest));
        }
        None => out.push_str("checkpoint  none: from the start\n"),
    }
    for it in &of.environment {
        let value = it.value.as_deref().map_or_else(|| "[redacted]".to_owned(), quoted);
        let _text = writeln!(out, "variable    {}={value}", clean(&it.name));
    }
    let kept: BTreeSet<&str> = of.environment.iter().map(|it| it.name.as_str()).collect();
    let unread: Vec<&str> = of.variables.iter().map(String::as_str).filter(|name| !kept.contains(name)).collect();
    if !unread.is_empty() {
        let given = unread.iter().filter(|name| environment.contains_key(**name)).count();
        let _text = writeln!(
            out,
            "never read  {} ({given} given): {}",
            count(unread.len(), "variable", "variables"),
            clean(&unread.join(", "))
        );
    }
    for what in missing.iter().flat_map(|what| what.lines()) {
        let _text = writeln!(out, "MISSING     {}", clean(what));
    }
    if !of.differences.is_empty() || !of.unknown.is_empty() {
        let _text = write!(out, "differs now\n{}", differences(of, table));
    }
    out
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    let word = clean(word);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

pub(super) fn shown_json(of: &pb::RerunPlan, checkpoint: Option<&pb::Checkpoint>, missing: &[String]) -> Value {
    let change = |it: &pb::FactorChange| json!({ "path": it.path, "old": it.old, "new": it.new, "class": it.class });
    json!({
        "run_id": of.run_id,
        "run_name": of.run_name,
        "policy": of.policy_digest,
        "command": of.command,
        "redacted": of.redacted,
        "directory": of.directory,
        "environment": of.environment.iter().map(|it| (it.name.clone(), json!(it.value))).collect::<serde_json::Map<_, _>>(),
        "variables": of.variables,
        "checkpoint": checkpoint.map(|it| json!({ "path": it.path, "step": it.step, "digest": it.digest })),
        "differences": of.differences.iter().map(change).collect::<Vec<_>>(),
        "unknown": of.unknown,
        "missing": missing,
    })
}
