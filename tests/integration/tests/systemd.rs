//! The daemon as a node has it: installed by the document's own words, started, watched and stopped by systemd.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, cgroup2, frozen, program, skip, wait_for};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const UNIT: &str = "failsafed.service";
const RUN: &str = "held";

#[test]
fn installed_as_the_docs_say_a_contained_run_outlives_every_end_of_the_daemon() -> Result<()> {
    if std::env::var_os("FAILSAFE_VM").is_none() {
        skip("it installs failsafe on the machine: only in a virtual one, by `cargo xtask vm`");
        return Ok(());
    }
    let mut run = None;
    let done = installed().and_then(|()| outlives(&mut run));
    if done.is_err() {
        let journal =
            CommandOutput::of(Command::new("journalctl").args(["--unit", UNIT, "--no-pager", "--lines", "80"]));
        eprintln!("{}", journal.map_or_else(|error| format!("{error:#}"), |output| output.out));
    }
    if let Some(mut run) = run {
        let _ended = run.kill().and_then(|()| run.wait());
    }
    done
}

/// Every line of the README's block but the build, which was done.
fn installed() -> Result<()> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/install.md")).context("reading docs/install.md")?;
    let (_, section) = text.split_once("\n## Install from the source tree\n").context("there is no such section")?;
    let (_, block) = section.split_once("```sh\n").context("the section installs nothing")?;
    let (block, _) = block.split_once("```").context("the block has no end")?;
    let built = program("failsafed")?.parent().context("no folder of programs")?.display().to_string();
    for line in block.lines().filter(|line| !line.starts_with("cargo build")) {
        let line = line.replace("target/release", &built);
        let output = CommandOutput::of(Command::new("sh").args(["-c", &line]).current_dir(ROOT))?;
        ensure!(output.code == 0, "{line}: {output:?}");
    }
    Ok(())
}

fn outlives(run: &mut Option<Child>) -> Result<()> {
    ensure!(show("ActiveState")? == "active", "it is not started");
    let policy = std::env::temp_dir().join("plain.toml");
    fs::write(&policy, "[policy]\nname = \"plain\"\nowner = \"tests\"\n").context("writing a policy")?;
    let mut start = Command::new("failsafectl");
    start
        .args(["run", "--no-watch", "--user", "nobody", "--name", RUN, "--policy"])
        .arg(&policy)
        .args(["--", "sleep", "3600"]);
    *run = Some(start.stdin(Stdio::null()).spawn().context("starting failsafectl")?);
    wait_for("the run is known", || Ok(ctl(["describe", RUN])?.code == 0))?;
    let cgroup = cgroup()?;
    ctl(["freeze", RUN, "--reason", "to see whether it stays so"])?.expect(0)?;
    ensure!(frozen(&cgroup)?, "it is not frozen");

    for signal in ["SIGKILL", "SIGSTOP"] {
        let (pid, restarts) = (show("MainPID")?, show("NRestarts")?);
        // Stopped, it no longer feeds the watchdog, whose limit has to pass.
        systemctl(&["kill", "--kill-whom=main", "--signal", signal, UNIT])?;
        let again =
            || Ok(show("NRestarts")? != restarts && show("ActiveState")? == "active" && show("MainPID")? != pid);
        wait_for(&format!("systemd starts it again after {signal}"), again)?;
        ensure!(frozen(&cgroup)?, "{signal} thawed the run");
        ensure!(described()?["state"] == "frozen", "after {signal} it is not known as frozen: {}", described()?);
    }
    systemctl(&["stop", UNIT])?;
    ensure!(show("ActiveState")? == "inactive", "it does not stop");
    ensure!(frozen(&cgroup)?, "a stop thawed the run");
    ensure!(pinned()?, "a stop with a run alive leaves no guards");
    systemctl(&["start", UNIT])?;
    ctl(["thaw", RUN, "--reason", "it stayed so"])?.expect(0)?;
    ensure!(!frozen(&cgroup)?, "it is not thawed");
    ctl(["kill", RUN, "--reason", "the end"])?.expect(0)?;
    wait_for("the run has ended", || Ok(described()?["state"] == "ended"))?;
    systemctl(&["stop", UNIT])?;
    ensure!(!pinned()?, "a stop with no run left leaves pins");
    let log = CommandOutput::of(Command::new("failsafectl").args(["log", "verify"]))?;
    ensure!(log.code == 0, "{log:?}");
    Ok(())
}

fn systemctl(args: &[&str]) -> Result<CommandOutput> {
    CommandOutput::of(Command::new("systemctl").args(args))?.expect(0).with_context(|| format!("systemctl {args:?}"))
}

fn show(property: &str) -> Result<String> {
    Ok(systemctl(&["show", "--value", "--property", property, UNIT])?.out.trim().to_owned())
}

fn ctl<const N: usize>(args: [&str; N]) -> Result<CommandOutput> {
    CommandOutput::of(Command::new("failsafectl").args(args))
}

fn described() -> Result<Value> {
    ctl(["describe", RUN, "-o", "json"])?.expect(0)?.json()
}

fn cgroup() -> Result<PathBuf> {
    Ok(cgroup2()?.join(described()?["cgroup"].as_str().context("describe shows no cgroup")?))
}

/// Whether anything of it is left in the BPF file system.
fn pinned() -> Result<bool> {
    fn any(folder: &Path) -> std::io::Result<bool> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() || any(&path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
    any(Path::new("/sys/fs/bpf/failsafe")).context("reading the pins")
}
