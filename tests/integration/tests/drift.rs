//! Drift: what changes about a run while it lives is in the log with both values, and trips rules.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, Started, on_node, wait_for};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

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
    known(node, run.id())
}

fn known(node: &Node, id: &str) -> Result<()> {
    let path = node.state_dir().join("runs").join(id).join("factors.json");
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
            e["kind"] == "drift"
                && changes(e).iter().any(|(changed, old, _)| changed.starts_with(&path) && old.is_null())
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

/// A start of a lineage that leaves a mark when its command is executed.
fn marks(node: &Node, name: &str, policy: &str, threads: &str) -> Result<(Child, PathBuf)> {
    let (policy, mark) = (node.policy(name, policy)?, node.file(&format!("{name}.mark")));
    let command = "echo executed > \"$MARK\"; exec sleep 600";
    let mut variable = std::ffi::OsString::from("MARK=");
    variable.push(&mark);
    let mut ctl = node.ctl_command(["run", "--no-watch", "--lineage", "bert", "--user", "root", "--name", name]);
    ctl.arg("--policy").arg(policy).args(["--env", &format!("OMP_NUM_THREADS={threads}"), "--env"]).arg(variable);
    ctl.args(["--", "sh", "-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
    ctl.stderr(fs::File::create(node.file(&format!("{name}.err")))?);
    Ok((ctl.spawn().context("starting failsafectl run")?, mark))
}

/// Runs the first of the lineage until its factors are known, and ends it.
fn first(node: &Node, policy: &str) -> Result<()> {
    let (mut child, mark) = marks(node, "first", policy, "1")?;
    wait_for("the first command is executed", || Ok(mark.exists()))?;
    let id = node.run("first")?["id"].as_str().context("no id")?.to_owned();
    known(node, &id)?;
    end(node, "first", &mut child)
}

fn end(node: &Node, name: &str, child: &mut Child) -> Result<()> {
    node.ctl(["kill", name, "--reason", "done"])?.expect(0)?;
    child.wait()?;
    wait_for("it ended", || Ok(node.run(name)?["state"] == "ended"))
}

#[test]
fn a_restart_with_other_threads_is_held_before_its_command_until_an_operator_thaws_it() -> Result<()> {
    on_node("drift-hold", OFTEN, |node| {
        let policy = PLAIN.replace("owner", "on_drift = \"hold\"\nowner");
        first(node, &policy)?;
        let (mut same, mark) = marks(node, "same", &policy, "1")?;
        wait_for("an equal restart is executed", || Ok(mark.exists()))?;
        let id = node.run("same")?["id"].as_str().context("no id")?.to_owned();
        known(node, &id)?;
        // A live run is no predecessor.
        let (mut early, _) = marks(node, "early", &policy, "1")?;
        ensure!(!early.wait()?.success());
        let output = fs::read_to_string(node.file("early.err"))?;
        ensure!(output.contains("still lives"), "{output}");
        end(node, "same", &mut same)?;

        let (mut other, mark) = marks(node, "other", &policy, "2")?;
        wait_for("the restart is frozen", || Ok(node.run("other").is_ok_and(|run| run["state"] == "frozen")))?;
        let output = fs::read_to_string(node.file("other.err"))?;
        ensure!(output.contains("run/env/OMP_NUM_THREADS  1 -> 2  [result]"), "{output}");
        ensure!(output.contains("failsafectl thaw"), "{output}");
        let entry = node.wait_for_event("the drift", |e| e["body"]["since"] == "Predecessor")?;
        ensure!(changes(&entry) == [("run/env/OMP_NUM_THREADS".into(), "1".into(), "2".into())], "{entry}");
        ensure!(entry["body"]["predecessor"] == id.as_str(), "{entry}");
        let decision = node.wait_for_event("the decision", |e| e["kind"] == "decision" && e["run"] == entry["run"])?;
        ensure!(decision["body"]["decision"]["cause"]["Upkeep"]["what"] == "drift", "{decision}");
        ensure!(!mark.exists(), "the command was executed");
        // Whoever thaws it sees why it was held, how it differs, and whom to ask.
        let page = node.ctl(["explain", "other"])?.expect(0)?.out;
        for part in
            ["OMP_NUM_THREADS", "The policy has on_drift = \"hold\"", "owner ", "docs/attestation.md#restart-gate"]
        {
            ensure!(page.contains(part), "{part}: {page}");
        }
        let words = decision["body"]["blind"].as_str().unwrap_or_default();
        ensure!(words.contains("run/env/OMP_NUM_THREADS is 2"), "{decision}");

        // The next daemon holds it too.
        node.kill9()?;
        node.restart()?;
        wait_for("it is frozen still", || Ok(node.run("other").is_ok_and(|run| run["state"] == "frozen")))?;
        ensure!(!mark.exists(), "the command was executed");
        node.ctl(["thaw", "other", "--reason", "two threads are meant"])?.expect(0)?;
        wait_for("the command is executed after the thaw", || Ok(mark.exists()))?;
        end(node, "other", &mut other)?;
        node.log_is_whole()
    })
}

#[test]
fn a_restart_that_was_held_and_killed_is_no_predecessor_and_a_lineage_is_of_one_user() -> Result<()> {
    on_node("drift-killed", OFTEN, |node| {
        let policy = PLAIN.replace("owner", "on_drift = \"hold\"\nowner");
        first(node, &policy)?;
        for name in ["held", "again"] {
            let (mut child, mark) = marks(node, name, &policy, "2")?;
            wait_for("the restart is frozen", || Ok(node.run(name).is_ok_and(|run| run["state"] == "frozen")))?;
            end(node, name, &mut child)?;
            ensure!(!mark.exists(), "the command was executed");
        }
        // Somebody else's lineage of that name is another one.
        let path = node.policy("theirs", &policy)?.display().to_string();
        let args = ["run", "--no-watch", "--lineage", "bert", "--policy", &path, "--", "true"];
        let output = node.ctl_as(integration::NOBODY, args)?.expect(0)?;
        ensure!(!output.err.contains("differs"), "{output:?}");
        node.log_is_whole()
    })
}

#[test]
fn a_restart_under_a_policy_that_notifies_is_executed_and_the_difference_is_in_the_log() -> Result<()> {
    on_node("drift-notify", OFTEN, |node| {
        first(node, PLAIN)?;
        let (mut other, mark) = marks(node, "other", PLAIN, "2")?;
        wait_for("the command is executed", || Ok(mark.exists()))?;
        let output = fs::read_to_string(node.file("other.err"))?;
        ensure!(output.contains("run/env/OMP_NUM_THREADS  1 -> 2  [result]") && !output.contains("thaw"), "{output}");
        node.wait_for_event("the drift", |e| e["body"]["since"] == "Predecessor" && e["kind"] == "drift")?;
        end(node, "other", &mut other)?;
        node.ctl(["replay", "other"])?.expect(0)?;
        node.log_is_whole()
    })
}
