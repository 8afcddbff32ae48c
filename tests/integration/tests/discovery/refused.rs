//! Cgroups that match a rule and get no run, with the reason that is shown.

use crate::site::{CLOSED, Site, in_cgroup, refused, run_of};
use anyhow::{Context, Result, ensure};
use integration::{NOBODY, frozen, members, on_node, program, wait_for};
use serde_json::Value;
use std::{fs, os::unix::fs::chown, path::Path};

#[test]
fn an_owner_has_a_limit_and_what_does_not_fit_is_shown() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"users\"\nmatch = \"jobs/uid_{uid:number}/{job}\"\npolicy = \"closed\"\n";
    on_node("disc-quota", &site.settings("runs_per_owner = 2", rules), |node| {
        let of = |uid: u32, job: u32| site.make(&format!("jobs/uid_{uid}/job_{job}"));
        let (first, second) = (of(1_001, 1)?, of(1_001, 2)?);
        run_of(node, &first)?;
        run_of(node, &second)?;
        let third = of(1_001, 3)?;
        refused(node, &third, "limit `discovery.runs_per_owner`: there are 2 discovered runs of uid 1001 already")?;
        let other = run_of(node, &of(1_002, 1)?)?;
        ensure!(other["owner_uid"] == 1_002, "another user is not held up: {other}");
        node.wait_for_event("one entry for all", |e| {
            let what = e["body"]["what"].as_str().unwrap_or_default();
            e["kind"] == "gap" && what.contains("1 cgroups match a rule") && what.contains("1 cgroups got no run")
        })?;
        wait_for("the health of the node shows it", || {
            Ok(node.ctl(["node", "health"])?.out.contains("cgroups match a rule and have no run"))
        })?;
        fs::remove_dir(&first)?;
        run_of(node, &third)?;
        wait_for("the reason is over", || {
            Ok(!node.ctl(["node", "health"])?.out.contains("cgroups match a rule and have no run"))
        })?;
        Ok(())
    })
}

#[test]
fn a_path_that_a_user_chose_makes_no_run() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"jobs\"\nmatch = \"slices/{slice}/job_{job}\"\npolicy = \"closed\"\n";
    on_node("disc-delegated", &site.settings("", rules), |node| {
        let delegated = site.make("slices/user")?;
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            chown(delegated.join(file), Some(NOBODY), None)?;
        }
        let cgroup = site.make("slices/user/job_1")?;
        refused(node, &cgroup, "uid 65534 may make cgroups in")?;
        // A cgroup that belongs to a user below a folder of root is the user's, and its path is root's.
        let own = site.make("slices/root/job_2")?;
        let run = run_of(node, &own)?;
        ensure!(run["owner_uid"] != 0, "unknown is not root: {run}");
        Ok(())
    })
}

#[test]
fn a_supervisors_cgroup_is_no_run_even_if_a_rule_matches_it() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"wide\"\nmatch = [\"system.slice/slurmstepd.scope/{job}/{step}/{part}\", \
                 \"machine.slice/{x}\", \"system.slice/{unit}.service\"]\npolicy = \"closed\"\n";
    on_node("disc-super", &site.settings("", rules), |node| {
        // In the first pass after a start all of it is there.
        node.stop()?;
        site.make("system.slice/slurmstepd.scope/job_7/step_0/slurm")?;
        site.make("machine.slice/libpod-conmon-1.scope")?;
        site.make("system.slice/train.service/runtime")?;
        let user = site.make("system.slice/slurmstepd.scope/job_7/step_0/user")?;
        node.restart()?;
        run_of(node, &user)?;
        refused(
            node,
            &site.root.path().join("system.slice/train.service"),
            "it holds the cgroup `runtime` of a supervisor",
        )?;
        let all = node.json(["list"])?;
        let all = all.as_array().context("a list")?;
        let supervised = |run: &&Value| {
            let cgroup = run["cgroup"].as_str().unwrap_or_default();
            cgroup.ends_with("/slurm") || cgroup.contains("conmon") || cgroup.ends_with("/runtime")
        };
        ensure!(!all.iter().any(|run| supervised(&run)), "{all:?}");
        let tested = node.ctl(["discover", "test", "system.slice/slurmstepd.scope/job_7/step_0/slurm"])?.expect(1)?;
        ensure!(tested.out.contains("it is the cgroup of slurmstepd"), "{}", tested.out);
        let tested = node.ctl(
            ["discover", "test", "--config"]
                .iter()
                .map(|a| a.to_string())
                .chain([node.file("failsafed.toml").display().to_string(), "other.slice/x".into()]),
        )?;
        ensure!(tested.code == 1 && tested.out.contains("expected `system.slice`"), "{}", tested.out);
        Ok(())
    })
}

#[test]
fn sessions_of_administrators_are_never_bounded_and_a_user_cannot_freeze_all() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"users\"\npreset = \"user-slices\"\npolicy = \"closed\"\n";
    // The group `daemon` has the user of that name, uid 1.
    let settings = format!("admin_group = \"daemon\"\n{}", site.settings("", rules));
    on_node("disc-admins", &settings, |node| {
        let of = |uid: u32| site.make(&format!("user.slice/user-{uid}.slice"));
        let (root, member, user) = (of(0)?, of(1)?, of(NOBODY)?);
        let run = run_of(node, &user)?;
        ensure!(run["owner_uid"] == NOBODY, "{run}");
        refused(node, &root, "it is a session of root")?;
        refused(node, &member, "uid 1 is an administrator")?;
        let list = node.json(["discover", "list"])?;
        ensure!(list["rules"][0]["refused"] == 0, "nothing is missing: {list}");
        ensure!(node.json(["list"])?.as_array().is_some_and(|all| all.len() == 1));
        let all = node.ctl_as(NOBODY, ["freeze", "--all", "--reason", "x"])?.expect(4)?;
        ensure!(all.err.contains("nothing was frozen") && !frozen(&user)?, "{}", all.err);
        node.ctl(["freeze", "--all", "--reason", "x"])?.expect(0)?;
        ensure!(frozen(&user)?, "not frozen");
        Ok(())
    })
}

#[test]
fn a_user_in_the_root_cgroup_starts_a_run_and_one_in_a_cgroup_of_a_rule_does_not() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"jobs\"\nmatch = \"jobs/{job}\"\npolicy = \"missing\"\n";
    on_node("disc-start", &site.settings("", rules), |node| {
        let job = site.make("jobs/j1")?;
        refused(node, &job, "no policy is named `missing`")?;
        let (policy, out) = (node.file("open.toml"), node.file("out"));
        fs::write(&policy, CLOSED)?;
        let start = |cgroup: &Path, name: &str| -> Result<(bool, String)> {
            let (ctl, socket) = (program("failsafectl")?, node.socket());
            let command = format!(
                "env FAILSAFE_SOCKET={} {} run -q -n {name} -p {} -- true 2> {}",
                socket.display(),
                ctl.display(),
                policy.display(),
                out.display()
            );
            let ended = in_cgroup(cgroup, NOBODY, &command)?.wait()?;
            Ok((ended.success(), fs::read_to_string(&out)?))
        };
        let (started, err) = start(node.mount(), "free")?;
        ensure!(started, "{err}");
        let (started, err) = start(&job, "kept")?;
        ensure!(!started && err.contains("rule jobs of discovery has cgroup jobs/j1: a run of your own"), "{err}");
        ensure!(err.contains("start it from a cgroup that no rule has"), "{err}");
        Ok(())
    })
}

#[test]
fn a_run_of_another_policy_does_not_count_as_the_one_of_the_rule() -> Result<()> {
    let site = Site::new()?;
    let rules = "[[discover]]\nname = \"jobs\"\nmatch = \"jobs/{job}\"\npolicy = \"missing\"\n";
    on_node("disc-claimed", &site.settings("", rules), |node| {
        let job = site.make("jobs/run-r1.scope")?;
        refused(node, &job, "no policy is named `missing`")?;
        let mut child = in_cgroup(&job, NOBODY, "sleep 300")?;
        wait_for("it is there", || Ok(members(&job)?.len() == 1))?;
        let open = CLOSED.replace("\"closed\"", "\"open\"");
        let policy = node.file("open.toml");
        fs::write(&policy, open)?;
        let (policy, path) = (policy.display().to_string(), job.display().to_string());
        let args = || ["register", "--cgroup", path.as_str(), "--policy", policy.as_str(), "--name", "own"];
        let own = node.ctl_as(NOBODY, args())?.expect(4)?;
        ensure!(own.err.contains("rule jobs of discovery has cgroup jobs/run-r1.scope"), "{}", own.err);
        node.ctl(args())?.expect(0)?;
        site.policy("missing", CLOSED)?;
        wait_for("the other policy is reported", || {
            let list = node.json(["discover", "list"])?;
            let why = list["cgroups"][0]["refused"].as_str().unwrap_or_default();
            Ok(why.contains("already, with another policy than rule jobs names"))
        })?;
        fs::write(job.join("cgroup.kill"), "1")?;
        child.wait()?;
        Ok(())
    })
}
