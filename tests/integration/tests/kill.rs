//! What a proved kill leaves: nobody, and nothing that says otherwise.

use anyhow::{Context, Result, ensure};
use integration::{Launch, on_node, populated, program, wait_for};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::Value;
use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt};

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"tests\"\n";

#[test]
fn a_killed_run_is_ended_for_whoever_asks_next_and_its_name_is_free() -> Result<()> {
    on_node("kill-reads", "", |node| {
        // More than once: the sampler may come in time by chance.
        for _ in 0..5 {
            let run = Launch::new("job", POLICY).start(node, ["sleep", "300"])?;
            node.ctl(["kill", "job", "--reason", "test"])?.expect(0)?;
            let listed = node.ctl(["list", "-o", "json"])?.expect(0)?.out;
            ensure!(!listed.contains(run.id()), "the killed run is still listed: {listed}");
            let shown = node.run(run.id())?;
            ensure!(shown["state"] == "ended", "{shown}");
            let export = node.file("killed.fsrec");
            let _ = std::fs::remove_file(&export);
            node.ctl(["export", run.id(), "--output", &export.display().to_string()])?.expect(0)?;
            let replayed = node.ctl(["replay", &export.display().to_string()])?;
            ensure!(!replayed.out.contains("open") && !replayed.err.contains("open"), "{replayed:?}");
        }
        Ok(())
    })
}

#[test]
fn a_process_whose_first_thread_has_ended_is_killed_too() -> Result<()> {
    on_node("kill-leaderless", "", |node| {
        let leaderless = program("leaderless")?;
        let run = Launch::new("leaderless", POLICY).user("root").start(node, [leaderless])?;
        run.says("a worker goes on")?;
        let cgroup = run.cgroup().to_owned();
        node.ctl(["kill", "leaderless", "--reason", "test"])?.expect(0)?;
        ensure!(!cgroup.exists() || !populated(&cgroup).context("reading events")?, "somebody is left");
        Ok(())
    })
}

/// A policy by which one call of `true` leads to `rules` decisions, each with a snapshot.
fn snapshots(rules: usize) -> Result<String> {
    let mut policy = POLICY.to_owned();
    for n in 0..rules {
        writeln!(
            policy,
            "[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {{ event = \"exec\", path = [\"/bin/true\", \"/usr/bin/true\"] }}\n\
             actions = [\"snapshot\", \"notify\"]\n"
        )?;
    }
    Ok(policy)
}

fn is_outcome(entry: &Value, action: &str) -> bool {
    entry["body"]["type"] == "outcome" && entry["body"]["action"] == action
}

#[test]
fn a_kill_does_not_wait_for_snapshots_of_another_users_runs() -> Result<()> {
    const RULES: usize = 60;
    on_node("kill-flood", "", |node| {
        let policy = snapshots(RULES)?;
        let mut flood = Vec::new();
        for n in 0..4 {
            let go = node.file(&format!("go{n}"));
            mkfifo(&go, Mode::empty())?;
            fs::set_permissions(&go, fs::Permissions::from_mode(0o644))?;
            let script = format!(
                "n=0; while [ $n -lt 250 ]; do sleep 600 & n=$((n+1)); done; echo up; read x < {}; /bin/true; wait",
                go.display()
            );
            let run = Launch::new(["a", "b", "c", "d"][n], &policy).start(node, ["sh", "-c", &script])?;
            run.says("up")?;
            flood.push((run, go));
        }
        let victim = Launch::new("victim", POLICY).user("root").start(node, ["sleep", "600"])?;
        for (_, go) in &flood {
            fs::write(go, "go\n")?;
        }
        wait_for("a rule has decided", || {
            Ok(node.events_of(flood[0].0.id())?.iter().any(|entry| entry["body"]["type"] == "decision"))
        })?;
        node.ctl(["kill", "victim", "--reason", "test"])?.expect(0)?;
        // The order of the log shows who has waited for whom.
        let events = node.events()?;
        let of_victim = |entry: &Value| entry["run"] == victim.id();
        let asked = events.iter().position(|it| of_victim(it) && it["body"]["type"] == "decision");
        let killed = events.iter().position(|it| of_victim(it) && is_outcome(it, "kill"));
        let (asked, killed) = (asked.context("no decision about the kill")?, killed.context("no outcome of the kill")?);
        let decided = |it: &&Value| it["body"]["type"] == "decision" && !of_victim(it);
        let decided = events[..asked].iter().filter(decided).count();
        let done = |until: usize| events[..until].iter().filter(|it| is_outcome(it, "snapshot")).count();
        let waiting = decided.saturating_sub(done(asked));
        if waiting < 20 {
            integration::skip("the snapshots were done before the kill was asked for: nothing to wait for");
            return Ok(());
        }
        let waited = done(killed) - done(asked);
        ensure!(waited < waiting / 2, "{waiting} snapshots were waiting, and {waited} were done before the kill");
        drop(victim);
        node.log_is_whole()
    })
}
