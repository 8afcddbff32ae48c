//! The kernel binds a matching cgroup when it is made, before its first process.

use crate::site::{CLOSED, SLURM, Site, in_cgroup, refused, run_of};
use anyhow::{Context, Result, ensure};
use integration::{NOBODY, Node, on_node, program, wait_for};
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

const SLURM_QUIET: &str = "[[discover]]\nname = \"slurm\"\npreset = \"slurm\"\npolicy = \"quiet\"\n";

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

/// A process that waits for the path of a cgroup, enters it, and then connects to a forbidden place until it is refused.
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

/// Waits until the kernel binds the cgroups of a rule when they are made.
fn bound_when_made(node: &Node, rule: &str) -> Result<()> {
    wait_for(&format!("the kernel binds cgroups of {rule} when they are made"), || {
        let list = node.json(["discover", "list"])?;
        let rules = list["rules"].as_array().context("rules")?;
        Ok(rules.iter().any(|found| found["name"] == rule && found["early"] == true))
    })
}

/// What a process in the cgroup is answered that connects to a forbidden place.
fn answer(node: &Node, cgroup: &Path) -> Result<String> {
    let (sender, out) = (program("sender")?.display().to_string(), node.file("answer"));
    let command = format!("sh -c '{sender} --to 127.77.0.9:9 --how tcp --count 1 > {} 2>&1'", out.display());
    in_cgroup(cgroup, 0, &command)?.wait()?;
    Ok(fs::read_to_string(out)?)
}

#[test]
fn the_first_connect_in_a_new_step_is_refused_and_judged_before_the_step_is_registered() -> Result<()> {
    let site = Site::new()?;
    // Nobody is frozen: the process has to report the answer that it got.
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
