//! Jobs of Debian's Slurm: unchanged scripts under a policy, contained, suspended behind the daemon's back, and cancelled.

use anyhow::{Context, Result, ensure};
use integration::{NOBODY, Slurm, frozen, members, on_cluster, program, run_ended, run_of_step, wait_for};
use std::path::Path;

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
    on_cluster("slurm", "", |node, slurm| {
        let job = slurm.submit(NOBODY, "job", &script()?)?;
        slurm.says("job", "working")?;
        let output = slurm.output("job");
        for who in ["batch", "step"] {
            let line = output.lines().find(|line| line.starts_with(who)).context("no line")?;
            ensure!(line.contains("EPERM"), "the first connect of the {who} was not refused: {output}");
        }
        let (batch, step) = (run_of_step(node, job, "batch")?, run_of_step(node, job, "0")?);
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
        run_ended(node, &step)?;
        run_ended(node, &batch)?;
        wait_for("the node takes jobs again", || Ok(slurm.node_field("State")? == "IDLE"))?;
        gone(&slurm.step(job, "0"))?;
        node.log_is_whole()
    })
}

fn gone(cgroup: &Path) -> Result<()> {
    wait_for(&format!("{} is removed", cgroup.display()), || Ok(!cgroup.exists()))
}
