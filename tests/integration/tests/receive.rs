//! Metrics that processes of runs report as OTLP to the gateway, and whose they are taken for.

use anyhow::{Context, Result, ensure};
use integration::{
    Launch,
    gateway::{accepts, cgroup, receiver, receives},
    on_node, program, skip,
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

const LOSS: &str = r#"
[policy]
name = "loss"
owner = "training@example.org"

[[rule]]
id = "exploded"
rationale = "above 50 the weights are lost"
when = { signal = "metric.train.loss", above = 50.0 }
actions = ["freeze", "notify"]
"#;
const PYTHON: &str = "/usr/bin/python3";
/// Posts values as OTLP in JSON with the standard library alone, and prints the answer.
const CLIENT: &str = r#"
import http.client, json, os, socket, sys, time
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["OTLP_SOCKET"])
def post(name, value):
    point = {"asDouble": value, "attributes": [{"key": "step", "value": {"intValue": "7"}}]}
    metric = {"name": name, "gauge": {"dataPoints": [point]}}
    # What the request says of itself decides nothing.
    claims = [{"key": key, "value": {"stringValue": "victim"}} for key in ("run", "failsafe.run", "service.name")]
    body = {"resourceMetrics": [{"resource": {"attributes": claims}, "scopeMetrics": [{"metrics": [metric]}]}]}
    connection = Unix("localhost")
    connection.request("POST", "/v1/metrics", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode(), flush=True)
    return connection
"#;

fn python() -> bool {
    let found = Path::new(PYTHON).exists();
    if !found {
        skip("/usr/bin/python3 is not installed");
    }
    found
}

fn client(socket: &Path, calls: &str) -> (String, String) {
    (format!("{CLIENT}{calls}\ntime.sleep(600)\n"), socket.display().to_string())
}

#[test]
fn a_loss_reported_as_otlp_freezes_its_run_and_no_other() -> Result<()> {
    let Some(cgroup) = cgroup("gw-otlp") else { return Ok(()) };
    if !python() {
        return Ok(());
    }
    on_node("gw-otlp", &receives(&cgroup), |node| {
        let (gateway, socket) = receiver(node, &cgroup)?;
        let victim = Launch::new("victim", LOSS).start(node, ["sleep", "600"])?;
        let (program, path) = client(&socket, "post('train.loss', 2.5); post('lo$s', 1.0); post('train.loss', 60.5)");
        let run = Launch::new("trainer", LOSS).env("OTLP_SOCKET", path).start(node, [PYTHON, "-S", "-c", &program])?;
        run.freezes().with_context(|| format!("{}{}{}", run.output(), run.errors(), gateway.log()))?;
        let decided = node.wait_for_event("the decision", |e| {
            e["body"]["decision"]["cause"]["Rule"]["rule"] == "exploded" && e["run"] == run.id()
        })?;
        let seen = &decided["body"]["decision"]["values"][0];
        ensure!(seen["kind"]["Metric"] == "train.loss" && seen["value"]["Claimed"]["step"] == 7, "{seen}");
        // The series is the process that connected, not the gateway.
        let pids = std::fs::read_to_string(run.cgroup().join("cgroup.procs"))?;
        let pid = seen["value"]["Claimed"]["series"]["Process"]["pid"].to_string();
        ensure!(pids.lines().any(|line| line == pid), "{seen}: {pids}");
        node.wait_for_event("the gap", |e| {
            e["run"] == run.id()
                && e["body"]["what"].as_str().is_some_and(|what| what.contains("refused: the name is not 1 to 64"))
        })?;
        ensure!(!integration::frozen(victim.cgroup())? && node.run("victim")?["decisions"] == 0, "the victim");
        ensure!(node.ctl(["replay", "trainer"])?.expect(0)?.out.contains("identical"));
        Ok(())
    })
}

/// What the gateway answers to one value from this process, which is root's and in no run.
fn from_outside(socket: &Path) -> Result<String> {
    let body = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
        {"name":"train.loss","gauge":{"dataPoints":[{"asDouble":60.5}]}}]}]}]}"#;
    let mut stream = UnixStream::connect(socket)?;
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\nconnection: close", body.len());
    write!(stream, "POST /v1/metrics HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn nobody_outside_a_run_can_report_through_the_gateway() -> Result<()> {
    let Some(cgroup) = cgroup("gw-otlp-out") else { return Ok(()) };
    on_node("gw-otlp-out", &receives(&cgroup), |node| {
        let (_gateway, socket) = receiver(node, &cgroup)?;
        let run = Launch::new("victim", LOSS).start(node, ["sleep", "600"])?;
        let answer = from_outside(&socket)?;
        ensure!(answer.starts_with("HTTP/1.1 400") && answer.contains("the process is in no run"), "{answer}");
        ensure!(node.run("victim")?["decisions"] == 0 && !integration::frozen(run.cgroup())?, "the victim");
        Ok(())
    })
}

#[test]
fn a_gateway_that_may_not_receive_reports_for_nobody() -> Result<()> {
    let Some(cgroup) = cgroup("gw-otlp-off") else { return Ok(()) };
    if !python() {
        return Ok(());
    }
    on_node("gw-otlp-off", &accepts(&cgroup), |node| {
        let (gateway, socket) = receiver(node, &cgroup)?;
        let (program, path) = client(&socket, "post('train.loss', 60.5)");
        let run = Launch::new("trainer", LOSS).env("OTLP_SOCKET", path).start(node, [PYTHON, "-S", "-c", &program])?;
        run.says("503").with_context(|| format!("{}{}", run.errors(), gateway.log()))?;
        ensure!(gateway.log().contains("`receive = true` in [gateway]"), "{}", gateway.log());
        ensure!(!integration::frozen(run.cgroup())? && node.run("trainer")?["decisions"] == 0, "{}", run.output());
        Ok(())
    })
}

/// OpenTelemetry's own SDK over gRPC, where `FAILSAFE_OTEL_PYTHON` names a Python that has it.
#[test]
fn a_loss_of_opentelemetrys_sdk_freezes_its_run() -> Result<()> {
    let Some(cgroup) = cgroup("gw-otel-sdk") else { return Ok(()) };
    let Some(python) = std::env::var_os("FAILSAFE_OTEL_PYTHON") else {
        skip("FAILSAFE_OTEL_PYTHON does not name a Python with opentelemetry-exporter-otlp-proto-grpc");
        return Ok(());
    };
    on_node("gw-otel-sdk", &receives(&cgroup), |node| {
        let (gateway, socket) = receiver(node, &cgroup)?;
        let program = r#"
import time
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
# gRPC would name the path as the authority, which is no valid one.
exporter = OTLPMetricExporter(channel_options=(("grpc.default_authority", "localhost"),))
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter)]))
loss = metrics.get_meter("train").create_gauge("train.loss")
loss.set(2.5)
metrics.get_meter_provider().force_flush()
loss.set(60.5)
metrics.get_meter_provider().force_flush()
time.sleep(600)
"#;
        let python = python.to_string_lossy().into_owned();
        let run = Launch::new("trainer", LOSS)
            .user("root")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("unix://{}", socket.display()))
            .env("OTEL_EXPORTER_OTLP_INSECURE", "true")
            .start(node, [python.as_str(), "-c", program])?;
        run.freezes().with_context(|| format!("{}{}{}", run.output(), run.errors(), gateway.log()))?;
        node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "exploded")?;
        Ok(())
    })
}

/// Serves one metric with the standard library alone, and a second process of the run scrapes it.
const SERVES: &str = r##"
import http.server, os, subprocess, sys
class Serve(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"# TYPE train_loss gauge\ntrain_loss{step=\"7\"} 60.5\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), Serve)
address = "127.0.0.1:%d/metrics" % server.server_address[1]
print("serves", address, flush=True)
if "scrape" in sys.argv:
    subprocess.Popen([os.environ["FAILSAFECTL"], "scrape", address, "--every", "200ms", "--name", "train_*"])
server.serve_forever()
"##;

#[test]
fn a_port_of_a_run_is_scraped_and_one_of_another_run_is_refused() -> Result<()> {
    if !python() {
        return Ok(());
    }
    on_node("scrape", "", |node| {
        let ctl = program("failsafectl")?;
        let policy = LOSS.replace("metric.train.loss", "metric.train_loss");
        let launch = |name| {
            Launch::new(name, &policy)
                .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
                .env("FAILSAFECTL", ctl.clone())
        };
        let other = launch("other").start(node, [PYTHON, "-S", "-c", SERVES])?;
        other.says("serves")?;
        let output = other.output();
        let address = output.lines().find_map(|line| line.strip_prefix("serves ")).context("its address")?;
        let script = "\"$FAILSAFECTL\" scrape \"$0\" --once; echo ended $?; sleep 600";
        let thief = launch("thief").start(node, ["sh", "-c", script, address])?;
        thief.says("ended 1").with_context(|| thief.errors())?;
        ensure!(thief.errors().contains("does not belong to a process of this run"), "{}", thief.errors());
        let run = launch("served").start(node, [PYTHON, "-S", "-c", SERVES, "scrape"])?;
        run.freezes().with_context(|| format!("{}{}", run.output(), run.errors()))?;
        let decided =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "exploded")?;
        ensure!(decided["run"] == run.id(), "{decided}");
        ensure!(decided["body"]["decision"]["values"][0]["value"]["Claimed"]["step"] == 7, "{decided}");
        for name in ["other", "thief"] {
            ensure!(node.run(name)?["decisions"] == 0, "{name}");
        }
        Ok(())
    })
}
