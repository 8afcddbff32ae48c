//! A forbidden connection: refused in the kernel, seen, judged, frozen, explained, and thawed by who may.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, frozen, on_node, program, wait_for};
use serde_json::Value;
use std::net::TcpListener;

/// Only `127.0.0.1:port` is allowed; a forbidden connect freezes the run.
fn only(port: u16) -> String {
    format!(
        r#"
[policy]
name = "only-home"
version = 3
owner = "tests@example.org"

[egress]
allow = [{{ cidr = "127.0.0.1/32", ports = [{port}], protocol = "tcp" }}]

[[rule]]
id = "leaves-home"
rationale = "nothing leaves this node in this test"
severity = "critical"
confidence = "high"
when = {{ event = "connect", verdict = "denied" }}
actions = ["freeze", "snapshot", "notify"]
"#
    )
}

/// Only the list: what is forbidden is refused, and nothing else happens.
fn list_only(port: u16) -> String {
    only(port).split("[[rule]]").next().unwrap_or_default().to_owned()
}

fn denied_to<'a>(entry: &'a Value, rule: &str) -> Option<&'a Value> {
    let decision = &entry["body"]["decision"];
    (decision["cause"]["Rule"]["rule"] == rule).then(|| &decision["values"][0]["value"]["Event"]["Net"])
}

fn owner_may_freeze_only(node: &Node, name: &str) -> Result<()> {
    let thaw = node.ctl_as(NOBODY, ["thaw", name, "--reason", "let me go"])?.expect(4)?;
    ensure!(thaw.err.contains("root"), "{}", thaw.err);
    node.ctl_as(NOBODY, ["kill", name, "--reason", "x"])?.expect(4)?;
    node.ctl_as(NOBODY, ["node", "status"])?.expect(4)?;
    let listed = node.ctl_as(NOBODY, ["list", "-o", "json"])?.expect(0)?.json()?;
    ensure!(listed[0]["name"] == name, "its owner does not see it: {listed}");
    Ok(())
}

/// Its owner froze the run, and nobody else did.
fn owner_thaws_own_freeze_only(node: &Node, name: &str) -> Result<()> {
    node.ctl(["freeze", name, "--reason", "I look, too"])?.expect(0)?;
    let refused = node.ctl_as(NOBODY, ["thaw", name, "--reason", "mine"])?.expect(4)?;
    ensure!(refused.err.contains("nobody else ordered"), "{}", refused.err);
    node.ctl(["thaw", name, "--reason", "seen"])?.expect(0)?;
    node.ctl_as(NOBODY, ["freeze", name, "--reason", "once more"])?.expect(0)?;
    let page = node.ctl_as(NOBODY, ["explain", name])?.expect(0)?.out;
    ensure!(page.contains("failsafectl thaw") && !page.contains("failsafectl kill"), "{page}");
    let thawed = node.ctl_as(NOBODY, ["thaw", name, "--reason", "I have looked", "-o", "json"])?;
    ensure!(thawed.expect(0)?.json()?["verdict"] == "proved");
    node.wait_for_event("the thaw of the owner", |e| {
        e["kind"] == "control" && e["body"]["reason"] == "I have looked" && e["body"]["role"] == "owner"
    })?;
    Ok(())
}

#[test]
fn a_forbidden_connect_is_refused_seen_and_freezes_the_run_until_an_operator_thaws_it() -> Result<()> {
    on_node("egress", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        // `stage` holds it back until the test has looked.
        let stage = integration::sentinel(node, "stage")?;
        let sender = program("sender")?.display().to_string();
        let script = format!(
            "{sender} --to 127.0.0.1:{port} --how tcp --count 1\n\
             {sender} --to 127.77.0.9:{port} --how tcp --count 1\n\
             echo went on; while ! grep -q done {}; do sleep 0.01; done",
            stage.display()
        );
        let mut run = Launch::new("leaver", &only(port)).start(node, ["sh", "-c", &script])?;
        run.freezes()?;
        run.says("sent 1000 bytes to 127.0.0.1")?;
        let decision = node.wait_for_event("the decision", |e| denied_to(e, "leaves-home").is_some())?;
        let net = denied_to(&decision, "leaves-home").context("a decision")?;
        ensure!(net["address"] == "127.77.0.9" && net["port"] == port && net["verdict"] == "Denied", "{net}");
        let incident = decision["incident"].as_str().context("an incident")?.to_owned();
        let proved = node.wait_for_event("the freeze's proof", |e| {
            e["incident"] == incident.as_str() && e["body"]["action"] == "freeze" && e["body"]["verdict"] == "proved"
        })?;
        eprintln!(
            "frozen and proved {} us after the connect",
            proved["body"]["took"].as_u64().unwrap_or_default() / 1000
        );
        let who = &decision["body"]["decision"]["values"][0]["subject"]["Process"]["process"];
        ensure!(who["comm"] == "sender" && who["uid"] == NOBODY, "{who}");
        let evidence = node.wait_for_event("the evidence", |e| e["kind"] == "evidence")?;
        let snapshot = &evidence["body"]["snapshot"];
        let processes = snapshot["processes"].as_array().context("processes")?;
        ensure!(processes.iter().any(|p| p["pid"] == run.pid()) && snapshot["frozen"] == true, "{evidence}");
        wait_for("it is listed as frozen", || Ok(node.run("leaver")?["state"] == "frozen"))?;

        let page = node.ctl(["explain", "leaver"])?.expect(0)?.out;
        for output in
            ["127.77.0.9", "leaves-home", "nothing leaves this node in this test", &incident, "tests@example.org"]
        {
            ensure!(page.contains(output), "explain does not say `{output}`:\n{page}");
        }
        let by_id = node.json(["explain", &incident])?;
        ensure!(by_id["standing"] == "contained" && by_id["run_name"] == "leaver", "{by_id}");

        owner_may_freeze_only(node, "leaver")?;
        ensure!(frozen(run.cgroup())?, "a refused thaw thawed it");
        let mut other = Launch::new("others", "[policy]\nname = \"p\"\nowner = \"o\"\n")
            .user("root")
            .start(node, ["sleep", "60"])?;
        node.ctl_as(NOBODY, ["describe", "others"])?.expect(6)?;
        node.ctl_as(NOBODY, ["freeze", "others", "--reason", "x"])?.expect(6)?;
        let read = node.ctl_as(NOBODY, ["events", "-o", "json"])?.expect(0)?;
        ensure!(
            read.out.contains(run.id()) && !read.out.contains(other.id()),
            "others' records are read:\n{}",
            read.out
        );

        let thawed = node.json(["thaw", "leaver", "--reason", "the address is ours after all"])?;
        ensure!(thawed["verdict"] == "proved" && thawed["incident"] == incident.as_str(), "{thawed}");
        run.says("went on")?;
        // The call came back with EPERM, also after the freeze.
        run.says("refused: EPERM 1 times")?;
        node.wait_for_event("who thawed it and why", |e| {
            e["kind"] == "control"
                && e["body"]["reason"] == "the address is ours after all"
                && e["body"]["actor"]["local"]["uid"] == 0
        })?;
        let page = node.ctl(["explain", &incident])?.expect(0)?.out;
        ensure!(page.contains("the address is ours after all"), "{page}");

        let frozen_by_owner = node.ctl_as(NOBODY, ["freeze", "leaver", "--reason", "I want to look", "-o", "json"])?;
        ensure!(frozen_by_owner.expect(0)?.json()?["verdict"] == "proved");
        ensure!(frozen(run.cgroup())?, "not frozen");
        owner_thaws_own_freeze_only(node, "leaver")?;
        ensure!(!frozen(run.cgroup())?, "not thawed");
        std::fs::write(&stage, "done")?;
        ensure!(run.ends()?.success());
        node.ctl(["kill", "others", "--reason", "the test is over"])?.expect(0)?;
        other.ends()?;
        node.log_is_whole()
    })
}

#[test]
fn every_way_out_is_refused_and_the_allowed_one_is_open() -> Result<()> {
    on_node("ways-out", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        let sender = program("sender")?.display().to_string();
        let ways = [
            (format!("127.0.0.1:{port}"), "tcp", "none"),
            (format!("127.0.0.2:{port}"), "tcp", "EPERM"),
            (format!("127.0.0.1:{}", port ^ 1), "tcp", "EPERM"),
            (format!("127.0.0.1:{port}"), "udp", "EPERM"),
            (format!("127.0.0.1:{port}"), "connected-udp", "EPERM"),
            (format!("[::1]:{port}"), "tcp", "EPERM"),
            (format!("[::1]:{port}"), "udp", "EPERM"),
            (format!("[::ffff:127.0.0.1]:{port}"), "tcp", "none"),
            (format!("[::ffff:127.0.0.2]:{port}"), "tcp", "EPERM"),
        ];
        let script: String =
            ways.iter().map(|(to, how, _)| format!("{sender} --to {to} --how {how} --count 1; ")).collect();
        let mut run = Launch::new("ways", &list_only(port)).start(node, ["sh", "-c", &script])?;
        ensure!(run.ends()?.success(), "{}", run.errors());
        let output = run.output();
        let lines: Vec<&str> = output.lines().collect();
        ensure!(lines.len() == ways.len(), "{output}");
        for (line, (to, how, expected)) in lines.iter().zip(&ways) {
            ensure!(line.contains(&format!("refused: {expected}")), "{how} to {to}: {line}");
        }
        // Nothing was decided: the policy has no rule.
        wait_for("the run has ended", || Ok(node.run("ways")?["state"] == "ended"))?;
        ensure!(node.run("ways")?["decisions"] == 0);
        Ok(())
    })
}

/// Nothing is armed against the run's own stubbornness but the rule: however often it is thawed, in whatever order the thaw's
/// and the next freeze's writes come, it ends up frozen, promptly, and known as such.
#[test]
fn a_run_that_offends_again_at_once_is_frozen_again_whatever_the_thaw_was_at() -> Result<()> {
    on_node("stubborn", "", |node| {
        let sender = program("sender")?.display().to_string();
        let command = [&sender, "--to", "127.0.0.9:9", "--how", "tcp", "--count", "100000000", "--pause-ms", "0"];
        let policy = only(9).replace("[\"freeze\"", "[\"block\", \"freeze\"");
        let run = Launch::new("stubborn", &policy).start(node, command)?;
        run.freezes()?;
        let mut outrun = 0;
        for round in 1..=20u64 {
            let output = node.ctl(["thaw", "stubborn", "--reason", "try me", "-o", "json"])?;
            let answer = output.json()?;
            match output.code {
                0 => {}
                3 => {
                    ensure!(answer["missing"].to_string().contains("later decision"), "{answer}");
                    outrun += 1;
                }
                _ => anyhow::bail!("{output:?}"),
            }
            let took = answer["took_ns"].as_u64().context("a time")?;
            ensure!(took < 1_000_000_000, "round {round}: the thaw fought with the freeze for {took} ns");
            let last = format!("the {round}th new freeze and its proof");
            node.wait_for_event(&last, |e| {
                // The first freeze, and one after each thaw: every decision's number is known.
                e["body"]["action"] == "freeze"
                    && e["body"]["verdict"] == "proved"
                    && e["body"]["decision"]["n"] == 2 * round + 1
            })?;
            wait_for("it is known as frozen and blocked", || {
                let run = node.run("stubborn")?;
                Ok(run["state"] == "frozen" && run["blocked"] == true)
            })?;
            ensure!(frozen(run.cgroup())?, "round {round}");
        }
        eprintln!("{outrun} of 20 thaws were outrun by the next freeze");
        let foreign = node.events()?.iter().filter(|e| e["body"]["decision"]["cause"]["Upkeep"].is_object()).count();
        ensure!(foreign == 0, "its own thaws were taken for a stranger's");
        node.log_is_whole()
    })
}

#[test]
fn what_was_refused_is_in_the_log_after_the_run_has_ended_with_and_without_a_rule() -> Result<()> {
    on_node("refused-totals", "", |node| {
        let sender = program("sender")?.display().to_string();
        let command = [&sender, "--to", "127.77.0.9:9", "--how", "tcp", "--count", "60"];
        let notify = only(9).replace(r#"["freeze", "snapshot", "notify"]"#, r#"["notify"]"#);
        for (name, policy) in [("without-a-rule", list_only(9)), ("with-a-rule", notify)] {
            let mut run = Launch::new(name, &policy).start(node, command)?;
            run.ends()?;
            let of_run = |e: &Value| e["run"] == run.id();
            let totals = node.wait_for_event("the totals", |e| of_run(e) && e["body"]["totals"].is_object())?;
            ensure!(totals["body"]["totals"]["denied_calls"] == 60, "{totals}");
            let shown = node.run(run.id())?;
            ensure!(shown["kernel"]["denied_calls"] == 60, "{shown}");
            let events = node.events()?;
            let decisions = events.iter().filter(|e| of_run(e) && denied_to(e, "leaves-home").is_some()).count();
            let ended = events.iter().find(|e| of_run(e) && e["body"]["type"] == "run-ended").context("the end")?;
            let suppressed = ended["body"]["suppressed"][0]["events"].as_u64();
            if name == "without-a-rule" {
                ensure!(decisions == 0 && suppressed.is_none(), "{ended}");
            } else {
                ensure!(decisions == 1 && suppressed.is_some_and(|more| (1..60).contains(&more)), "{ended}");
                ensure!(ended["body"]["suppressed"][0]["rule"] == "leaves-home", "{ended}");
            }
        }
        Ok(())
    })
}

#[test]
fn an_allowed_name_of_the_hosts_file_needs_no_name_server() -> Result<()> {
    on_node("hosts-file", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        let policy = only(port).replace("cidr = \"127.0.0.1/32\"", "host = \"localhost\"");
        let sender = program("sender")?.display().to_string();
        let to = format!("127.0.0.1:{port}");
        let mut run =
            Launch::new("local", &policy).start(node, [&sender, "--to", &to, "--how", "tcp", "--count", "1"])?;
        run.says("sent 1000 bytes to 127.0.0.1")?;
        ensure!(run.ends()?.success(), "{}", run.errors());
        Ok(())
    })
}
