//! Drills: the node stops a run of its own on the real kernel, and says so where it cannot.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, on_node, wait_for, wait_for_some};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{fs, io::ErrorKind, path::PathBuf};

/// Bounds nothing.
const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

fn drill(node: &Node, code: i32) -> Result<Value> {
    node.ctl(["drill", "now", "--reason", "test", "-o", "json"])?.expect(code)?.json()
}

/// The codes of the reasons of the node's health.
fn reasons(node: &Node) -> Result<Vec<String>> {
    let health = node.ctl(["node", "health", "-o", "json"])?.json()?;
    let reasons = health["node"]["reasons"].as_array().with_context(|| health.to_string())?;
    Ok(reasons.iter().filter_map(|reason| Some(reason["code"].as_str()?.to_owned())).collect())
}

fn runs_of_drills(node: &Node) -> Result<usize> {
    let runs = node.json(["list"])?;
    let runs = runs.as_array().with_context(|| runs.to_string())?;
    Ok(runs.iter().filter(|run| run["labels"]["failsafe.drill"] == "true").count())
}

fn is_result(entry: &Value, result: &str) -> bool {
    entry["kind"] == "drill" && entry["body"]["result"] == result
}

#[test]
fn a_drill_latches_freezes_thaws_and_kills_a_run_of_its_own_and_no_other() -> Result<()> {
    on_node("drill", "", |node| {
        let run = Launch::new("bystander", POLICY).start(node, ["sleep", "600"])?;
        let unproved = node.json(["doctor"])?;
        let checks = unproved["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == "drill").context("no check of drills")?;
        ensure!(check["state"] == "not-proved", "nothing was proved yet: {check}");
        let result = drill(node, 0)?;
        ensure!(result["result"] == "proved" && result["problem"] == "", "{result}");
        ensure!(result["stopped_in_ns"].as_u64() > Some(0), "{result}");
        let steps = result["steps"].as_array().context("no steps")?;
        let steps: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
        ensure!(steps == ["start", "stop", "still", "thaw", "kill", "end"], "{result}");

        let id = result["run_id"].as_str().context("no run")?;
        let ended = node.run(id)?;
        ensure!(ended["state"] == "ended" && ended["labels"]["failsafe.drill"] == "true", "{ended}");
        ensure!(runs_of_drills(node)? == 0);
        let cgroup = node.mount().join(ended["cgroup"].as_str().unwrap_or_default());
        ensure!(!cgroup.exists(), "{}", cgroup.display());
        // As any run: the decision is the rule's, the commands are on record, and the recording replays.
        let events = node.events_of(id)?;
        let rule = events.iter().find(|e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "drill");
        ensure!(rule.is_some_and(|e| e["body"]["drill"] == true), "{events:?}");
        let commands: Vec<&Value> =
            events.iter().filter(|e| e["kind"] == "control").map(|e| &e["body"]["command"]).collect();
        ensure!(commands == ["thaw", "kill"], "{commands:?}");
        ensure!(events.iter().any(|e| is_result(e, "proved")), "{events:?}");
        ensure!(node.ctl(["replay", id])?.expect(0)?.out.contains("identical"));

        let status = node.json(["node", "status"])?;
        ensure!(status["drill"]["proved"]["name"] == result["name"] && status["runs"] == 1, "{status}");
        let doctor = node.ctl(["doctor"])?.out;
        ensure!(doctor.contains("the last stop was proved 0 min ago"), "{doctor}");
        ensure!(node.run(run.name())?["state"] == "running");
        ensure!(!reasons(node)?.iter().any(|code| code.starts_with("drill")));
        node.log_is_whole()
    })
}

#[test]
fn a_drill_in_observe_mode_proves_nothing_and_is_no_success() -> Result<()> {
    on_node("drillobserve", "mode = \"observe\"\n", |node| {
        let result = drill(node, 3)?;
        ensure!(result["result"] == "unproved", "{result}");
        ensure!(result["problem"].as_str().is_some_and(|why| why.contains("the node observes")), "{result}");
        ensure!(result["run_id"] == "" && node.json(["drill", "status"])?["proved"].is_null(), "{result}");
        node.wait_for_event("the result", |e| is_result(e, "unproved")).map(|_| ())
    })
}

#[test]
fn a_failed_drill_degrades_the_node_until_one_proves_a_stop() -> Result<()> {
    on_node("drillfails", "", |node| {
        // No run can be made: the kernel allows no cgroup below the parent of runs.
        fs::create_dir_all(node.cgroup())?;
        let most = node.cgroup().join("cgroup.max.descendants");
        fs::write(&most, "0")?;
        let result = drill(node, 1)?;
        ensure!(result["result"] == "failed" && result["failed_step"] == "start", "{result}");
        wait_for("the node is degraded", || Ok(reasons(node)?.contains(&"drill-failed".to_owned())))?;
        ensure!(node.ctl(["doctor"])?.out.contains("failed at step start"));
        fs::write(&most, "max")?;
        ensure!(drill(node, 0)?["result"] == "proved");
        wait_for("the node is well again", || Ok(!reasons(node)?.contains(&"drill-failed".to_owned())))
    })
}

#[test]
fn a_drill_that_a_crash_cut_short_is_counted_as_failed_and_leaves_no_run() -> Result<()> {
    on_node("drillcrash", "", |node| {
        // The daemon is stopped while it drills. Where it was done already, there is another try.
        let mut name = None;
        for _ in 0..20 {
            let mut asking = node.ctl_command(["drill", "now"]).spawn()?;
            let caught = wait_for_some("a process is in the run of a drill, or the drill is over", || {
                Ok(if is_populated(node)? { Some(true) } else { asking.try_wait()?.map(|_| false) })
            })?;
            let daemon = Pid::from_raw(node.pid()?);
            kill(daemon, Signal::SIGSTOP)?;
            // It stands still now: what is seen lasts until it is killed.
            if caught && is_populated(node)? {
                name = begun(node)?;
            }
            if name.is_some() {
                node.kill9()?;
                asking.wait()?;
                break;
            }
            kill(daemon, Signal::SIGCONT)?;
            asking.wait()?;
        }
        let name = name.context("no drill was cut short in 20 tries")?;
        node.restart()?;
        let entry = node.wait_for_event("the result", |e| is_result(e, "failed") && e["body"]["name"] == *name)?;
        ensure!(entry["body"]["problem"] == "the daemon ended during the drill", "{entry}");
        wait_for("nothing is left of it", || Ok(runs_of_drills(node)? == 0 && cgroups(node)?.is_empty()))?;
        wait_for("the node is degraded", || Ok(reasons(node)?.contains(&"drill-failed".to_owned())))?;
        ensure!(drill(node, 0)?["result"] == "proved");
        node.log_is_whole()
    })
}

#[test]
fn a_drill_that_an_orderly_stop_cut_short_is_not_done_and_has_not_failed() -> Result<()> {
    on_node("drillstop", "", |node| {
        // Where the drill was done before the daemon stopped, there is another try.
        for _ in 0..20 {
            let mut asking = node.ctl_command(["drill", "now"]).spawn()?;
            wait_for_some("a process is in the run of a drill, or the drill is over", || {
                Ok(if is_populated(node)? { Some(()) } else { asking.try_wait()?.map(drop) })
            })?;
            node.stop()?;
            asking.wait()?;
            node.restart()?;
            let status = node.json(["drill", "status"])?;
            ensure!(status["failed"].is_null(), "{status}");
            if status["last"]["result"] == "proved" {
                continue;
            }
            ensure!(status["last"]["result"] == "not-done", "{status}");
            let why = status["last"]["problem"].as_str().unwrap_or_default();
            ensure!(why.starts_with("the daemon was stopped during step "), "{status}");
            wait_for("nothing is left of it", || Ok(runs_of_drills(node)? == 0 && cgroups(node)?.is_empty()))?;
            ensure!(drill(node, 0)?["result"] == "proved");
            return node.log_is_whole();
        }
        anyhow::bail!("no drill was cut short in 20 tries")
    })
}

/// The cgroups of runs.
fn cgroups(node: &Node) -> Result<Vec<PathBuf>> {
    let folders = match fs::read_dir(node.cgroup()) {
        Ok(folders) => folders,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let folders = folders.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("run-"));
    Ok(folders.map(|entry| entry.path()).collect())
}

/// Whether a process is in one.
fn is_populated(node: &Node) -> Result<bool> {
    let events = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
    Ok(cgroups(node)?.iter().any(|folder| events(folder).contains("populated 1")))
}

/// The name of the drill that is being done, as the daemon keeps it.
fn begun(node: &Node) -> Result<Option<String>> {
    let known: Value = serde_json::from_slice(&fs::read(node.state_dir().join("drill.json"))?)?;
    Ok(known["under"]["name"].as_str().map(str::to_owned))
}

#[test]
fn a_scheduled_drill_is_done_when_it_is_due() -> Result<()> {
    on_node("drillschedule", "[drill]\nevery = \"30d\"\n", |node| {
        node.stop()?;
        // The schedule was turned on long ago.
        fs::write(node.state_dir().join("drill.json"), "{\"since_ns\": 1}")?;
        node.restart()?;
        let entry = node.wait_for_event("the result", |e| is_result(e, "proved"))?;
        ensure!(entry["body"]["actor"]["schedule"]["name"] == "drill", "{entry}");
        let state = node.json(["drill", "status"])?;
        ensure!(state["every_ms"] == 30 * 86_400_000_u64 && state["overdue"] == false, "{state}");
        Ok(())
    })
}

#[test]
fn drills_are_for_administrators_and_their_names_for_nobody() -> Result<()> {
    on_node("drillnames", "", |node| {
        let output = node.ctl_as(65_534, ["drill", "now"])?;
        ensure!(output.code == 4 && output.err.contains("drill"), "{}", output.err);
        let policy = node.policy("p", POLICY)?;
        let policy = policy.to_string_lossy();
        for (flag, value, why) in [
            ("--name", "failsafe-drill-1", "names that begin with `failsafe-drill-` are those of drills"),
            ("--name", "FAILSAFE-DRILL-1", "are those of drills"),
            ("--label", "failsafe.drill=true", "are the daemon's"),
        ] {
            let output = node.ctl(["run", "--policy", &*policy, "--user", "root", flag, value, "--", "true"])?;
            ensure!(output.code != 0 && output.err.contains(why), "{flag} {value}: {}", output.err);
        }
        Ok(())
    })
}
