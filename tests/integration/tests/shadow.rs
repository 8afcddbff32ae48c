//! Shadows on the real kernel: a policy that is judged beside the one in force, and does nothing.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, TestCgroup, frozen, on_node, wait_for_some};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

/// Bounds nothing.
const OPEN: &str = "[policy]\nname = \"open\"\nowner = \"o\"\n";

/// Freezes a run that executes a program.
fn strict(name: &str) -> String {
    format!(
        "[policy]\nname = \"{name}\"\nversion = 2\nowner = \"o\"\n\n[[rule]]\nid = \"executes\"\nrationale = \"x\"\n\
         when = {{ event = \"exec\" }}\nactions = [\"freeze\", \"notify\"]\n"
    )
}

/// Executes a program again and again.
const BUSY: [&str; 3] = ["sh", "-c", "while :; do sleep 0.05; done"];

/// The group of the report in which the shadow decided alone.
fn found(node: &Node, args: &[&str]) -> Result<Value> {
    wait_for_some("the shadow decided alone", || {
        let output = node.ctl([&["policy", "shadow", "report", "-o", "json"], args].concat())?;
        let report = output.json()?;
        let groups = report["groups"].as_array().context("no groups")?;
        let alone = |group: &&Value| {
            group["rows"].as_array().is_some_and(|rows| {
                rows.iter().any(|row| row["what"] == "rule executes" && row["only_shadow"].as_u64() > Some(0))
            })
        };
        Ok(groups.iter().find(alone).cloned())
    })
}

fn is_shadow(entry: &Value, ended: bool) -> bool {
    entry["kind"] == "policy" && entry["body"]["type"] == "shadow" && entry["body"]["ended"].is_object() == ended
}

#[test]
fn a_shadow_reports_what_it_would_decide_and_does_nothing() -> Result<()> {
    on_node("shadow", "", |node| {
        let run = Launch::new("job", OPEN).start(node, BUSY)?;
        let policy = node.policy("strict", &strict("strict"))?;
        let policy = policy.to_string_lossy();
        let added = node.json(["policy", "shadow", "add", run.name(), &*policy])?;
        ensure!(added["policy"]["name"] == "strict" && added["by_uid"] == 0, "{added}");
        let group = found(node, &[run.name()])?;
        ensure!(group["complete"] == true && group["differs"] == true && group["live"] == 1, "{group}");
        ensure!(group["rows"][0]["examples"][0]["run_name"] == run.name(), "{group}");
        ensure!(group["enforced"]["name"] == "open", "{group}");
        let text = node.ctl(["policy", "shadow", "report"])?.expect(1)?.out;
        ensure!(text.contains("rule executes") && text.contains("freeze, notify"), "{text}");

        ensure!(node.run(run.name())?["state"] == "running" && !frozen(run.cgroup())?);
        let events = node.events_of(run.id())?;
        ensure!(!events.iter().any(|e| e["kind"] == "decision"), "{events:?}");
        ensure!(events.iter().any(|e| is_shadow(e, false)), "{events:?}");
        ensure!(node.ctl(["replay", run.id()])?.expect(0)?.out.contains("identical"));

        let twice = node.ctl(["policy", "shadow", "add", run.name(), &*policy])?;
        ensure!(twice.code != 0 && twice.err.contains("has this shadow already"), "{}", twice.err);
        let list = node.json(["policy", "shadow", "list"])?;
        ensure!(list.as_array().is_some_and(|all| all.len() == 1 && all[0]["run_id"] == run.id()), "{list}");
        let removed = node.json(["policy", "shadow", "remove", run.name(), "strict"])?;
        ensure!(removed["live"] == 0 && removed["inputs"].as_u64() > Some(0), "{removed}");
        node.wait_for_event("the end of the shadow", |e| is_shadow(e, true))?;
        ensure!(node.json(["policy", "shadow", "list"])?.as_array().is_some_and(Vec::is_empty));
        // What it found stays.
        found(node, &[])?;
        node.log_is_whole()
    })
}

#[test]
fn a_user_adds_shadows_to_own_runs_only_and_sees_only_own_reports() -> Result<()> {
    on_node("shadowuser", "", |node| {
        let of_root = Launch::new("of-root", OPEN).user("root").start(node, BUSY)?;
        let own = Launch::new("own", OPEN).start(node, BUSY)?;
        let policy = node.policy("strict", &strict("strict"))?;
        fs::set_permissions(&policy, Permissions::from_mode(0o644))?;
        let policy = policy.to_string_lossy();
        let add = |uid, run: &str| node.ctl_as(uid, ["policy", "shadow", "add", run, &*policy]);
        let other = add(NOBODY, of_root.id())?;
        ensure!(other.code == 6, "a run of others looks as if it were not there: {}", other.err);
        add(NOBODY, own.id())?.expect(0)?;
        add(0, of_root.id())?.expect(0)?;
        found(node, &[of_root.name()])?;
        let output = node.ctl_as(NOBODY, ["policy", "shadow", "list", "-o", "json"])?.json()?;
        ensure!(output.as_array().is_some_and(|all| all.len() == 1 && all[0]["run_id"] == own.id()), "{output}");
        let report = node.ctl_as(NOBODY, ["policy", "shadow", "report", "-o", "json"])?.json()?;
        let groups = report["groups"].as_array().context("no groups")?;
        ensure!(groups.iter().all(|group| group["by_uid"] == NOBODY), "{report}");
        Ok(())
    })
}

#[test]
fn a_shadow_that_a_user_added_judges_again_after_a_restart_until_it_is_removed() -> Result<()> {
    on_node("shadowkept", "", |node| {
        let run = Launch::new("own", OPEN).start(node, BUSY)?;
        let policy = node.policy("strict", &strict("strict"))?;
        fs::set_permissions(&policy, Permissions::from_mode(0o644))?;
        node.ctl_as(NOBODY, ["policy", "shadow", "add", run.id(), &*policy.to_string_lossy()])?.expect(0)?;
        ensure!(fs::read_dir(node.state_dir().join("shadows"))?.count() == 1);
        let broken = node.state_dir().join("shadows").join(format!("{}-00.json", run.id()));
        fs::write(&broken, "{")?;
        node.kill9()?;
        node.restart()?;
        let group = found(node, &[run.name()])?;
        ensure!(group["by_uid"] == NOBODY && group["live"] == 1, "{group}");
        node.wait_for_event("what cannot be read is reported", |e| {
            e["kind"] == "gap" && e.to_string().contains("-00.json")
        })?;
        fs::remove_file(&broken)?;
        node.ctl_as(NOBODY, ["policy", "shadow", "remove", run.id(), "strict"])?.expect(0)?;
        ensure!(fs::read_dir(node.state_dir().join("shadows"))?.count() == 0, "the next daemon has nothing to add");
        Ok(())
    })
}

#[test]
fn a_shadow_without_a_place_after_a_restart_is_listed_as_delayed_and_can_be_removed() -> Result<()> {
    on_node("shadowdelayed", "", |node| {
        let run = Launch::new("full", OPEN).start(node, BUSY)?;
        for name in ["one", "two", "three", "four"] {
            let policy = node.policy(name, &strict(name))?;
            node.ctl(["policy", "shadow", "add", run.id(), &*policy.to_string_lossy()])?.expect(0)?;
        }
        node.kill9()?;
        // Root may have four shadows of a run, a user three.
        let folder = node.state_dir().join("shadows");
        for file in fs::read_dir(&folder)? {
            let path = file?.path();
            let (all, own) = (fs::read_to_string(&path)?, "\"reserved\":true");
            ensure!(all.contains(own), "{all}");
            fs::write(&path, all.replace(own, "\"reserved\":false"))?;
        }
        node.restart()?;
        let delayed = wait_for_some("three judge, and one is delayed", || {
            let list = node.json(["policy", "shadow", "list"])?;
            let (waits, judge): (Vec<Value>, Vec<Value>) =
                list.as_array().context("no list")?.iter().cloned().partition(|one| one["delayed"].is_string());
            let of_limit =
                |one: &Value| one["delayed"].as_str().is_some_and(|why| why.contains("has 3 shadows already"));
            Ok(waits.first().filter(|one| (waits.len(), judge.len()) == (1, 3) && of_limit(one)).cloned())
        })?;
        ensure!(delayed["run_name"] == run.name() && delayed["since_ns"] == 0, "{delayed}");
        let text = node.ctl(["policy", "shadow", "list"])?.expect(0)?.out;
        let name = delayed["policy"]["name"].as_str().context("no name")?;
        ensure!(text.contains(&format!("{name} v2 of {} does not judge yet: limit `shadows`", run.name())), "{text}");
        let removed = node.ctl(["policy", "shadow", "remove", run.id(), name])?.expect(0)?.out;
        ensure!(removed.contains("is no shadow of") && removed.contains(name), "{removed}");
        let list = node.json(["policy", "shadow", "list"])?;
        ensure!(list.as_array().is_some_and(|all| all.len() == 3), "{list}");
        ensure!(fs::read_dir(&folder)?.count() == 3);
        Ok(())
    })
}

/// A process in a cgroup that executes a program again and again.
fn busy(cgroup: &std::path::Path) -> Result<Child> {
    let script = format!("echo $$ > {}/cgroup.procs; {}", cgroup.display(), BUSY[2]);
    Ok(Command::new("sh").args(["-c", &script]).current_dir("/").stdin(Stdio::null()).spawn()?)
}

#[test]
fn each_run_of_a_discovery_rule_has_its_shadow_also_after_a_restart() -> Result<()> {
    let policies = tempfile::Builder::new().prefix("failsafe-it-policies-").tempdir()?;
    fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
    for (name, text) in [("open", OPEN.to_owned()), ("next", strict("next"))] {
        let path = policies.path().join(format!("{name}.toml"));
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    let site = TestCgroup::new("shadowsite")?;
    let root = site.path().file_name().unwrap_or_default().display().to_string();
    let settings = format!(
        "policy_dir = {:?}\n\n[discovery]\nroot = {root:?}\nrescan_s = 1\n\n[[discover]]\nname = \"jobs\"\n\
         match = \"jobs/job-{{job:number}}\"\npolicy = \"open\"\nshadow = \"next\"\n",
        policies.path().display().to_string()
    );
    on_node("shadowdisc", &settings, |node| {
        let cgroup = site.path().join("jobs/job-1");
        fs::create_dir_all(&cgroup)?;
        let mut process = busy(&cgroup)?;
        let tested = (|| {
            let group = found(node, &[])?;
            ensure!(group["rule"] == "jobs" && group["shadow"]["name"] == "next", "{group}");
            ensure!(!frozen(&cgroup)?);
            let run = group["rows"][0]["examples"][0]["run_name"].as_str().context("no run")?.to_owned();
            let refused = node.ctl(["policy", "shadow", "remove", &run, "next"])?;
            ensure!(refused.code != 0 && refused.err.contains("rule jobs"), "{}", refused.err);
            node.kill9()?;
            node.restart()?;
            let again = found(node, &[])?;
            ensure!(
                again["since_ns"].as_i64() > group["since_ns"].as_i64(),
                "a restarted daemon knows nothing of before"
            );
            ensure!(!frozen(&cgroup)?);
            Ok(())
        })();
        process.kill()?;
        process.wait()?;
        tested
    })
}
