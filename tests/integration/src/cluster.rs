//! A node whose jobs come from a Slurm of the test's own.

use crate::{Node, Slurm, TestCgroup, on_node, skip, slurm_is_missing, wait_for, wait_for_some};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};
use tempfile::TempDir;

/// What a job may reach: Slurm's daemons, for `srun` in a batch script.
fn policy(name: &str, ports: [u16; 2]) -> String {
    format!(
        "[policy]\nname = {name:?}\nversion = 1\nowner = \"tests@example.org\"\ndescription = \"Slurm only\"\n\n\
         [egress]\nallow = [{{ cidr = \"127.0.0.0/8\", ports = [{}, {}], protocol = \"tcp\" }}]\n",
        ports[0], ports[1]
    )
}

/// Slurm, with `more` lines in slurm.conf, and a node that discovers its steps and that the scripts of the package ask.
///
/// # Errors
/// Those of the test, or something did not start.
pub fn on_cluster(test: &str, more: &str, run: impl FnOnce(&mut Node, &Slurm) -> Result<()>) -> Result<()> {
    let rule = "\n[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"jobs\"\n";
    beside_slurm(test, more, rule, |node, slurm| {
        wait_for("the kernel binds steps when they are made", || {
            Ok(node.json(["discover", "list"])?["rules"][0]["early"] == true)
        })?;
        run(node, slurm)
    })
}

/// The same on a node that discovers nothing but what `rules` say.
///
/// # Errors
/// As [`on_cluster`].
pub fn beside_slurm(
    test: &str,
    more: &str,
    rules: &str,
    run: impl FnOnce(&mut Node, &Slurm) -> Result<()>,
) -> Result<()> {
    if let Some(why) = slurm_is_missing() {
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
    let slurm = Slurm::start(root.path(), more)?;
    let file = policies.path().join("jobs.toml");
    fs::write(&file, policy("jobs", slurm.ports()))?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    let settings = format!(
        "policy_dir = {:?}\n\n[discovery]\nroot = {:?}\n{rules}",
        policies.path(),
        root.path().file_name().unwrap_or_default()
    );
    on_node(test, &settings, |node| {
        slurm.settings(&format!("FAILSAFE_SOCKET={}\n", node.socket().display()))?;
        run(node, &slurm).with_context(|| slurm.logs())
    })
}

/// Waits for the run of a step.
///
/// # Errors
/// There is none in time.
pub fn run_of_step(node: &Node, job: u32, step: &str) -> Result<Value> {
    let name = format!("slurm-{job}.{step}");
    wait_for_some(&format!("{name} is a run"), || {
        let all = node.json(["list"])?;
        Ok(all.as_array().context("a list")?.iter().find(|run| run["name"] == name.as_str()).cloned())
    })
}

/// Waits until a run has ended, and the log says so.
///
/// # Errors
/// It does not end in time.
pub fn run_ended(node: &Node, run: &Value) -> Result<()> {
    let id = run["id"].as_str().context("an id")?;
    wait_for(&format!("run {} ends", run["name"]), || Ok(node.run(id)?["state"] == "ended"))?;
    let is_end = |e: &Value| e["body"]["run"] == id && e["body"]["type"] == "run-ended";
    node.wait_for_event("its end", is_end).map(|_| ())
}
