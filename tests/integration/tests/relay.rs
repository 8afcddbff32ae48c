//! `failsafectl relay`: what processes of a run send to loopback ports counts for the run, and nothing that others send.

use anyhow::{Context, Result, ensure};
use integration::{
    Launch, NOBODY,
    gateway::{Gateway, accepts, cgroup},
    on_node, program, skip, wait_for,
};
use nix::unistd::{Uid, chown};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
};

const LOSS: &str = r#"
[policy]
name = "loss"
owner = "training@example.org"

[[rule]]
id = "otlp"
rationale = "a test"
when = { signal = "metric.train.loss", above = 50.0 }
actions = ["notify"]

[[rule]]
id = "statsd"
rationale = "a test"
when = { signal = "metric.udp.loss", above = 50.0 }
actions = ["freeze", "notify"]
"#;
const PYTHON: &str = "/usr/bin/python3";

/// Starts a relay that goes on beside the program, and writes its ports into a file.
const RELAYS: &str = r#"
"$FAILSAFECTL" relay --otlp 127.0.0.1:0 --statsd 127.0.0.1:0 --detach >"$0/ports" || exit 9
echo open
exec /usr/bin/python3 -S -c "$SENDS" "$0"
"#;

/// Posts a value to the port of OTLP. When the file `go` exists, sends one to the port of statsd.
const SENDS: &str = r#"
import http.client, json, os, socket, sys, time
folder = sys.argv[1]
ports = dict(line.split(" at 127.0.0.1:") for line in open(folder + "/ports").read().splitlines())
def post(port):
    points = [{"asDouble": 60.5, "attributes": [{"key": "step", "value": {"intValue": "7"}}]}]
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "train.loss", "gauge": {"dataPoints": points}}]}]}]}
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    try:
        connection.request("POST", "/v1/metrics", json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException) as error:
        return "closed"
print("posted", post(ports["OTLP"]), flush=True)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while not os.path.exists(folder + "/go"):
    time.sleep(0.05)
udp.sendto(b"udp.loss:60.5|g", ("127.0.0.1", int(ports["statsd"])))
print("sent", flush=True)
time.sleep(600)
"#;

fn port(folder: &Path, what: &str) -> Result<SocketAddr> {
    let ports = fs::read_to_string(folder.join("ports"))?;
    let line = ports.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(" at "));
    Ok(line.with_context(|| format!("no port of {what}: {ports}"))?.parse()?)
}

/// Posts to a port from this process, which is in no run. Whether it is closed without an answer.
fn is_closed_to_others(port: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect(port)?;
    // The other end may be closed before it is written.
    let _closed = write!(stream, "POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer);
    Ok(answer.is_empty())
}

#[test]
fn what_a_run_sends_to_its_ports_counts_for_it_and_what_others_send_for_nobody() -> Result<()> {
    let Some(cgroup) = cgroup("gw-relay") else { return Ok(()) };
    if !Path::new(PYTHON).exists() {
        skip("/usr/bin/python3 is not installed");
        return Ok(());
    }
    on_node("gw-relay", &format!("{}receive = true\n", accepts(&cgroup)), |node| {
        let folder = node.file("relay");
        fs::create_dir_all(&folder)?;
        chown(&folder, Some(Uid::from_raw(NOBODY)), None)?;
        let (otlp, statsd) = (folder.join("otlp.sock"), folder.join("statsd.sock"));
        let settings = format!(
            "[receive]\nsocket = {:?}\nstatsd_socket = {:?}\nmetrics_socket = {:?}\n",
            otlp.display().to_string(),
            statsd.display().to_string(),
            node.metrics_socket().display().to_string()
        );
        let gateway = Gateway::start(node, cgroup.path(), &settings)?;
        wait_for("both sockets are there", || Ok(otlp.exists() && statsd.exists())).with_context(|| gateway.log())?;
        let launch = |name| -> Result<Launch<'_>> {
            Ok(Launch::new(name, LOSS)
                .env("FAILSAFECTL", program("failsafectl")?)
                .env("FAILSAFE_OTLP_SOCKET", otlp.clone())
                .env("FAILSAFE_STATSD_SOCKET", statsd.clone())
                .env("SENDS", SENDS))
        };
        let path = folder.display().to_string();
        let mut run = launch("relayed")?.start(node, ["sh", "-c", RELAYS, &path])?;
        run.says("posted 200").with_context(|| format!("{}{}", run.errors(), gateway.log()))?;
        let decided =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "otlp")?;
        ensure!(decided["run"] == run.id(), "{decided}");

        // Another run of the same user, and root outside of runs.
        let other = launch("other")?.start(node, [PYTHON, "-S", "-c", SENDS, &path])?;
        other.says("posted closed").with_context(|| format!("{}{}", other.output(), other.errors()))?;
        ensure!(is_closed_to_others(port(&folder, "OTLP")?)?, "an answer for a process in no run");
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        udp.send_to(b"udp.loss:99|g", port(&folder, "statsd")?)?;
        wait_for("the datagram is refused", || Ok(run.errors().contains("a datagram from 127.0.0.1:")))
            .with_context(|| run.errors())?;
        wait_for("the connection is refused", || Ok(run.errors().contains("a connection from 127.0.0.1:")))?;
        ensure!(node.run("other")?["decisions"] == 0 && !integration::frozen(run.cgroup())?, "{}", run.errors());
        drop(other);

        fs::write(folder.join("go"), "")?;
        run.freezes().with_context(|| format!("{}{}{}", run.output(), run.errors(), gateway.log()))?;
        let decided =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "statsd")?;
        let seen = &decided["body"]["decision"]["values"][0]["value"]["Claimed"];
        ensure!(decided["run"] == run.id() && seen["value"] == "60.5", "{decided}");

        node.ctl(["thaw", "relayed", "--reason", "a test"])?.expect(0)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.pid().cast_signed()), nix::sys::signal::SIGKILL)?;
        run.ends()?;
        wait_for("the relay ends with its caller", || Ok(node.run(run.id())?["state"] == "ended"))
    })
}
