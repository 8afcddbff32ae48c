//! What users may use of the control interface: nobody takes it away from anybody else.

use anyhow::{Context, Result, ensure};
use failsafe_proto::v1;
use integration::{Crowd, Launch, NOBODY, Node, Started, on_node, program, wait_for, with_channel};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::Value;
use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

fn limit(node: &Node, name: &str) -> Result<Value> {
    let status = node.json(["node", "status"])?;
    let limits = status["limits"].as_array().cloned().unwrap_or_default();
    limits.into_iter().find(|limit| limit["name"] == name).with_context(|| format!("no limit {name}: {status}"))
}

/// How long a freeze takes, the process that asks for it included: the median of some.
fn freeze_time(node: &Node, run: &Started) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..9 {
        let begun = Instant::now();
        node.ctl(["freeze", run.id(), "-r", "test"])?.expect(0)?;
        times.push(begun.elapsed());
        node.ctl(["thaw", run.id(), "-r", "test"])?.expect(0)?;
    }
    times.sort();
    Ok(times[times.len() / 2])
}

#[test]
fn followers_idle_connections_and_floods_do_not_take_control_away() -> Result<()> {
    on_node("crowd", "", |node| {
        let run = Launch::new("victim", POLICY).start(node, ["sleep", "600"])?;
        let alone = freeze_time(node, &run)?;
        // One user with a thousand of each, twenty with fifty, and root's own, which the reserve holds.
        let mut crowds = vec![Crowd::come(node, NOBODY, &["--followers", "1000", "--idle", "1000", "--floods", "4"])?];
        for uid in 40_000..40_020 {
            crowds.push(Crowd::come(node, uid, &["--followers", "50", "--idle", "20"])?);
        }
        crowds.push(Crowd::come(node, 0, &["--followers", "100", "--idle", "100", "--floods", "2"])?);
        let got = crowds.iter_mut().map(Crowd::got).collect::<Result<Vec<_>>>()?;
        let one = &got[0];
        ensure!(one["following"].as_u64() <= Some(32) && one["refused"].as_u64() > Some(0), "{one}");
        ensure!(one["named"].as_u64() > Some(0), "no refusal named its limit: {one}");
        ensure!(got.last().is_some_and(|own| own["following"] == 100 && own["idle"] == 100), "{got:?}");
        let (others, connections) = (limit(node, "streams")?, limit(node, "connections")?);
        ensure!(connections["refused"].as_u64() > Some(0), "{connections}");
        ensure!(connections["most_used"].as_u64() <= Some(128), "{connections}");
        let among = freeze_time(node, &run)?;
        println!("freeze by root: {alone:?} alone, {among:?} in the crowd; streams {others}");
        // Twice at most where the machine is free; here other tests run, and so does the crowd.
        ensure!(among < alone * 8, "{alone:?} alone, {among:?} in the crowd");
        node.ctl(["kill", run.id(), "-r", "test"])?.expect(0)?;
        drop(crowds);
        wait_for("what the crowd used is given back", || {
            Ok(limit(node, "streams")?["used"] == 0 && limit(node, "connections")?["used"] == 0)
        })
    })
}

#[test]
fn a_user_with_too_many_connections_gets_the_reason_and_others_are_not_affected() -> Result<()> {
    let settings = "[limits]\nconnections = { per_user = 3, total = 8, reserve = 64 }\n";
    on_node("connections", settings, |node| {
        let mut crowd = Crowd::come(node, NOBODY, &["--idle", "3"])?;
        crowd.got()?;
        wait_for("they are counted", || Ok(limit(node, "connections")?["used"] == 3))?;
        let refused = node.ctl_as(NOBODY, ["list"])?.expect(1)?;
        ensure!(refused.err.contains("limit `connections`: uid 65534 uses 3 of 3"), "{refused:?}");
        node.ctl_as(40_000, ["list"])?.expect(0)?;
        // The connection of that command is closed after it has ended; until then it takes a place of the others.
        wait_for("only theirs are counted", || Ok(limit(node, "connections")?["used"] == 3))?;
        let mut others: Vec<Crowd> = Vec::new();
        for uid in [40_001, 40_002] {
            others.push(Crowd::come(node, uid, &["--idle", "3"])?);
        }
        others.iter_mut().try_for_each(|crowd| crowd.got().map(drop))?;
        wait_for("all are used", || Ok(limit(node, "connections")?["used"] == 8))?;
        let full = node.ctl_as(40_000, ["list"])?.expect(1)?;
        ensure!(full.err.contains("all users together use 8 of 8"), "{full:?}");
        node.ctl(["list"])?.expect(0)?;
        Ok(())
    })
}

#[test]
fn connections_that_make_no_request_are_closed() -> Result<()> {
    on_node("idle", "[limits]\nfirst_request_s = 1\nidle_s = 1\n", |node| {
        let mut crowd = Crowd::come(node, NOBODY, &["--idle", "20", "--followers", "1"])?;
        ensure!(crowd.got()?["idle"] == 20);
        wait_for("only the follower is left", || Ok(limit(node, "connections")?["used"] == 1))?;
        ensure!(limit(node, "streams")?["used"] == 1, "a follower is not idle");
        Ok(())
    })
}

#[test]
fn a_command_with_a_deadline_that_has_passed_is_not_begun() -> Result<()> {
    on_node("late", "", |node| {
        let run = Launch::new("late", POLICY).start(node, ["sleep", "600"])?;
        let id = run.id().to_owned();
        with_channel(node, |channel| async move {
            for _ in 0..50 {
                let control = v1::ControlRequest {
                    run: id.clone(),
                    command: v1::Command::Freeze.into(),
                    reason: "late".into(),
                    ..Default::default()
                };
                let mut request = tonic::Request::new(control);
                request.metadata_mut().insert("grpc-timeout", "1n".parse()?);
                let mut client = v1::run_service_client::RunServiceClient::new(channel.clone());
                ensure!(client.control(request).await.is_err(), "it was in time");
            }
            Ok(())
        })?;
        // A command in time is the proof that the late ones have been looked at.
        node.ctl(["freeze", run.id(), "-r", "in time"])?.expect(0)?;
        node.ctl(["thaw", run.id(), "-r", "in time"])?.expect(0)?;
        let frozen =
            node.events()?.into_iter().find(|e| e["body"]["type"] == "control" && e["body"]["reason"] == "late");
        ensure!(frozen.is_none(), "a late command was begun: {frozen:?}");
        ensure!(node.run("late")?["state"] == "running");
        Ok(())
    })
}

#[test]
fn a_stream_that_is_not_read_ends_with_its_reason() -> Result<()> {
    on_node("deaf", "[limits]\nunread_s = 2\n", |node| {
        let run = Launch::new("loud", POLICY).start(node, ["sleep", "600"])?;
        // More than a connection's window of records: reasons may have 1000 bytes.
        let reason = "x".repeat(1_000);
        for _ in 0..60 {
            node.ctl(["freeze", run.id(), "-r", &reason])?.expect(0)?;
        }
        let mut crowd = Crowd::come(node, 0, &["--deaf", "1"])?;
        ensure!(crowd.got()?["following"] == 1);
        wait_for("it holds nothing any more", || Ok(limit(node, "streams")?["reserve_used"] == 0))?;
        ensure!(node.ctl(["events"])?.expect(0)?.out.lines().count() > 60);
        crowd.goes();
        let ended = crowd.line()?;
        println!("a deaf follower's stream ended: {ended}");
        ensure!(ended["ended"] != "in order" && ended["ended"] != "no answer", "{ended}");
        Ok(())
    })
}

#[test]
fn lists_stay_fast_while_others_send_large_policies() -> Result<()> {
    on_node("large-policies", "", |node| {
        let list = |node: &Node| -> Result<Duration> {
            let mut times = Vec::new();
            for _ in 0..9 {
                let begun = Instant::now();
                node.ctl_as(NOBODY, ["list"])?.expect(0)?;
                times.push(begun.elapsed());
            }
            times.sort();
            Ok(times[times.len() / 2])
        };
        let mut text = POLICY.to_owned();
        // As many as a policy may have.
        for n in 0..1_024 {
            text.push_str(&format!(
                "[[rule]]\nid = \"r{n}\"\nrationale = \"because of {n}\"\nwhen = {{ signal = \"gpu.temperature\", above = \"90 C\" }}\n\
                 actions = [\"notify\"]\n"
            ));
        }
        let path = node.policy("large", &text)?.display().to_string();
        let alone = list(node)?;
        let checks: Vec<_> = (0..3_u32)
            .map(|n| {
                let loop_ = format!(
                    "while :; do {} policy check --node {path} >/dev/null 2>&1; done",
                    program("failsafectl")?.display()
                );
                let mut command = Command::new("sh");
                command.args(["-c", &loop_]).uid(40_000 + n).gid(40_000 + n).env("FAILSAFE_SOCKET", node.socket());
                Ok(Stopped(command.process_group(0).stdin(Stdio::null()).spawn()?))
            })
            .collect::<Result<_>>()?;
        wait_for("policies are compiled", || Ok(limit(node, "compilations")?["used"].as_u64() > Some(0)))?;
        let among = list(node)?;
        drop(checks);
        println!("list: {alone:?} alone, {among:?} beside three users with policies of {} bytes", text.len());
        ensure!(among < alone * 8, "{alone:?} alone, {among:?}");
        Ok(())
    })
}

/// A shell and all that it started; dropped, they are gone.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_policy_with_many_mistakes_is_refused_in_words() -> Result<()> {
    on_node("many-mistakes", "", |node| {
        let mut text = POLICY.to_owned();
        for n in 0..400 {
            text.push_str(&format!("[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {{ signal = \"gpu.tmp\", above = \"1 C\" }}\nactions = [\"notify\"]\n"));
        }
        with_channel(node, |channel| async move {
            let start =
                v1::StartRequest { policy_toml: text.clone(), policy_file: "f.toml".into(), ..Default::default() };
            let mut runs = v1::run_service_client::RunServiceClient::new(channel.clone());
            let status = runs.start(start).await.err().context("it was taken")?;
            ensure!(status.code() == tonic::Code::InvalidArgument, "{status:?}");
            ensure!(
                status.message().contains("f.toml:7:") && status.message().contains(" more mistakes"),
                "{status:?}"
            );
            let check = v1::CheckRequest { policy_toml: text, policy_file: "f.toml".into() };
            let checked = v1::policy_service_client::PolicyServiceClient::new(channel).check(check).await?.into_inner();
            ensure!(checked.errors.len() == 101 && checked.errors[100] == "and 300 more mistakes", "{checked:?}");
            Ok(())
        })
    })
}

#[test]
fn what_a_policy_quotes_does_not_reach_the_terminal() -> Result<()> {
    on_node("escapes", "", |node| {
        let long = "x".repeat(20_000);
        let text = format!("{POLICY}[[rule]]\nid = \"\u{1b}[2J{long}\" # {long}\nwhat\u{1b}]0;title\u{7} = 1\n");
        let path = node.policy("escapes", &text)?.display().to_string();
        for args in [&["policy", "check", "--offline", &path][..], &["policy", "check", &path]] {
            let output = node.ctl(args)?.expect(1)?;
            ensure!(!output.err.contains('\u{1b}') && !output.err.contains('\u{7}'), "{output:?}");
            ensure!(output.err.lines().all(|line| line.len() < 6_000), "{} bytes", output.err.len());
        }
        Ok(())
    })
}

#[test]
fn a_reserve_is_there_when_descriptors_are_few() -> Result<()> {
    // The daemon of this test has 1,024 descriptors: half of them are for clients, most of those reserved.
    setrlimit(Resource::RLIMIT_NOFILE, 1_024, 1_024)?;
    on_node("descriptors", "", |node| {
        let run = Launch::new("victim", POLICY).start(node, ["sleep", "600"])?;
        let mut crowds = Vec::new();
        for _ in 0..4 {
            crowds.push(Crowd::come(node, NOBODY, &["--idle", "400"])?);
        }
        crowds.iter_mut().try_for_each(|crowd| crowd.got().map(drop))?;
        wait_for("connections are refused", || Ok(limit(node, "connections")?["refused"].as_u64() > Some(0)))?;
        let open = limit(node, "descriptors")?;
        ensure!(open["total"] == 1_024 && open["used"].as_u64() < Some(900) && open["refused"] == 0, "{open}");
        node.ctl(["freeze", run.id(), "-r", "test"])?.expect(0)?;
        run.freezes()
    })
}

/// The rows of the table in `docs/limits.md` that `node status` shows: name, and the first number of each of the three sizes.
fn documented() -> Vec<(String, [Option<u64>; 3])> {
    let number = |cell: &str| {
        let digits: String = cell.trim().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
        // A percentage is a share of a size that differs by table.
        let share = cell.trim()[digits.len()..].starts_with('%');
        digits.trim_end_matches(',').replace(',', "").parse().ok().filter(|_| !share)
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split('|').collect();
        let name = cells.get(5)?.split_once("status `")?.1.split_once('`')?.0;
        Some((name.to_owned(), [number(cells[1]), number(cells[2]), number(cells[3])]))
    };
    include_str!("../../../docs/limits.md").lines().filter_map(row).collect()
}

#[test]
fn the_documented_limits_are_those_that_node_status_shows() -> Result<()> {
    let documented = documented();
    ensure!(documented.len() > 8, "the table of docs/limits.md is not found: {documented:?}");
    on_node("documented-limits", "", |node| {
        let status = node.json(["node", "status"])?;
        let shown = status["limits"].as_array().cloned().unwrap_or_default();
        for (name, [per_user, total, reserve]) in &documented {
            if name == "descriptors" {
                // It depends on the limit of the process.
                continue;
            }
            let begin = name.strip_suffix("TABLE").unwrap_or(name);
            let rows: Vec<&Value> = shown
                .iter()
                .filter(|limit| {
                    limit["name"].as_str().is_some_and(|it| it == begin || begin != name && it.starts_with(begin))
                })
                .collect();
            ensure!(!rows.is_empty(), "docs/limits.md names `{name}`, which `node status` does not show");
            for row in rows {
                // With few descriptors, connections and streams become fewer in proportion.
                let fitted = matches!(name.as_str(), "connections" | "streams");
                for (what, documented) in [("per_user", per_user), ("total", total), ("reserve", reserve)] {
                    let Some(documented) = documented else { continue };
                    let is = row[what].as_u64();
                    let fits = is == Some(*documented) || fitted && is.is_some_and(|is| is <= *documented);
                    ensure!(fits, "`{name}`, {what}: {documented} in docs/limits.md, {row}");
                }
            }
        }
        let undocumented = shown.iter().filter_map(|limit| limit["name"].as_str()).find(|shown| {
            !documented
                .iter()
                .any(|(name, _)| name == shown || name.strip_suffix("TABLE").is_some_and(|n| shown.starts_with(n)))
        });
        ensure!(undocumented.is_none(), "docs/limits.md does not name {undocumented:?}, which `node status` shows");
        Ok(())
    })
}

#[test]
fn a_user_with_too_many_runs_reads_the_name_of_the_limit_and_node_status_counts_the_refusal() -> Result<()> {
    on_node("live-runs", "", |node| {
        let mut runs = Vec::new();
        let names: Vec<String> = (0..64).map(|n| format!("run-of-many-{n}")).collect();
        for name in &names {
            runs.push(Launch::new(name, POLICY).called_by(NOBODY).start(node, ["sleep", "600"])?);
        }
        let before = limit(node, "live-runs")?;
        ensure!(before["most_uid"] == NOBODY && before["most_used"] == 64 && before["refused"] == 0, "{before}");
        let policy = node.policy("one-more", POLICY)?;
        let refused = node.ctl_as(NOBODY, ["run", "--policy", &policy.display().to_string(), "--", "true"])?;
        ensure!(refused.code != 0 && refused.err.contains("limit `live-runs`"), "{}", refused.err);
        let after = limit(node, "live-runs")?;
        ensure!(after["refused"] == 1 && after["used"] == 64, "{after}");
        let log = limit(node, "audit-log")?;
        ensure!(log["most_uid"] == NOBODY && log["most_used"].as_u64() >= Some(1), "{log}");
        Ok(())
    })
}

/// The quotas of a user, by limit: what is used, and the most.
fn quotas(usage: &Value, uid: u32) -> Vec<(String, u64, u64)> {
    let users = usage["users"].as_array().cloned().unwrap_or_default();
    let own = users.into_iter().find(|user| user["uid"] == uid);
    let quotas = own.and_then(|own| own["quotas"].as_array().cloned()).unwrap_or_default();
    let number = |quota: &Value, key: &str| quota[key].as_u64().unwrap_or(u64::MAX);
    let name = |quota: &Value| quota["limit"].as_str().unwrap_or_default().to_owned();
    quotas.iter().map(|quota| (name(quota), number(quota, "used"), number(quota, "most"))).collect()
}

#[test]
fn root_sees_what_each_user_uses_and_a_user_sees_the_own_quotas_only() -> Result<()> {
    const OTHER: u32 = 40_000;
    on_node("node-usage", "", |node| {
        let mut runs = Vec::new();
        for (name, uid) in [("first", NOBODY), ("second", NOBODY), ("third", OTHER)] {
            runs.push(Launch::new(name, POLICY).called_by(uid).start(node, ["sleep", "600"])?);
        }
        let has = |usage: &Value, uid, runs| quotas(usage, uid).contains(&("live-runs".to_owned(), runs, 64));
        for command in [["node", "usage"], ["node", "status"]] {
            let all = node.json(command)?;
            ensure!(has(&all, NOBODY, 2) && has(&all, OTHER, 1), "{command:?}: {all}");
            let logged = quotas(&all, NOBODY).into_iter().find(|(name, ..)| name == "audit-log");
            ensure!(logged.is_some_and(|(_, used, most)| used >= 1 && most == 64), "{all}");
        }
        let own = node.ctl_as(OTHER, ["node", "usage", "-o", "json"])?.expect(0)?.json()?;
        ensure!(own["users"].as_array().is_some_and(|users| users.len() == 1), "{own}");
        ensure!(has(&own, OTHER, 1), "{own}");
        // The request itself is one of the user's, and what is not used is shown as well.
        let of = |name: &str| quotas(&own, OTHER).into_iter().find(|(limit, ..)| limit == name);
        ensure!(of("requests").is_some_and(|(_, used, most)| used >= 1 && most == 64), "{own}");
        ensure!(of("streams").is_some_and(|(_, used, most)| used == 0 && most == 32), "{own}");
        let page = node.ctl_as(OTHER, ["node", "usage"])?.expect(0)?.out;
        ensure!(page.contains("live-runs") && !page.contains(&NOBODY.to_string()), "{page}");
        node.ctl_as(OTHER, ["node", "status"])?.expect(4).map(drop)
    })
}
