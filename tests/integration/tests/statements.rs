//! Stored statements end to end: of the start, of incidents, and of the end with the account of what the run sent; over restarts of
//! the daemon; and who may have them.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, on_node, program, wait_for};
use serde_json::Value;
use std::{fs, net::TcpListener, path::PathBuf, process::Command};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

/// Only `127.0.0.1:port` is allowed; a refused connection is an incident that freezes nothing.
fn watched(port: u16) -> String {
    format!(
        r#"
[policy]
name = "watched"
owner = "tests"

[egress]
allow = [{{ cidr = "127.0.0.1/32", ports = [{port}], protocol = "tcp" }}]

[[egress.budget]]
name = "home"
to = ["127.0.0.0/8"]
bytes = "1 MiB"

[[rule]]
id = "leaves"
rationale = "nothing leaves this node in this test"
owner = "tests"
when = {{ event = "connect", verdict = "denied" }}
actions = ["freeze", "notify"]

[[rule]]
id = "connects"
rationale = "each connection is seen"
owner = "tests"
when = {{ event = "connect", verdict = "allowed" }}
actions = ["notify"]
"#
    )
}

/// The entry of the log about a statement.
fn entry(node: &Node, run: &str, at: &str) -> Result<Value> {
    let what = format!("the entry about the statement of {run}'s {at}");
    node.wait_for_event(&what, |e| {
        e["body"]["type"] == "statement" && e["body"]["name"] == run && e["body"]["at"] == at
    })
}

/// The stored statement, verified without the daemon with the node's keys; and its bytes are those that the log names.
fn stored(node: &Node, run: &str, at: &str, logged: &Value) -> Result<Value> {
    let file = node.file(&format!("{run}-{at}.json"));
    let path = file.display().to_string();
    node.ctl(["attest", "run", run, "--at", at, "--force", "-o", &path])?.expect(0)?;
    let keys = node.file("keys");
    fs::write(&keys, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
    let sum = Command::new("sha256sum").arg(&file).output()?.stdout;
    let sum = String::from_utf8(sum)?.split(' ').next().unwrap_or_default().to_owned();
    ensure!(logged["body"]["digest"] == format!("sha256:{sum}"), "{logged}");
    let mut verify = node.ctl_command(["attest", "verify", "-o", "json", "--keys"]);
    verify.args([&keys, &file]).env("FAILSAFE_SOCKET", "/nowhere");
    let output = integration::CommandOutput::of(&mut verify)?.expect(0)?;
    Ok(output.json()?["statement"]["predicate"].clone())
}

fn factor<'a>(predicate: &'a Value, path: &str) -> Option<&'a Value> {
    predicate["factors"].as_array()?.iter().find(|factor| factor["path"] == path)
}

#[test]
fn a_run_has_signed_statements_of_its_start_its_incident_and_its_end_with_what_it_sent() -> Result<()> {
    on_node("statements", "", |node| {
        let home = TcpListener::bind("127.0.0.1:0")?;
        let port = home.local_addr()?.port();
        let stage = integration::sentinel(node, "stage")?;
        let sender = program("sender")?.display().to_string();
        let script = format!(
            "while ! grep -q go {0}; do sleep 0.02; done\n{sender} --to 127.0.0.1:{port} --how tcp --count 1\n\
             {sender} --to 127.77.0.9:{port} --how tcp --count 1\n\
             while ! grep -q done {0}; do sleep 0.02; done",
            stage.display()
        );
        let policy = watched(port);
        let mut run = Launch::new("job", &policy).env("OMP_NUM_THREADS", "3").start(node, ["sh", "-c", &script])?;
        let start = entry(node, "job", "start")?;
        let of_start = stored(node, "job", "start", &start)?;
        ensure!(of_start["moment"]["at"] == "start" && of_start["moment"]["run"] == run.id(), "{}", of_start["moment"]);
        ensure!(factor(&of_start, "run/env/OMP_NUM_THREADS").is_some_and(|it| it["value"] == "3"));
        ensure!(factor(&of_start, "run/library").is_some_and(|it| it["value"] == "complete"));
        ensure!(
            factor(&of_start, "node/hostname").is_some_and(|it| it["status"] == "denied"),
            "the owner is no administrator"
        );
        ensure!(of_start.get("egress").is_none(), "only the end has an account");

        fs::write(&stage, "go")?;
        run.freezes()?;
        let incident = node.run("job")?["incident"].as_str().context("an incident")?.to_owned();
        // The first incident is the allowed connection, which is only watched.
        let of_incident = node.wait_for_event("the statement of the incident", |e| {
            e["body"]["type"] == "statement" && e["body"]["incident"] == incident.as_str()
        })?;
        let of_incident = stored(node, "job", &incident, &of_incident)?;
        ensure!(of_incident["moment"]["incident"] == incident.as_str(), "{}", of_incident["moment"]);
        ensure!(
            factor(&of_incident, "run/library").is_some_and(|it| it["value"] == "complete"),
            "a frozen run is read"
        );
        let early = node.ctl(["attest", "run", "job", "--at", "end"])?.expect(6)?;
        ensure!(early.err.contains("its moment has not come"), "{}", early.err);

        let live = node.json(["egress", "job"])?;
        ensure!(live["ended"] == false && live["totals"]["sent_bytes"].as_u64() > Some(1_000), "{live}");
        node.ctl(["thaw", "job", "--reason", "a test"])?.expect(0)?;
        fs::write(&stage, "done")?;
        run.ends()?;
        let end = entry(node, "job", "end")?;
        let of_end = stored(node, "job", "end", &end)?;
        ensure!(factor(&of_end, "run/library").is_some_and(|it| it["value"] == "complete"), "from the last reading");
        ensure!(
            of_end["moment"]["readNs"] == of_incident["moment"]["readNs"],
            "{} {}",
            of_end["moment"],
            of_incident["moment"]
        );
        let sent = &of_end["egress"];
        ensure!(sent["mode"] == "enforce" && sent["connections"] == "counted", "{sent}");
        let line = |address: &str| {
            let lines = sent["destinations"].as_array().cloned().unwrap_or_default();
            lines.into_iter().find(|line| line["destination"]["address"] == address).unwrap_or_default()
        };
        ensure!(line("127.0.0.1")["attempts"]["connected"] == 1, "{sent:#}");
        ensure!(line("127.77.0.9")["attempts"]["refused"].as_u64() >= Some(1), "{sent:#}");
        ensure!(line("127.77.0.9")["destination"]["port"] == port, "{sent:#}");
        ensure!(
            sent["totals"]["egress_bytes"].as_u64() > Some(1_000) && sent["totals"]["denied_calls"] == 1,
            "{sent:#}"
        );
        ensure!(sent["budgets"][0]["name"] == "home" && sent["budgets"][0]["bytes"].as_u64() > Some(1_000), "{sent:#}");

        let ended = node.json(["egress", "job"])?;
        ensure!(ended["ended"] == true && ended["totals"]["sent_bytes"] == sent["totals"]["egress_bytes"], "{ended}");
        let page = node.ctl(["egress", "job"])?.expect(0)?.out;
        ensure!(page.contains("127.77.0.9") && page.contains("not in this account"), "{page}");
        let page = node.ctl(["describe", "job"])?.expect(0)?.out;
        ensure!(page.contains("egress: ") && page.contains("refused (`failsafectl egress`)"), "{page}");
        // Nobody else's.
        node.ctl_as(12_345, ["attest", "run", "job", "--at", "end"])?.expect(6)?;
        node.ctl_as(12_345, ["egress", "job"])?.expect(6)?;
        node.ctl_as(NOBODY, ["attest", "run", "job", "--at", "end"])?.expect(0)?;
        node.ctl(["attest", "run", "job", "--at", "99"])?.expect(6)?;
        node.ctl(["attest", "run", "job", "--at", "midway"])?.expect(2)?;
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_ends_at_once_has_a_statement_of_its_end_and_an_entry_that_it_has_none_of_its_start() -> Result<()> {
    on_node("statements-short", "", |node| {
        let mut run = Launch::new("short", PLAIN).start(node, ["true"])?;
        run.ends()?;
        let start = entry(node, "short", "start")?;
        ensure!(start["body"]["digest"].is_null(), "{start}");
        let why = start["body"]["problem"].as_str().unwrap_or_default();
        ensure!(why.contains("ended before its programs were loaded"), "{start}");
        let output = node.ctl(["attest", "run", "short", "--at", "start"])?.expect(6)?;
        ensure!(output.err.contains(why), "{}", output.err);
        let end = stored(node, "short", "end", &entry(node, "short", "end")?)?;
        let library = factor(&end, "run/library").context("a group that says that it is not known")?;
        ensure!(library["status"] == "unavailable" && end["moment"]["readNs"] == "", "{library}");
        Ok(())
    })
}

#[test]
fn statements_survive_a_crash_of_the_daemon_and_a_missing_one_is_made_after_it() -> Result<()> {
    on_node("statements-crash", "", |node| {
        let mut run = Launch::new("long", PLAIN).start(node, ["sleep", "600"])?;
        let start = entry(node, "long", "start")?;
        node.kill9()?;
        let file = |name: &str| -> PathBuf { node.state_dir().join("runs").join(run.id()).join(name) };
        let before = fs::read(file("statement-start.json"))?;
        // The run ends while no daemon watches.
        fs::write(run.cgroup().join("cgroup.kill"), "1")?;
        let end_file = file("statement-end.json");
        let start_file = file("statement-start.json");
        run.ends()?;
        node.restart()?;
        let end = stored(node, "long", "end", &entry(node, "long", "end")?)?;
        ensure!(fs::read(&start_file)? == before, "the statement of the start was replaced");
        stored(node, "long", "start", &start)?;
        let gaps = end["egress"]["gaps"].to_string();
        ensure!(gaps.contains("no daemon watched the run's end"), "{gaps}");
        // Once is enough.
        node.stop()?;
        let made = fs::metadata(&end_file)?.modified()?;
        node.restart()?;
        wait_for("the daemon answers", || Ok(node.run("long").is_ok()))?;
        ensure!(fs::metadata(&end_file)?.modified()? == made);
        // A statement that somebody swapped is not signed by this node's key about this moment: the verifier sees it.
        fs::copy(&start_file, &end_file)?;
        let output = node.ctl(["attest", "run", "long", "--at", "end"])?;
        ensure!(output.code == 1 && output.err.contains("is not the one that was stored"), "{output:?}");
        Ok(())
    })
}
