//! `node status`, `node usage`.

use super::Place;
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, drill, json, print, table, time},
};
use failsafe_core::unit::Unit;
use failsafe_proto::v1 as pb;
use std::fmt::Write;

pub(super) fn status(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let status = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().status(pb::StatusRequest {}).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&json::status(&status)) } else { page(&status, Paint::stdout()) })?;
    Ok(Exit::Done)
}

pub(super) fn usage(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().usage(pb::UsageRequest {}).await?.into_inner())
    })?;
    let pb::UsageResponse { users, users_left_off } = answer;
    print(&if output.json() {
        json::text(&serde_json::json!({ "users": json::users(&users), "users_left_off": users_left_off }))
    } else if users.is_empty() {
        "no user uses anything\n".to_owned()
    } else {
        usages(&users, users_left_off)
    })?;
    Ok(Exit::Done)
}

/// What each user has used of each quota.
fn usages(users: &[pb::UserUsage], left_off: u64) -> String {
    let rows = users.iter().flat_map(|user| {
        user.quotas.iter().map(|quota| {
            let used = format!("{} of {} {}", quota.used, quota.most, quota.unit);
            [user.uid.to_string(), quota.limit.clone(), used]
        })
    });
    let mut out = table::table(["UID", "LIMIT", "USED"], rows);
    if left_off > 0 {
        let _ = writeln!(out, "and {left_off} more users, each further from its limits");
    }
    out
}

/// That nothing is refused or frozen; empty where failsafe acts.
fn observes(status: &pb::StatusResponse) -> String {
    let state = status.mode.clone().unwrap_or_default();
    if state.mode() != pb::NodeMode::Observe {
        return String::new();
    }
    let line = super::mode::line(&state, &jiff::tz::TimeZone::system());
    format!("nothing is refused or frozen: {}", line.trim_end())
}

/// A thread that is needed to freeze runs makes no progress.
fn no_progress(status: &pb::StatusResponse) -> String {
    match status.no_progress.as_str() {
        "" => String::new(),
        thread => format!("the daemon's thread `{thread}` hangs: violations are not acted upon"),
    }
}

fn page(status: &pb::StatusResponse, paint: Paint) -> String {
    let now = status.at_ns;
    let log = match status.log_state.as_str() {
        "healthy" => format!("healthy, {} entries", status.log_entries),
        state => format!("{} ({} entries)", state, status.log_entries),
    };
    let mut out = table::pairs(
        "",
        [
            ("node", format!("{}, kernel {}", status.hostname, status.kernel)),
            ("failsafed", format!("{}, up {}", status.version, time::ago(status.started_ns, now))),
            ("runs", format!("{} live, {} frozen", status.runs, status.frozen)),
            ("not judged", not_judged(status.guarded)),
            ("OBSERVES", observes(status)),
            ("NO PROGRESS", no_progress(status)),
            ("NOT PINNED", status.not_pinned.clone()),
            ("audit log", log),
            ("last drill proof", drilled(status)),
            ("DRILL", status.drill.as_ref().map(drill::against).unwrap_or_default()),
            ("NVML", status.nvml.clone()),
        ],
    );
    let sensors = status.sensors.iter().map(|s| {
        let sees = if s.sees { "sees" } else { "BLIND" };
        [s.name.clone(), sees.to_owned(), time::ago(s.last_success_ns, now), s.detail.clone()]
    });
    let _ = write!(out, "\n{}", table::table(["SENSOR", "STATE", "LAST", "DETAIL"], sensors));
    if !status.gpus.is_empty() {
        let gpus = status.gpus.iter().map(|g| {
            let trouble: Vec<String> = g.failing.iter().map(|f| format!("failing: {f}")).collect();
            [
                g.index.to_string(),
                g.name.clone(),
                g.uuid.clone(),
                Unit::MilliPercent.show(g.utilization_mpct),
                Unit::MilliCelsius.show(g.temperature_mc),
                format!("{} / {}", Unit::Milliwatts.show(g.power_mw), Unit::Milliwatts.show(g.power_limit_mw)),
                format!("{} / {}", Unit::Bytes.show(g.memory_used), Unit::Bytes.show(g.memory_total)),
                time::ago(g.sampled_ns, now),
                g.runs.join(","),
                trouble.join("; "),
            ]
        });
        let heads = ["GPU", "NAME", "UUID", "BUSY", "TEMP", "POWER", "MEMORY", "SAMPLED", "RUNS", "TROUBLE"];
        let _ = write!(out, "\n{}", table::table(heads, gpus));
    }
    if !status.limits.is_empty() {
        let _ = write!(out, "\n{}", table::table(LIMITS, status.limits.iter().map(limit)));
    }
    if !status.users.is_empty() {
        let _ = write!(out, "\n{}", usages(&status.users, status.users_left_off));
    }
    for cost in &status.costs {
        let _ = write!(out, "\n{} {}\n", paint.warn("cost now:"), crate::render::clean(cost));
    }
    out
}

/// When a drill proved last that the node stops a run; empty where there is no schedule and never was a drill.
fn drilled(status: &pb::StatusResponse) -> String {
    let known = status.drill.as_ref().filter(|state| state.every_ms > 0 || state.last.is_some());
    known.map(|state| drill::proved(state, status.at_ns)).unwrap_or_default()
}

/// Runs that the kernel bounds and nobody judges; empty where there are none.
fn not_judged(guarded: u32) -> String {
    match guarded {
        0 => String::new(),
        1 => "1 RUN IS GUARDED, NOT JUDGED: see `failsafectl list`".into(),
        more => format!("{more} RUNS ARE GUARDED, NOT JUDGED: see `failsafectl list`"),
    }
}

const LIMITS: [&str; 7] = ["LIMIT", "USED", "PER USER", "RESERVE USED", "MOST BY", "REFUSED", "WAITED"];

fn limit(limit: &pb::Limit) -> [String; 7] {
    let most = limit.most_uid.map(|uid| format!("uid {uid}: {}", limit.most_used));
    let used = match limit.unit.as_str() {
        "per second" => format!("{} per second", limit.total),
        "MiB per day" => format!("{} of {} MiB per day", limit.used, limit.total),
        _ => format!("{} of {}", limit.used, limit.total),
    };
    [
        limit.name.clone(),
        used,
        limit.per_user.map_or_else(String::new, |most| most.to_string()),
        limit.reserve.map_or_else(String::new, |reserve| format!("{} of {reserve}", limit.reserve_used)),
        most.unwrap_or_default(),
        limit.refused.to_string(),
        limit.waited.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_that_a_user_uses_has_a_row() {
        let quota = |limit: &str, used, most, unit: &str| {
            let (limit, unit) = (limit.to_owned(), unit.to_owned());
            pb::QuotaUse { limit, unit, used, most }
        };
        let quotas = vec![quota("live-runs", 2, 64, "runs"), quota("audit-log", 65, 64, "MiB per day")];
        let users = [pb::UserUsage { uid: 1_000, quotas }];
        let page = usages(&users, 3);
        let lines: Vec<Vec<&str>> = page.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["1000", "live-runs", "2", "of", "64", "runs"]);
        assert_eq!(lines[2], ["1000", "audit-log", "65", "of", "64", "MiB", "per", "day"]);
        assert_eq!(lines[3][..3], ["and", "3", "more"]);
        let json = json::users(&users);
        assert_eq!((&json[0]["uid"], &json[0]["quotas"][1]["used"]), (&1_000.into(), &65.into()));
    }

    #[test]
    fn a_blind_sensor_and_a_cost_stand_out() {
        let ns = 1_000_000_000;
        let status = pb::StatusResponse {
            version: "0.1.0".into(),
            hostname: "n1".into(),
            kernel: "6.18".into(),
            at_ns: 100 * ns,
            started_ns: 10 * ns,
            runs: 2,
            frozen: 1,
            log_entries: 7,
            log_state: "healthy".into(),
            nvml: "simulated".into(),
            sensors: vec![
                pb::Sensor { name: "ebpf".into(), sees: true, detail: "9 programs".into(), last_success_ns: 99 * ns },
                pb::Sensor { name: "nvml".into(), sees: false, detail: "no library".into(), last_success_ns: 0 },
            ],
            gpus: vec![pb::Gpu {
                uuid: "GPU-5a".into(),
                name: "H100".into(),
                utilization_mpct: 97_000,
                temperature_mc: 61_500,
                power_mw: 500_000,
                power_limit_mw: 700_000,
                memory_used: 1 << 30,
                memory_total: 80 << 30,
                sampled_ns: 99 * ns,
                runs: vec!["trainer".into()],
                ..Default::default()
            }],
            costs: vec!["sys_enter slows every process".into()],
            limits: vec![
                pb::Limit {
                    name: "connections".into(),
                    unit: "connections".into(),
                    per_user: Some(128),
                    total: 1_024,
                    reserve: Some(4_096),
                    used: 129,
                    reserve_used: 2,
                    most_uid: Some(1_000),
                    most_used: 128,
                    refused: 872,
                    waited: 0,
                },
                pb::Limit {
                    name: "changes".into(),
                    unit: "per second".into(),
                    per_user: Some(10),
                    total: 100,
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        insta::assert_snapshot!(page(&status, Paint::plain()));
    }
}
