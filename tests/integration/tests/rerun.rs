//! `rerun`: an ended run is started again with what it was started with, from a checkpoint that is verified, or not at all.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch, Node, on_node, sentinel, wait_for};
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const MANIFEST: &str = "regime = \"seeded\"\n[seeds]\ntorch = 42\n";

/// Waits until the factors of a run were read once, and ends it.
fn read_and_ended(node: &Node, run: &mut integration::Started, end: &PathBuf) -> Result<()> {
    let factors = node.state_dir().join("runs").join(run.id()).join("factors.json");
    wait_for("the factors of the run were read", || Ok(factors.exists()))?;
    fs::write(end, "end")?;
    run.ends()?;
    let id = run.id().to_owned();
    node.wait_for_event("the run's end", |e| e["body"]["type"] == "run-ended" && e["run"] == id.as_str())?;
    Ok(())
}

fn events_of(node: &Node, kind: &str) -> Result<Vec<Value>> {
    Ok(node.events()?.into_iter().filter(|e| e["body"]["type"] == kind).collect())
}

#[test]
fn a_run_is_started_again_from_its_good_checkpoint_with_the_same_command_folder_and_variables() -> Result<()> {
    on_node("rerun", "", |node| {
        let (end, seen) = (sentinel(node, "end")?, sentinel(node, "seen")?);
        let (weights, manifest) = (node.file("weights"), node.file("m.toml"));
        fs::write(&weights, "0123456789")?;
        fs::write(&manifest, MANIFEST)?;
        let ctl = node.ctl_command([""]).get_program().to_owned();
        let script = format!(
            "echo \"$FAILSAFE_RUN_ID $OMP_NUM_THREADS ${{FAILSAFE_CHECKPOINT:-none}} $PWD $1\" >> {}; \
             '{}' checkpoint {} --step 7 --good; while ! grep -q end {}; do sleep 0.05; done",
            seen.display(),
            ctl.display(),
            weights.display(),
            end.display()
        );
        let start = |name, manifest: &PathBuf| {
            Launch::new(name, PLAIN)
                .env("OMP_NUM_THREADS", "3")
                .manifest(manifest.clone())
                .start(node, ["sh", "-c", &script, "x", "an argument"])
        };
        let mut run = start("job", &manifest)?;
        let live = node.ctl(["rerun", "job", "--print"])?.expect(1)?;
        ensure!(live.err.contains("still lives"), "{}", live.err);
        read_and_ended(node, &mut run, &end)?;

        let plan = node.json(["rerun", "job", "--print"])?;
        ensure!(plan["command"][4] == "an argument" && plan["directory"] == "/", "{plan:#}");
        ensure!(plan["environment"]["OMP_NUM_THREADS"] == "3" && plan["checkpoint"]["step"] == 7, "{plan:#}");
        ensure!(
            plan["variables"].to_string().contains("\"PATH\"") && plan["differences"] == serde_json::json!([]),
            "{plan:#}"
        );
        let missing = node.ctl(["rerun", "job"])?.expect(2)?;
        ensure!(
            missing.err.contains("had a value that was never read: ") && missing.err.contains("PATH"),
            "{}",
            missing.err
        );
        node.ctl_as(12_345, ["rerun", "job", "--print"])?.expect(6)?;

        // The watcher passes on to the child, which becomes the command.
        node.ctl(["rerun", "job", "--name", "again", "--inherit"])?.expect(0)?;
        let text = fs::read_to_string(&seen)?;
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("an argument")).collect();
        let again = node.run("again")?;
        let id = again["id"].as_str().context("no id")?.to_owned();
        let expected = format!("{id} 3 {} / an argument", weights.display());
        ensure!(lines.len() == 2 && lines[1] == expected, "{lines:?}, expected {expected}");
        ensure!(again["owner_uid"] == 65_534 && again["policy_digest"] == plan["policy"], "{again:#}");
        let entry = events_of(node, "rerun")?.pop().context("no entry about the rerun")?;
        ensure!(entry["body"]["of"] == run.id() && entry["run"] == id.as_str(), "{entry}");
        let digest = "sha256:84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
        ensure!(entry["body"]["checkpoint"] == format!("{} {digest}", weights.display()), "{entry}");
        ensure!(
            entry["body"]["accepted"].is_null() && entry["body"]["differences"] == serde_json::json!([]),
            "{entry}"
        );
        let shown = node.json(["manifest", "show", "again"])?;
        ensure!(shown["manifest"]["parent"] == run.id() && shown["manifest"]["seeds"]["torch"] == 42, "{shown:#}");
        ensure!(shown["manifest"]["baseline"] == weights.display().to_string(), "{shown:#}");

        // A checkpoint that was changed is not begun with.
        fs::write(&weights, "9876543210")?;
        let changed = node.ctl(["rerun", "job", "--inherit"])?.expect(7)?;
        ensure!(changed.err.contains("not the one that was announced"), "{}", changed.err);
        node.ctl(["rerun", "job", "--inherit", "--from", "9"])?.expect(6)?;
        node.ctl(["rerun", "job", "--name", "scratch", "--inherit", "--from", "start"])?.expect(0)?;
        ensure!(fs::read_to_string(&seen)?.contains(" 3 none / an argument"), "{}", fs::read_to_string(&seen)?);
        ensure!(events_of(node, "rerun")?.len() == 2, "nothing else was started");
        node.log_is_whole()
    })
}

#[test]
fn a_rerun_that_would_differ_in_results_is_refused_unless_a_reason_is_given() -> Result<()> {
    on_node("rerun-differs", "", |node| {
        if std::thread::available_parallelism()?.get() < 2 {
            integration::skip("one processor: nothing to differ in");
            return Ok(());
        }
        let end = sentinel(node, "end")?;
        let script = format!("while ! grep -q end {}; do sleep 0.05; done", end.display());
        let mut run = Launch::new("job", PLAIN).env("OMP_NUM_THREADS", "3").start(node, ["sh", "-c", &script])?;
        read_and_ended(node, &mut run, &end)?;
        let pinned = |more: &[&str]| -> Result<CommandOutput> {
            let ctl = node.ctl_command(["rerun", "job", "--from", "start", "--inherit"]);
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(ctl.get_program()).args(ctl.get_args()).args(more);
            command.envs(ctl.get_envs().filter_map(|(name, value)| Some((name, value?))));
            CommandOutput::of(&mut command)
        };
        let refused = pinned(&[])?.expect(21)?;
        ensure!(refused.err.contains("run/cpu/count") && refused.err.contains("BLAS threads"), "{}", refused.err);
        let printed = pinned(&["--print"])?.expect(21)?;
        ensure!(printed.out.contains("run/cpu/count"), "{}", printed.out);
        // So is another value of a variable, or none, also while other values have to be given yet.
        for (more, change) in [
            (&["--inherit", "--env", "OMP_NUM_THREADS=4"][..], "run/env/OMP_NUM_THREADS  3 -> 4"),
            (&["--inherit", "--without", "OMP_NUM_THREADS"], "run/env/OMP_NUM_THREADS  3 -> absent"),
            (&["--env", "OMP_NUM_THREADS=4"], "run/env/OMP_NUM_THREADS  3 -> 4"),
        ] {
            let with = |print: &[&'static str]| {
                node.ctl(
                    ["rerun", "job", "--from", "start"]
                        .into_iter()
                        .chain(more.iter().copied())
                        .chain(print.iter().copied()),
                )
            };
            let printed = with(&["--print"])?.expect(21)?;
            ensure!(printed.out.contains(change), "{}", printed.out);
            if more[0] == "--inherit" {
                let refused = with(&[])?.expect(21)?;
                ensure!(
                    refused.err.contains(change) && refused.err.contains("--accept-differences"),
                    "{}",
                    refused.err
                );
            }
        }
        ensure!(events_of(node, "rerun")?.is_empty(), "nothing was started");
        pinned(&["--accept-differences", "a test on one processor"])?.expect(0)?;
        let entry = events_of(node, "rerun")?.pop().context("no entry about the rerun")?;
        ensure!(entry["body"]["accepted"] == "a test on one processor", "{entry}");
        ensure!(entry["body"]["differences"].to_string().contains("run/cpu/count"), "{entry}");
        Ok(())
    })
}

#[test]
fn a_run_with_a_secret_in_its_command_is_not_started_with_the_redacted_text() -> Result<()> {
    on_node("rerun-secret", "", |node| {
        let (end, seen) = (sentinel(node, "end")?, sentinel(node, "seen")?);
        let script =
            format!("echo \"$2\" >> {}; while ! grep -q end {}; do sleep 0.05; done", seen.display(), end.display());
        let words = ["sh", "-c", &script, "x", "--token", "s3cr3t-of-mine"];
        let mut run = Launch::new("job", PLAIN).start(node, words)?;
        read_and_ended(node, &mut run, &end)?;
        let kept = fs::read_to_string(node.state_dir().join("runs").join(run.id()).join("start.json"))?;
        ensure!(!kept.contains("s3cr3t"), "{kept}");
        let rerun = ["rerun", "job", "--from", "start", "--inherit"];
        let refused = node.ctl(rerun)?.expect(2)?;
        ensure!(refused.err.contains("1 argument of the command had a secret"), "{}", refused.err);
        let other = node.ctl(rerun.iter().copied().chain(["--", "sh", "-c", "true"]))?.expect(2)?;
        ensure!(other.err.contains("another one"), "{}", other.err);
        node.ctl(rerun.iter().copied().chain(["--"]).chain(words))?.expect(0)?;
        ensure!(fs::read_to_string(&seen)?.matches("s3cr3t-of-mine").count() == 2, "{}", fs::read_to_string(&seen)?);
        Ok(())
    })
}

#[test]
fn a_rerun_with_a_port_that_the_policy_refuses_is_an_error_before_it_is_started() -> Result<()> {
    let closed =
        format!("{PLAIN}\n[egress]\nallow = [{{ cidr = \"10.0.0.0/8\", ports = [443], protocol = \"tcp\" }}]\n");
    on_node("rerun-scrape", "", |node| {
        let end = sentinel(node, "end")?;
        let script = format!("while ! grep -q end {}; do sleep 0.05; done", end.display());
        let mut run = Launch::new("job", &closed).start(node, ["sh", "-c", &script])?;
        read_and_ended(node, &mut run, &end)?;
        let rerun = ["rerun", "job", "--from", "start", "--inherit"];
        let refused = node.ctl(rerun.iter().copied().chain(["--scrape", "9400"]))?.expect(2)?;
        ensure!(refused.err.contains("denied by [egress]"), "{}", refused.err);
        let many = (0..17).flat_map(|_| ["--scrape", "9400"]);
        let many = node.ctl(rerun.iter().copied().chain(many))?.expect(2)?;
        ensure!(many.err.contains("--scrape is given 17 times (limit 16)"), "{}", many.err);
        ensure!(events_of(node, "rerun")?.is_empty(), "nothing is started");
        node.ctl(rerun)?.expect(0)?;
        Ok(())
    })
}
