//! What is kept: the log as it grows, recordings, and their replay to the same decisions.

use anyhow::{Context, Result, ensure};
use integration::{Launch, on_node, program, wait_for};
use std::fs;

const DENY: &str = r#"
[policy]
name = "deny-all"
owner = "tests"

[egress]
allow = []

[[rule]]
id = "out"
rationale = "nothing leaves"
when = { event = "connect", verdict = "denied" }
actions = ["freeze", "snapshot", "notify"]

[[rule]]
id = "crowd"
rationale = "never so many"
when = { signal = "process.count", above = 1000 }
actions = ["freeze"]
"#;

#[test]
fn a_recorded_run_replays_to_the_same_decisions_and_to_others_under_another_policy() -> Result<()> {
    on_node("replay", "", |node| {
        let sender = program("sender")?.display().to_string();
        let command = [&sender, "--to", "127.0.0.7:9", "--how", "tcp", "--count", "1000000", "--pause-ms", "20"];
        let mut run = Launch::new("recorded", DENY).start(node, command)?;
        run.freezes()?;
        // It tries again at once: whether the thaw is proved before the rule trips again is a matter of microseconds.
        let thawed = node.ctl(["thaw", "recorded", "--reason", "once more"])?;
        ensure!(thawed.code == 0 || (thawed.code == 3 && thawed.out.contains("later decision")), "{thawed:?}");
        wait_for("two decisions of the rule", || {
            let events = node.events()?;
            Ok(events.iter().filter(|e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "out").count() == 2)
        })?;
        run.freezes()?;
        let live = node.ctl(["replay", "recorded"])?.expect(0)?.out;
        ensure!(live.contains("identical"), "{live}");
        node.ctl(["kill", "recorded", "--reason", "enough"])?.expect(0)?;
        run.ends()?;
        wait_for("it has ended", || Ok(node.run("recorded")?["state"] == "ended"))?;

        let replayed = node.json(["replay", "recorded"])?;
        let decisions = replayed["recorded"].as_array().context("decisions")?.len();
        ensure!(replayed["identical"] == true && replayed["recording_end"] == "finished", "{replayed}");
        let audit = &replayed["audit_log"];
        ensure!(audit["same_hash"] == true && audit["same_decisions"] == decisions, "{audit}");
        let logged = node.events()?.iter().filter(|e| e["kind"] == "decision").count();
        ensure!(decisions == logged && decisions >= 4, "{decisions} decisions recorded, {logged} in the log");

        let observe =
            DENY.replace("when = { event", "mode = \"observe\"\nwhen = { event").replace("deny-all", "look-on");
        let other = node.policy("other", &observe)?.display().to_string();
        let changed = node.ctl(["replay", "recorded", "--policy", &other])?;
        ensure!(
            changed.code == 1 && changed.out.contains("other decisions") && changed.out.contains("would"),
            "{changed:?}"
        );

        let file = node.file("recorded.fsrec").display().to_string();
        node.ctl(["export", "recorded", "--output", &file])?.expect(0)?;
        node.stop()?;
        let away = node.ctl(["replay", &file])?.expect(0)?.out;
        ensure!(away.contains("identical") && away.contains("the same hash"), "{away}");
        // A byte changed in it does not go unseen.
        let mut bytes = fs::read(&file)?;
        let at = bytes.len() * 2 / 3;
        bytes[at] ^= 0x20;
        fs::write(&file, bytes)?;
        ensure!(node.ctl(["replay", &file])?.code != 0, "a damaged recording replays as if it were whole");
        node.log_is_whole()
    })
}

#[test]
fn the_log_is_followed_as_it_grows() -> Result<()> {
    on_node("follow", "", |node| {
        let out = node.file("followed");
        let mut follower =
            node.ctl_command(["events", "--follow", "-o", "json"]).stdout(fs::File::create(&out)?).spawn()?;
        let done = (|| {
            let read = || -> Result<String> { Ok(fs::read_to_string(&out)?) };
            wait_for("the follower has what was there", || Ok(read()?.contains("daemon-started")))?;
            let run =
                Launch::new("followed", "[policy]\nname = \"p\"\nowner = \"o\"\n").start(node, ["sleep", "600"])?;
            wait_for("it sees the run begin", || Ok(read()?.contains(run.id())))?;
            node.ctl(["freeze", "followed", "--reason", "seen live"])?.expect(0)?;
            wait_for("it sees the freeze", || {
                Ok(read()?.contains("seen live") && read()?.contains("\"verdict\":\"proved\""))
            })?;
            let whole = node.ctl(["events", "-o", "json"])?.expect(0)?.out;
            wait_for("it has all of the log", || Ok(read()? == whole))
        })();
        let _ = follower.kill();
        follower.wait()?;
        done
    })
}

#[test]
fn the_log_is_read_without_a_daemon() -> Result<()> {
    on_node("offline", "", |node| {
        let run = Launch::new("frozen", DENY).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "frozen", "--reason", "to be read later"])?.expect(0)?;
        let live = node.ctl(["events", "-o", "json"])?.expect(0)?.out;
        node.kill9()?;
        let offline = node.ctl(["events", "--offline", "-o", "json"])?.expect(0)?.out;
        ensure!(offline.starts_with(&live), "the file has something else than the daemon told");
        let page = node.ctl(["explain", "--offline", "frozen"])?.expect(0)?.out;
        ensure!(page.contains("to be read later") && page.contains(run.id()), "{page}");
        let silent = node.ctl(["list"])?.expect(13)?;
        ensure!(silent.err.contains("systemctl start failsafed"), "no advice: {}", silent.err);
        node.log_is_whole()
    })
}

#[test]
fn dry_runs_change_nothing_and_say_what_they_would_not_reach() -> Result<()> {
    on_node("dry-run", "", |node| {
        let run = Launch::new("dry", DENY).start(node, ["sleep", "600"])?;
        let entries = node.events()?.len();
        for command in ["freeze", "kill", "thaw"] {
            let output = node.json([command, "dry", "--dry-run"])?;
            ensure!(
                output["verdict"] == "dry_run" && output["processes"][0]["pid"] == run.pid(),
                "{command}: {output}"
            );
            ensure!(command == "thaw" || !output["known_leaks"].to_string().eq("[]"), "{command}: {output}");
        }
        ensure!(!integration::frozen(run.cgroup())?, "a rehearsal froze the run");
        node.ctl(["freeze", "dry"])?.expect(2)?;
        // The log keeps the order of requests: entries of a rehearsal would stand before those of this freeze.
        node.ctl(["freeze", "dry", "--reason", "after"])?.expect(0)?;
        let after = node.events()?.split_off(entries);
        ensure!(after[0]["kind"] == "control" && after[0]["body"]["reason"] == "after", "{}", after[0]);
        let decisions = after.iter().filter(|entry| entry["kind"] == "decision").count();
        ensure!(decisions == 1, "{decisions} decisions and one request");
        Ok(())
    })
}

#[test]
fn events_are_filtered_by_the_daemon_as_from_the_files() -> Result<()> {
    on_node("filters", "", |node| {
        let _run = Launch::new("filtered", DENY).start(node, ["sleep", "600"])?;
        for reason in ["one", "two", "three"] {
            node.ctl(["freeze", "filtered", "--reason", reason])?.expect(0)?;
            node.ctl(["thaw", "filtered", "--reason", reason])?.expect(0)?;
        }
        // Statements of the start and of the three incidents are recorded when they are made: the log grows until then.
        wait_for("the statements are on record", || {
            Ok(node.events()?.iter().filter(|entry| entry["kind"] == "statement").count() == 4)
        })?;
        let all = node.ctl(["events", "-o", "json"])?.expect(0)?.out;
        let lines = |out: &str| out.lines().map(str::to_owned).collect::<Vec<_>>();
        let all = lines(&all);
        let filters: [&[&str]; 5] = [
            &["--tail", "3"],
            &["--kind", "control", "--tail", "2"],
            &["--since", "1h", "--kind", "decision,outcome"],
            &["--until", "1h"],
            &["--run", "filtered", "--tail", "1"],
        ];
        for filter in filters {
            let with = |more: &[&str]| -> Result<Vec<String>> {
                let args: Vec<&str> = [&["events", "-o", "json"], filter, more].concat();
                Ok(lines(&node.ctl(args)?.expect(0)?.out))
            };
            let (live, offline) = (with(&[])?, with(&["--offline"])?);
            ensure!(live == offline, "{filter:?}: the daemon answers otherwise than the files: {live:?} {offline:?}");
            ensure!(live.iter().all(|line| all.contains(line)), "{filter:?}: {live:?}");
            let expected = match filter {
                ["--tail", "3"] => all[all.len() - 3..].to_vec(),
                ["--kind", "control", ..] => {
                    let controls = all.iter().filter(|line| line.contains("\"kind\":\"control\""));
                    controls.skip(4).cloned().collect()
                }
                ["--until", ..] => Vec::new(),
                _ => live.clone(),
            };
            ensure!(live == expected && (filter[0] == "--until") == live.is_empty(), "{filter:?}: {live:?}");
        }
        node.ctl(["events", "--since", "soon"])?.expect(2)?;
        Ok(())
    })
}

#[test]
fn a_log_that_was_replaced_while_no_daemon_ran_is_reported() -> Result<()> {
    on_node("swapped", "", |node| {
        let log = node.state_dir().join("audit/audit.log");
        let older = fs::read(&log)?;
        let _run = Launch::new("unseen", DENY).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "unseen", "--reason", "to be hidden"])?.expect(0)?;
        node.kill9()?;
        fs::write(&log, older)?;
        let verified = node.ctl(["log", "verify"])?;
        ensure!(verified.code == 1 && verified.out.contains("SHORTENED OR REPLACED"), "{verified:?}");
        node.restart()?;
        let finding = |text: &str| text.contains("not the one that was written last");
        ensure!(finding(&node.ctl(["doctor"])?.out), "doctor shows nothing");
        wait_for("the health of the node shows it", || Ok(finding(&node.ctl(["node", "health"])?.out)))?;
        let events = node.events()?;
        let at = events.iter().position(|e| e["body"]["cause"] == "integrity").context("no entry about it")?;
        ensure!(events[at + 1]["body"]["type"] == "daemon-started", "it is not the first new entry: {events:?}");
        node.log_is_continued()?;
        fs::write(&log, "")?;
        node.ctl(["log", "verify", "--file", &log.display().to_string()])?.expect(1).map(|_| ())
    })
}

#[test]
fn a_log_that_was_rolled_back_behind_its_checkpoint_is_reported_and_the_run_stays_frozen() -> Result<()> {
    on_node("rolled-back", "[audit_log]\ncheckpoint = \"1s\"\nheartbeat = \"1s\"\n", |node| {
        let log = node.state_dir().join("audit/audit.log");
        let older = fs::read(&log)?;
        let run = Launch::new("unseen", DENY).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "unseen", "--reason", "to be hidden"])?.expect(0)?;
        node.wait_for_event("a heartbeat", |event| event["kind"] == "heartbeat")?;
        node.stop()?;
        let path = |name: &str| node.file(name).display().to_string();
        let (checkpoint, proof, keys) = (path("c"), path("p"), path("keys"));
        let first = node.ctl(["log", "checkpoint", "--json"])?.expect(0)?.out;
        node.ctl(["log", "checkpoint", "-o", &checkpoint])?.expect(0)?;
        fs::copy(node.state_dir().join("log.keys"), &keys)?;
        let entries = node.ctl(["events", "--offline", "-o", "json"])?.expect(0)?.out.lines().count();
        for entry in [0, entries / 2, entries - 1] {
            node.ctl(["log", "prove", &entry.to_string(), "-o", &proof, "--force"])?.expect(0)?;
            let proved = node.ctl(["log", "verify-proof", &proof, "--keys", &keys])?.expect(0)?.out;
            ensure!(proved.contains(&format!("proved: entry {entry} is in the log")), "{proved}");
        }
        node.ctl(["log", "verify", "--checkpoint", &checkpoint, "--keys", &keys])?.expect(0)?;

        fs::write(&log, older)?;
        let verified = node.ctl(["log", "verify", "--checkpoint", &checkpoint])?;
        ensure!(verified.code == 1 && verified.out.contains("SHORTENED OR REPLACED"), "{verified:?}");
        node.restart()?;
        let finding = |text: &str| text.contains("rolled back");
        ensure!(finding(&node.ctl(["doctor", "-o", "json"])?.out), "doctor shows nothing");
        wait_for("the health of the node shows it", || Ok(finding(&node.ctl(["node", "health", "-o", "json"])?.out)))?;
        ensure!(integration::frozen(run.cgroup())?, "the run is not frozen any more");
        let gap = |event: &serde_json::Value| finding(&event["body"]["what"].to_string());
        ensure!(node.events()?.iter().any(gap), "no entry about it");
        // It goes on as another log: nobody takes one for the other.
        wait_for("another checkpoint", || {
            let now = node.ctl(["log", "checkpoint", "--json"])?.out;
            let origin =
                |text: &str| Ok::<_, anyhow::Error>(serde_json::from_str::<serde_json::Value>(text)?["origin"].clone());
            Ok(!now.is_empty() && origin(&now)? != origin(&first)?)
        })?;
        node.log_is_continued()?;
        let replayed = node.ctl(["log", "verify", "--checkpoint", &checkpoint])?;
        ensure!(replayed.code == 1, "the log that was signed is another one: {replayed:?}");
        node.log_is_continued()
    })
}

#[test]
fn a_deleted_checkpoint_of_a_short_log_is_reported() -> Result<()> {
    on_node("unsigned", "[audit_log]\ncheckpoint = \"1s\"\nheartbeat = \"1s\"\n", |node| {
        node.wait_for_event("a signed heartbeat", |event| {
            event["kind"] == "heartbeat" && event["body"]["signed"].as_u64() > Some(0)
        })?;
        node.stop()?;
        node.ctl(["log", "verify"])?.expect(0)?;
        fs::remove_file(node.state_dir().join("log.checkpoint"))?;
        let verified = node.ctl(["log", "verify", "-o", "json"])?.expect(1)?.json()?;
        ensure!(verified["verdict"] == "checkpoint-lost", "{verified}");
        node.restart()?;
        let finding = |text: &str| text.contains("log.checkpoint, is missing");
        wait_for("the health of the node shows it", || Ok(finding(&node.ctl(["node", "health", "-o", "json"])?.out)))?;
        node.log_is_continued()
    })
}
