//! Jobs of Debian's Slurm: unchanged scripts under a policy, contained, suspended behind the daemon's back, and cancelled.

use anyhow::{Context, Result, ensure};
use integration::{
    NOBODY, Node, Slurm, TestCgroup, frozen, members, on_node, program, skip, slurm_is_missing, wait_for, wait_for_some,
};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
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

/// Slurm, and a node that discovers its steps.
fn on_cluster(test: &str, run: impl FnOnce(&mut Node, &Slurm) -> Result<()>) -> Result<()> {
    if let Some(why) = slurm_is_missing() {
        skip(&why);
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    let root = TestCgroup::new("slurm")?;
    let policies = TempDir::with_prefix("failsafe-it-policies-")?;
    fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
    let slurm = Slurm::start(root.path())?;
    let file = policies.path().join("jobs.toml");
    fs::write(&file, policy("jobs", slurm.ports()))?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    let settings = format!(
        "policy_dir = {:?}\n\n[discovery]\nroot = {:?}\n\n[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"jobs\"\n",
        policies.path(),
        root.path().file_name().unwrap_or_default()
    );
    on_node(test, &settings, |node| {
        wait_for("the kernel binds steps when they are made", || {
            Ok(node.json(["discover", "list"])?["rules"][0]["early"] == true)
        })?;
        run(node, &slurm).with_context(|| slurm.logs())
    })
}

/// Waits for the run of a step.
fn run_of(node: &Node, job: u32, step: &str) -> Result<Value> {
    let name = format!("slurm-{job}.{step}");
    wait_for_some(&format!("{name} is a run"), || {
        let all = node.json(["list"])?;
        Ok(all.as_array().context("a list")?.iter().find(|run| run["name"] == name.as_str()).cloned())
    })
}

fn ended(node: &Node, run: &Value) -> Result<()> {
    let id = run["id"].as_str().context("an id")?;
    wait_for(&format!("run {} ends", run["name"]), || Ok(node.run(id)?["state"] == "ended"))?;
    let is_end = |e: &Value| e["body"]["run"] == id && e["body"]["type"] == "run-ended";
    node.wait_for_event("its end", is_end).map(|_| ())
}

fn supervised(slurm: &Slurm, job: u32, step: &str) -> Result<()> {
    let supervisor = slurm.step(job, step).join("slurm");
    ensure!(members(&supervisor)?.len() == 1 && !frozen(&supervisor)?, "slurmstepd of step {step} is frozen or gone");
    Ok(())
}

fn sender() -> Result<String> {
    Ok(format!("{} --to 127.77.0.9:9 --how tcp --count 1 2>&1", program("sender")?.display()))
}

/// A batch script that tries a forbidden connect before anything else, and whose step does the same and then works on.
fn script() -> Result<String> {
    let sender = sender()?;
    Ok(format!(
        "#!/bin/sh\necho batch $({sender})\nexec srun sh -c 'echo step $({sender}); echo working; exec sleep 600'\n"
    ))
}

#[test]
fn a_job_of_slurm_is_bounded_frozen_and_cancelled_without_a_change_of_its_script() -> Result<()> {
    on_cluster("slurm", |node, slurm| {
        let job = slurm.submit(NOBODY, "job", &script()?)?;
        slurm.says("job", "working")?;
        let said = slurm.output("job");
        for who in ["batch", "step"] {
            let line = said.lines().find(|line| line.starts_with(who)).context("no line")?;
            ensure!(line.contains("EPERM"), "the first connect of the {who} was not refused: {said}");
        }
        let (batch, step) = (run_of(node, job, "batch")?, run_of(node, job, "0")?);
        for (run, name) in [(&batch, "batch"), (&step, "0")] {
            let labels = &run["labels"];
            ensure!(labels["job"] == *job.to_string() && labels["step"] == name, "{run}");
            ensure!(labels["node"] == slurm.node() && labels.get("failsafe.earlier").is_none(), "{run}");
            ensure!(run["policy_name"] == "jobs", "{run}");
            let id = run["name"].as_str().context("a name")?;
            wait_for("the owner is known", || Ok(node.run(id)?["owner_uid"] == NOBODY))?;
        }
        let list = node.json(["discover", "list"])?;
        ensure!(list["early_bound"].as_u64() >= Some(2) && list["early_missed"] == 0, "{list}");

        let user = slurm.step(job, "0").join("user");
        let name = step["name"].as_str().context("a name")?;
        node.ctl(["freeze", name, "--reason", "loss is not finite"])?.expect(0)?;
        ensure!(frozen(&user)?, "the step is not frozen");
        ["0", "batch"].iter().try_for_each(|step| supervised(slurm, job, step))?;

        slurm.command("scontrol", ["suspend", &job.to_string()])?.expect(0)?;
        let other = slurm.step(job, "batch").join("user");
        wait_for("Slurm has suspended the batch step too", || frozen(&other))?;
        slurm.command("scontrol", ["resume", &job.to_string()])?.expect(0)?;
        node.wait_for_event("that somebody thawed the run", |e| {
            e["run"] == step["id"] && e.to_string().contains("ForeignThaw")
        })?;
        wait_for("Slurm has resumed the batch step", || Ok(!frozen(&other)?))?;
        wait_for("the step is frozen again", || frozen(&user))?;
        ensure!(node.run(name)?["state"] == "frozen", "{}", node.run(name)?);
        ["0", "batch"].iter().try_for_each(|step| supervised(slurm, job, step))?;

        slurm.command("scancel", [&job.to_string()])?.expect(0)?;
        wait_for("the job is cancelled", || Ok(slurm.job(job, "JobState")? == "CANCELLED"))?;
        ended(node, &step)?;
        ended(node, &batch)?;
        wait_for("the node takes jobs again", || Ok(slurm.node_field("State")? == "IDLE"))?;
        gone(&slurm.step(job, "0"))?;
        node.log_is_whole()
    })
}

fn gone(cgroup: &Path) -> Result<()> {
    wait_for(&format!("{} is removed", cgroup.display()), || Ok(!cgroup.exists()))
}
