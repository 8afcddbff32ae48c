//! The gateway: what it serves, and who is taken for it.

use anyhow::{Context, Result, ensure};
use integration::{
    Launch, NOBODY, TestCgroup,
    gateway::{Gateway, accepts, cgroup, get, has},
    on_node, wait_for,
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"\n";

/// What promtool finds wrong; `None`: it is not installed.
fn promtool(text: &str) -> Result<Option<String>> {
    let command = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match command {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        child => child?,
    };
    child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn metrics_follow_a_run_and_are_not_served_while_the_daemon_is_away() -> Result<()> {
    let Some(cgroup) = cgroup("gw-metrics") else { return Ok(()) };
    on_node("gw-metrics", &accepts(&cgroup), |node| {
        let mut gateway = Gateway::start(node, cgroup.path(), METRICS)?;
        let run = Launch::new("watched", PLAIN).label("job=a\"b{}\\c").start(node, ["sleep", "600"])?;
        let text = gateway.metrics()?;
        ensure!(has(&text, "failsafe_up 1") && has(&text, "failsafed_runs{state=\"running\"} 1"), "{text}");
        ensure!(text.contains("label_job=\"a\\\"b{}\\\\c\""), "{text}");
        node.ctl(["freeze", "watched", "--reason", "test"])?.expect(0)?;
        let frozen = |text: &str| {
            let intervention = "failsafed_interventions_total{action=\"freeze\",rule=\"operator\",mode=\"enforce\"} 1";
            let proved = "failsafed_actions_total{action=\"freeze\",result=\"proved\",mode=\"enforce\"} 1";
            has(text, "failsafed_runs{state=\"frozen\"} 1") && has(text, intervention) && has(text, proved)
        };
        wait_for("metrics show the freeze", || Ok(frozen(&gateway.metrics()?))).with_context(|| gateway.log())?;
        match promtool(&gateway.metrics()?)? {
            Some(text) => ensure!(text.is_empty(), "{text}"),
            None => eprintln!("promtool is not installed: the format was not checked"),
        }
        node.kill9()?;
        // An answer from just before the end may be served for a quarter of a second.
        wait_for("the daemon is away", || Ok(has(&gateway.metrics()?, "failsafe_up 0")))?;
        let away = gateway.metrics()?;
        ensure!(!away.contains("failsafed_") && !away.contains("failsafe_run_info"), "{away}");
        node.restart()?;
        wait_for("the daemon is back", || Ok(has(&gateway.metrics()?, "failsafed_runs{state=\"frozen\"} 1")))?;
        drop(run);
        Ok(())
    })
}

#[test]
fn only_the_configured_user_in_the_configured_cgroup_is_the_gateway() -> Result<()> {
    let Some(cgroup) = cgroup("gw-who") else { return Ok(()) };
    on_node("gw-who", &accepts(&cgroup), |node| {
        let refused = |gateway: &mut Gateway, who: &str| -> Result<()> {
            let text = gateway.metrics()?;
            ensure!(has(&text, "failsafe_up 0") && !text.contains("failsafed_"), "{who}: {text}");
            ensure!(gateway.log().contains("PermissionDenied"), "{who}: {}", gateway.log());
            Ok(())
        };
        let elsewhere = TestCgroup::new("gw-elsewhere")?;
        refused(&mut Gateway::start(node, elsewhere.path(), METRICS)?, "the user in another cgroup")?;
        refused(&mut Gateway::start_as(node, cgroup.path(), NOBODY - 1, METRICS)?, "another user in the cgroup")?;
        let run = Launch::new("cage", PLAIN).start(node, ["sleep", "600"])?;
        refused(&mut Gateway::start(node, run.cgroup(), METRICS)?, "the user in a run")?;
        // It is looked at again for each request: what it was before does not count.
        let mut moved = Gateway::start(node, cgroup.path(), METRICS)?;
        ensure!(has(&moved.metrics()?, "failsafe_up 1"), "{}", moved.log());
        std::fs::write(elsewhere.path().join("cgroup.procs"), moved.pid().to_string())?;
        wait_for("the gateway is refused", || Ok(has(&moved.metrics()?, "failsafe_up 0")))?;
        refused(&mut moved, "the gateway after it left its cgroup")?;
        // As the gateway it reads metrics, and nothing else.
        let mut caller = integration::Caller::new(node, NOBODY)?;
        std::fs::write(cgroup.path().join("cgroup.procs"), caller.pid().to_string())?;
        let answer = caller.ask("cordon")?;
        ensure!(answer.starts_with("PermissionDenied"), "{answer}");
        Ok(())
    })
}

#[test]
fn idle_connections_take_no_room_for_longer_than_the_timeout() -> Result<()> {
    let Some(cgroup) = cgroup("gw-idle") else { return Ok(()) };
    on_node("gw-idle", &accepts(&cgroup), |node| {
        let mut gateway = Gateway::start(
            node,
            cgroup.path(),
            "[metrics]\naddress = \"127.0.0.1:0\"\nconnections = 2\ntimeout_s = 60\n",
        )?;
        let address = gateway.address("metrics are served")?;
        let idle = [TcpStream::connect(address)?, TcpStream::connect(address)?];
        // Connections are accepted in their order: both places are taken.
        let third = get(address, "/metrics").unwrap_or_default();
        ensure!(third.is_empty(), "{third}");
        drop(idle);
        let counted = "failsafe_gateway_metrics_connections_refused_total";
        wait_for("there is room again", || Ok(get(address, "/metrics").unwrap_or_default().contains(counted)))?;
        drop(gateway);
        let mut gateway = Gateway::start(
            node,
            cgroup.path(),
            "[metrics]\naddress = \"127.0.0.1:0\"\nconnections = 1\ntimeout_s = 1\n",
        )?;
        let mut idle = TcpStream::connect(gateway.address("metrics are served")?)?;
        // Half a request: it is closed without an answer, or with one that says why.
        idle.write_all(b"GET /metrics HTTP/1.1\r\n")?;
        let mut answer = String::new();
        let _closed = idle.read_to_string(&mut answer);
        ensure!(!answer.contains("200"), "{answer}");
        wait_for("there is room again", || Ok(gateway.metrics().is_ok()))?;
        Ok(())
    })
}

#[test]
fn other_paths_and_methods_are_refused() -> Result<()> {
    let Some(cgroup) = cgroup("gw-paths") else { return Ok(()) };
    on_node("gw-paths", &accepts(&cgroup), |node| {
        let mut gateway = Gateway::start(node, cgroup.path(), METRICS)?;
        let address = gateway.address("metrics are served")?;
        for path in ["/", "/metrics/x", "/../etc/passwd"] {
            let answer = get(address, path)?;
            ensure!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        }
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        let long = get(address, &format!("/{}", "x".repeat(100_000))).unwrap_or_default();
        ensure!(!long.contains("200 OK"), "{long}");
        Ok(())
    })
}
