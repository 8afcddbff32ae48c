//! Runs that the next daemon cannot take up: what bounds them stays in force, they are listed with the reason, and they are taken up as
//! soon as that can be done.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, Started, Tmpfs, frozen, on_node, program, wait_for};
use serde_json::Value;
use std::{fs, io::Write, path::PathBuf};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

/// A run that tries a connect that its policy refuses, again and again. `LEAK` stands in its output once one got through.
fn talker(node: &Node, name: &str) -> Result<(Started, PathBuf)> {
    let policy = format!("[policy]\nname = \"{name}\"\nowner = \"tests\"\n[egress]\nallow = []\n");
    let tried = integration::sentinel(node, &format!("tried-{name}"))?;
    let sender = program("sender")?.display().to_string();
    let script = format!(
        "while :; do {sender} --to 127.0.0.3:9 --how connected-udp --count 1 --pause-ms 0 | grep -q 'refused: EPERM' && echo x >> {} || echo LEAK; sleep 0.02; done",
        tried.display()
    );
    let run = Launch::new(name, &policy).start(node, ["sh", "-c", &script])?;
    still_refused(&run, &tried)?;
    Ok((run, tried))
}

fn still_refused(run: &Started, tried: &PathBuf) -> Result<()> {
    let before = fs::metadata(tried)?.len();
    wait_for("it tried five times more", || Ok(fs::metadata(tried)?.len() > before + 10))
        .with_context(|| format!("it printed {}{}", run.output(), run.errors()))?;
    ensure!(!run.output().contains("LEAK"), "a refused connect got through: {}", run.output());
    Ok(())
}

/// Waits until the run is listed as guarded, for a reason with this text, and that is in the log and in the node's health.
fn is_guarded(node: &Node, name: &str, why: &str) -> Result<Value> {
    wait_for(&format!("{name} is listed as guarded"), || {
        let listed = node.json(["list"])?;
        let mut runs = listed.as_array().context("a list")?.iter();
        Ok(runs.any(|run| run["name"] == name && run["state"] == "guarded"))
    })
    .with_context(|| format!("{}", node.json(["list"]).unwrap_or_default()))?;
    let run = node.run(name)?;
    let reason = run["guarded"].as_str().context("a reason")?;
    ensure!(reason.starts_with("guarded, not judged") && reason.contains(why), "{reason}");
    let page = node.ctl(["describe", name])?.expect(0)?.out;
    ensure!(page.contains("guarded, not judged"), "{page}");
    ensure!(node.ctl(["node", "status"])?.expect(0)?.out.contains("NOT JUDGED"));
    let health = || node.ctl(["node", "health", "-o", "json"]).map(|output| output.out);
    wait_for("the node's health has it", || Ok(health()?.contains("runs-not-judged")))
        .with_context(|| health().unwrap_or_default())?;
    Ok(run)
}

fn is_judged(node: &Node, name: &str) -> Result<()> {
    wait_for(&format!("{name} is judged"), || Ok(node.run(name)?["state"] == "running"))
        .with_context(|| format!("{}", node.run(name).unwrap_or_default()))?;
    wait_for("the node's health is as before", || {
        Ok(!node.ctl(["node", "health", "-o", "json"])?.out.contains("runs-not-judged"))
    })?;
    ensure!(node.json(["node", "status"])?["guarded"] == 0);
    Ok(())
}

/// Generations of pins that there are.
fn generations(node: &Node) -> Result<usize> {
    let Ok(mut instances) = fs::read_dir(node.pins().join("failsafe")) else { return Ok(0) };
    let Some(instance) = instances.next() else { return Ok(0) };
    Ok(fs::read_dir(instance?.path())?.count())
}

fn gap_of(node: &Node, run: &str, text: &str) -> Result<()> {
    node.wait_for_event(&format!("a gap with `{text}`"), |e| {
        e["body"]["type"] == "gap" && e["run"] == run && e["body"]["what"].as_str().is_some_and(|w| w.contains(text))
    })
    .map(drop)
}

#[test]
fn with_a_full_state_folder_a_run_stays_bounded_and_is_taken_up_when_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    let tmpfs = Tmpfs::mount(&state, 8 << 10)?;
    let settings = format!("state_dir = {:?}\n", state.display().to_string());
    on_node("guarded-full-disk", &settings, |node| {
        node.use_state_dir(&state);
        let (run, tried) = talker(node, "talks")?;
        node.kill9()?;
        let filler = tmpfs.path().join("filler");
        let mut file = fs::File::create(&filler)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        drop(file);
        node.restart()?;
        still_refused(&run, &tried)?;
        is_guarded(node, "talks", "No space left on device")?;
        // Over another start too, with more than one generation of pins.
        node.kill9()?;
        still_refused(&run, &tried)?;
        node.restart()?;
        is_guarded(node, "talks", "No space left on device")?;
        still_refused(&run, &tried)?;
        fs::remove_file(&filler)?;
        is_judged(node, "talks")?;
        still_refused(&run, &tried)?;
        wait_for("the earlier daemons' pins are gone", || Ok(generations(node)? == 1))?;
        gap_of(node, run.id(), "it is judged again")?;
        node.ctl(["freeze", "talks", "--reason", "it is watched again"])?.expect(0)?;
        ensure!(frozen(run.cgroup())?);
        node.log_is_whole()
    })
}

#[test]
fn without_its_policys_copy_a_run_is_guarded_obeys_an_administrator_and_ends_there() -> Result<()> {
    on_node("no-policy", "", |node| {
        let (mut run, tried) = talker(node, "talks")?;
        let other = Launch::new("other", PLAIN).start(node, ["sleep", "600"])?;
        node.kill9()?;
        let digest = policy_file(node, "talks")?;
        let away = node.file("away.json");
        fs::rename(&digest, &away)?;
        node.restart()?;
        is_guarded(node, "talks", "its policy cannot be read")?;
        gap_of(node, run.id(), "its policy cannot be read")?;
        still_refused(&run, &tried)?;
        ensure!(node.run("other")?["state"] == "running", "the other run is taken up");
        // Its name is taken, and its cgroup too.
        let refused = node.ctl([
            "run",
            "--policy",
            &node.file("talks.toml").display().to_string(),
            "--name",
            "talks",
            "--user",
            "nobody",
            "--",
            "true",
        ])?;
        ensure!(refused.code != 0 && refused.err.contains("talks"), "{refused:?}");

        node.ctl(["freeze", "talks", "--reason", "by hand"])?.expect(0)?;
        ensure!(frozen(run.cgroup())? && node.run("talks")?["guarded_frozen"] == true);
        // What came of it is on record, as what was asked is.
        let outcome = node.wait_for_event("what came of the freeze", |e| e["body"]["type"] == "control-outcome")?;
        ensure!(outcome["run"] == run.id() && outcome["body"]["verdict"] == "proved", "{outcome}");
        ensure!(outcome["body"]["command"] == "freeze" && outcome["body"]["actor"].is_object(), "{outcome}");
        ensure!(node.ctl(["events", "--run", "talks"])?.expect(0)?.out.contains("guarded run: freeze proved"));
        fs::write(run.cgroup().join("cgroup.freeze"), "0")?;
        run.freezes().context("a stranger's thaw is undone")?;
        // What was commanded holds over a restart.
        node.kill9()?;
        node.restart()?;
        ensure!(frozen(run.cgroup())?);
        fs::write(run.cgroup().join("cgroup.freeze"), "0")?;
        run.freezes().context("a stranger's thaw is undone by the next daemon")?;
        node.ctl(["thaw", "talks", "--reason", "go on"])?.expect(0)?;
        still_refused(&run, &tried)?;
        node.ctl(["kill", "talks", "--reason", "enough"])?.expect(0)?;
        run.ends()?;
        wait_for("its end is recorded", || Ok(node.run("talks")?["state"] == "ended"))?;
        wait_for("its pins are gone", || Ok(generations(node)? == 1))?;
        ensure!(!run.cgroup().exists(), "its cgroup is left");
        drop(other);
        node.log_is_whole()
    })
}

/// The copy of a run's policy in the state folder.
fn policy_file(node: &Node, run: &str) -> Result<PathBuf> {
    let folders = fs::read_dir(node.state_dir().join("runs"))?;
    for folder in folders {
        let kept: Value = serde_json::from_slice(&fs::read(folder?.path().join("run.json"))?)?;
        if kept["run"]["name"] == run {
            let digest: Vec<u8> = serde_json::from_value(kept["run"]["policy"].clone()).unwrap_or_default();
            let name = match kept["run"]["policy"].as_str() {
                Some(text) => text.trim_start_matches("sha256:").to_owned(),
                None => digest.iter().map(|b| format!("{b:02x}")).collect(),
            };
            return Ok(node.state_dir().join("policies").join(format!("{name}.json")));
        }
    }
    anyhow::bail!("no run.json of {run}")
}

#[test]
fn a_run_without_its_folder_is_taken_up_by_the_audit_log() -> Result<()> {
    on_node("no-folder", "", |node| {
        let (run, tried) = talker(node, "talks")?;
        node.kill9()?;
        fs::rename(node.state_dir().join("runs").join(run.id()), node.file("away"))?;
        node.restart()?;
        ensure!(node.run(run.id())?["state"] == "running" && node.run(run.id())?["name"] == "talks");
        gap_of(node, run.id(), "its folder in the state folder is gone")?;
        still_refused(&run, &tried)?;
        node.ctl(["freeze", "talks", "--reason", "it is judged"])?.expect(0)?;
        ensure!(frozen(run.cgroup())?);
        node.log_is_whole()
    })
}

/// Neither the state folder nor the audit log has it: the kernel does.
#[test]
fn a_run_that_only_the_kernel_knows_is_guarded_and_not_lost() -> Result<()> {
    on_node("kernel-only", "", |node| {
        let (mut run, tried) = talker(node, "talks")?;
        node.kill9()?;
        for folder in ["runs", "audit", "policies"] {
            fs::rename(node.state_dir().join(folder), node.file(&format!("away-{folder}")))?;
        }
        node.restart()?;
        let id = fs::metadata(run.cgroup()).map(|m| std::os::unix::fs::MetadataExt::ino(&m))?;
        let guarded = is_guarded(node, &format!("unknown-{id}"), "the audit log has no record of its start")?;
        ensure!(guarded["id"] == run.id() && guarded["cgroup_id"] == id, "{guarded}");
        still_refused(&run, &tried)?;
        node.kill9()?;
        node.restart()?;
        is_guarded(node, &format!("unknown-{id}"), "the audit log has no record of its start")?;
        still_refused(&run, &tried)?;
        node.ctl(["kill", run.id(), "--reason", "the end"])?.expect(0)?;
        run.ends()?;
        wait_for("its pins are gone", || Ok(generations(node)? == 1))?;
        wait_for("it is listed no longer", || Ok(node.json(["list"])?.as_array().is_some_and(Vec::is_empty)))?;
        node.log_is_continued()
    })
}

#[test]
fn a_run_with_a_damaged_run_json_is_judged_by_what_the_audit_log_recorded() -> Result<()> {
    on_node("damaged", "", |node| {
        for (i, damage) in ["", "{", "[]", "null"].iter().enumerate() {
            let name = format!("damaged-{i}");
            let (run, tried) = talker(node, &name)?;
            node.kill9()?;
            fs::write(node.state_dir().join("runs").join(run.id()).join("run.json"), damage)?;
            node.restart()?;
            ensure!(node.run(run.id())?["state"] == "running", "{}", node.run(run.id())?);
            gap_of(node, run.id(), "run.json cannot be read")?;
            still_refused(&run, &tried)?;
        }
        node.log_is_whole()
    })
}

/// M2: somebody with write access to the state folder has run.json name a policy that allows more.
#[test]
fn a_run_json_that_names_another_policy_does_not_change_what_the_run_is_judged_by() -> Result<()> {
    on_node("swapped", "", |node| {
        let (run, tried) = talker(node, "talks")?;
        let _other = Launch::new("other", PLAIN).start(node, ["sleep", "600"])?;
        let file = node.state_dir().join("runs").join(run.id()).join("run.json");
        let kept = |of: &str| -> Result<Value> {
            Ok(serde_json::from_slice(&fs::read(node.state_dir().join("runs").join(of).join("run.json"))?)?)
        };
        let digest = node.run("talks")?["policy_digest"].clone();
        let other = kept(node.run("other")?["id"].as_str().context("an id")?)?;
        let mut edited = kept(run.id())?;
        edited["run"]["policy"] = other["run"]["policy"].clone();
        node.kill9()?;
        fs::write(&file, serde_json::to_vec(&edited)?)?;
        node.restart()?;
        let listed = node.run("talks")?;
        ensure!(listed["policy_digest"] == digest && listed["state"] == "running", "{listed}");
        gap_of(node, run.id(), "run.json was changed")?;
        wait_for("the node's health has it", || {
            Ok(node.ctl(["node", "health", "-o", "json"])?.out.contains("run-record-changed"))
        })?;
        still_refused(&run, &tried)?;
        node.kill9()?;
        still_refused(&run, &tried)?;
        node.log_is_whole()
    })
}

/// Somebody with write access to the state folder changes whose an ended run was, and when it ended.
#[test]
fn an_ended_run_with_a_changed_run_json_is_shown_as_the_log_has_it() -> Result<()> {
    on_node("ended-changed", "", |node| {
        let mut run = Launch::new("over", PLAIN).start(node, ["true"])?;
        run.ends()?;
        wait_for("it has ended", || Ok(node.run("over")?["state"] == "ended"))?;
        let before = node.run("over")?;
        ensure!(before["unverified"] == "", "{before}");
        let file = node.state_dir().join("runs").join(run.id()).join("run.json");
        wait_for("its end is kept", || {
            let kept: Value = serde_json::from_slice(&fs::read(&file)?)?;
            Ok(!kept["ended_ns"].is_null())
        })?;
        node.kill9()?;
        let mut edited: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let stranger = integration::NOBODY - 1;
        edited["run"]["owner_uid"] = stranger.into();
        (edited["ended_ns"], edited["decisions"]) = (1.into(), 7.into());
        fs::write(&file, serde_json::to_vec(&edited)?)?;
        node.restart()?;
        let shown = node.run("over")?;
        for field in ["owner_uid", "decisions", "kernel"] {
            ensure!(shown[field] == before[field], "{field}: {shown}");
        }
        ensure!(shown["ended_ns"].as_i64() > Some(1), "{shown}");
        ensure!(shown["unverified"].as_str().is_some_and(|why| why.contains("differs from the audit log")), "{shown}");
        ensure!(node.ctl(["describe", "over"])?.expect(0)?.out.contains("not verified"));
        let asked = node.ctl_as(stranger, ["describe", "over"])?;
        ensure!(asked.code != 0, "the run is shown to the user that the changed file names: {asked:?}");
        wait_for("the node's health has it", || {
            Ok(node.ctl(["node", "health", "-o", "json"])?.out.contains("run-record-changed"))
        })?;
        node.log_is_whole()
    })
}
