//! Drift: what changes about a run while it lives is in the log with both values, and trips rules.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, Started, on_node, wait_for};
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

/// Every run is read as often as possible.
const OFTEN: &str = "[drift]\nperiod_s = 1\ncpu_percent = 100.0\n";
const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const PYTHON: &str = "/usr/bin/python3";
const LIBRARY: &str = "libbz2.so.1.0";

/// Loads a library once the file `go` is there.
fn loads_later(node: &Node, name: &str, policy: &str) -> Result<Option<(Started, PathBuf)>> {
    if !std::path::Path::new(PYTHON).exists() {
        integration::skip("/usr/bin/python3 is not installed");
        return Ok(None);
    }
    let go = node.file(&format!("{name}.go"));
    let code = format!(
        "import ctypes,os,time\nwhile not os.path.exists({go:?}): time.sleep(0.05)\nctypes.CDLL('{LIBRARY}')\ntime.sleep(600)"
    );
    let run = Launch::new(name, policy).user("root").start(node, [PYTHON, "-c", &code])?;
    Ok(Some((run, go)))
}

/// Waits until the first reading of a run is kept.
fn is_known(node: &Node, run: &Started) -> Result<()> {
    let path = node.state_dir().join("runs").join(run.id()).join("factors.json");
    wait_for("the first reading of the run is kept", || {
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        Ok(kept.is_some_and(|kept| kept["first_ns"].as_i64() > Some(0)))
    })
}

fn changes(entry: &Value) -> Vec<(String, Value, Value)> {
    let list = entry["body"]["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|one| (one["path"].as_str().unwrap_or_default().to_owned(), one["old"].clone(), one["new"].clone()))
        .collect()
}

#[test]
fn a_library_that_is_loaded_later_is_in_the_log_with_both_values_and_a_rule_freezes_the_run() -> Result<()> {
    on_node("drift-library", OFTEN, |node| {
        let policy = format!(
            "{PLAIN}[[rule]]\nid = \"other-library\"\nrationale = \"results are compared\"\n\
             when = {{ event = \"drift\", path = \"run/library/*\", class = \"result\" }}\nactions = [\"freeze\", \"notify\"]\n"
        );
        let Some((run, go)) = loads_later(node, "loads", &policy)? else { return Ok(()) };
        is_known(node, &run)?;
        fs::write(&go, "")?;
        let path = format!("run/library/{LIBRARY}");
        let entry = node.wait_for_event("the drift", |e| {
            e["kind"] == "drift" && changes(e).iter().any(|(changed, ..)| changed.starts_with(&path))
        })?;
        let all = changes(&entry);
        let (_, old, new) = all.iter().find(|(changed, ..)| changed.starts_with(&path)).context("no such change")?;
        ensure!(old.is_null() && new.as_str().is_some_and(|id| id.contains(':')), "{entry}");
        ensure!(entry["body"]["since"] == "Earlier" && entry["run"] == run.id(), "{entry}");
        run.freezes()?;
        let decision = node.wait_for_event("the decision", |e| e["kind"] == "decision")?;
        ensure!(decision["body"]["decision"]["cause"]["Rule"]["rule"] == "other-library", "{decision}");
        let shown = node.ctl(["events", "--run", "loads"])?.expect(0)?;
        ensure!(shown.out.contains(&path) && shown.out.contains("absent -> "), "{shown:?}");
        node.ctl(["kill", "loads", "--reason", "done"])?.expect(0)?;
        wait_for("it ended", || Ok(node.run("loads")?["state"] == "ended"))?;
        node.ctl(["replay", "loads"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn what_changed_while_no_daemon_ran_is_found_by_the_next_one() -> Result<()> {
    on_node("drift-restart", OFTEN, |node| {
        let Some((run, go)) = loads_later(node, "loads", PLAIN)? else { return Ok(()) };
        is_known(node, &run)?;
        node.kill9()?;
        fs::write(&go, "")?;
        let maps = format!("/proc/{}/maps", run.pid());
        wait_for("the library is loaded", || Ok(fs::read_to_string(&maps)?.contains(LIBRARY)))?;
        node.restart()?;
        let path = format!("run/library/{LIBRARY}");
        node.wait_for_event("the drift", |e| {
            e["kind"] == "drift" && changes(e).iter().any(|(changed, old, _)| changed.starts_with(&path) && old.is_null())
        })?;
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_is_pinned_to_one_processor_differs_in_that_alone() -> Result<()> {
    on_node("drift-affinity", OFTEN, |node| {
        let run = Launch::new("pinned", PLAIN).start(node, ["sleep", "600"])?;
        is_known(node, &run)?;
        if std::thread::available_parallelism()?.get() < 2 {
            integration::skip("the machine has one processor");
            return Ok(());
        }
        let status = Command::new("taskset").args(["-pc", "0", &run.pid().to_string()]).output()?.status;
        ensure!(status.success(), "taskset failed: {status}");
        let entry = node.wait_for_event("the drift", |e| e["kind"] == "drift")?;
        let all = changes(&entry);
        let paths: Vec<&str> = all.iter().map(|(path, ..)| path.as_str()).collect();
        ensure!(paths == ["run/cpu/count", "run/cpu/list"], "{entry}");
        ensure!(all[0].2 == "1" && all[1].2 == "0", "{entry}");
        node.log_is_whole()
    })
}
