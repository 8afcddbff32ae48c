//! Cgroups that match a rule become runs, and stay those runs.

use crate::site::{CLOSED, SLURM, Site, in_cgroup, run_of};
use anyhow::{Context, Result, ensure};
use integration::{NOBODY, frozen, members, on_node, program, wait_for};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

#[test]
fn an_empty_discovered_run_keeps_its_id_and_its_freeze_over_a_restart() -> Result<()> {
    let site = Site::new()?;
    on_node("disc-empty", &site.settings("", SLURM), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_8/step_0/user")?;
        let other = site.make("system.slice/slurmstepd.scope/job_9/step_0/user")?;
        let (run, free) = (run_of(node, &user)?, run_of(node, &other)?);
        // Exit code 3: nobody is there to freeze.
        node.ctl(["freeze", "slurm-8.0", "--reason", "intrusion suspected"])?;
        ensure!(fs::read_to_string(user.join("cgroup.freeze"))?.trim() == "1");
        node.kill9()?;
        node.restart()?;
        let after = run_of(node, &user)?;
        ensure!(after["id"] == run["id"] && run_of(node, &other)?["id"] == free["id"], "{after}");
        ensure!(fs::read_to_string(user.join("cgroup.freeze"))?.trim() == "1", "the restart thawed it");
        let mut process = in_cgroup(&user, NOBODY, "sleep 300")?;
        wait_for("who comes now is frozen", || Ok(!members(&user)?.is_empty() && frozen(&user)?))?;
        node.ctl(["kill", "slurm-8.0", "--reason", "done"])?;
        process.wait()?;
        fs::remove_dir(&other)?;
        wait_for("a removed cgroup ends its run", || {
            let all = node.json(["list", "--all"])?;
            let all = all.as_array().context("a list")?;
            Ok(all.iter().any(|run| run["id"] == free["id"] && run["state"] == "ended"))
        })
    })
}

#[test]
fn an_owner_that_became_known_later_keeps_the_run_and_its_decisions_over_restarts() -> Result<()> {
    let site = Site::new()?;
    on_node("disc-owner", &site.settings("", SLURM), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_8/step_0/user")?;
        let run = run_of(node, &user)?;
        let id = run["id"].as_str().context("an id")?;
        ensure!(run["owner_uid"].is_null(), "nobody is in it yet: {run}");
        let mut process = in_cgroup(&user, NOBODY, "sleep 300")?;
        wait_for("the owner is known", || Ok(node.run(id)?["owner_uid"] == NOBODY))?;
        node.ctl(["freeze", id, "--reason", "look at it"])?.expect(0)?;
        // Its owner reads the decision, and the page has the owner.
        let explained = |node: &integration::Node| -> Result<()> {
            let page = node.ctl_as(NOBODY, ["explain", id])?.expect(0)?.out;
            ensure!(page.contains(&format!("of user {NOBODY}")), "{page}");
            Ok(())
        };
        explained(node)?;
        node.kill9()?;
        node.restart()?;
        ensure!(node.run(id)?["owner_uid"] == NOBODY, "the log has the owner");
        explained(node)?;
        fs::write(user.join("cgroup.kill"), "1")?;
        process.wait()?;
        fs::remove_dir(&user)?;
        wait_for("the run ends", || Ok(node.run(id)?["state"] == "ended"))?;
        let learnt = node.events_of(id)?;
        let learnt = learnt.iter().filter(|e| e["body"]["type"] == "run-owner").count();
        ensure!(learnt == 1, "{learnt} entries about the owner");
        node.stop()?;
        node.restart()?;
        let described = node.ctl_as(NOBODY, ["describe", id])?.expect(0)?.out;
        ensure!(described.contains(&NOBODY.to_string()) && !described.contains("not verified"), "{described}");
        explained(node)?;
        let health = node.ctl(["node", "health"])?.out;
        ensure!(!health.contains("run-record-changed"), "{health}");
        node.log_is_whole()
    })
}

#[test]
fn a_step_of_a_job_is_bounded_when_it_is_made_and_its_slurmstepd_is_not() -> Result<()> {
    let site = Site::new()?;
    on_node("disc", &site.settings("", SLURM), |node| {
        let step = "system.slice/slurmstepd.scope/job_7/step_0";
        let (user, stepd) = (site.make(&format!("{step}/user"))?, site.make(&format!("{step}/slurm"))?);
        let task = site.make(&format!("{step}/user/task_0"))?;
        let run = run_of(node, &user)?;
        ensure!(run["labels"]["job"] == "7" && run["labels"]["step"] == "0", "{run}");
        ensure!(run["labels"]["failsafe.discover"] == "slurm" && run["policy_name"] == "closed", "{run}");
        ensure!(run["labels"].get("failsafe.earlier").is_none(), "nobody was in it: {run}");
        ensure!(run["name"] == "slurm-7.0", "{run}");
        let mut supervisor = in_cgroup(&stepd, 0, "sleep 300")?;
        let sender = program("sender")?.display().to_string();
        let out = node.file("out");
        let command = format!("sh -c '{sender} --to 127.77.0.9:9 --how tcp --count 1; sleep 300' > {}", out.display());
        let mut task_process = in_cgroup(&task, NOBODY, &command)?;
        wait_for("the step is frozen", || frozen(&user))?;
        let output = fs::read_to_string(&out)?;
        ensure!(output.is_empty() || output.contains("EPERM"), "{output}");
        node.wait_for_event("the decision", |e| {
            let decision = &e["body"]["decision"];
            decision["cause"]["Rule"]["rule"] == "leaves"
                && decision["values"][0]["value"]["Event"]["Net"]["verdict"] == "Denied"
        })?;
        ensure!(!frozen(&stepd)? && members(&stepd)?.len() == 1, "the supervisor is frozen or gone");
        let all = node.json(["list"])?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 1), "the step's own cgroup is the only run: {all}");
        // Its owner was not known when it was made, and is now.
        wait_for("the owner is known", || Ok(node.run("slurm-7.0")?["owner_uid"] == NOBODY))?;
        node.ctl_as(NOBODY, ["describe", "slurm-7.0"])?.expect(0)?;
        node.ctl_as(NOBODY, ["discover", "list"])?.expect(4)?;
        let listed = node.ctl(["discover", "list"])?.expect(0)?.out;
        ensure!(listed.contains("slurm") && listed.contains(run["id"].as_str().unwrap_or_default()), "{listed}");
        let tested = node.json(["discover", "test", user.to_str().context("a path")?])?;
        ensure!(tested["matches"] == true && tested["run"] == run["id"], "{tested}");
        for cgroup in [&user, &stepd] {
            fs::write(cgroup.join("cgroup.kill"), "1")?;
        }
        task_process.wait()?;
        supervisor.wait()?;
        node.log_is_whole()
    })
}

#[test]
fn an_empty_cgroup_stays_a_run_until_it_is_removed() -> Result<()> {
    let site = Site::new()?;
    on_node("disc-empty", &site.settings("", SLURM), |node| {
        let user = site.make("system.slice/n1_slurmstepd.scope/job_8/step_batch/user")?;
        let run = run_of(node, &user)?;
        ensure!(run["labels"]["node"] == "n1" && run["labels"]["step"] == "batch", "{run}");
        for _ in 0..2 {
            let mut first = in_cgroup(&user, NOBODY, "true")?;
            ensure!(first.wait()?.success());
            // Longer than a run without processes lives that failsafe made itself.
            std::thread::sleep(std::time::Duration::from_millis(500));
            ensure!(run_of(node, &user)?["id"] == run["id"], "the scheduler fills an empty cgroup again");
        }
        fs::remove_dir(&user)?;
        wait_for("the run ends", || Ok(node.run(run["id"].as_str().unwrap_or_default())?["state"] == "ended"))?;
        let again = site.make("system.slice/n1_slurmstepd.scope/job_8/step_batch/user")?;
        ensure!(run_of(node, &again)?["id"] != run["id"], "a new cgroup at the same path is another run");
        Ok(())
    })
}

#[test]
fn what_ran_before_the_daemon_is_marked_and_a_restart_takes_it_up() -> Result<()> {
    let site = Site::new()?;
    let container = "docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let rules =
        "[[discover]]\nname = \"docker\"\npreset = \"docker\"\npolicy = \"closed\"\nlabels = { site = \"s1\" }\n";
    on_node("disc-old", &site.settings("", rules), |node| {
        node.stop()?;
        let cgroup = site.make(container)?;
        let mut child = in_cgroup(&cgroup, NOBODY, "sleep 300")?;
        wait_for("it is there", || Ok(members(&cgroup)?.len() == 1))?;
        node.restart()?;
        let run = run_of(node, &cgroup)?;
        ensure!(run["labels"]["failsafe.earlier"] == "unknown" && run["labels"]["site"] == "s1", "{run}");
        ensure!(run["owner_uid"].is_null(), "the users in a container are those of its image: {run}");
        let id = run["id"].as_str().unwrap_or_default().to_owned();
        node.wait_for_event("what is not known", |e| {
            e["run"] == id.as_str()
                && e["kind"] == "gap"
                && e["body"]["what"].as_str().is_some_and(|w| w.contains("before the daemon started"))
        })?;
        node.kill9()?;
        node.restart()?;
        ensure!(run_of(node, &cgroup)?["id"] == id.as_str(), "it is another run");
        fs::write(cgroup.join("cgroup.kill"), "1")?;
        child.wait()?;
        Ok(())
    })
}

#[test]
fn a_policy_is_named_listed_and_shown_and_a_file_that_others_may_write_is_not_used() -> Result<()> {
    let site = Site::new()?;
    on_node("disc-policy", &site.settings("", ""), |node| {
        let listed = node.json(["policy", "list"])?;
        ensure!(
            listed["policies"][0]["name"] == "closed" && listed["policies"][0]["policy"] == "closed v2",
            "{listed}"
        );
        let shown = node.ctl(["policy", "show", "closed"])?.expect(0)?.out;
        ensure!(shown.contains("rationale = \"nothing leaves in this test\""), "{shown}");
        node.ctl(["policy", "show", "other"])?.expect(6)?;
        let wanted = listed["policies"][0]["digest"].clone();
        let started =
            node.ctl(["run", "--quiet", "--user", "nobody", "-p", "closed", "--name", "named", "--", "true"])?;
        ensure!(started.code == 0, "{}", started.err);
        ensure!(node.run("named")?["policy_digest"] == wanted, "pinned to the content that was read");
        let path = site.policy("loose", CLOSED)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        let refused = node.ctl(["run", "--user", "nobody", "-p", "loose", "--", "true"])?;
        ensure!(refused.code != 0 && refused.err.contains("mode is 0666"), "{}", refused.err);
        let none = node.ctl(["run", "--user", "nobody", "-p", "missing", "--", "true"])?.expect(6)?;
        ensure!(none.err.contains("failsafectl policy list"), "{}", none.err);
        let forged =
            node.ctl(["run", "--user", "nobody", "-p", "closed", "-l", "failsafe.discover=x", "--", "true"])?;
        ensure!(forged.code == 2 && forged.err.contains("are the daemon's"), "{}", forged.err);
        let secret = site.policy("secret", CLOSED)?;
        fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
        node.ctl_as(NOBODY, ["policy", "show", "closed"])?.expect(0)?;
        node.ctl_as(NOBODY, ["policy", "show", "secret"])?.expect(4)?;
        node.ctl_as(NOBODY, ["run", "-p", "secret", "--", "true"])?.expect(4)?;
        let broken = site.policy("broken", "[policy]\nname = 7 # hidden\n")?;
        fs::set_permissions(&broken, Permissions::from_mode(0o600))?;
        for args in
            [vec!["policy", "show", "broken"], vec!["policy", "list"], vec!["run", "-p", "broken", "--", "true"]]
        {
            let refused = node.ctl_as(NOBODY, args.clone())?;
            let text = format!("{}{}", refused.out, refused.err);
            ensure!(!text.contains("hidden") && text.contains("not readable for every user"), "{args:?}: {text}");
            ensure!(!text.contains("secret  closed v2"), "{text}");
        }
        ensure!(node.ctl(["policy", "show", "broken"])?.err.contains("hidden"), "root may read it");
        Ok(())
    })
}

#[test]
fn everything_is_frozen_at_once() -> Result<()> {
    let site = Site::new()?;
    on_node("freeze-all", &site.settings("", SLURM), |node| {
        let mut children = Vec::new();
        let mut cgroups = Vec::new();
        for job in 0..6 {
            let user = site.make(&format!("system.slice/slurmstepd.scope/job_{job}/step_0/user"))?;
            run_of(node, &user)?;
            children.push(in_cgroup(&user, NOBODY, "sleep 300")?);
            wait_for("it is there", || Ok(members(&user)?.len() == 1))?;
            cgroups.push(user);
        }
        node.ctl(["freeze", "--all"])?.expect(2)?;
        let dry = node.ctl(["freeze", "--all", "--dry-run"])?.expect(0)?.out;
        ensure!(dry.contains("would freeze 6 runs"), "{dry}");
        let done = node.ctl(["freeze", "--all", "--reason", "intrusion suspected"])?.expect(0)?.out;
        ensure!(done.contains("6 runs frozen"), "{done}");
        for cgroup in &cgroups {
            ensure!(frozen(cgroup)?, "{} is not frozen", cgroup.display());
            fs::write(cgroup.join("cgroup.kill"), "1")?;
        }
        for child in &mut children {
            child.wait()?;
        }
        Ok(())
    })
}

#[test]
fn a_cgroup_that_is_made_again_at_once_gets_a_run_at_once() -> Result<()> {
    let site = Site::new()?;
    // No rescan helps.
    let settings = site.settings("", SLURM).replace("rescan_s = 1", "rescan_s = 3600");
    on_node("disc-again", &settings, |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_8/step_0/user")?;
        let job = site.root.path().join("system.slice/slurmstepd.scope/job_8");
        let mut ids = vec![run_of(node, &user)?["id"].clone()];
        for whole in [false, true, false] {
            // Somebody has the old folders open, so cgroupfs reports no removal.
            let _open = [fs::File::open(&job)?, fs::File::open(job.join("step_0"))?];
            fs::remove_dir(&user)?;
            if whole {
                fs::remove_dir(job.join("step_0"))?;
                fs::remove_dir(&job)?;
            }
            fs::create_dir_all(&user)?;
            wait_for("the new cgroup has a run of its own", || {
                let id = run_of(node, &user)?["id"].clone();
                Ok(!ids.contains(&id))
            })?;
            ids.push(run_of(node, &user)?["id"].clone());
        }
        Ok(())
    })
}
