//! Watched system calls: seen where a policy asks for them, and paid for only as long as one does.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, on_node, program, wait_for};
use std::collections::BTreeSet;

const WATCHED: [&str; 14] = [
    "ptrace",
    "mount",
    "unshare",
    "setns",
    "bpf",
    "init_module",
    "finit_module",
    "kexec_load",
    "io_uring_setup",
    "memfd_create",
    "process_vm_writev",
    "userfaultfd",
    "keyctl",
    "reboot",
];

/// One rule a call: every one shows in the log by itself.
fn policy() -> String {
    let mut text = "[policy]\nname = \"calls\"\nowner = \"tests\"\n".to_owned();
    for call in WATCHED {
        text.push_str(&format!(
            "[[rule]]\nid = \"{call}\"\nrationale = \"seen\"\nmode = \"observe\"\n\
             when = {{ event = \"syscall\", name = \"{call}\" }}\nactions = [\"notify\"]\n"
        ));
    }
    text
}

/// How the doctor and the status speak of the cost.
fn costs(node: &Node) -> Result<(bool, String)> {
    let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
    let checks = doctor["checks"].as_array().context("checks")?;
    let check = checks.iter().find(|c| c["name"] == "watched system calls").context("no check of watched calls")?;
    let status = node.json(["node", "status"])?;
    let costs = status["costs"].as_array().context("costs")?;
    Ok((!costs.is_empty(), format!("{} {}", check["detail"], check["advice"])))
}

/// What the doctor says of a kind of rule is what `policy check --node` says of a rule of that kind.
#[test]
fn the_doctor_shows_the_enforcement_level_of_rules() -> Result<()> {
    on_node("worth", "", |node| {
        let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
        let checks = doctor["checks"].as_array().context("checks")?;
        let output = |kind: &str| -> Result<String> {
            let check =
                checks.iter().find(|c| c["area"] == "rules" && c["name"] == kind).context("no check of the kind")?;
            Ok(format!("{} {}", check["state"], check["detail"]))
        };
        let lsm = checks.iter().any(|c| c["name"] == "fs_lsm_file_open (lsm/file_open)" && c["state"] == "works");
        let expected = if lsm { "blocked-in-kernel" } else { "observed, arguments unreliable" };
        ensure!(output("open")?.contains(expected), "{}", output("open")?);
        ensure!(output("connect")? == "\"works\" \"blocked-in-kernel\"", "{}", output("connect")?);
        ensure!(output("exit")?.contains("observed"), "{}", output("exit")?);
        Ok(())
    })
}

#[test]
fn every_watched_call_is_seen_and_the_cost_is_reported_while_it_is_paid() -> Result<()> {
    on_node("syscalls", "", |node| {
        let (paid, before) = costs(node)?;
        ensure!(!paid && before.contains("none watched now"), "{before}");
        let callers = program("callers")?.display().to_string();
        let script = format!("{callers}; sleep 600");
        // Nobody's calls count that are made outside the run.
        std::process::Command::new(&callers).stdout(std::process::Stdio::null()).status()?;
        let mut run = Launch::new("caller", &policy()).start(node, ["sh", "-c", &script])?;
        run.says("reboot ")?;
        wait_for("every watched call is in the log", || {
            let events = node.events()?;
            let seen: BTreeSet<&str> =
                events.iter().filter_map(|e| e["body"]["decision"]["cause"]["Rule"]["rule"].as_str()).collect();
            Ok(WATCHED.iter().all(|call| seen.contains(call)))
        })?;
        let events = node.events()?;
        for event in events.iter().filter(|e| e["kind"] == "decision") {
            let decision = &event["body"]["decision"];
            let seen = &decision["values"][0];
            let call = &seen["value"]["Event"]["Syscall"];
            ensure!(call["name"] == decision["cause"]["Rule"]["rule"] && decision["mode"] == "observe", "{decision}");
            ensure!(seen["subject"]["Process"]["process"]["comm"] == "callers", "{seen}");
        }
        let via = node.run("caller")?["syscalls_via"].as_str().unwrap_or_default().to_owned();
        let (paid, told) = costs(node)?;
        match via.as_str() {
            "sys_enter" => ensure!(paid && told.contains("sys_enter") && told.contains("slows"), "{told}"),
            "fentry" => ensure!(!paid && told.contains("fentry"), "{told}"),
            other => anyhow::bail!("watched via `{other}`"),
        }
        node.ctl(["kill", "caller", "--reason", "seen enough"])?.expect(0)?;
        run.ends()?;
        wait_for("nothing is paid any more", || Ok(!costs(node)?.0))?;
        ensure!(costs(node)?.1.contains("none watched now"), "{:?}", costs(node)?);
        node.log_is_whole()
    })
}
