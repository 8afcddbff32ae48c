//! What the kernel does on its own, end to end: a stop rule that latches the run in the call, what holds without a daemon, and what is
//! removed from the kernel when runs and daemons end.

use anyhow::{Result, ensure};
use integration::{Launch, Node, on_node, program, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

/// Only `127.0.0.1:port` is allowed; the rest of the policy is `more`.
fn only(port: u16, head: &str, more: &str) -> String {
    format!(
        "[policy]\nname = \"stop\"\nowner = \"tests\"\n{head}\n\
         [egress]\nallow = [{{ cidr = \"127.0.0.1/32\", ports = [{port}], protocol = \"tcp\" }}]\n{more}"
    )
}

/// A port that takes every connection and closes it; open until the test's process ends.
fn home() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(port)
}

const STOPS: &str = "[[rule]]\nid = \"stops\"\nrationale = \"nothing leaves this node in this test\"\neffect = \"stop\"\n\
                     when = { event = \"connect\", verdict = \"denied\" }\nactions = [\"notify\"]\n";

#[test]
fn a_stop_rule_freezes_the_run_and_a_thaw_gives_it_all_back() -> Result<()> {
    on_node("stop", "", |node| {
        let port = home()?;
        let sender = program("sender")?.display().to_string();
        // What it may reach it tries until it gets through: while the run is latched it does not.
        let script = format!(
            "for i in 1 2; do {sender} --to 127.77.0.9:{port} --how tcp --count 1\n\
             until {sender} --to 127.0.0.1:{port} --how tcp --count 1 | grep 'sent 1000'; do sleep 0.05; done\n\
             echo round $i; done; sleep 600"
        );
        let policy = only(port, "", STOPS);
        let run = Launch::new("stopped", &policy).start(node, ["sh", "-c", &script])?;
        for round in 1..=2 {
            run.freezes()?;
            let decided = |e: &serde_json::Value| e["body"]["decision"]["cause"]["Rule"]["rule"] == "stops";
            wait_for("a decision of each round", || Ok(node.events()?.iter().filter(|e| decided(e)).count() >= round))?;
            ensure!(!run.output().contains(&format!("round {round}")), "it went on: {}", run.output());
            // Its actions say notify only: that a stop freezes is the effect's own.
            wait_for("it is proved", || Ok(node.run("stopped")?["state"] == "frozen"))?;
            ensure!(node.run("stopped")?["blocked"] == true, "the kernel's latch is not told");
            node.ctl(["thaw", "stopped", "--reason", "seen"])?.expect(0)?;
        }
        run.says("round 2")?;
        ensure!(node.run("stopped")?["blocked"] == false, "a thaw gives it all back");
        node.log_is_whole()
    })
}

#[test]
fn without_a_daemon_the_kernel_enforces_the_policy_and_the_next_daemon_ends_it() -> Result<()> {
    on_node("deadman", "", |node| {
        let port = home()?;
        let sender = program("sender")?.display().to_string();
        let to = format!("{sender} --to 127.0.0.1:{port} --how tcp --count 1");
        let script = format!(
            "while output=$({to}); do case $output in *EPERM*) break;; *) sleep 0.05;; esac; done; echo was $output\n\
             until {to} | grep 'refused: none'; do sleep 0.05; done; echo allowed again; sleep 600"
        );
        let head = "on_dead_daemon = \"deny-egress\"\ndead_after = \"3s\"";
        let policy = only(port, head, &on_denied("connect", "out", "\"freeze\""));
        let run = Launch::new("orphan", &policy).start(node, ["sh", "-c", &script])?;
        wait_for("it is at work", || Ok(node.run("orphan")?["egress_bytes"].as_u64().is_some_and(|n| n > 1_000)))?;
        ensure!(!run.output().contains("was"), "{}", run.output());
        node.kill9()?;
        run.says("EPERM")?;
        ensure!(!run.output().contains("allowed again"), "{}", run.output());
        node.restart()?;
        // What was refused for want of a daemon is no violation: the next daemon does not freeze the run for it.
        run.says("allowed again")?;
        ensure!(decisions_of(node, "out")? == 0, "a denial by the dead daemon is taken for one by the policy");
        ensure!(node.run("orphan")?["state"] == "running", "{}", node.run("orphan")?);
        Ok(())
    })
}

#[test]
fn what_the_policy_denies_while_no_daemon_lives_is_a_violation_for_the_next() -> Result<()> {
    on_node("deadman-out", "", |node| {
        let port = home()?;
        let sender = program("sender")?.display().to_string();
        let go = integration::sentinel(node, "go")?;
        let script = format!(
            "until {sender} --to 127.0.0.1:{port} --how tcp --count 1 | grep EPERM; do sleep 0.05; done\n\
             {sender} --to 127.77.0.9:{port} --how tcp --count 1; echo tried > {}; sleep 600",
            go.display()
        );
        let head = "on_dead_daemon = \"deny-egress\"\ndead_after = \"3s\"";
        let policy = only(port, head, &on_denied("connect", "out", "\"freeze\""));
        let run = Launch::new("leaver", &policy).start(node, ["sh", "-c", &script])?;
        wait_for("it is at work", || Ok(node.run("leaver")?["egress_bytes"].as_u64().is_some_and(|n| n > 1_000)))?;
        node.kill9()?;
        wait_for("it tried to leave", || Ok(fs::metadata(&go)?.len() > 0))?;
        node.restart()?;
        run.freezes()?;
        ensure!(decisions_of(node, "out")? == 1);
        Ok(())
    })
}

#[test]
fn what_a_blocked_run_is_denied_is_no_violation_of_its_policy_also_when_it_is_killed() -> Result<()> {
    on_node("blocked", "", |node| {
        let port = home()?;
        let sender = program("sender")?.display().to_string();
        // One violation blocks it; then it tries only what its list allows.
        let script = format!(
            "{sender} --to 127.77.0.9:{port} --how tcp --count 1\n\
             until {sender} --to 127.0.0.1:{port} --how tcp --count 1 | grep EPERM; do sleep 0.05; done\n\
             {sender} --to 127.0.0.1:{port} --how udp --count 1; echo refused; exec {sender} --to 127.0.0.1:{port} --how tcp \
             --count 1000000 --pause-ms 5"
        );
        let rules = on_denied("connect", "out", "\"block\"") + &on_denied("send", "sent", "\"notify\"");
        let list = only(port, "", &rules).replace("], protocol = \"tcp\"", "]");
        let mut run = Launch::new("held", &list).start(node, ["sh", "-c", &script])?;
        run.says("refused")?;
        wait_for("the decision", || Ok(decisions_of(node, "out")? > 0))?;
        node.ctl(["kill", "held", "--reason", "test"])?.expect(0)?;
        run.ends()?;
        wait_for("the end", || Ok(ends_on_record(node, run.id())? == 1))?;
        let decided = (decisions_of(node, "out")?, decisions_of(node, "sent")?);
        ensure!(decided == (1, 0), "denials by the latch are taken for denials by the policy: {decided:?}");
        Ok(())
    })
}

/// A rule on what the policy denies.
fn on_denied(event: &str, id: &str, actions: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\nrationale = \"the list is all that it may reach\"\n\
         when = {{ event = \"{event}\", verdict = \"denied\" }}\nactions = [{actions}]\n"
    )
}

fn decisions_of(node: &Node, rule: &str) -> Result<usize> {
    Ok(node.events()?.iter().filter(|e| e["body"]["decision"]["cause"]["Rule"]["rule"] == rule).count())
}

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

/// Pins of all generations.
fn pins(node: &Node) -> Result<usize> {
    fn count(folder: &Path) -> Result<usize> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(0) };
        let mut all = 0;
        for entry in entries {
            let path = entry?.path();
            all += if path.is_dir() { count(&path)? } else { 1 };
        }
        Ok(all)
    }
    count(&node.pins().join("failsafe"))
}

fn ends_on_record(node: &Node, run: &str) -> Result<usize> {
    Ok(node.events()?.iter().filter(|e| e["body"]["type"] == "run-ended" && e["run"] == run).count())
}

/// The sampler sees an end after up to a second: a stop does not wait for it.
#[test]
fn a_stop_right_after_the_last_run_ended_leaves_nothing_in_the_kernel() -> Result<()> {
    on_node("stop-after-end", "sample_interval_ms = 1000\n", |node| {
        for pause in [0, 60, 400] {
            let mut run = Launch::new(&format!("ends-{pause}"), PLAIN).start(node, ["sleep", "600"])?;
            ensure!(pins(node)? > 0);
            kill(Pid::from_raw(i32::try_from(run.pid())?), Signal::SIGKILL)?;
            run.ends()?;
            // What is tried is the stop at this moment.
            std::thread::sleep(Duration::from_millis(pause));
            node.stop()?;
            ensure!(pins(node)? == 0, "{pause} ms after the end: pins are left");
            ensure!(!run.cgroup().exists(), "{pause} ms after the end: its cgroup is left");
            node.restart()?;
            ensure!(node.run(run.id())?["state"] == "ended");
            let ends = ends_on_record(node, run.id())?;
            ensure!(ends == 1, "{ends} ends on record");
        }
        node.log_is_whole()
    })
}

#[test]
fn what_a_killed_daemon_left_of_a_run_that_ended_is_removed_by_the_next() -> Result<()> {
    on_node("killed-after-end", "sample_interval_ms = 1000\n", |node| {
        let mut run = Launch::new("ends", PLAIN).start(node, ["sleep", "600"])?;
        kill(Pid::from_raw(i32::try_from(run.pid())?), Signal::SIGKILL)?;
        run.ends()?;
        node.kill9()?;
        ensure!(pins(node)? > 0);
        node.restart()?;
        ensure!(node.run(run.id())?["state"] == "ended" && !run.cgroup().exists());
        node.stop()?;
        ensure!(pins(node)? == 0, "pins are left");
        node.log_is_whole()
    })
}

/// Root outside puts processes into runs at the moment of their end. Each of them either is not let in, or is in a run that lives.
#[test]
fn a_process_that_enters_a_run_at_its_end_is_bounded_or_not_let_in() -> Result<()> {
    struct Sleeper(Child);
    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    on_node("enters-at-end", "sample_interval_ms = 50\n", |node| {
        let (mut let_in, mut refused) = (0, 0);
        for round in 0..24 {
            let mut run = Launch::new(&format!("job-{round}"), PLAIN).start(node, ["sleep", "600"])?;
            let sleeper = Sleeper(Command::new("sleep").arg("600").spawn()?);
            kill(Pid::from_raw(i32::try_from(run.pid())?), Signal::SIGKILL)?;
            run.ends()?;
            // The end comes 100 ms after the cgroup is found empty: entries are spread around it.
            std::thread::sleep(Duration::from_millis(85 + 6 * round));
            if fs::write(run.cgroup().join("cgroup.procs"), sleeper.0.id().to_string()).is_err() {
                refused += 1;
                wait_for(&format!("job-{round} has ended"), || Ok(node.run(run.id())?["state"] == "ended"))?;
                continue;
            }
            let_in += 1;
            // Longer than an end takes.
            std::thread::sleep(Duration::from_millis(300));
            ensure!(node.run(run.id())?["state"] == "running", "round {round}: it lives, and is no run's");
            ensure!(ends_on_record(node, run.id())? == 0, "round {round}: its end is on record");
            let id = fs::metadata(run.cgroup()).map(|m| std::os::unix::fs::MetadataExt::ino(&m))?;
            let bound = format!("_{id}_");
            let generation = fs::read_dir(node.pins().join("failsafe"))?.next().map(|entry| entry.map(|e| e.path()));
            let generation = fs::read_dir(generation.transpose()?.unwrap_or_default())?.next();
            let folder = generation.transpose()?.map(|entry| entry.path()).unwrap_or_default();
            let held = fs::read_dir(folder)?.filter_map(Result::ok);
            ensure!(
                held.map(|pin| pin.file_name()).any(|name| name.to_string_lossy().contains(&bound)),
                "round {round}: nothing bounds it"
            );
            drop(sleeper);
            wait_for("it ends after all", || Ok(node.run(run.id())?["state"] == "ended"))?;
        }
        ensure!(let_in > 0 && refused > 0, "{let_in} were let in, {refused} were not: both must be tried");
        node.log_is_whole()
    })
}
