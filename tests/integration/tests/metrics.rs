//! The runs' own metrics: a line on a socket, judged by the run's policy, and worth nothing from anybody else.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch, NOBODY, Started, on_node, program, sentinel, wait_for};
use serde_json::Value;
use std::{fs, os::unix::net::UnixDatagram, path::Path, process::Command};

const LOSS: &str = r#"
[policy]
name = "loss"
owner = "training@example.org"

[[rule]]
id = "exploded"
rationale = "above 50 the weights are lost"
when = { signal = "metric.loss", above = 50.0, clear = 10.0 }
actions = ["freeze", "snapshot", "notify"]

[[rule]]
id = "not-finite"
rationale = "NaN never goes away"
when = { signal = "metric.loss", is = "not-finite" }
actions = ["freeze", "snapshot", "notify"]
"#;

fn decided(rule: &str) -> impl Fn(&Value) -> bool {
    move |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == rule
}

#[test]
fn a_diverging_loss_freezes_the_trainer_and_it_goes_on_when_it_is_put_right() -> Result<()> {
    on_node("loss", "", |node| {
        let rate = sentinel(node, "rate")?;
        fs::write(&rate, "0.05")?;
        let (trainer, socket) = (program("trainer")?, node.metrics_socket());
        let words = ["--steps", "0", "--step-ms", "10", "--diverge-at", "10", "--report"];
        let mut command = vec![trainer.display().to_string()];
        command.extend(words.map(str::to_owned));
        command.push(socket.display().to_string());
        let run = Launch::new("trainer", LOSS).start(node, command)?;
        run.freezes()?;
        let decision = node.wait_for_event("the decision", decided("exploded"))?;
        let seen = &decision["body"]["decision"]["values"][0];
        ensure!(seen["kind"]["Metric"] == "loss", "{seen}");
        let value: f64 = seen["value"]["Claimed"]["value"].as_str().context("a real number")?.parse()?;
        ensure!(value > 50.0, "{seen}");
        ensure!(run.output().contains("learning rate raised"), "frozen before it diverged: {}", run.output());
        let steps = run.output().lines().count();
        node.wait_for_event("the proof", |e| e["body"]["action"] == "freeze" && e["body"]["verdict"] == "proved")?;
        let page = node.ctl(["explain", "trainer"])?.expect(0)?.out;
        ensure!(page.contains("above 50 the weights are lost") && page.contains("metric.loss"), "{page}");
        // Several steps long: a frozen run does none.
        std::thread::sleep(std::time::Duration::from_millis(50));
        ensure!(run.output().lines().count() <= steps + 1, "it trains on while frozen");
        node.ctl(["thaw", "trainer", "--reason", "learning rate will be lowered"])?.expect(0)?;
        wait_for("it trains on", || Ok(run.output().lines().count() > steps + 1))?;
        // The loss goes on to infinity: the other rule stops it.
        run.freezes()?;
        ensure!(node.ctl(["replay", "trainer"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

fn reporter(node: &integration::Node, name: &str, line: &str) -> Result<Started> {
    let ctl = program("failsafectl")?.display().to_string();
    let script = format!("{ctl} report {line} && echo reported; sleep 600");
    Launch::new(name, LOSS).env("FAILSAFE_METRICS_SOCKET", node.metrics_socket()).start(node, ["sh", "-c", &script])
}

#[test]
fn a_nan_reported_by_hand_from_inside_the_run_freezes_it() -> Result<()> {
    on_node("nan", "", |node| {
        let well = reporter(node, "well", "loss 2.31 7")?;
        let ill = reporter(node, "ill", "loss nan 8")?;
        ill.freezes()?;
        let decision = node.wait_for_event("the decision", decided("not-finite"))?;
        ensure!(decision["run"] == ill.id(), "{decision}");
        ensure!(decision["body"]["decision"]["values"][0]["value"]["Claimed"]["value"] == "NaN", "{decision}");
        well.says("reported")?;
        ensure!(!integration::frozen(well.cgroup())?, "the healthy one was frozen");
        wait_for("the value is known", || Ok(!node.run("well")?["metrics"][0].is_null()))?;
        let described = node.run("well")?;
        let metric = &described["metrics"][0];
        ensure!(metric["name"] == "loss" && metric["value"] == 2.31 && metric["step"] == 7, "{described}");
        ensure!(
            metric["age_ns"].is_u64() && metric["rank"] == "cli" && described["metrics"][1].is_null(),
            "{described}"
        );
        let page = node.ctl(["describe", "ill"])?.expect(0)?.out;
        ensure!(page.contains("LAST VALUE") && page.contains("NaN"), "{page}");
        ensure!(
            node.json(["list"])?[0]["metrics"].as_array().is_some_and(Vec::is_empty),
            "only `describe` asks for them"
        );
        Ok(())
    })
}

#[test]
fn nobody_can_report_for_a_run_from_outside_it() -> Result<()> {
    on_node("outsider", "", |node| {
        let run = Launch::new("victim", LOSS).start(node, ["sleep", "600"])?;
        // Root, and the run's own user, but not in its cgroup.
        let refused = node.ctl(["report", "loss", "nan"])?.expect(1)?;
        ensure!(refused.err.contains("the process is in no run"), "{}", refused.err);
        node.ctl_as(NOBODY, ["report", "loss", "nan"])?.expect(1)?;
        // A report from inside comes after those, so they have been dealt with when it is.
        let inside = reporter(node, "inside", "loss nan")?;
        inside.freezes()?;
        ensure!(
            !integration::frozen(run.cgroup())? && node.run("victim")?["decisions"] == 0,
            "{}",
            node.run("victim")?
        );
        Ok(())
    })
}

#[test]
fn a_flood_of_garbage_is_counted_and_stops_neither_the_daemon_nor_other_runs_metrics() -> Result<()> {
    on_node("flood", "", |node| {
        let stop = node.file("stop");
        std::thread::scope(|scope| {
            let flooder = scope.spawn(|| flood(&node.metrics_socket(), &stop));
            let done = (|| {
                let ctl = program("failsafectl")?.display().to_string();
                let script = format!("while :; do {ctl} report loss nan; sleep 0.1; done");
                let run = Launch::new("heard", LOSS)
                    .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
                    .start(node, ["sh", "-c", &script])?;
                run.freezes()?;
                node.ctl(["node", "status"])?.expect(0).map(|_| ())
            })();
            let _ = fs::write(&stop, "");
            let sent = flooder.join().map_err(|_| anyhow::anyhow!("the flooder panicked"))??;
            eprintln!("{sent} datagrams of garbage were sent");
            done
        })
    })
}

fn flood(socket: &Path, stop: &Path) -> Result<u64> {
    let garbage: [&[u8]; 6] = [b"", b"\xff\xfe\x00", b"loss", b"loss one two", b"a b c d e f\n", &[b'x'; 9_000]];
    let mut sent = 0;
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    while !stop.exists() {
        for line in garbage {
            sent += u64::from(from.send_to(line, socket).is_ok());
        }
        // One core is left to the others.
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
    Ok(sent)
}

#[test]
fn the_python_client_reports_with_the_standard_library_alone() -> Result<()> {
    on_node("python", "", |node| {
        // The system's own: another one, first in root's PATH, may be closed to other users.
        let python = "/usr/bin/python3";
        if CommandOutput::of(Command::new(python).arg("--version")).is_err() {
            integration::skip("/usr/bin/python3 is not installed");
            return Ok(());
        }
        let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
        let program =
            "import failsafe_metrics, time; failsafe_metrics.report('loss', float('nan'), 3); time.sleep(600)";
        let run = Launch::new("python", LOSS)
            .env("PYTHONPATH", client)
            .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
            .start(node, [python, "-S", "-c", program])?;
        run.freezes().with_context(|| run.errors())?;
        node.wait_for_event("the decision", decided("not-finite"))?;
        Ok(())
    })
}

#[test]
fn root_in_a_run_cannot_report_as_another_run() -> Result<()> {
    on_node("forger", "", |node| {
        let python = "/usr/bin/python3";
        if CommandOutput::of(Command::new(python).arg("--version")).is_err() {
            integration::skip("/usr/bin/python3 is not installed");
            return Ok(());
        }
        let victim = Launch::new("victim", LOSS).start(node, ["sleep", "600"])?;
        let pids = fs::read_to_string(victim.cgroup().join("cgroup.procs"))?;
        let pid = pids.lines().next().context("a process of the victim")?;
        // Datagrams with the victim's pid, as root may send them, and a stream with them in each message.
        let program = "
import os, socket, struct, sys, time
pid, path = int(sys.argv[1]), os.environ['FAILSAFE_METRICS_SOCKET']
for uid in (0, 65534):
    creds = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack('3i', pid, uid, uid))]
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for n in range(5):
        s.sendmsg([b'loss nan\\n'], creds, 0, path)
    s = socket.socket(socket.AF_UNIX)
    s.connect(path + '.stream')
    s.sendmsg([b'loss nan\\n?\\n'], creds)
    print(s.recv(999).decode().strip(), flush=True)
print('forged', flush=True)
time.sleep(600)
";
        let forger = Launch::new("forger", LOSS)
            .user("root")
            .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
            .start(node, [python, "-S", "-c", program, pid])?;
        forger.says("forged").with_context(|| forger.errors())?;
        ensure!(forger.output().matches("accepted 0 refused 1").count() == 2, "{}", forger.output());
        // What comes after is judged after it: the victim's own report.
        node.wait_for_event("the gap of the victim", |e| {
            e["body"]["what"].as_str().is_some_and(|what| what.contains("datagrams do not count"))
        })?;
        ensure!(!integration::frozen(victim.cgroup())?, "the victim was frozen");
        ensure!(node.run("victim")?["decisions"] == 0, "{}", node.run("victim")?);
        Ok(())
    })
}

#[test]
fn a_metric_that_a_rule_needs_and_nobody_reports_is_a_gap_and_its_rule_is_blind() -> Result<()> {
    on_node("silent", "", |node| {
        let policy = LOSS.replace("owner = ", "on_blind = \"freeze\"\nowner = ");
        let policy = format!("{policy}\n[metrics]\ngrace = \"2s\"\n");
        let ctl = program("failsafectl")?.display().to_string();
        let script = format!("{ctl} report Loss 2.5; sleep 600");
        let run = Launch::new("mute", &policy)
            .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
            .start(node, ["sh", "-c", &script])?;
        run.freezes()?;
        node.wait_for_event("the gap", |e| {
            e["body"]["what"]
                .as_str()
                .is_some_and(|what| what.contains("the run reports `Loss`, the rule needs `loss`"))
        })?;
        wait_for("the blind rules", || {
            Ok(node.ctl(["describe", "mute"])?.expect(0)?.out.contains("blind: rule exploded"))
        })?;
        ensure!(node.ctl(["replay", "mute"])?.expect(0)?.out.contains("identical"));
        Ok(())
    })
}

#[test]
fn a_thaw_lists_the_rules_that_are_disarmed() -> Result<()> {
    on_node("rearm", "", |node| {
        let run = reporter(node, "ill", "loss nan 8")?;
        run.freezes()?;
        let thawed = node.ctl(["thaw", "ill", "--reason", "look"])?.expect(0)?.out;
        ensure!(thawed.contains("disarmed: rule not-finite (rank cli): until metric.loss is finite"), "{thawed}");
        let page = node.ctl(["describe", "ill"])?.expect(0)?.out;
        ensure!(page.contains("disarmed: rule not-finite"), "{page}");
        Ok(())
    })
}
