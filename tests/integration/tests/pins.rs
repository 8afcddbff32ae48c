//! Pins: a configuration that wants them and cannot have them is refused, and a node without them says so everywhere.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch, Node, on_node, wait_for};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BOUNDED: &str = "[policy]\nname = \"bounded\"\nowner = \"tests\"\n[egress]\nallow = []\n";

/// Lets `bpffs` name another folder.
fn pin_in(node: &Node, folder: &Path) -> Result<PathBuf> {
    let file = node.file("failsafed.toml");
    let text = fs::read_to_string(&file)?;
    let lines = text.lines().map(|line| match line.starts_with("bpffs = ") {
        true => format!("bpffs = {:?}\n", folder.display().to_string()),
        false => format!("{line}\n"),
    });
    fs::write(&file, lines.collect::<String>())?;
    Ok(file)
}

fn check(file: &Path) -> Result<CommandOutput> {
    CommandOutput::of(Command::new(integration::program("failsafed")?).arg("--config").arg(file).arg("--check"))
}

#[test]
fn a_folder_for_pins_that_does_not_exist_is_made_in_a_bpf_file_system() -> Result<()> {
    on_node("pins-made", "", |node| {
        node.stop()?;
        let folder = node.pins().join("not/there");
        check(&pin_in(node, &folder)?)?.expect(0)?;
        ensure!(!folder.exists(), "a check of the configuration made {}", folder.display());
        node.restart()?;
        let _run = Launch::new("bounded", BOUNDED).start(node, ["sleep", "600"])?;
        let pinned = || -> Result<usize> {
            let instances = fs::read_dir(folder.join("failsafe"))?;
            let generations = instances.map(|entry| Ok(fs::read_dir(entry?.path())?)).collect::<Result<Vec<_>>>()?;
            let files = generations.into_iter().flatten().map(|entry| Ok(fs::read_dir(entry?.path())?.count()));
            files.sum()
        };
        ensure!(pinned()? > 0, "nothing is pinned in {}", folder.display());
        ensure!(node.run("bounded")?["not_enforced"].as_array().is_some_and(Vec::is_empty), "{}", node.run("bounded")?);
        Ok(())
    })
}

#[test]
fn a_folder_for_pins_outside_a_bpf_file_system_is_refused_by_a_check_and_by_a_start() -> Result<()> {
    on_node("pins-nowhere", "", |node| {
        node.stop()?;
        for folder in [node.file("nowhere"), node.state_dir().to_owned()] {
            let file = pin_in(node, &folder)?;
            for output in [check(&file)?, CommandOutput::of(&mut node.daemon_command()?)?] {
                ensure!(output.code != 0, "{output:?}");
                ensure!(output.err.contains("is not in a BPF file system"), "{output:?}");
                ensure!(
                    output.err.contains(&folder.display().to_string()) && output.err.contains("bpffs = \"\""),
                    "{output:?}"
                );
            }
        }
        ensure!(!node.file("nowhere").exists(), "a folder was made where nothing can be pinned");
        Ok(())
    })
}

#[test]
fn without_pins_the_node_its_health_and_its_runs_report_what_is_not_enforced() -> Result<()> {
    on_node("pins-off", "bpffs = \"\"\n", |node| {
        check(&node.file("failsafed.toml"))?.expect(0)?;
        let status = node.ctl(["node", "status"])?.expect(0)?;
        ensure!(status.out.contains("NOT PINNED") && status.out.contains("bpffs = \"\""), "{status:?}");
        wait_for("the health has the reason", || Ok(node.ctl(["node", "health"])?.out.contains("[not-pinned]")))?;
        let started = node.wait_for_event("the start", |e| e["body"]["type"] == "daemon-started")?;
        ensure!(started["body"]["blind"].to_string().contains("not pinned"), "{started}");

        let run = Launch::new("bounded", BOUNDED).start(node, ["sleep", "600"])?;
        let started = node.wait_for_event("the run's start", |e| e["body"]["type"] == "run-started")?;
        let is_named = |rules: &serde_json::Value| {
            rules.as_array().is_some_and(|all| all.iter().any(|rule| rule.to_string().contains("on_dead_daemon")))
        };
        ensure!(is_named(&started["body"]["broken"]), "{started}");
        ensure!(is_named(&node.run(run.id())?["not_enforced"]), "{}", node.run(run.id())?);
        let described = node.ctl(["describe", "bounded"])?.expect(0)?;
        let line = described.out.lines().find(|line| line.starts_with("NOT ENFORCED: on_dead_daemon"));
        ensure!(line.context("no line on on_dead_daemon")?.contains("not pinned"), "{described:?}");
        // The policy asks for no more than what is enforced while a daemon runs.
        let list = node.ctl(["list"])?.expect(0)?.out;
        ensure!(list.contains("running") && !list.contains("+unenforced"), "{list}");

        let file = node.policy("bounded", BOUNDED)?.display().to_string();
        let checked = node.ctl(["policy", "check", "--node", &file])?.expect(1)?;
        ensure!(checked.out.contains("on_dead_daemon") && checked.out.contains("NOT ENFORCED"), "{checked:?}");
        let strict = BOUNDED.replace("owner", "on_dead_daemon = \"deny-egress\"\nowner");
        let strict = node.policy("strict", &strict)?.display().to_string();
        let refused = node.ctl(["run", "-p", &strict, "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(refused.err.contains("on_dead_daemon") && refused.err.contains("bpffs"), "{refused:?}");
        Ok(())
    })
}
