//! Orders and commands of the state folder count only as far as the audit log has them.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, on_node, sentinel, wait_for};
use serde_json::Value;
use std::fs;

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

/// Waits until the health of the node has this reason with this text.
fn health_says(node: &Node, code: &str, text: &str) -> Result<()> {
    let health = || Ok::<_, anyhow::Error>(node.ctl(["node", "health", "-o", "json"])?.out);
    wait_for(&format!("the health of the node has {code}"), || {
        let health = health()?;
        Ok(health.contains(code) && health.contains(text))
    })
    .with_context(|| health().unwrap_or_default())
}

fn mode(node: &Node) -> Result<Value> {
    Ok(node.json(["mode", "show"])?["mode"].clone())
}

#[test]
fn an_order_to_observe_that_somebody_wrote_into_the_state_folder_does_not_count() -> Result<()> {
    on_node("forged-mode", "", |node| {
        let file = node.state_dir().join("mode.json");
        let set = node.json(["mode", "observe", "--for", "1h", "--reason", "a test"])?;
        ensure!(set["mode"] == "observe", "{set}");
        let given = fs::read(&file)?;
        node.kill9()?;
        node.restart()?;
        ensure!(mode(node)? == "observe", "the order survives a restart");
        // One that lasts longer than what was ordered.
        let mut forged: Value = serde_json::from_slice(&given)?;
        let until = forged["until_ns"].as_i64().context("no end")?;
        forged["until_ns"] = (until + 3_600_000_000_000).into();
        forged["until_boot_ns"] = Value::Null;
        node.kill9()?;
        fs::write(&file, forged.to_string())?;
        node.restart()?;
        ensure!(mode(node)? == "enforce", "{}", mode(node)?);
        health_says(node, "state-changed", "not in force by the audit log")?;
        let text = "mode.json had an order to observe that is not in force by the audit log";
        node.wait_for_event("the forged order is on record", |entry| {
            entry["body"]["type"] == "mode" && entry["body"]["reason"].as_str().is_some_and(|why| why.contains(text))
        })?;
        // The one that was given has ended by that.
        node.kill9()?;
        fs::write(&file, &given)?;
        node.restart()?;
        ensure!(mode(node)? == "enforce", "{}", mode(node)?);
        wait_for("the file is removed", || Ok(!file.exists()))?;
        // Without the log, nothing is taken on trust.
        node.kill9()?;
        fs::write(&file, &given)?;
        fs::remove_dir_all(node.state_dir().join("audit"))?;
        node.restart()?;
        ensure!(mode(node)? == "enforce", "{}", mode(node)?);
        node.log_is_continued()
    })
}

#[test]
fn a_command_that_somebody_wrote_into_the_state_folder_is_not_started_again() -> Result<()> {
    on_node("forged-start", "", |node| {
        let end = sentinel(node, "end")?;
        let script = format!("while ! grep -q end {}; do sleep 0.05; done", end.display());
        let mut run = Launch::new("job", PLAIN).start(node, ["sh", "-c", &script])?;
        let folder = node.state_dir().join("runs").join(run.id());
        wait_for("the factors of the run were read", || Ok(folder.join("factors.json").exists()))?;
        fs::write(&end, "end")?;
        run.ends()?;
        let id = run.id().to_owned();
        node.wait_for_event("the run's end", |e| e["body"]["type"] == "run-ended" && e["run"] == id.as_str())?;
        node.ctl(["rerun", "job", "--from", "start", "--inherit", "--print"])?.expect(0)?;
        let (file, text) = (folder.join("start.json"), fs::read_to_string(folder.join("start.json"))?);
        let seen = sentinel(node, "seen")?;
        fs::write(&file, text.replace("while ! grep", &format!("echo x > {}; while ! grep", seen.display())))?;
        for more in [&["--print"][..], &[], &["--accept-differences", "x"]] {
            let rerun = ["rerun", "job", "--from", "start", "--inherit"];
            let refused = node.ctl(rerun.iter().chain(more).copied())?;
            ensure!(refused.err.contains("start.json is not as the audit log has it"), "{}", refused.err);
        }
        ensure!(fs::read_to_string(&seen)?.is_empty(), "the forged command was executed");
        health_says(node, "state-changed", "start.json")?;
        fs::write(&file, text)?;
        node.ctl(["rerun", "job", "--from", "start", "--inherit"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn a_state_folder_that_is_moved_away_while_the_daemon_runs_is_reported_until_it_is_back() -> Result<()> {
    on_node("moved-state", "", |node| {
        let run = Launch::new("job", PLAIN).start(node, ["sleep", "600"])?;
        let away = node.file("state-away");
        fs::rename(node.state_dir(), &away)?;
        health_says(node, "state-missing", "was removed, moved or replaced while failsafed runs")?;
        ensure!(node.ctl(["doctor"])?.out.contains("state-missing"), "{}", node.ctl(["doctor"])?.out);
        node.ctl(["freeze", "job", "--reason", "a test"])?.expect(0)?;
        fs::rename(&away, node.state_dir())?;
        wait_for("the health of the node is as before", || {
            Ok(!node.ctl(["node", "health", "-o", "json"])?.out.contains("state-missing"))
        })?;
        drop(run);
        node.log_is_whole()
    })
}

#[test]
fn a_file_of_the_state_folder_that_is_removed_between_two_daemons_is_reported_once() -> Result<()> {
    on_node("removed-file", "", |node| {
        node.wait_for_event("the files are on record", |entry| {
            entry["body"]["type"] == "state-files" && entry["body"]["names"].to_string().contains("signing-keys")
        })?;
        node.kill9()?;
        fs::remove_file(node.state_dir().join("signing-keys"))?;
        node.restart()?;
        health_says(node, "state-changed", "an earlier daemon had: signing-keys")?;
        node.wait_for_event("it is in the entry of the start", |entry| {
            entry["body"]["type"] == "daemon-started" && entry["body"]["blind"].to_string().contains("signing-keys")
        })?;
        node.ctl(["node", "reset-health", "--reason", "a test"])?.expect(0)?;
        node.kill9()?;
        node.restart()?;
        let health = node.ctl(["node", "health", "-o", "json"])?.out;
        ensure!(!health.contains("signing-keys"), "{health}");
        Ok(())
    })
}
