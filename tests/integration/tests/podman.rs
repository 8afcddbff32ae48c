//! Containers of Debian's Podman with crun: under a policy before their first process, contained, paused behind the daemon's back,
//! stopped and removed while they are frozen.

use anyhow::{Context, Result, ensure};
use integration::{
    Node, Podman, TestCgroup, cgroup_of, frozen, members, on_node, podman_is_missing, run_ended, skip, wait_for,
    wait_for_some,
};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};
use tempfile::TempDir;

const CLOSED: &str = r#"
[policy]
name = "closed"
version = 1
owner = "tests@example.org"
description = "nothing leaves"

[egress]
allow = [{ cidr = "192.0.2.1/32", ports = [1], protocol = "tcp" }]
"#;

/// What a container does: a connect that the policy does not allow, before anything else.
const SCRIPT: &str = "nc 127.77.0.9 9; echo working; exec sleep 600";

fn on_engine(test: &str, run: impl FnOnce(&mut Node, &Podman) -> Result<()>) -> Result<()> {
    if let Some(why) = podman_is_missing() {
        skip(&why);
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    let root = TestCgroup::new(test)?;
    let policies = TempDir::with_prefix("failsafe-it-policies-")?;
    fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
    let podman = Podman::start(root.path())?;
    let file = policies.path().join("closed.toml");
    fs::write(&file, CLOSED)?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    let settings = format!(
        "policy_dir = {:?}\n\n[discovery]\nroot = {:?}\n\n[[discover]]\nname = \"podman\"\npreset = \"podman\"\npolicy = \"closed\"\n",
        policies.path(),
        root.path().file_name().unwrap_or_default()
    );
    on_node(test, &settings, |node| {
        wait_for("the kernel binds containers when they are made", || {
            Ok(node.json(["discover", "list"])?["rules"][0]["early"] == true)
        })?;
        run(node, &podman)
    })
}

/// Waits for the live run of a container.
fn run_of(node: &Node, id: &str) -> Result<Value> {
    wait_for_some(&format!("container {id} is a run"), || {
        let all = node.json(["list"])?;
        Ok(all.as_array().context("a list")?.iter().find(|run| run["labels"]["container"] == id).cloned())
    })
}

/// Starts a container, waits until it works, and freezes its run.
fn frozen_container(node: &Node, podman: &Podman, name: &str) -> Result<(String, Value)> {
    let id = podman.run(name, SCRIPT)?;
    says(podman, name, "working")?;
    let run = run_of(node, &id)?;
    node.ctl(["freeze", run["id"].as_str().context("an id")?, "--reason", "loss is not finite"])?.expect(0)?;
    ensure!(frozen(&podman.cgroup(&id))?, "the container is not frozen");
    conmon_works(node, podman, &id)?;
    Ok((id, run))
}

fn says(podman: &Podman, name: &str, text: &str) -> Result<String> {
    wait_for_some(&format!("container {name} prints `{text}`"), || {
        let output = podman.command(["logs", name])?;
        let all = output.out + &output.err;
        Ok(all.contains(text).then_some(all))
    })
}

/// That conmon of a container is outside its cgroup and not frozen.
fn conmon_works(node: &Node, podman: &Podman, id: &str) -> Result<()> {
    let pid = podman.conmon(id)?;
    let cgroup = node.mount().join(cgroup_of(pid)?.trim_start_matches('/'));
    ensure!(!cgroup.starts_with(podman.cgroup(id)), "conmon is in the cgroup of the container");
    ensure!(members(&cgroup)?.contains(&pid) && !frozen(&cgroup)?, "conmon is frozen, or not in {}", cgroup.display());
    Ok(())
}

#[test]
fn a_container_of_podman_is_bounded_before_its_first_process_and_stays_frozen_over_unpause() -> Result<()> {
    on_engine("podman", |node, podman| {
        let id = podman.run("train", SCRIPT)?;
        let output = says(podman, "train", "working")?;
        ensure!(output.contains("Operation not permitted"), "the first connect was not refused: {output}");
        let run = run_of(node, &id)?;
        ensure!(run["labels"]["failsafe.discover"] == "podman" && run["policy_name"] == "closed", "{run}");
        ensure!(run["labels"].get("failsafe.earlier").is_none(), "{run}");
        ensure!(run["name"] == format!("podman-{}", &id[..12]), "{run}");
        let list = node.json(["discover", "list"])?;
        ensure!(list["early_bound"].as_u64() >= Some(1) && list["early_missed"] == 0, "{list}");

        let cgroup = podman.cgroup(&id);
        node.ctl(["freeze", run["id"].as_str().context("an id")?, "--reason", "loss is not finite"])?.expect(0)?;
        ensure!(frozen(&cgroup)?, "the container is not frozen");
        conmon_works(node, podman, &id)?;
        podman.command(["pause", "train"])?.expect(0)?;
        podman.command(["unpause", "train"])?.expect(0)?;
        node.wait_for_event("that somebody thawed the run", |e| {
            e["run"] == run["id"] && e.to_string().contains("ForeignThaw")
        })?;
        wait_for("the container is frozen again", || frozen(&cgroup))?;
        ensure!(run_of(node, &id)?["state"] == "frozen", "{}", run_of(node, &id)?);
        conmon_works(node, podman, &id)?;
        let output = podman.command(["exec", "train", "echo", "came in"])?;
        ensure!(output.code != 0 && output.out.is_empty() && output.err.contains("is paused"), "{output:?}");
        node.ctl(["thaw", run["id"].as_str().context("an id")?, "--reason", "loss was reset"])?.expect(0)?;
        let output = podman.command(["exec", "train", "echo", "came in"])?.expect(0)?;
        ensure!(output.out == "came in\n", "{output:?}");
        podman.command(["rm", "--force", "--time", "0", "train"])?.expect(0)?;
        run_ended(node, &run)?;
        node.log_is_whole()
    })
}

#[test]
fn podman_stops_and_removes_containers_that_are_frozen() -> Result<()> {
    on_engine("podman-stop", |node, podman| {
        let (id, run) = frozen_container(node, podman, "stopped")?;
        let output = podman.command(["stop", "--time", "1", "stopped"])?;
        ensure!(output.code == 0, "podman stop: {output:?}");
        wait_for("its cgroup is removed", || Ok(!podman.cgroup(&id).exists()))?;
        run_ended(node, &run)?;
        podman.command(["rm", "stopped"])?.expect(0)?;

        let (id, run) = frozen_container(node, podman, "removed")?;
        podman.command(["rm", "--force", "--time", "1", "removed"])?.expect(0)?;
        wait_for("its cgroup is removed", || Ok(!podman.cgroup(&id).exists()))?;
        run_ended(node, &run)?;

        // Paused and frozen: Podman thaws a paused container before it kills it, and failsafe freezes it again.
        let (id, run) = frozen_container(node, podman, "paused")?;
        podman.command(["pause", "paused"])?.expect(0)?;
        let output = podman.command(["rm", "--force", "--time", "1", "paused"])?;
        ensure!(output.code == 0, "podman rm of a paused container: {output:?}");
        wait_for("its cgroup is removed", || Ok(!podman.cgroup(&id).exists()))?;
        run_ended(node, &run)?;
        let output = podman.command(["ps", "--all", "--quiet"])?.expect(0)?;
        ensure!(output.out.trim().is_empty(), "{output:?}");
        node.log_is_whole()
    })
}
