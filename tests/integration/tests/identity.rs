//! Who a request is from: the process that sends it, as it is at that moment. Attackers keep a connection while they become
//! something else, pass it on, die, and let another process have their number.

use anyhow::{Context, Result, ensure};
use integration::{Caller, Launch, NOBODY, Node, TestCgroup, cgroup_of, members, on_node, skip, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::Process;
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

fn signal(node: &Node, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(node.pid()?), signal)?)
}

/// Stops the daemon. When this returns, none of its threads runs: the signal is sent before they are stopped, one after the other.
fn stop(node: &Node) -> Result<()> {
    signal(node, Signal::SIGSTOP)?;
    let daemon = Process::new(node.pid()?)?;
    wait_for("each thread of the daemon is stopped", || {
        // A thread that has ended meanwhile does not run.
        Ok(daemon.tasks()?.flatten().filter_map(|task| task.stat().ok()).all(|stat| stat.state == 'T'))
    })
}

#[test]
fn a_process_that_is_moved_into_a_run_keeps_no_rights_of_its_connection() -> Result<()> {
    on_node("moved-in", "", |node| {
        let victim = Launch::new("victim", PLAIN).start(node, ["sleep", "600"])?;
        let cage = Launch::new("cage", PLAIN).user("root").start(node, ["sleep", "600"])?;
        let mut caller = Caller::new(node, 0)?;
        let before = caller.ask("list")?;
        ensure!(before.contains("victim") && before.contains("cage"), "as root outside: {before}");
        ensure!(caller.ask("health")?.starts_with("Ok"));
        fs::write(cage.cgroup().join("cgroup.procs"), caller.pid().to_string())?;
        for command in ["cordon", "start way-out", "control cage thaw"] {
            let output = caller.ask(command)?;
            ensure!(output.starts_with("PermissionDenied"), "{command}: {output}");
        }
        for command in ["control victim kill", "control victim freeze"] {
            let output = caller.ask(command)?;
            ensure!(output.starts_with("NotFound"), "{command}: {output}");
        }
        ensure!(caller.ask("list")? == "Ok cage", "{}", caller.ask("list")?);
        // Before kernel 6.13 reads of health may rely on a look of the last second.
        wait_for("its rights to read health end", || Ok(caller.ask("health")?.starts_with("PermissionDenied")))?;
        ensure!(members(cage.cgroup())?.contains(&caller.pid()), "it left its run");
        ensure!(members(victim.cgroup())?.contains(&victim.pid()) && !integration::frozen(victim.cgroup())?);
        ensure!(node.json(["node", "health"])?["level"] != "draining");
        node.log_is_whole()
    })
}

#[test]
fn the_log_names_the_process_as_it_was_when_it_asked() -> Result<()> {
    on_node("actor", "", |node| {
        let mut run = Launch::new("asked", PLAIN).start(node, ["sleep", "600"])?;
        let mut caller = Caller::new(node, 0)?;
        let first = caller.ask("list")?;
        ensure!(first.contains("asked"), "{first}");
        let elsewhere = TestCgroup::new("asks")?;
        fs::write(elsewhere.path().join("cgroup.procs"), caller.pid().to_string())?;
        let output = caller.ask("control asked freeze")?;
        ensure!(output.starts_with("Ok"), "{output}");
        let stat = fs::read_to_string(format!("/proc/{}/stat", caller.pid()))?;
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let started: u64 = after_name.split(' ').nth(19).context("field 22 of stat")?.parse()?;
        let cgroup = caller.cgroup()?;
        ensure!(cgroup.contains("asks"), "{cgroup}");
        let expected = json!({ "local":
            { "uid": 0, "gid": 0, "pid": caller.pid(), "start_ticks": started, "cgroup": cgroup } });
        let control = node.wait_for_event("who froze it", |e| e["kind"] == "control")?;
        ensure!(control["body"]["actor"] == expected, "{control}");
        let decision = node.wait_for_event("the decision", |e| e["kind"] == "decision")?;
        ensure!(decision["body"]["decision"]["cause"]["Operator"]["actor"] == expected, "{decision}");
        // The recording has the same, so that the replay compares it with the log.
        node.ctl(["kill", "asked", "--reason", "the test is over"])?.expect(0)?;
        run.ends()?;
        let replayed = node.ctl(["replay", "asked"])?.expect(0)?.out;
        ensure!(replayed.contains("identical"), "{replayed}");
        caller.kill()?;
        node.log_is_whole()
    })
}

#[test]
fn a_process_that_became_a_run_does_not_leave_it_by_a_second_start() -> Result<()> {
    on_node("second-start", "", |node| {
        for uid in [0, NOBODY] {
            let mut caller = Caller::new(node, uid)?;
            let started = caller.ask(&format!("start first-{uid}"))?;
            let run = node.run(started.strip_prefix("Ok ").context(started.clone())?)?;
            let cgroup = caller.cgroup()?;
            ensure!(cgroup == format!("/{}", run["cgroup"].as_str().unwrap_or_default()), "{cgroup}");
            let output = caller.ask("start lax")?;
            ensure!(output.starts_with("PermissionDenied") && output.contains("may not start"), "{uid}: {output}");
            ensure!(caller.cgroup()? == cgroup, "{uid}: it left its run for {}", caller.cgroup()?);
        }
        Ok(())
    })
}

#[test]
fn a_connection_is_of_use_to_nobody_but_the_process_that_made_it() -> Result<()> {
    on_node("passed-on", "", |node| {
        let cage = Launch::new("cage", PLAIN).user("root").start(node, ["sleep", "600"])?;
        let outside = TestCgroup::new("bystander")?;
        for cgroup in [cage.cgroup(), outside.path()] {
            for command in ["cordon", "start way-out", "control cage kill", "health"] {
                let mut caller = Caller::new(node, 0)?;
                let output = caller.ask(&format!("pass {} {command}", cgroup.display()))?;
                ensure!(
                    output.starts_with("PermissionDenied") && output.contains("its own connection"),
                    "{command}: {output}"
                );
            }
        }
        // Bytes of its maker do not make it good again, and it is closed.
        let mut caller = Caller::new(node, 0)?;
        ensure!(caller.ask(&format!("pass {} list", outside.path().display()))?.starts_with("PermissionDenied"));
        wait_for("the connection is closed", || Ok(!caller.ask("list")?.starts_with("Ok")))?;
        ensure!(node.json(["node", "health"])?["level"] != "draining");
        ensure!(members(cage.cgroup())? == [cage.pid()], "{:?}", members(cage.cgroup())?);
        ensure!(node.run("cage")?["state"] == "running");
        Ok(())
    })
}

/// Another process with this number.
fn reuse(pid: u32) -> Result<Option<Child>> {
    let last = Path::new("/proc/sys/kernel/ns_last_pid");
    if !last.exists() {
        return Ok(None);
    }
    for _ in 0..500 {
        fs::write(last, (pid - 1).to_string())?;
        let mut child = Command::new("sleep").arg("600").spawn()?;
        if child.id() == pid {
            return Ok(Some(child));
        }
        child.kill()?;
        child.wait()?;
    }
    Ok(None)
}

/// The daemon is stopped meanwhile, so that it accepts the connection when its maker is gone.
#[test]
fn a_request_of_a_process_that_ended_moves_nobody_who_has_its_number() -> Result<()> {
    on_node("number-reused", "", |node| {
        let mut caller = Caller::new(node, 0)?;
        // Connected and known to be so before the daemon stops for this one.
        ensure!(caller.ask("list")?.starts_with("Ok"));
        stop(node)?;
        let done = (|| {
            let mut late = Caller::new(node, 0)?;
            let (posted, held) = (late.ask("post start ghost")?, late.ask("hold")?);
            let (early_posted, early_held) = (caller.ask("post start early")?, caller.ask("hold")?);
            ensure!(posted == "posted" && early_posted == "posted", "{posted}, {early_posted}");
            let pids = [late.pid(), caller.pid()];
            late.kill()?;
            caller.kill()?;
            let mut others = Vec::new();
            for pid in pids {
                others.extend(reuse(pid)?);
            }
            let before: Vec<String> = others.iter().map(|other| cgroup_of(other.id())).collect::<Result<_>>()?;
            signal(node, Signal::SIGCONT)?;
            // Nothing announces a move that does not happen: all of this time is looked at.
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                for (other, before) in others.iter().zip(&before) {
                    ensure!(cgroup_of(other.id())? == *before, "a stranger was moved to {}", cgroup_of(other.id())?);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            wait_for("no run is left of it", || Ok(node.json(["list"])?.as_array().is_some_and(Vec::is_empty)))?;
            let enough = others.len() == 2;
            for mut child in others {
                child.kill()?;
                child.wait()?;
            }
            for held in [held, early_held] {
                kill(Pid::from_raw(held.parse()?), Signal::SIGKILL)?;
            }
            if !enough {
                skip("the numbers of the ended processes could not be had again");
            }
            Ok(())
        })();
        let _ = signal(node, Signal::SIGCONT);
        done
    })
}

/// A request that an unprivileged process sent is read when that process is a setuid program.
#[test]
fn a_setuid_program_lends_its_user_to_no_request() -> Result<()> {
    on_node("setuid", "", |node| {
        let program = node.file("privileged");
        fs::copy("/bin/sleep", &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o4755))?;
        let mut caller = Caller::new(node, NOBODY)?;
        ensure!(caller.ask("list")?.starts_with("Ok"));
        stop(node)?;
        let done = (|| {
            let posted = caller.ask("post cordon")?;
            ensure!(posted == "posted", "{posted}");
            caller.tell(&format!("become {} 600", program.display()))?;
            let process = Process::new(i32::try_from(caller.pid())?)?;
            let became = wait_for("it is root", || Ok(process.status()?.euid == 0));
            if became.is_err() {
                skip("setuid programs do not work here (nosuid)");
                return Ok(());
            }
            signal(node, Signal::SIGCONT)?;
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                ensure!(node.json(["node", "health"])?["level"] != "draining", "it cordoned the node");
            }
            Ok(())
        })();
        let _ = signal(node, Signal::SIGCONT);
        done
    })
}

#[test]
fn a_start_that_its_caller_gives_up_leaves_no_run() -> Result<()> {
    on_node("given-up", "", |node| {
        let home = cgroup_of(std::process::id())?;
        let mut started = 0;
        for round in 0..40u32 {
            let uid = if round % 2 == 0 { 0 } else { NOBODY };
            let mut caller = Caller::new(node, uid)?;
            ensure!(caller.ask("list")?.starts_with("Ok"));
            let command = format!("abandon {} start ghost-{round}", round * 500);
            if round % 4 < 2 {
                let output = caller.ask(&command)?;
                match output.strip_prefix("Ok ") {
                    Some(_) => started += 1,
                    // The answer may have been on its way when the caller gave up: then the run is a whole one, with the caller in
                    // it, and ends with it.
                    None => wait_for("it is back where it was, or in the run that it asked for", || {
                        let now = caller.cgroup()?;
                        let listed = node.run(&format!("ghost-{round}")).ok();
                        let own = |run: &Value| run["cgroup"].as_str().map(|path| path.trim_matches('/').to_owned());
                        Ok(now == home
                            || listed.and_then(|run| own(&run)).is_some_and(|own| own == now.trim_matches('/')))
                    })
                    .with_context(|| format!("round {round}: {output}"))?,
                }
            } else {
                caller.tell(&command)?;
                // The caller dies at another moment of the request in each round.
                std::thread::sleep(Duration::from_micros(u64::from(round) * 300));
            }
            caller.kill()?;
        }
        eprintln!("{started} of 20 were started before they were given up");
        wait_for("no run is left", || Ok(node.json(["list"])?.as_array().is_some_and(Vec::is_empty)))?;
        // A start that is undone removes its cgroup after the list is empty.
        wait_for("no process and no cgroup is left", || {
            let folders = fs::read_dir(node.cgroup())?.flatten().filter(|entry| entry.path().is_dir()).count();
            Ok(members(node.cgroup())?.is_empty() && folders == 0)
        })?;
        node.log_is_whole()
    })
}
