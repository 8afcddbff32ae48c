//! A pause of the daemon and a suspension by a scheduler freeze no healthy run.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, Started, on_node, program, sentinel, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, io::ErrorKind, time::Duration};

/// Every way in which the silence of a run freezes it.
const STRICT: &str = r#"
[policy]
name = "strict"
owner = "tests"
on_blind = "freeze"

[metrics]
grace = "3s"
stale = "3s"

[[rule]]
id = "exploded"
rationale = "the loss is below 10 from the first step on"
when = { signal = "metric.loss", above = 50 }
actions = ["freeze"]

[[rule]]
id = "silent"
rationale = "a value comes every 100 ms"
when = { signal = "metric.loss", absent = "3s" }
actions = ["freeze"]

[[rule]]
id = "sends"
rationale = "it sends nothing"
when = { signal = "net.egress_bytes", above = "1 GB" }
actions = ["freeze"]
"#;

fn reporter(node: &Node) -> Result<Started> {
    let ctl = program("failsafectl")?.display().to_string();
    let hang = sentinel(node, "hang")?;
    fs::remove_file(&hang).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    let script = format!("until [ -e {} ]; do {ctl} report loss 2.5; sleep 0.1; done; sleep 600", hang.display());
    let run = Launch::new("healthy", STRICT)
        .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
        .start(node, ["sh", "-c", &script])?;
    reports(node)?;
    Ok(run)
}

/// How old the last value of the metric is.
fn age(node: &Node) -> Result<Duration> {
    let metrics = node.json(["describe", "healthy"])?["metrics"].clone();
    let loss = metrics.as_array().into_iter().flatten().find(|metric| metric["name"] == "loss").cloned();
    let age = loss.and_then(|loss| loss["age_ns"].as_u64()).map(Duration::from_nanos);
    Ok(age.unwrap_or(Duration::MAX))
}

fn reports(node: &Node) -> Result<()> {
    wait_for("a fresh value", || Ok(age(node)? < Duration::from_secs(1)))
}

fn no_decision(node: &Node) -> Result<()> {
    let decisions: Vec<_> = node.events()?.into_iter().filter(|e| !e["body"]["decision"].is_null()).collect();
    ensure!(decisions.is_empty(), "{decisions:?}");
    Ok(())
}

#[test]
fn a_daemon_that_was_stopped_for_longer_than_every_limit_freezes_no_healthy_run() -> Result<()> {
    on_node("pause", "", |node| {
        let run = reporter(node)?;
        let daemon = Pid::from_raw(node.pid()?);
        kill(daemon, Signal::SIGSTOP)?;
        // Longer than the limits of the policy, and than the time after which a sampled sensor is blind.
        std::thread::sleep(Duration::from_secs(12));
        kill(daemon, Signal::SIGCONT)?;
        let gap = node.wait_for_event("the gap", |e| {
            e["body"]["what"].as_str().is_some_and(|what| what.contains("the daemon made no progress for"))
        })?;
        reports(node)?;
        // Two ticks on: what is missing has been looked for.
        let from = node.run("healthy")?["cpu_us"].clone();
        wait_for("it works on", || Ok(node.run("healthy")?["cpu_us"] != from))?;
        reports(node)?;
        no_decision(node).with_context(|| format!("after {gap}"))?;
        ensure!(!integration::frozen(run.cgroup())?);
        ensure!(node.ctl(["replay", "healthy"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_a_scheduler_suspends_is_shown_so_and_goes_on_after_the_resume() -> Result<()> {
    on_node("suspend", "", |node| {
        let run = reporter(node)?;
        let all = |signal| -> Result<()> {
            for pid in fs::read_to_string(run.cgroup().join("cgroup.procs"))?.lines() {
                kill(Pid::from_raw(pid.parse()?), signal)?;
            }
            Ok(())
        };
        // A shell that makes a child meanwhile is stopped in the next round.
        wait_for("the run is suspended", || {
            all(Signal::SIGSTOP)?;
            Ok(node.run("healthy")?["suspended"] == true)
        })?;
        ensure!(node.ctl(["list"])?.expect(0)?.out.contains("running+suspended"));
        wait_for("the limits are over", || Ok(age(node)? > Duration::from_secs(8)))?;
        ensure!(node.run("healthy")?["state"] == "running");
        no_decision(node)?;
        all(Signal::SIGCONT)?;
        reports(node)?;
        wait_for("it is no longer suspended", || Ok(node.run("healthy")?["suspended"] == false))?;
        no_decision(node)?;
        // A run that only hangs is frozen.
        fs::write(sentinel(node, "hang")?, "")?;
        run.freezes()?;
        node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "silent")?;
        node.log_is_whole()
    })
}

#[test]
fn the_owner_does_not_undo_a_freeze_of_its_cgroup_by_somebody_else() -> Result<()> {
    on_node("foreign-freeze", "", |node| {
        let policy = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
        let run = Launch::new("suspended", policy).user("nobody").start(node, ["sleep", "600"])?;
        let freeze = run.cgroup().join("cgroup.freeze");
        fs::write(&freeze, "1")?;
        node.ctl_as(NOBODY, ["freeze", "suspended", "--reason", "x"])?.expect(0)?;
        node.ctl_as(NOBODY, ["thaw", "suspended", "--reason", "x"])?.expect(4)?;
        ensure!(fs::read_to_string(&freeze)?.trim() == "1");
        node.ctl(["thaw", "suspended", "--reason", "x"])?.expect(0)?;
        ensure!(fs::read_to_string(&freeze)?.trim() == "0");
        // What the owner alone froze, the owner thaws.
        node.ctl_as(NOBODY, ["freeze", "suspended", "--reason", "x"])?.expect(0)?;
        node.ctl_as(NOBODY, ["thaw", "suspended", "--reason", "x"])?.expect(0)?;
        node.log_is_whole()
    })
}
