//! Shadows, and how they decided otherwise than the policies in force.

use super::{clean, count, table, time};
use failsafe_core::{actor::Actor, shadow::Summary};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write;

/// A policy as it is called.
pub fn named(policy: Option<&pb::ShadowPolicy>) -> String {
    policy.map_or_else(|| "?".to_owned(), |policy| format!("{} v{}", policy.name, policy.version))
}

fn asked_by(rule: &str, uid: Option<u32>) -> String {
    match uid {
        Some(uid) => format!("user {uid}"),
        None => format!("rule {rule} of discovery"),
    }
}

/// The shadows that judge now, and why others do not yet.
pub fn list(all: &[pb::Shadow], zone: &TimeZone) -> String {
    if all.is_empty() {
        return "no shadow judges\n".to_owned();
    }
    let rows = all.iter().map(|one| {
        let digest = one.policy.as_ref().map(|policy| policy.digest.clone()).unwrap_or_default();
        let since = if one.delayed.is_empty() { time::wall(one.since_ns.into(), zone) } else { "delayed".to_owned() };
        [one.run_name.clone(), named(one.policy.as_ref()), since, asked_by(&one.rule, one.by_uid), digest]
    });
    let mut out = table::table(["RUN", "SHADOW", "SINCE", "ASKED BY", "DIGEST"], rows);
    for one in all.iter().filter(|one| !one.delayed.is_empty()) {
        let _ = writeln!(out, "{}", clean(&delayed(one)));
    }
    out
}

fn delayed(one: &pb::Shadow) -> String {
    let pb::Shadow { run_name, policy, delayed, .. } = one;
    format!("{} of {run_name} does not judge yet: {delayed}", named(policy.as_ref()))
}

/// What `policy shadow remove` answers for one that was delayed.
pub fn given_up(shadow: &pb::Shadow) -> String {
    let (name, run) = (named(shadow.policy.as_ref()), &shadow.run_name);
    clean(&format!("{name} is no shadow of {run} any more; it has not judged since the daemon was started")) + "\n"
}

/// Whether the two policies decided otherwise.
pub fn differs(group: &pb::ShadowGroup) -> bool {
    group.rows.iter().any(|row| row.only_enforced + row.only_shadow + row.earlier + row.later > 0)
}

/// Whether everything was judged and computed.
pub fn is_whole(group: &pb::ShadowGroup) -> bool {
    group.complete && group.lacks.is_empty() && group.more_lacks == 0
}

/// All that was found.
pub fn report(answer: &pb::ShadowReportResponse, zone: &TimeZone) -> String {
    let mut out = String::new();
    for group in &answer.groups {
        let _ = writeln!(out, "{}", page(group, zone));
    }
    for left in &answer.left_out {
        let pb::ShadowLeftOut { rule, live, ended, why } = left;
        let _ = writeln!(
            out,
            "INCOMPLETE  rule {}: {} without its shadow, {ended} of which have ended: {}",
            clean(rule),
            count(usize::try_from(live + ended).unwrap_or(usize::MAX), "run", "runs"),
            clean(why)
        );
    }
    if answer.groups.is_empty() {
        out.push_str("no shadow has judged a run\n");
    }
    let _ = writeln!(out, "The report begins with the daemon, {}.", time::wall(answer.started_ns.into(), zone));
    out
}

/// What was found of two policies.
pub fn page(group: &pb::ShadowGroup, zone: &TimeZone) -> String {
    let pb::ShadowGroup { enforced, shadow, rule, by_uid, since_ns, runs, live, inputs, .. } = group;
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut out = table::pairs(
        "",
        [
            ("shadow", named(shadow.as_ref())),
            ("in force", named(enforced.as_ref())),
            ("asked by", asked_by(rule, *by_uid)),
            ("since", time::wall((*since_ns).into(), zone)),
            ("runs", format!("{runs} ({live} judged now), {}", count(number(*inputs), "input", "inputs"))),
        ],
    );
    if !group.complete {
        let _ = writeln!(
            out,
            "INCOMPLETE  {} not judged, {} not counted: decisions may be missing, or differ for this reason",
            count(number(group.dropped), "input", "inputs"),
            count(number(group.beyond), "decision", "decisions")
        );
    }
    if group.rows.is_empty() {
        out.push_str("\nneither policy decided anything\n");
    } else {
        let rows = group.rows.iter().map(|row| {
            let pb::ShadowRow { same, only_enforced, only_shadow, earlier, later, .. } = row;
            let counts = [same, only_enforced, only_shadow, earlier, later].map(u64::to_string);
            let [same, only_enforced, only_shadow, earlier, later] = counts;
            [row.what.clone(), row.actions.clone(), same, only_enforced, only_shadow, earlier, later]
        });
        let heads = ["DECISION", "ACTIONS", "SAME", "ONLY IN FORCE", "ONLY SHADOW", "EARLIER", "LATER"];
        let _ = write!(out, "\n{}", table::table(heads, rows));
    }
    for row in &group.rows {
        for example in &row.examples {
            let by = match example.by_ns {
                0 => String::new(),
                ns => format!(" by {}", time::delta(ns.into()).trim_start_matches('+')),
            };
            let at = time::wall(example.at_ns.into(), zone);
            let (what, run) = (clean(&row.what), clean(&example.run_name));
            let _ = writeln!(out, "  {what}: {}{by}: {run} {at}: {}", example.difference, clean(&example.because));
        }
    }
    if group.after_contained > 0 {
        let _ = writeln!(
            out,
            "{} of the shadow followed one that would have contained the run, which really went on",
            count(number(group.after_contained), "decision", "decisions")
        );
    }
    for (n, lack) in group.lacks.iter().enumerate() {
        let rule = if lack.rule.is_empty() { String::new() } else { format!("rule {}: ", lack.rule) };
        let head = if n == 0 { "not computed" } else { "" };
        let _ = writeln!(out, "{head:<12}  {}", clean(&format!("{rule}{}", lack.what)));
    }
    if group.more_lacks > 0 {
        let _ = writeln!(out, "{:<12}  and {} more", "", group.more_lacks);
    }
    out
}

/// One shadow, for programs.
pub fn one(shadow: &pb::Shadow) -> Value {
    json!({
        "run_id": shadow.run_id,
        "run_name": shadow.run_name,
        "owner_uid": shadow.owner_uid,
        "policy": policy(shadow.policy.as_ref()),
        "since_ns": shadow.since_ns,
        "rule": shadow.rule,
        "by_uid": shadow.by_uid,
        "delayed": Some(&shadow.delayed).filter(|why| !why.is_empty()),
    })
}

fn policy(policy: Option<&pb::ShadowPolicy>) -> Value {
    policy.map_or(
        Value::Null,
        |policy| json!({ "name": policy.name, "version": policy.version, "digest": policy.digest }),
    )
}

/// All that was found, for programs.
pub fn groups(answer: &pb::ShadowReportResponse) -> Value {
    json!({
        "started_ns": answer.started_ns,
        "groups": answer.groups.iter().map(group).collect::<Vec<_>>(),
        "left_out": answer.left_out.iter().map(left_out).collect::<Vec<_>>(),
    })
}

fn left_out(left: &pb::ShadowLeftOut) -> Value {
    json!({ "rule": left.rule, "live": left.live, "ended": left.ended, "why": left.why })
}

/// What was found of two policies, for programs.
pub fn group(group: &pb::ShadowGroup) -> Value {
    let row = |row: &pb::ShadowRow| {
        let example = |example: &pb::ShadowExample| {
            json!({
                "difference": example.difference,
                "run_id": example.run_id,
                "run_name": example.run_name,
                "at_ns": example.at_ns,
                "by_ns": example.by_ns,
                "because": example.because,
            })
        };
        json!({
            "what": row.what,
            "actions": row.actions,
            "same": row.same,
            "only_enforced": row.only_enforced,
            "only_shadow": row.only_shadow,
            "earlier": row.earlier,
            "later": row.later,
            "examples": row.examples.iter().map(example).collect::<Vec<_>>(),
        })
    };
    let lack = |lack: &pb::ShadowLack| json!({ "rule": lack.rule, "what": lack.what });
    json!({
        "shadow": policy(group.shadow.as_ref()),
        "enforced": policy(group.enforced.as_ref()),
        "rule": group.rule,
        "by_uid": group.by_uid,
        "since_ns": group.since_ns,
        "runs": group.runs,
        "live": group.live,
        "inputs": group.inputs,
        "complete": group.complete,
        "dropped": group.dropped,
        "beyond": group.beyond,
        "differs": differs(group),
        "after_contained": group.after_contained,
        "rows": group.rows.iter().map(row).collect::<Vec<_>>(),
        "not_computed": group.lacks.iter().map(lack).collect::<Vec<_>>(),
        "more_not_computed": group.more_lacks,
    })
}

/// The beginning or the end of a shadow in the audit log.
pub fn recorded(run: &str, policy: &str, actor: &Actor, ended: &Option<Summary>) -> String {
    let Some(found) = ended else {
        return format!("{actor}: {policy} is judged beside the policy of {run}, without effect");
    };
    let Summary { why, inputs, dropped, same, only_enforced, only_shadow, earlier, later } = found;
    let lost = if *dropped > 0 { format!("; INCOMPLETE, {dropped} inputs were not judged") } else { String::new() };
    format!(
        "{policy} is no longer judged beside the policy of {run} ({why}): of {inputs} inputs {same} same, {only_enforced} only in \
         force, {only_shadow} only shadow, {earlier} earlier, {later} later{lost}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> pb::ShadowGroup {
        let policy = |name: &str, version| {
            Some(pb::ShadowPolicy { name: name.into(), version, digest: format!("sha256:{name}") })
        };
        let example = pb::ShadowExample {
            difference: "earlier".into(),
            run_id: "r".into(),
            run_name: "trainer\u{1b}[31m".into(),
            at_ns: 1_796_013_852_596_000_000,
            by_ns: 2_500_000_000,
            because: "metric.loss above 5: 6".into(),
        };
        let row = pb::ShadowRow {
            what: "rule diverged".into(),
            actions: "freeze, notify".into(),
            same: 3,
            earlier: 1,
            examples: vec![example],
            ..pb::ShadowRow::default()
        };
        pb::ShadowGroup {
            enforced: policy("trainer", 1),
            shadow: policy("trainer", 2),
            by_uid: Some(1000),
            since_ns: 1_796_013_000_000_000_000,
            runs: 2,
            live: 1,
            inputs: 812,
            dropped: 7,
            after_contained: 1,
            rows: vec![row],
            lacks: vec![pb::ShadowLack { rule: "opens".into(), what: "open: not reported".into() }],
            ..pb::ShadowGroup::default()
        }
    }

    #[test]
    fn a_report_shows_differences_examples_and_what_is_missing() {
        insta::assert_snapshot!(page(&found(), &TimeZone::UTC));
        let whole = pb::ShadowGroup { complete: true, dropped: 0, lacks: Vec::new(), ..found() };
        assert!(differs(&whole) && is_whole(&whole) && !is_whole(&found()));
    }

    #[test]
    fn a_report_states_how_many_runs_of_a_rule_had_no_shadow() {
        let left = pb::ShadowLeftOut {
            rule: "slurm".into(),
            live: 3,
            ended: 2,
            why: "limit `shadows`: this node has 112 shadows already".into(),
        };
        let answer = pb::ShadowReportResponse { left_out: vec![left], ..Default::default() };
        let page = report(&answer, &TimeZone::UTC);
        let line = "INCOMPLETE  rule slurm: 5 runs without its shadow, 2 of which have ended: limit `shadows`: this node has 112";
        assert!(page.contains(line), "{page}");
    }
}
