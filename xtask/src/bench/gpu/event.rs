//! From an XID of a GPU, as the simulated driver has it, to the GPU's run frozen: the scenario file gains an event, and the
//! run's `cgroup.events` is read until it says so.

use super::{Stage, scenario};
use crate::{
    bench::{Args, report::Report, statistics::at},
    daemon::{Daemon, Options, cgroup2},
    interrupt, shell,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const POLICY: &str = r#"
[policy]
name = "bench-gpu"
owner = "bench@example.org"
[[rule]]
id = "xid"
rationale = "the bench's event"
when = { event = "xid" }
cooldown = "10 ms"
actions = ["freeze"]
"#;
const PATIENCE: Duration = Duration::from_secs(20);
/// Each is told at once: the same one again would be held back for a second.
const FIRST_CODE: usize = 1_000;

/// Measures.
///
/// # Errors
/// The daemon or the run failed, or a freeze did not come.
pub fn measure(stage: &Stage, args: &Args, report: &mut Report) -> Result<()> {
    let trials = args.trials.max(20);
    report.condition("event", "the simulated driver looks for events every 5 ms, which is in the figure");
    let clock = stage.write("now", "0")?;
    let head = format!("clock = \"file\"\nclock_file = {:?}\n", clock.display().to_string());
    let text = |events: usize| {
        let events: String =
            (0..events).map(|n| format!("[[gpu.event]]\nat = 0\nxid = {}\n", FIRST_CODE + n)).collect();
        format!("{head}{}", scenario(1, &events))
    };
    let file = stage.write("event.toml", &text(0))?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, POLICY).context("writing the policy")?;
    let options = Options {
        name: "bench-gpu",
        release: !args.debug,
        sample_interval_ms: 1_000,
        nvml: Some((stage.library.clone(), file)),
    };
    let daemon = Daemon::start(&options, folder)?;
    let mut run = daemon.ctl(["run", "--no-watch"]);
    run.arg("--policy").arg(&policy).args(["--name", "bench", "--gpu", "all", "--user", "root", "--quiet", "--"]);
    let mut child = run.args(["sleep", "600"]).spawn().context("starting the run")?;
    let measured = events(stage, &daemon, trials, &text);
    let _ = child.kill();
    let _ = child.wait();
    let took = measured?;
    for percent in [50.0, 99.0] {
        let value = at(&took, percent);
        report.figure(&format!("xid_to_frozen_p{percent}_ms"), value);
    }
    Ok(())
}

fn events(stage: &Stage, daemon: &Daemon, trials: usize, text: &impl Fn(usize) -> String) -> Result<Vec<f64>> {
    let described = interrupt::wait_for("the run", PATIENCE, || Ok(daemon.json(["describe", "bench"]).ok()))?;
    let cgroup = cgroup2()?.join(described["cgroup"].as_str().context("describe shows no cgroup")?);
    // XIDs are seen once the set is registered, and an event from before is not told.
    super::wait(Duration::from_secs(2))?;
    let mut took = Vec::with_capacity(trials);
    for trial in 1..=trials {
        eprintln!("gpu: XID {trial} of {trials}");
        let began = Instant::now();
        stage.write("event.toml", &text(trial))?;
        while !frozen(&cgroup)? {
            interrupt::check()?;
            anyhow::ensure!(began.elapsed() < PATIENCE, "XID {trial} froze nothing");
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
        shell::read(daemon.ctl(["thaw", "bench", "--reason", "next trial"]).args(["--timeout", "10s"]))?;
    }
    Ok(took)
}

fn frozen(cgroup: &Path) -> Result<bool> {
    Ok(fs::read_to_string(cgroup.join("cgroup.events")).context("reading cgroup.events")?.contains("frozen 1"))
}
