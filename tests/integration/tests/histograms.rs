//! Histograms that runs report or serve: a rule on a quantile decides, and the record has the value.

use anyhow::{Context, Result, ensure};
use integration::{
    Launch, Node, Started,
    gateway::{cgroup, receiver, receives},
    on_node, program, skip, wait_for,
};
use serde_json::Value;
use std::path::Path;

const PYTHON: &str = "/usr/bin/python3";

fn python() -> bool {
    let found = Path::new(PYTHON).exists();
    if !found {
        skip("/usr/bin/python3 is not installed");
    }
    found
}

/// A policy that freezes on one rule.
fn policy(condition: &str) -> String {
    format!(
        "[policy]\nname = \"slow\"\nowner = \"serving@example.org\"\n\n[[rule]]\nid = \"slow\"\n\
         rationale = \"users wait too long\"\nwhen = {{ {condition} }}\nactions = [\"freeze\", \"notify\"]\n"
    )
}

/// Sends histograms as OTLP in JSON over one connection, with the standard library alone.
const CLIENT: &str = r#"
import http.client, json, os, socket, time
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["OTLP_SOCKET"])
connection = Unix("localhost")
began = time.time_ns()
def post(name, kind, temporality, point):
    times = {"startTimeUnixNano": str(began), "timeUnixNano": str(time.time_ns())}
    data = {"aggregationTemporality": temporality, "dataPoints": [{**times, **point}]}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": name, kind: data}]}]}]}
    connection.request("POST", "/v1/metrics", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode(), flush=True)
def explicit(counts):
    total = str(sum(counts))
    return {"count": total, "bucketCounts": [str(n) for n in counts], "explicitBounds": [0.1, 0.5, 1, 2, 5]}
def exponential(counts):
    total = str(sum(counts))
    return {"scale": 3, "count": total, "zeroCount": "0", "positive": {"offset": 0, "bucketCounts": [str(n) for n in counts]}}
"#;

/// The value of this metric in the decision of the rule.
fn decided(node: &Node, run: &Started, metric: &str) -> Result<f64> {
    let is = |e: &Value| e["body"]["decision"]["cause"]["Rule"]["rule"] == "slow" && e["run"] == run.id();
    let decision = node.wait_for_event("the decision", is)?;
    let seen = &decision["body"]["decision"]["values"][0];
    ensure!(seen["kind"]["Metric"] == metric, "{seen}");
    seen["value"]["Claimed"]["value"].as_str().and_then(|text| text.parse().ok()).with_context(|| format!("{seen}"))
}

/// What people see of it, and that a replay decides the same.
fn shown(node: &Node, name: &str, metric: &str, disarmed: &str) -> Result<()> {
    wait_for("the run is described", || {
        let page = node.ctl(["describe", name])?.expect(0)?.out;
        Ok(page.lines().any(|line| line.starts_with("disarmed: rule slow") && line.ends_with(disarmed)))
    })?;
    let page = node.ctl(["explain", name, "--full"])?.expect(0)?.out;
    ensure!(page.contains(metric), "{page}");
    ensure!(node.ctl(["replay", name])?.expect(0)?.out.contains("identical"));
    node.log_is_whole()
}

#[test]
fn a_rule_on_the_99th_percentile_of_an_otlp_histogram_freezes_the_run() -> Result<()> {
    let Some(cgroup) = cgroup("gw-histogram") else { return Ok(()) };
    if !python() {
        return Ok(());
    }
    on_node("gw-histogram", &receives(&cgroup), |node| {
        let (gateway, socket) = receiver(node, &cgroup)?;
        // 100 fast answers, then 95 fast ones and 5 of 2 to 5 seconds.
        let calls = "\
            post('answer.seconds', 'histogram', 1, explicit([0, 100, 0, 0, 0, 0]))\n\
            post('answer.seconds', 'histogram', 1, explicit([0, 95, 0, 0, 5, 0]))\n";
        let script = format!("{CLIENT}{calls}time.sleep(600)\n");
        let run = Launch::new("server", &policy("signal = \"metric.answer.seconds.p99\", above = 2.0, clear = 1.0"))
            .env("OTLP_SOCKET", socket)
            .start(node, [PYTHON, "-S", "-c", &script])?;
        let context = || format!("{}{}{}", run.output(), run.errors(), gateway.log());
        run.freezes().with_context(context)?;
        let value = decided(node, &run, "answer.seconds.p99").with_context(context)?;
        // Known by its bucket.
        ensure!(2.0 < value && value <= 5.0, "{value}");
        shown(node, "server", "metric.answer.seconds.p99", "until metric.answer.seconds.p99 is at or below 1")
    })
}

#[test]
fn a_quantile_of_the_samples_of_an_exponential_histogram_freezes_the_run() -> Result<()> {
    let Some(cgroup) = cgroup("gw-exponential") else { return Ok(()) };
    if !python() {
        return Ok(());
    }
    on_node("gw-exponential", &receives(&cgroup), |node| {
        let (gateway, socket) = receiver(node, &cgroup)?;
        // Counts since the start: in between, 100 values of 1 to 1.09 and 100 of 4 to 4.36.
        let calls = "\
            post('step.seconds', 'exponentialHistogram', 2, exponential([100] + [0] * 16))\n\
            post('step.seconds', 'exponentialHistogram', 2, exponential([200] + [0] * 15 + [100]))\n";
        let script = format!("{CLIENT}{calls}time.sleep(600)\n");
        let detect = "detect = { method = \"quantile\", limit = 3.0, quantile = 0.9, after = 64 }";
        let run = Launch::new("trainer", &policy(&format!("signal = \"metric.step.seconds.sample\", {detect}")))
            .env("OTLP_SOCKET", socket)
            .start(node, [PYTHON, "-S", "-c", &script])?;
        let context = || format!("{}{}{}", run.output(), run.errors(), gateway.log());
        run.freezes().with_context(context)?;
        let value = decided(node, &run, "step.seconds.sample").with_context(context)?;
        ensure!((4.0..4.37).contains(&value), "{value}");
        shown(node, "trainer", "metric.step.seconds.sample quantile", "until its condition no longer holds")
    })
}

/// Serves a histogram of which each answer has 100 values of up to half a second and 10 of 2 to 5 seconds more than the one before.
const SERVES: &str = r##"
import http.server, os, subprocess
answers = 0
class Serve(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global answers
        answers += 1
        buckets = [("0.5", 100), ("2", 100), ("5", 110), ("+Inf", 110)]
        lines = ["# TYPE answer_seconds histogram"]
        lines += ['answer_seconds_bucket{le="%s"} %d' % (le, each * answers) for le, each in buckets]
        lines += ["answer_seconds_sum %d" % (60 * answers), "answer_seconds_count %d" % (110 * answers)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("\n".join(lines + [""]).encode())
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Serve)
# The kernel chose the port.
address = "127.0.0.1:%d" % server.server_address[1]
subprocess.Popen([os.environ["FAILSAFECTL"], "scrape", address, "--every", "200ms", "--name", "answer_seconds"])
server.serve_forever()
"##;

#[test]
fn a_rule_on_the_99th_percentile_of_a_scraped_histogram_freezes_the_run() -> Result<()> {
    if !python() {
        return Ok(());
    }
    on_node("scrape-histogram", "", |node| {
        let ctl = program("failsafectl")?;
        let run = Launch::new("served", &policy("signal = \"metric.answer_seconds.p99\", above = 2.0, clear = 1.0"))
            .env("FAILSAFE_METRICS_SOCKET", node.metrics_socket())
            .env("FAILSAFECTL", ctl)
            .start(node, [PYTHON, "-S", "-c", SERVES])?;
        let context = || format!("{}{}", run.output(), run.errors());
        run.freezes().with_context(context)?;
        let value = decided(node, &run, "answer_seconds.p99").with_context(context)?;
        ensure!(2.0 < value && value <= 5.0, "{value}");
        shown(node, "served", "metric.answer_seconds.p99", "until metric.answer_seconds.p99 is at or below 1")
    })
}
