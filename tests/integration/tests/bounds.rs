//! `failsafectl run` inside somebody else's bounds: the process is not moved out of them.

use anyhow::{Context, Result, ensure};
use integration::{Caller, NOBODY, TestCgroup, members, on_node, wait_for};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
};

/// The caller's cgroup, relative to the mount, is made by a scheduler, a container engine or a service.
#[test]
fn a_run_is_made_below_the_cgroup_of_a_caller_who_is_in_others_bounds() -> Result<()> {
    on_node("below", "", |node| {
        let job = TestCgroup::new("job")?;
        let step = job.path().join("slurmstepd.scope/job_7/step_0");
        fs::create_dir_all(&step)?;
        for (uid, home) in [(0, step.clone()), (NOBODY, step), (NOBODY, job.path().to_owned())] {
            let mut caller = Caller::new(node, uid)?;
            fs::write(home.join("cgroup.procs"), caller.pid().to_string())?;
            let before = caller.cgroup()?;
            let started = caller.ask("start inner")?;
            let id = started.strip_prefix("Ok ").context(started.clone())?;
            ensure!(caller.cgroup()? == format!("{before}/run-{id}"), "{before} -> {}", caller.cgroup()?);
            let run = node.run(id)?;
            ensure!(format!("/{}", run["cgroup"].as_str().unwrap_or_default()) == caller.cgroup()?, "{run}");
            let frozen = node.json(["freeze", id, "--reason", "test"])?;
            ensure!(frozen["verdict"] == "proved" && !integration::frozen(&home)?, "{frozen}");
            let killed = node.json(["kill", id, "--reason", "test"])?;
            ensure!(killed["verdict"] == "proved", "{killed}");
            wait_for("its cgroup is removed", || Ok(!home.join(format!("run-{id}")).exists()))?;
        }
        // Its end by the scheduler is the run's.
        let home = job.path().join("slurmstepd.scope/job_7/step_0");
        let mut caller = Caller::new(node, 0)?;
        fs::write(home.join("cgroup.procs"), caller.pid().to_string())?;
        ensure!(caller.ask("start last")?.starts_with("Ok"));
        fs::write(job.path().join("cgroup.kill"), "1")?;
        wait_for("the run has ended", || Ok(node.run("last")?["state"] == "ended"))?;
        node.log_is_whole()
    })
}

/// Whoever may write to the caller's cgroup could move the run's processes out of it.
#[test]
fn a_start_out_of_a_delegated_cgroup_is_refused_and_register_is_named() -> Result<()> {
    on_node("delegated", "", |node| {
        let theirs = TestCgroup::new("theirs")?;
        let leaf = theirs.path().join("leaf");
        fs::create_dir(&leaf)?;
        let given: [(PathBuf, u32); 2] = [(theirs.path().to_owned(), 0o644), (leaf.clone(), 0o666)];
        for (cgroup, mode) in given {
            let procs = cgroup.join("cgroup.procs");
            if mode == 0o644 {
                chown(&procs, Some(NOBODY), None)?
            }
            fs::set_permissions(&procs, fs::Permissions::from_mode(mode))?;
            let mut caller = Caller::new(node, NOBODY)?;
            fs::write(leaf.join("cgroup.procs"), caller.pid().to_string())?;
            let refused = caller.ask("start inner")?;
            ensure!(refused.starts_with("FailedPrecondition"), "{refused}");
            ensure!(refused.contains("failsafectl register") && refused.contains("delegated"), "{refused}");
            ensure!(members(&leaf)?.contains(&caller.pid()), "it was moved to {}", caller.cgroup()?);
            chown(&procs, Some(0), None)?;
            fs::set_permissions(&procs, fs::Permissions::from_mode(0o644))?;
            caller.kill()?;
        }
        ensure!(node.json(["list", "--all"])?.as_array().is_some_and(Vec::is_empty), "a refusal left a run behind");
        Ok(())
    })
}

#[test]
fn the_administrator_names_cgroups_that_runs_may_be_started_from() -> Result<()> {
    let unique = format!("/failsafe-it-{}-service", std::process::id());
    on_node("start-from", &format!("start_from = [{unique:?}]\n"), |node| {
        let service = TestCgroup::new("service")?;
        ensure!(service.path().ends_with(unique.trim_start_matches('/')), "{}", service.path().display());
        let mut caller = Caller::new(node, NOBODY)?;
        fs::write(service.path().join("cgroup.procs"), caller.pid().to_string())?;
        let started = caller.ask("start out")?;
        let id = started.strip_prefix("Ok ").context(started.clone())?;
        let parent = node.cgroup().strip_prefix(node.mount())?.display().to_string();
        ensure!(caller.cgroup()? == format!("/{parent}/run-{id}"), "{}", caller.cgroup()?);
        Ok(())
    })
}
