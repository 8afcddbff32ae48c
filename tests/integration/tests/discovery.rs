//! Cgroups that become runs by themselves: trees as schedulers make them, below a cgroup of the test's own.

use anyhow::{Context, Result, ensure};
use integration::{NOBODY, Node, TestCgroup, frozen, members, on_node, program, wait_for, wait_for_some};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Nothing may leave; a forbidden connect freezes the run.
const CLOSED: &str = r#"
[policy]
name = "closed"
version = 2
owner = "tests@example.org"
description = "nothing leaves"

[egress]
allow = [{ cidr = "192.0.2.1/32", ports = [1], protocol = "tcp" }]

[[rule]]
id = "leaves"
rationale = "nothing leaves in this test"
severity = "critical"
confidence = "high"
when = { event = "connect", verdict = "denied" }
actions = ["freeze", "notify"]
"#;

/// What the daemon discovers: a cgroup as the root of patterns, and the folder of policies.
struct Site {
    root: TestCgroup,
    policies: TempDir,
}

impl Site {
    fn new() -> Result<Site> {
        let policies = tempfile::Builder::new().prefix("failsafe-it-policies-").tempdir()?;
        fs::set_permissions(policies.path(), Permissions::from_mode(0o755))?;
        let site = Site { root: TestCgroup::new("site")?, policies };
        site.policy("closed", CLOSED)?;
        Ok(site)
    }

    fn policy(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.policies.path().join(format!("{name}.toml"));
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    fn settings(&self, more: &str, rules: &str) -> String {
        let root = self.root.path().file_name().unwrap_or_default().display().to_string();
        let policies = self.policies.path().display().to_string();
        format!("policy_dir = {policies:?}\n\n[discovery]\nroot = {root:?}\nrescan_s = 1\n{more}\n\n{rules}\n")
    }

    /// Makes a cgroup with all above it.
    fn make(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.path().join(path);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }
}

const SLURM: &str = "[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"closed\"\n";

fn in_cgroup(cgroup: &Path, user: u32, command: &str) -> Result<Child> {
    let script = format!("echo $$ > {}/cgroup.procs && exec {command}", cgroup.display());
    let user = format!("setpriv --reuid={user} --regid={user} --clear-groups ");
    let script = script.replace("exec ", &format!("exec {user}"));
    let child = Command::new("sh").args(["-c", &script]).current_dir("/").stdin(Stdio::null()).spawn()?;
    Ok(child)
}

/// Waits for the live run of a cgroup.
fn run_of(node: &Node, cgroup: &Path) -> Result<Value> {
    let path = cgroup.strip_prefix(node.mount())?.display().to_string();
    wait_for_some(&format!("{path} is a run"), || {
        let all = node.json(["list"])?;
        let all = all.as_array().context("a list")?;
        Ok(all.iter().find(|run| run["cgroup"] == path.as_str() && run["state"] != "ended").cloned())
    })
}

fn refused(node: &Node, cgroup: &Path, why: &str) -> Result<()> {
    let path = cgroup.strip_prefix(node.mount())?.display().to_string();
    let found = wait_for_some(&format!("{path} is listed without a run"), || {
        let list = node.json(["discover", "list"])?;
        let all = list["cgroups"].as_array().context("a list")?.clone();
        Ok(all.into_iter().find(|found| found["path"] == path.as_str() && found["refused"] != ""))
    })?;
    ensure!(found["refused"].as_str().unwrap_or_default().contains(why), "{found}");
    Ok(())
}

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
        let said = fs::read_to_string(&out)?;
        ensure!(said.is_empty() || said.contains("EPERM"), "{said}");
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
        wait_for("the node says it", || {
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
fn a_supervisors_cgroup_is_no_run_even_if_a_rule_says_so() -> Result<()> {
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
            let said = node.ctl_as(NOBODY, args.clone())?;
            let text = format!("{}{}", said.out, said.err);
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
        wait_for("the other policy is told", || {
            let list = node.json(["discover", "list"])?;
            let why = list["cgroups"][0]["refused"].as_str().unwrap_or_default();
            Ok(why.contains("already, with another policy than rule jobs names"))
        })?;
        fs::write(job.join("cgroup.kill"), "1")?;
        child.wait()?;
        Ok(())
    })
}

/// A process of a cgroup that tries a forbidden connect again and again, and writes what came of it.
fn trying(node: &Node, cgroup: &Path, out: &Path) -> Result<Child> {
    let sender = program("sender")?.display().to_string();
    let once = format!("{sender} --to 127.77.0.9:9 --how tcp --count 1 2>&1");
    let _node = node;
    in_cgroup(cgroup, NOBODY, &format!("sh -c 'while true; do {once}; sleep 0.2; done' > {}", out.display()))
}

fn said(out: &Path, what: &str) -> Result<()> {
    let before = fs::read_to_string(out)?.len();
    wait_for(&format!("it says {what}"), || {
        Ok(fs::read_to_string(out)?.get(before..).is_some_and(|new| new.contains(what)))
    })
}

#[test]
fn a_rule_that_observes_records_and_refuses_nothing_until_it_enforces() -> Result<()> {
    let site = Site::new()?;
    let rules = format!("{SLURM}mode = \"observe\"\n");
    on_node("disc-observe", &site.settings("", &rules), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_9/step_0/user")?;
        let run = run_of(node, &user)?;
        ensure!(run["observed"] == true, "{run}");
        let out = node.file("out");
        let mut child = trying(node, &user, &out)?;
        let decided = node.wait_for_event("an observed decision", |e| e["kind"] == "decision")?;
        ensure!(decided["body"]["decision"]["mode"] == "observe", "{decided}");
        let verdict = &decided["body"]["decision"]["values"][0]["value"]["Event"]["Net"]["verdict"];
        ensure!(verdict == "WouldDeny", "{decided}");
        said(&out, "ECONNREFUSED")?;
        ensure!(!fs::read_to_string(&out)?.contains("EPERM") && !frozen(&user)?, "something was refused");
        let would = node.json(["stats", "--would"])?;
        let rule = &would["rules"][0];
        ensure!(rule["rule"] == "leaves" && rule["policy"] == "closed v2", "{would}");
        ensure!(rule["runs"][0]["name"] == "slurm-9.0" && rule["times"].as_u64() > Some(0), "{would}");
        ensure!(node.ctl(["stats", "--would", "--offline"])?.expect(0)?.out.contains("leaves"));
        // An operator acts all the same.
        node.ctl(["freeze", "slurm-9.0", "--reason", "drill"])?.expect(0)?;
        ensure!(frozen(&user)?, "an operator froze it");
        node.ctl(["thaw", "slurm-9.0", "--reason", "drill"])?.expect(0)?;

        // Switching to enforce is one line and a restart.
        let config = fs::read_to_string(node.file("failsafed.toml"))?;
        fs::write(node.file("failsafed.toml"), config.replace("mode = \"observe\"", "mode = \"enforce\""))?;
        node.stop()?;
        node.restart()?;
        ensure!(run_of(node, &user)?["observed"] == false, "it is enforced");
        wait_for("it is frozen", || frozen(&user))?;
        fs::write(user.join("cgroup.kill"), "1")?;
        child.wait()?;
        node.ctl(["replay", "slurm-9.0"])?.expect(0)?;
        node.log_is_whole()
    })
}

#[test]
fn an_order_to_observe_holds_for_its_time_over_a_restart_and_ends_by_itself() -> Result<()> {
    let site = Site::new()?;
    on_node("mode", &site.settings("", SLURM), |node| {
        let user = site.make("system.slice/slurmstepd.scope/job_9/step_0/user")?;
        run_of(node, &user)?;
        node.ctl_as(NOBODY, ["mode", "observe", "--for", "1h", "--reason", "x"])?.expect(4)?;
        node.ctl(["mode", "observe", "--for", "30d", "--reason", "x"])?.expect(2)?;
        node.ctl(["mode", "observe", "--for", "1h"])?.expect(2)?;
        let set = node.json(["mode", "observe", "--for", "1h", "--reason", "false alarms"])?;
        ensure!(set["mode"] == "observe" && set["configured"] == "enforce" && set["runs"] == 1, "{set}");
        ensure!(set["failed"].as_array().is_some_and(Vec::is_empty), "{set}");
        let out = node.file("out");
        let mut child = trying(node, &user, &out)?;
        node.wait_for_event("an observed decision", |e| e["body"]["decision"]["mode"] == "observe")?;
        said(&out, "ECONNREFUSED")?;
        node.kill9()?;
        node.restart()?;
        ensure!(node.json(["mode", "show"])?["mode"] == "observe", "it does not survive a restart");
        said(&out, "ECONNREFUSED")?;
        ensure!(!frozen(&user)? && !fs::read_to_string(&out)?.contains("EPERM"), "something was refused");
        ensure!(node.ctl(["node", "status"])?.out.contains("OBSERVES"), "node status does not say it");
        node.json(["mode", "observe", "--for", "2s", "--reason", "not for long"])?;
        wait_for("it is over", || Ok(node.json(["mode", "show"])?["mode"] == "enforce"))?;
        wait_for("it is frozen", || frozen(&user))?;
        ensure!(fs::read_to_string(&out)?.contains("EPERM") || frozen(&user)?, "the kernel refuses again");
        let over = node.wait_for_event("its end", |e| {
            e["body"]["type"] == "mode" && e["body"]["mode"] == "enforce" && e["body"]["actor"] == "daemon"
        })?;
        ensure!(over["kind"] == "order" && over["body"]["runs"] == 1, "{over}");
        node.wait_for_event("who gave it", |e| {
            e["body"]["type"] == "mode"
                && e["body"]["reason"] == "false alarms"
                && e["body"]["actor"]["local"]["uid"] == 0
        })?;
        fs::write(user.join("cgroup.kill"), "1")?;
        child.wait()?;
        node.log_is_whole()
    })
}

/// Waits until the kernel binds the cgroups of a rule when they are made.
fn bound_when_made(node: &Node, rule: &str) -> Result<()> {
    wait_for(&format!("the kernel binds cgroups of {rule} when they are made"), || {
        let list = node.json(["discover", "list"])?;
        let rules = list["rules"].as_array().context("rules")?;
        Ok(rules.iter().any(|found| found["name"] == rule && found["early"] == true))
    })
}

/// A process that waits, enters a cgroup when it is told its path, and then connects to a forbidden place until it is refused.
struct First(Child);

impl First {
    fn new() -> Result<First> {
        let mut command = Command::new(program("until-refused")?);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(First(child))
    }

    /// How many connects were let through before one was refused.
    fn enters(mut self, cgroup: &Path) -> Result<u64> {
        writeln!(self.0.stdin.take().context("stdin")?, "{}", cgroup.display())?;
        let mut out = String::new();
        self.0.stdout.take().context("stdout")?.read_to_string(&mut out)?;
        ensure!(self.0.wait()?.success(), "{out}");
        let tries = out.lines().last().and_then(|line| line.split_once(' ')).context("two numbers")?.1;
        Ok(tries.parse()?)
    }
}

#[test]
fn the_first_connect_in_a_new_step_is_refused_and_judged_before_the_step_is_registered() -> Result<()> {
    let site = Site::new()?;
    // Nobody is frozen: the process has to say what it was answered.
    site.policy("quiet", &CLOSED.replace("\"closed\"", "\"quiet\"").replace("\"freeze\", ", ""))?;
    on_node("disc-made", &site.settings("", SLURM_QUIET), |node| {
        site.make("system.slice/slurmstepd.scope")?;
        bound_when_made(node, "slurm")?;
        for job in 0..5 {
            let first = First::new()?;
            let step = format!("system.slice/slurmstepd.scope/job_{job}/step_0");
            site.make(&format!("{step}/slurm"))?;
            let user = site.make(&format!("{step}/user"))?;
            ensure!(first.enters(&user)? == 0, "a connect passed before the policy was in force");
            let run = run_of(node, &user)?;
            ensure!(run["labels"].get("failsafe.earlier").is_none(), "its policy was in force: {run}");
            // The refusal came before the run was registered, or after it: in either case it is judged.
            let id = run["id"].as_str().context("an id")?;
            node.wait_for_event("the decision", |e| {
                e["run"] == id && e["body"]["decision"]["cause"]["Rule"]["rule"] == "leaves"
            })?;
            fs::remove_dir(&user)?;
        }
        let list = node.json(["discover", "list"])?;
        ensure!(list["early_bound"].as_u64() >= Some(5) && list["early_missed"] == 0, "{list}");
        node.log_is_whole()
    })
}

/// Nothing may leave, and nobody is frozen for trying.
const QUIET: &str = r#"
[policy]
name = "quiet"
version = 1
owner = "tests@example.org"
description = "nothing leaves"

[egress]
allow = [{ cidr = "192.0.2.1/32", ports = [1], protocol = "tcp" }]
"#;

const SLURM_QUIET: &str = "[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"quiet\"\n";

/// What a process in the cgroup is answered that connects to a forbidden place.
fn answer(node: &Node, cgroup: &Path) -> Result<String> {
    let (sender, out) = (program("sender")?.display().to_string(), node.file("answer"));
    let command = format!("sh -c '{sender} --to 127.77.0.9:9 --how tcp --count 1 > {} 2>&1'", out.display());
    in_cgroup(cgroup, 0, &command)?.wait()?;
    Ok(fs::read_to_string(out)?)
}

#[test]
fn a_step_that_is_made_while_no_daemon_runs_is_bound_and_the_next_daemon_registers_it() -> Result<()> {
    let site = Site::new()?;
    site.policy("quiet", QUIET)?;
    on_node("disc-dead", &site.settings("", SLURM_QUIET), |node| {
        site.make("system.slice/slurmstepd.scope")?;
        bound_when_made(node, "slurm")?;
        node.kill9()?;
        let first = First::new()?;
        let user = site.make("system.slice/slurmstepd.scope/job_1/step_0/user")?;
        ensure!(first.enters(&user)? == 0, "a connect passed without a daemon");
        let mut stays = in_cgroup(&user, NOBODY, "sleep 300")?;
        node.restart()?;
        let run = run_of(node, &user)?;
        ensure!(run["labels"].get("failsafe.earlier").is_none(), "its policy was in force: {run}");
        node.wait_for_event("that nobody judged it", |e| e.to_string().contains("bound it while no daemon ran"))?;
        bound_when_made(node, "slurm")?;
        let next = site.make("system.slice/slurmstepd.scope/job_2/step_0/user")?;
        ensure!(First::new()?.enters(&next)? == 0, "a connect passed");
        run_of(node, &next)?;
        ensure!(answer(node, &user)?.contains("EPERM"), "the registered step is not bounded");
        fs::write(user.join("cgroup.kill"), "1")?;
        stays.wait()?;
        node.log_is_whole()
    })
}

#[test]
fn a_cgroup_that_gets_no_run_is_let_go_and_that_is_on_record() -> Result<()> {
    let site = Site::new()?;
    site.policy("quiet", QUIET)?;
    on_node("disc-letgo", &site.settings("runs = 1", SLURM_QUIET), |node| {
        let scope = "system.slice/slurmstepd.scope";
        let held = site.make(&format!("{scope}/job_1/step_0/user"))?;
        run_of(node, &held)?;
        bound_when_made(node, "slurm")?;
        let beyond = site.make(&format!("{scope}/job_2/step_0/user"))?;
        refused(node, &beyond, "discovery.runs")?;
        ensure!(answer(node, &beyond)?.contains("ECONNREFUSED"), "it has no run, and is bounded");
        node.wait_for_event("the release", |e| {
            let text = e.to_string();
            text.contains("by rule slurm when it was made, and let it go") && text.contains("discovery.runs")
        })?;
        let run = run_of(node, &held)?;
        fs::remove_dir(&held)?;
        wait_for("the first run ends", || Ok(node.run(run["id"].as_str().unwrap_or_default())?["state"] == "ended"))?;
        run_of(node, &beyond)?;
        ensure!(answer(node, &beyond)?.contains("EPERM"), "it has a run now");
        node.log_is_whole()
    })
}

#[test]
fn a_rule_that_only_observes_is_not_bound_by_the_kernel() -> Result<()> {
    let site = Site::new()?;
    on_node("disc-eyes", &site.settings("", SLURM), |node| {
        bound_when_made(node, "slurm")?;
        node.ctl(["mode", "observe", "--for", "1h", "--reason", "false alarms"])?.expect(0)?;
        wait_for("the kernel binds nothing", || Ok(node.json(["discover", "list"])?["rules"][0]["early"] == false))?;
        let user = site.make("system.slice/slurmstepd.scope/job_1/step_0/user")?;
        ensure!(answer(node, &user)?.contains("ECONNREFUSED"), "something is refused");
        run_of(node, &user)?;
        ensure!(node.json(["discover", "list"])?["early_bound"] == 0);
        Ok(())
    })
}
