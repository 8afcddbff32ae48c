//! Attestation end to end: statements of a node and of runs, verified and compared without the daemon; whose they may be; keys.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, Started, on_node};
use serde_json::Value;
use std::{fs, path::PathBuf};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

/// A run of which the fingerprint does not change any more: its shell has become `sleep`.
fn sleeps(node: &Node, name: &str, threads: &str) -> Result<Started> {
    Launch::new(name, PLAIN).env("OMP_NUM_THREADS", threads).start(node, ["sleep", "60"])
}

/// Has something attested and returns the file.
fn attest(node: &Node, what: &[&str], name: &str) -> Result<PathBuf> {
    let file = node.file(name);
    let mut args = vec!["attest"];
    args.extend(what);
    let path = file.display().to_string();
    args.extend(["-o", &path]);
    node.ctl(&args)?.expect(0)?;
    Ok(file)
}

/// The allowed-keys file that `attest key show` prints.
fn keys(node: &Node, name: &str) -> Result<String> {
    let file = node.file(name);
    fs::write(&file, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
    Ok(file.display().to_string())
}

/// Compares statements with `failsafectl` of which the daemon is out of reach. `more`: other arguments.
fn diff(node: &Node, files: &[&PathBuf], more: &[&str]) -> Result<(i32, Value)> {
    let mut command = node.ctl_command(["attest", "diff", "-o", "json", "--show-identity"]);
    command.args(more).args(files).env("FAILSAFE_SOCKET", "/nowhere");
    let output = integration::CommandOutput::of(&mut command)?;
    Ok((output.code, output.json().with_context(|| output.err.clone())?))
}

fn paths(comparison: &Value, class: &str) -> Vec<String> {
    let list = comparison["differences"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter(|one| one["class"] == class).filter_map(|one| Some(one["path"].as_str()?.to_owned())).collect()
}

#[test]
fn two_runs_that_differ_in_their_number_of_threads_differ_in_that_alone() -> Result<()> {
    on_node("attest-diff", "", |node| {
        let (_one, _same, _two) = (sleeps(node, "one", "1")?, sleeps(node, "same", "1")?, sleeps(node, "two", "2")?);
        let of_node = attest(node, &["node"], "node.json")?;
        let [one, same, two] = ["one", "same", "two"].map(|run| attest(node, &["run", run], &format!("{run}.json")));
        let (one, same, two) = (one?, same?, two?);
        let allowed = keys(node, "keys")?;
        for file in [&of_node, &one, &same, &two] {
            let file = file.display().to_string();
            node.ctl(["attest", "verify", &file, "--keys", &allowed])?.expect(0)?;
            node.ctl(["attest", "verify", &file])?.expect(15)?;
        }

        let (code, answer) = diff(node, &[&one, &same], &["--keys", &allowed])?;
        ensure!(code == 0 && answer["verdict"] == "result-equal", "{answer:#}");
        let (code, answer) = diff(node, &[&one, &same], &[])?;
        ensure!(code == 15 && answer["verdict"] == "result-equal", "{answer:#}");
        ensure!(answer["equal"]["result"].as_u64() > Some(40), "{answer:#}");
        let (code, answer) = diff(node, &[&one, &two], &["--keys", &allowed])?;
        ensure!(code == 21 && paths(&answer, "result") == ["run/env/OMP_NUM_THREADS"], "{answer:#}");
        ensure!(paths(&answer, "performance").is_empty(), "{answer:#}");
        ensure!(answer["differences"][0]["values"][1]["value"] == "2", "{answer:#}");

        // The node's statement lacks what is of runs, and that is not called equal.
        let (code, answer) = diff(node, &[&of_node, &one], &["--keys", &allowed])?;
        ensure!(code == 22 && answer["verdict"] == "cannot-know", "{answer:#}");
        let statement = node.ctl(["attest", "verify", "-o", "json", &one.display().to_string()])?.expect(15)?.json()?;
        let factors = statement["statement"]["predicate"]["factors"].as_array().context("no factors")?.clone();
        let value = |path: &str| factors.iter().find(|one| one["path"] == path).cloned().unwrap_or_default();
        ensure!(value("run/library")["value"] == "complete", "{}", value("run/library"));
        let sleep = value("run/executable");
        ensure!(sleep["value"].as_str().is_some_and(|id| id.contains(':')), "{sleep}");
        ensure!(
            factors.iter().any(|one| one["path"].as_str().is_some_and(|path| path.starts_with("run/library/libc.so")))
        );
        Ok(())
    })
}

#[test]
fn an_owner_attests_its_own_run_and_others_get_the_result_digest_of_the_node_at_most() -> Result<()> {
    on_node("attest-who", "", |node| {
        let _own = Launch::new("own", PLAIN).called_by(NOBODY).start(node, ["sleep", "60"])?;
        let _roots = Launch::new("roots", PLAIN).user("root").start(node, ["sleep", "60"])?;
        let output = node.ctl_as(NOBODY, ["attest", "run", "own"])?.expect(0)?;
        let file = node.file("own.json");
        fs::write(&file, output.out)?;
        let path = file.display().to_string();
        let statement = node.ctl(["attest", "verify", "-o", "json", &path])?.expect(15)?.json()?;
        let factors = statement["statement"]["predicate"]["factors"].as_array().context("no factors")?.clone();
        let of = |path: &str| factors.iter().find(|one| one["path"] == path).map(|one| one["status"].clone());
        ensure!(
            of("node/hostname") == Some("denied".into()) && of("node/cpu/model") == Some("ok".into()),
            "{factors:?}"
        );

        node.ctl_as(NOBODY, ["attest", "run", "roots"])?.expect(6)?;
        node.ctl_as(NOBODY, ["attest", "node"])?.expect(4)?;
        node.ctl_as(NOBODY, ["attest", "key", "rotate", "--reason", "x"])?.expect(4)?;
        node.ctl_as(NOBODY, ["attest", "key", "show"])?.expect(0)?;
        let (theirs, ours) = (
            node.ctl_as(NOBODY, ["attest", "node", "--digest"])?.expect(0)?,
            node.ctl(["attest", "node", "--digest"])?.expect(0)?,
        );
        ensure!(theirs.out.lines().count() == 1 && ours.out.lines().count() == 3, "{theirs:?} {ours:?}");
        ensure!(
            ours.out.lines().next().map(|line| line.replace("result       ", "result  "))
                == theirs.out.lines().next().map(str::to_owned),
            "{theirs:?} {ours:?}"
        );
        Ok(())
    })
}

#[test]
fn after_a_rotation_old_statements_stay_valid_and_the_log_has_who_did_it() -> Result<()> {
    on_node("attest-keys", "", |node| {
        let before = attest(node, &["node", "--nonce", "00ff"], "before.json")?.display().to_string();
        let old = keys(node, "old-keys")?;
        node.ctl(["attest", "key", "rotate", "--reason", "a test"])?.expect(0)?;
        let after = attest(node, &["node"], "after.json")?.display().to_string();
        let new = keys(node, "new-keys")?;
        node.ctl(["attest", "verify", &before, "--keys", &new, "--nonce", "00ff"])?.expect(0)?;
        node.ctl(["attest", "verify", &after, "--keys", &new])?.expect(0)?;
        node.ctl(["attest", "verify", &after, "--keys", &old])?.expect(7)?;
        node.wait_for_event("the rotation", |e| e["body"]["type"] == "key-rotated" && e["body"]["why"] == "a test")?;
        node.stop()?;
        node.restart()?;
        ensure!(
            fs::read_to_string(keys(node, "again")?)? == fs::read_to_string(&new)?,
            "the keys changed with a restart"
        );
        node.log_is_whole()
    })
}

#[test]
fn a_damaged_key_stops_attestation_and_nothing_else() -> Result<()> {
    on_node("attest-damaged", "", |node| {
        node.stop()?;
        let path = node.state_dir().join("signing-keys");
        let damaged = fs::read_to_string(&path)?.replace("active ", "active x");
        fs::write(&path, &damaged)?;
        node.restart()?;
        let output = node.ctl(["attest", "node"])?.expect(1)?;
        ensure!(
            output.err.contains("signing-keys are damaged") && output.err.contains("restore the file"),
            "{}",
            output.err
        );
        node.ctl(["attest", "node", "--digest"])?.expect(0)?;
        let mut run = Launch::new("runs", PLAIN).start(node, ["true"])?;
        ensure!(run.ends()?.success(), "{}", run.errors());
        ensure!(fs::read_to_string(&path)? == damaged, "the damaged file was replaced");
        Ok(())
    })
}
