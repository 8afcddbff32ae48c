//! From the creation of a matching cgroup to its policy in force: a process enters at once and connects to a forbidden place until it is
//! refused. The tree is made as Slurm makes it, level by level. Measured twice: the kernel binds the cgroup when it is made, or the daemon
//! does when it registers it.

use super::{Args, crowd::remove, report::Report, statistics::at};
use crate::{
    daemon::{Daemon, Options, cgroup2},
    interrupt,
};
use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const CGROUPS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a cgroup is bound.
struct Way {
    name: &'static str,
    /// `discovery.early_slots`.
    slots: u32,
}

const WAYS: &[Way] = &[Way { name: "kernel", slots: 16 }, Way { name: "daemon", slots: 0 }];

const POLICY: &str = r#"
[policy]
name = "bench-discover"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.1/32" }]
"#;

/// A cgroup below which the trees are made; gone with all in it when it is dropped.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _killed = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..200 {
            if remove(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("left behind: {}", self.0.display());
    }
}

/// Measures.
///
/// # Errors
/// The daemon failed, or a process was not refused in time.
pub fn run(args: &Args) -> Result<Report> {
    let count = if args.debug { args.trials } else { args.trials.max(CGROUPS) };
    let mut report = Report::new("discover", count, args.debug);
    for way in WAYS {
        measure(args, count, way, &mut report)?;
    }
    Ok(report)
}

fn measure(args: &Args, count: usize, way: &Way, report: &mut Report) -> Result<()> {
    let (folder, policies) = (tempfile::tempdir().context("making a folder")?, tempfile::tempdir()?);
    fs::set_permissions(policies.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(policies.path().join("closed.toml"), POLICY)?;
    fs::set_permissions(policies.path().join("closed.toml"), fs::Permissions::from_mode(0o644))?;
    let options = Options { name: "bench-discover", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let mut daemon = Daemon::start(&options, folder)?;
    let name = format!("failsafe-bench-site-{}", std::process::id());
    let root = Root(cgroup2()?.join(&name));
    fs::create_dir(&root.0).with_context(|| format!("making {}", root.0.display()))?;
    let config = daemon.folder().join("failsafed.toml");
    let before = fs::read_to_string(&config)?;
    let (policies, rules) = (policies.path().display(), "name = \"slurm\"\npreset = \"slurm\"\npolicy = \"closed\"\n");
    // A key of the file's own stands before its first table.
    let text = format!(
        "policy_dir = \"{policies}\"\n{before}\n[discovery]\nroot = \"{name}\"\nearly_slots = {}\nrescan_s = 1\n\n\
         [[discover]]\n{rules}",
        way.slots
    );
    fs::write(&config, text)?;
    daemon.crash()?;
    daemon.wait_until_it_answers()?;
    let early = |list: &Value| list["rules"][0]["early"] == (way.slots > 0);
    interrupt::wait_for("discovery", PATIENCE, || Ok(early(&daemon.json(["discover", "list"])?).then_some(())))?;
    let scope = root.0.join("system.slice/slurmstepd.scope");
    fs::create_dir_all(&scope)?;
    let program = daemon.program("until-refused");
    let (mut delays, mut passed) = (Vec::new(), 0_u64);
    for job in 0..count {
        let (delay, tries) = once(&daemon, &program, &scope, job)?;
        delays.push(delay);
        passed += u64::from(tries > 0);
    }
    for (percent, part) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
        report.figure(&format!("{}_mkdir_to_first_refusal_{percent}_ms", way.name), at(&delays, part));
    }
    report.figure(&format!("{}_cgroups_in_which_a_forbidden_connect_passed", way.name), passed);
    Ok(())
}

/// One step of a job; the time in milliseconds, and how many connects were not refused.
fn once(daemon: &Daemon, program: &Path, scope: &Path, job: usize) -> Result<(f64, u64)> {
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("until-refused")?;
    let done = measured(&mut child, scope, job);
    let _killed = child.kill();
    child.wait()?;
    // The next one finds room: a user has a limit of discovered runs.
    interrupt::wait_for("the run's end", PATIENCE, || {
        let _gone = remove(&scope.join(format!("job_{job}")));
        Ok(daemon.json(["list"])?.as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    done
}

fn measured(child: &mut Child, scope: &Path, job: usize) -> Result<(f64, u64)> {
    let (mut to, from) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
    let mut lines = BufReader::new(from).lines();
    if lines.next().transpose()?.as_deref() != Some("ready") {
        bail!("until-refused is not ready");
    }
    let step = scope.join(format!("job_{job}/step_0"));
    fs::create_dir_all(&step)?;
    fs::create_dir(step.join("slurm"))?;
    let user = step.join("user");
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    fs::create_dir(&user)?;
    writeln!(to, "{}", user.display())?;
    let line = lines.next().transpose()?.context("it was not refused")?;
    let (at, tries) = line.split_once(' ').context("two numbers")?;
    let began = i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec());
    let nanos = at.parse::<i128>()?.saturating_sub(began);
    Ok((nanos as f64 / 1e6, tries.parse()?))
}
