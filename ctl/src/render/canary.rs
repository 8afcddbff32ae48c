//! Canaries: a candidate beside the policy in force.

use super::{clean, table, time};
use failsafe_core::{
    actor::Actor,
    canary::{Arm, Arms, Stage, Terms},
};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write;

/// Millionths in percent.
fn percent(ppm: u32) -> String {
    format!("{}%", f64::from(ppm) / 10_000.0)
}

fn length(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 3_600, seconds % 3_600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// All canaries.
pub fn list(answer: &pb::ListCanariesResponse) -> String {
    let mut out = if answer.canaries.is_empty() {
        "no policy has a canary\n".to_owned()
    } else {
        let rows = answer.canaries.iter().map(|one| {
            let arm = |arm: &Option<pb::CanaryArm>| {
                let pb::CanaryArm { runs, contained, .. } = arm.unwrap_or_default();
                format!("{contained} of {runs}")
            };
            let (stage, share) = (one.stage.clone(), percent(one.share_ppm));
            [one.name.clone(), stage, one.candidate_name.clone(), share, arm(&one.candidate), arm(&one.control)]
        });
        table::table(["POLICY", "STAGE", "CANDIDATE", "SHARE", "CONTAINED", "CONTAINED IN FORCE"], rows)
    };
    if !answer.problem.is_empty() {
        let _ = writeln!(out, "PROBLEM  {}", clean(&answer.problem));
    }
    out
}

/// One canary.
pub fn page(one: &pb::Canary, zone: &TimeZone) -> String {
    let wall = |ns: i64| time::wall(ns.into(), zone);
    let mut head = vec![
        ("policy", one.name.clone()),
        ("stage", one.stage.clone()),
        ("candidate", format!("{} {}", one.candidate_name, one.candidate_digest)),
        ("in force", one.control_digest.clone()),
        ("share", format!("{} of the new runs", percent(one.share_ppm))),
        ("since", format!("{}, {}: {}", wall(one.since_ns), one.begun_by, one.begun_reason)),
        ("withdraw if", one.withdraw_if.join(" or ")),
    ];
    if one.promote_if.is_empty() {
        head.push(("promote", "by command only".to_owned()));
    } else {
        let (hold, runs) = (length(one.hold_ms), one.runs_at_least);
        head.push(("promote if", format!("{}, for {hold} and {runs} ended runs", one.promote_if.join(" and "))));
        head.push(("held", length(one.held_ms)));
    }
    if one.decided_ns != 0 {
        head.push(("decided", format!("{}, {}: {}", wall(one.decided_ns), one.decided_by, one.decided_reason)));
    }
    if !one.finding.is_empty() {
        head.push(("now", one.finding.clone()));
    }
    if !one.unstored.is_empty() {
        head.push(("NOT STORED", format!("a restart of failsafed undoes it: {}", one.unstored)));
    }
    let row = |name: &str, arm: &Option<pb::CanaryArm>| {
        let pb::CanaryArm { runs, live, contained } = arm.unwrap_or_default();
        [name.to_owned(), runs.to_string(), live.to_string(), contained.to_string()]
    };
    let rows = [row("candidate", &one.candidate), row("in force", &one.control)];
    format!("{}\n{}", table::pairs("", head), table::table(["RUNS WITH", "BEGAN", "LIVE", "CONTAINED"], rows))
}

/// All of them, for programs.
pub fn values(answer: &pb::ListCanariesResponse) -> Value {
    json!({ "canaries": answer.canaries.iter().map(value).collect::<Vec<_>>(), "problem": answer.problem })
}

/// One of them, for programs.
pub fn value(one: &pb::Canary) -> Value {
    let arm = |arm: &Option<pb::CanaryArm>| {
        let arm = arm.unwrap_or_default();
        json!({ "runs": arm.runs, "live": arm.live, "contained": arm.contained })
    };
    json!({
        "name": one.name,
        "canary": one.canary,
        "stage": one.stage,
        "control_digest": one.control_digest,
        "candidate_digest": one.candidate_digest,
        "candidate_name": one.candidate_name,
        "share_ppm": one.share_ppm,
        "runs_at_least": one.runs_at_least,
        "hold_ms": one.hold_ms,
        "promote_if": one.promote_if,
        "withdraw_if": one.withdraw_if,
        "since_ns": one.since_ns,
        "begun_by": one.begun_by,
        "begun_reason": one.begun_reason,
        "decided_ns": one.decided_ns,
        "decided_by": one.decided_by,
        "decided_reason": one.decided_reason,
        "candidate": arm(&one.candidate),
        "control": arm(&one.control),
        "held_ms": one.held_ms,
        "finding": one.finding,
        "unstored": one.unstored,
    })
}

/// Its entry in the audit log.
pub fn recorded(
    (name, candidate, stage): (&str, &str, Stage),
    (terms, seen): (&Terms, &Arms),
    (actor, reason): (&Actor, &str),
) -> String {
    let arm = |arm: &Arm| format!("{} of {} runs contained", arm.contained, arm.runs);
    let share = percent(terms.share_ppm);
    let what = match stage {
        Stage::Running => {
            return format!(
                "{actor}: {candidate} is the candidate of policy {name} on {share} of its new runs: {reason}"
            );
        }
        Stage::Promoted => "is that of all new runs",
        Stage::Withdrawn => "was withdrawn",
        Stage::Over => "is over",
    };
    let (with, without) = (arm(&seen.candidate), arm(&seen.control));
    format!("{actor}: the candidate {candidate} of policy {name} {what}: {reason} ({with}; in force {without})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary() -> pb::Canary {
        pb::Canary {
            name: "trainer".into(),
            stage: "running".into(),
            candidate_name: "trainer v2".into(),
            candidate_digest: "sha256:8ae4".into(),
            control_digest: "sha256:77aa".into(),
            share_ppm: 100_000,
            runs_at_least: 20,
            hold_ms: 86_400_000,
            promote_if: vec!["excess <= 0".into()],
            withdraw_if: vec!["excess > 2".into()],
            since_ns: 1_796_013_000_000_000_000,
            begun_by: "uid 0".into(),
            begun_reason: "stricter egress".into(),
            candidate: Some(pb::CanaryArm { runs: 21, live: 3, contained: 1 }),
            control: Some(pb::CanaryArm { runs: 190, live: 31, contained: 4 }),
            held_ms: 5_400_000,
            finding: "not met: excess <= 0 (excess = 0.6)".into(),
            ..pb::Canary::default()
        }
    }

    #[test]
    fn a_canary_is_shown_with_its_criteria_and_the_runs_of_both_policies() {
        insta::assert_snapshot!(page(&canary(), &TimeZone::UTC));
    }

    #[test]
    fn a_withdrawal_that_is_not_stored_and_a_problem_are_shown() {
        let unstored = pb::Canary { unstored: "the disk is full".into(), decided_ns: 1, ..canary() };
        assert!(page(&unstored, &TimeZone::UTC).contains("a restart of failsafed undoes it: the disk is full"));
        let answer = pb::ListCanariesResponse { canaries: vec![canary()], problem: "cannot be read".into() };
        let text = list(&answer);
        assert!(
            text.contains("1 of 21") && text.contains("4 of 190") && text.contains("PROBLEM  cannot be read"),
            "{text}"
        );
    }

    #[test]
    fn an_entry_of_the_log_states_what_was_decided_why_and_by_what_counts() {
        let terms = Terms {
            share_ppm: 5_000,
            runs_at_least: 20,
            hold: failsafe_core::time::Span(0),
            promote_if: Vec::new(),
            withdraw_if: vec!["excess > 2".parse().unwrap()],
        };
        let seen = Arms {
            candidate: Arm { runs: 9, ended: 2, contained: 3 },
            control: Arm { runs: 80, ended: 70, contained: 1 },
        };
        let text = |stage, why| recorded(("trainer", "trainer v2", stage), (&terms, &seen), (&Actor::Daemon, why));
        let begun = text(Stage::Running, "stricter egress");
        assert!(
            begun.ends_with("trainer v2 is the candidate of policy trainer on 0.5% of its new runs: stricter egress"),
            "{begun}"
        );
        let withdrawn = text(Stage::Withdrawn, "excess > 2 (excess = 2.9)");
        let end = "the candidate trainer v2 of policy trainer was withdrawn: excess > 2 (excess = 2.9) (3 of 9 runs contained; in \
                   force 1 of 80 runs contained)";
        assert!(withdrawn.ends_with(end), "{withdrawn}");
    }
}
