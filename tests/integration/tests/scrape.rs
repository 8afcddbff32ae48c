//! Ports of runs that are scraped: by `run --scrape`, by `scrape` in the run, and what is refused.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, Started, on_node, program, skip, wait_for, wait_for_some};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr, os::fd::IntoRawFd, path::Path, process};
use tokio::net::TcpSocket;

const PYTHON: &str = "/usr/bin/python3";

fn python() -> bool {
    let found = Path::new(PYTHON).exists();
    if !found {
        skip("/usr/bin/python3 is not installed");
    }
    found
}

/// A policy with rules on the metric, by their ids and conditions.
fn policy(rules: &[(&str, &str)]) -> String {
    let rule = |(id, condition): &(&str, &str)| {
        format!(
            "[[rule]]\nid = \"{id}\"\nrationale = \"a test\"\nwhen = {{ signal = \"metric.train_loss\", {condition} }}\n\
             actions = [\"notify\"]\n"
        )
    };
    let rules: String = rules.iter().map(rule).collect();
    format!("[policy]\nname = \"loss\"\nowner = \"training@example.org\"\n\n{rules}")
}

/// Whether the rule decided on the value that the test serves.
fn decided(event: &Value, rule: &str) -> bool {
    let decision = &event["body"]["decision"];
    decision["cause"]["Rule"]["rule"] == rule && decision["values"][0]["value"]["Claimed"]["step"] == 7
}

/// A port that only this test has, below those that the kernel gives to connections.
fn port() -> Result<u16> {
    let start = 20_000 + u16::try_from(process::id() % 10_000)?;
    (start..start + 500).find(|port| reserve(*port).is_ok()).context("no port is free")
}

/// Binds the port for as long as this process lives. Only sockets that may reuse an address, as Python's servers may, can be bound to it
/// beside this one. This one was bound without, so that another test cannot reserve it too.
fn reserve(port: u16) -> Result<()> {
    let held = TcpSocket::new_v4()?;
    held.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    held.set_reuseaddr(true)?;
    let _open_until_the_end = held.into_raw_fd();
    Ok(())
}

/// Serves one metric on a port from the time when the file `open` exists, until the file `close` exists. Then it sleeps.
const SERVES: &str = r##"
import http.server, os, sys, threading, time
port, folder = int(sys.argv[1]), sys.argv[2]
def wait(name):
    while not os.path.exists(os.path.join(folder, name)):
        time.sleep(0.02)
class Serve(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"# TYPE train_loss gauge\ntrain_loss{step=\"7\"} 60.5\nother 1\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
try:
    print("child", os.waitpid(-1, os.WNOHANG), flush=True)
except ChildProcessError:
    print("no child", flush=True)
wait("open")
server = http.server.HTTPServer(("127.0.0.1", port), Serve)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("serves", flush=True)
wait("close")
server.shutdown()
server.server_close()
print("closed", flush=True)
time.sleep(600)
"##;

/// A run that serves, and that is scraped from outside its command.
fn serves(node: &Node, name: &str, policy: &str) -> Result<Started> {
    let port = port()?.to_string();
    let folder = folder(node, name)?;
    let scrape = format!("{port}/metrics");
    Launch::new(name, policy)
        .options(["--scrape", &scrape, "--every", "100ms", "--only", "train_*"])
        .start(node, [PYTHON, "-S", "-c", SERVES, &port, &folder])
}

/// A folder that the run's user may look into.
fn folder(node: &Node, name: &str) -> Result<String> {
    let folder = node.file(&format!("{name}-files"));
    fs::create_dir_all(&folder)?;
    std::os::unix::fs::chown(&folder, Some(NOBODY), None)?;
    Ok(folder.display().to_string())
}

fn touch(node: &Node, run: &str, file: &str) -> Result<()> {
    Ok(fs::write(Path::new(&folder(node, run)?).join(file), "")?)
}

fn processes(run: &Started) -> Vec<u32> {
    let pids = fs::read_to_string(run.cgroup().join("cgroup.procs")).unwrap_or_default();
    pids.lines().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn a_port_that_opens_late_is_scraped_until_the_command_ends() -> Result<()> {
    if !python() {
        return Ok(());
    }
    on_node("scraped", "", |node| {
        let mut run = serves(node, "served", &policy(&[("high", "above = 50.0")]))?;
        run.says("no child")?;
        wait_for("the scraper finds no port", || Ok(run.errors().contains("nobody listens there")))
            .with_context(|| run.errors())?;
        let others = wait_for_some("the scraper is in the run", || {
            let others: Vec<u32> = processes(&run).into_iter().filter(|pid| *pid != run.pid()).collect();
            Ok(Some(others).filter(|others| others.len() == 1))
        })?;
        let status = fs::read_to_string(format!("/proc/{}/status", others[0]))?;
        let uid = status.lines().find(|line| line.starts_with("Uid:")).context("no uid")?;
        ensure!(uid.split_whitespace().skip(1).all(|uid| uid == NOBODY.to_string()), "{uid}");
        ensure!(status.starts_with("Name:\tfailsafectl\n"), "{status}");
        ensure!(!status.contains(&format!("\nPPid:\t{}\n", run.pid())), "it is a child of the command: {status}");
        let variables = fs::read_to_string(format!("/proc/{}/environ", others[0]))?;
        ensure!(variables.split_terminator('\0').all(|one| one.starts_with("FAILSAFE_METRICS_SOCKET=")), "{variables}");
        touch(node, "served", "open")?;
        let decided = node.wait_for_event("the decision", |e| decided(e, "high"));
        let decided = decided.with_context(|| format!("{}{}", run.output(), run.errors()))?;
        ensure!(decided["run"] == run.id(), "{decided}");
        ensure!(run.errors().matches("nobody listens there").count() == 1, "{}", run.errors());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.pid().cast_signed()), nix::sys::signal::SIGKILL)?;
        run.ends()?;
        wait_for("the run is over", || Ok(node.run(run.id())?["state"] == "ended"))?;
        Ok(())
    })
}

#[test]
fn an_exporter_that_ends_is_an_absent_metric() -> Result<()> {
    if !python() {
        return Ok(());
    }
    on_node("scrapedead", "", |node| {
        let run = serves(node, "dead", &policy(&[("high", "above = 50.0"), ("gone", "absent = \"2s\"")]))?;
        touch(node, "dead", "open")?;
        run.says("serves")?;
        node.wait_for_event("a value", |e| decided(e, "high")).with_context(|| run.errors())?;
        touch(node, "dead", "close")?;
        run.says("closed")?;
        // A slow start may trip the rule before the first value: then it has no value as evidence, and trips again.
        node.wait_for_event("the decision", |e| decided(e, "gone")).with_context(|| run.errors())?;
        ensure!(node.run(run.id())?["state"] == "running", "the scraper goes on");
        Ok(())
    })
}

#[test]
fn the_exit_code_is_the_commands_and_no_scraper_is_left() -> Result<()> {
    on_node("scrapecode", "", |node| {
        let policy = node.policy("plain", "[policy]\nname = \"plain\"\nowner = \"tests\"\n")?;
        let port = port()?.to_string();
        let policy = policy.to_string_lossy();
        let first = ["run", "--policy", &*policy, "--name", "short", "--user", "nobody", "--scrape", &port];
        let said = node.ctl([&first[..], &["--", "sh", "-c", "exit 7"]].concat())?;
        ensure!(said.code == 7 && !said.err.contains("the run goes on"), "{} {}", said.code, said.err);
        wait_for("the run is over", || Ok(node.run("short")?["state"] == "ended"))?;
        Ok(())
    })
}

#[test]
fn a_port_that_the_policy_refuses_is_an_error_before_the_run_is_started() -> Result<()> {
    on_node("scraperefused", "", |node| {
        let closed = "[policy]\nname = \"closed\"\nowner = \"o\"\n\n[egress]\nallow = [{ cidr = \"10.0.0.0/8\", ports = [443], protocol = \"tcp\" }]\n";
        let file = node.policy("closed", closed)?;
        let file = file.to_string_lossy();
        let first = ["run", "--policy", &*file, "--user", "nobody", "--scrape", "9400/m", "--", "true"];
        let said = node.ctl(first)?;
        ensure!(said.code == 2, "{} {}", said.code, said.err);
        let wanted = "allow it in [egress]: { cidr = \"127.0.0.1/32\", ports = [9400], protocol = \"tcp\" }";
        ensure!(said.err.contains("denied by [egress]") && said.err.contains(wanted), "{}", said.err);
        let runs = node.json(["list", "--all"])?;
        ensure!(!runs.to_string().contains("closed"), "{runs}");
        Ok(())
    })
}

/// Serves in the background, reads it once it serves, and prints the result.
const READS: &str = r#"
/usr/bin/python3 -S -c "$SERVES" "$0" "$1" >"$1/out" &
until [ -e "$1/out" ] && grep -q serves "$1/out"; do sleep 0.05; done
"$FAILSAFECTL" scrape "127.0.0.1:$0" --once --json
echo ended $?
sleep 600
"#;

#[test]
fn a_pass_is_printed_as_json_with_what_was_sent_or_why_it_was_refused() -> Result<()> {
    if !python() {
        return Ok(());
    }
    on_node("scrapejson", "", |node| {
        let egress = "[egress]\nallow = [{ cidr = \"10.0.0.0/8\", ports = [443], protocol = \"tcp\" }]\n";
        let plain = policy(&[("high", "above = 100.0")]);
        for (name, policy, code) in [("open", plain.clone(), 0), ("closed", format!("{plain}{egress}"), 4)] {
            let (port, folder) = (port()?.to_string(), folder(node, name)?);
            touch(node, name, "open")?;
            let run = Launch::new(name, &policy)
                .env("FAILSAFECTL", program("failsafectl")?)
                .env("SERVES", SERVES)
                .start(node, ["sh", "-c", READS, &port, &folder])?;
            run.says(&format!("ended {code}")).with_context(|| run.errors())?;
            let output = run.output();
            let shown: Value = serde_json::from_str(output.lines().next().context("no line")?)?;
            ensure!(shown["endpoint"] == format!("http://127.0.0.1:{port}/metrics"), "{shown}");
            if code == 0 {
                let first = json!({ "name": "train_loss", "value": 60.5, "step": 7, "rank": null });
                ensure!(shown["sent"][0] == first && shown["accepted"] == 2 && shown["refused"] == 0, "{shown}");
            } else {
                ensure!(
                    shown["error"].as_str().is_some_and(|why| why.contains("the policy of the run refuses")),
                    "{shown}"
                );
                ensure!(shown["advice"].as_str().is_some_and(|advice| advice.contains(&port)), "{shown}");
            }
        }
        Ok(())
    })
}
