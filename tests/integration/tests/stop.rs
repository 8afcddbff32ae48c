//! What the kernel does on its own, end to end: a stop rule that latches the run in the call, and what holds without a daemon.

use anyhow::{Result, ensure};
use integration::{Launch, on_node, program, wait_for};
use std::net::TcpListener;

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
fn without_a_daemon_the_policy_says_what_the_kernel_does_and_the_next_daemon_ends_it() -> Result<()> {
    on_node("deadman", "", |node| {
        let port = home()?;
        let sender = program("sender")?.display().to_string();
        let to = format!("{sender} --to 127.0.0.1:{port} --how tcp --count 1");
        let script = format!(
            "while said=$({to}); do case $said in *EPERM*) break;; *) sleep 0.05;; esac; done; echo was $said\n\
             until {to} | grep 'refused: none'; do sleep 0.05; done; echo allowed again; sleep 600"
        );
        let head = "on_dead_daemon = \"deny-egress\"\ndead_after = \"3s\"";
        let run = Launch::new("orphan", &only(port, head, "")).start(node, ["sh", "-c", &script])?;
        wait_for("it is at work", || Ok(node.run("orphan")?["egress_bytes"].as_u64().is_some_and(|n| n > 1_000)))?;
        ensure!(!run.output().contains("was"), "{}", run.output());
        node.kill9()?;
        run.says("EPERM")?;
        ensure!(!run.output().contains("allowed again"), "{}", run.output());
        node.restart()?;
        run.says("allowed again")
    })
}
