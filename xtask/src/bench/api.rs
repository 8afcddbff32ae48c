//! The gRPC interface under load: queries of health over the unix socket and by TLS, beside a hello-world of tonic in the same run;
//! followers of health; a list of many runs; and freezes meanwhile.

use super::{
    Args,
    crowd::{Crowd, DEFAULT_PACE, UNPACED, rss_mib},
    report::Report,
    statistics::median,
};
use crate::{
    daemon::{Daemon, Options},
    interrupt, shell,
};
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Callers at once.
const CLIENTS: [usize; 3] = [1, 100, 1_000];
/// Connections of remote clients: a gateway takes no more (`remote.connections`).
const REMOTE: usize = 100;
const WATCHERS: usize = 1_000;
const RUNS: usize = 1_000;
/// A query may take 1 / 0.7 of the time of a hello-world.
const BOUND: f64 = 1.0 / 0.7;
const FREEZES: usize = 20;

/// A hello-world server, ended when it is dropped.
struct Hello {
    child: Child,
    address: String,
}

impl Drop for Hello {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that is measured.
struct Stage {
    load: PathBuf,
    folder: PathBuf,
    /// Arguments that name each server: of the daemon, and of hello-world.
    unix: [Vec<String>; 2],
    tls: [Vec<String>; 2],
}

/// Measures.
///
/// # Errors
/// A program failed, or a call did.
pub fn run(args: &Args) -> Result<Report> {
    let rounds = args.trials.min(3);
    let mut report = Report::new("api", rounds, args.debug);
    // The daemon gives clients half of its descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of descriptors")?;
    report.condition("descriptors", most);
    report.condition("tls", format!("1.3, client certificates, {REMOTE} connections and identities at most"));
    let options = Options { name: "bench-api", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let mut daemon = Daemon::start(&options, tempfile::tempdir().context("making a folder")?)?;
    let mut crowd = Crowd::new()?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let load = daemon.program("api-load");
    shell::read(Command::new(&load).arg("certificates").arg(folder.path()).arg(REMOTE.to_string()))?;
    for file in fs::read_dir(folder.path())?.flatten() {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
    }
    let roles = folder.path().join("roles.toml");
    crowd.configure(&mut daemon, Some(&roles), UNPACED)?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let settings = format!(
        "[remote]\naddress = \"127.0.0.1:0\"\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         connections = {REMOTE}\nconnections_per_identity = 1024\nrequests_per_identity = 64\n",
        path("node.crt"),
        path("node.key"),
        path("ca.crt")
    );
    let mut gateway = crowd.gateway(&daemon, folder.path(), &settings)?;
    let remote = gateway.address("remote clients are served")?.to_string();
    let socket = path("hello.sock");
    let hello = [hello(&load, "--unix", &socket)?, hello(&load, "--tls", &path(""))?];
    let unix = |socket: String| vec!["--unix".to_owned(), socket];
    let tls = |address: String| vec!["--tls".to_owned(), address, "--folder".to_owned(), path("")];
    let stage = Stage {
        load,
        folder: folder.path().to_owned(),
        unix: [unix(daemon.folder().join("failsafed.sock").display().to_string()), unix(socket)],
        tls: [tls(remote), tls(hello[1].address.clone())],
    };
    queries(&stage, args, rounds, &mut report)?;
    crowd.grow(&daemon, 1)?;
    freezes(&stage, &daemon, &mut report, "_without_pace")?;
    // As on a node: the limits of a node are wide enough for the clients, and its pace holds.
    crowd.configure(&mut daemon, Some(&roles), DEFAULT_PACE)?;
    freezes(&stage, &daemon, &mut report, "")?;
    crowd.configure(&mut daemon, Some(&roles), UNPACED)?;
    watchers(&stage, &daemon, &mut report)?;
    report.figure("gateway_rss_mib", rss_mib(&[gateway.pid()])?);
    lists(&stage, &daemon, &mut crowd, &mut report)?;
    drop(gateway);
    drop(crowd);
    Ok(report)
}

fn hello(load: &Path, option: &str, at: &str) -> Result<Hello> {
    let mut child =
        Command::new(load).args(["hello", option, at]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut address)?;
    Ok(Hello { child, address: address.trim().to_owned() })
}

impl Stage {
    fn calls(&self, to: &[String], method: &str, clients: usize, connections: usize, seconds: u64) -> Command {
        let mut command = Command::new(&self.load);
        command.arg("calls").args(to).args(["--method", method, "--clients", &clients.to_string()]);
        command.args(["--connections", &connections.to_string(), "--seconds", &seconds.to_string()]);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }
}

/// What a program of the load printed last.
fn result(command: &mut Command) -> Result<Value> {
    let text = shell::read(command)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("no result: {text}"))
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name} in {value}"))
}

fn queries(stage: &Stage, args: &Args, rounds: usize, report: &mut Report) -> Result<()> {
    let seconds = if args.debug { 1 } else { 3 };
    report.condition("seconds_of_a_measurement", seconds);
    for (way, to, most) in [("unix", &stage.unix, usize::MAX), ("mtls", &stage.tls, REMOTE)] {
        for clients in CLIENTS {
            let mut rates = [Vec::new(), Vec::new()];
            let mut late = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (at, method) in ["health", "hello"].into_iter().enumerate() {
                    interrupt::check()?;
                    let got = result(&mut stage.calls(&to[at], method, clients, clients.min(most), seconds))?;
                    ensure!(number(&got, "errors")? == 0.0, "{way}, {clients} clients, {method}: {got}");
                    eprintln!("api: {way}, {clients} clients, {method}: {got}");
                    rates[at].push(number(&got, "per_second")?);
                    late[at].push(number(&got, "p99_us")?);
                }
            }
            for (at, method) in ["health", "hello"].into_iter().enumerate() {
                report.figure(&format!("{way}_{clients}_clients_{method}_per_second"), median(&rates[at]));
                report.figure(&format!("{way}_{clients}_clients_{method}_p99_us"), median(&late[at]));
            }
            let ratio = median(&rates[1]) / median(&rates[0]);
            report.ratio(&format!("{way}, {clients} clients: hello-world / health, per second"), ratio, Some(BOUND));
        }
    }
    Ok(())
}

/// Freezes alone, and while both servers are under load.
fn freezes(stage: &Stage, daemon: &Daemon, report: &mut Report, how: &str) -> Result<()> {
    let runs = daemon.json(["list"])?;
    let run = runs[0]["id"].as_str().context("no run")?.to_owned();
    let freeze = || {
        let mut command = Command::new(&stage.load);
        command.arg("freeze").args(&stage.unix[0]).args(["--run", &run, "--times", &FREEZES.to_string()]);
        result(&mut command)
    };
    let alone = freeze()?;
    let loads = [(&stage.unix[0], 1_000), (&stage.tls[0], REMOTE)];
    let mut children = Vec::new();
    for (to, connections) in loads {
        let mut command = stage.calls(to, "health", 1_000, connections, 120);
        children.push(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    }
    // The load is there when each client had an answer.
    let under: Result<()> = children.iter_mut().try_for_each(|child| {
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
        ensure!(line.starts_with("1000 of 1000 "), "the load did not come: {line}");
        Ok(())
    });
    let loaded = under.and_then(|()| freeze());
    for mut child in children {
        let ended = child.try_wait()?;
        let _ = child.kill();
        let _ = child.wait();
        ensure!(ended.is_none(), "a load ended early: {ended:?}");
    }
    let loaded = loaded?;
    eprintln!("api: freezes alone {alone}, under load {loaded}");
    for (name, got) in [("alone", &alone), ("under_2000_clients", &loaded)] {
        report.figure(&format!("freeze_{name}{how}_p50_us"), number(got, "p50_us")?);
        report.figure(&format!("freeze_{name}{how}_max_us"), number(got, "max_us")?);
    }
    Ok(())
}

fn watchers(stage: &Stage, daemon: &Daemon, report: &mut Report) -> Result<()> {
    let before = rss_mib(&[daemon.pid()])?;
    let mut command = Command::new(&stage.load);
    command.arg("watchers").args(&stage.unix[0]).args(["--count", &WATCHERS.to_string(), "--connections", "16"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    ensure!(lines.next().transpose()?.as_deref() == Some("ready"), "the followers failed");
    report.figure("rss_of_1000_watchers_mib", rss_mib(&[daemon.pid()])? - before);
    child.stdin.take().context("stdin")?.write_all(b"\n")?;
    let got: Value = serde_json::from_str(&lines.next().context("no result")??)?;
    ensure!(child.wait()?.success(), "the followers failed");
    eprintln!("api: watchers {got}");
    for name in ["p50_us", "p99_us", "max_us"] {
        report.figure(&format!("order_to_1000_watchers_{name}"), number(&got, name)?);
    }
    Ok(())
}

fn lists(stage: &Stage, daemon: &Daemon, crowd: &mut Crowd, report: &mut Report) -> Result<()> {
    crowd.grow(daemon, RUNS)?;
    let got = result(&mut stage.calls(&stage.unix[0], "list", 1, 1, 3))?;
    ensure!(number(&got, "errors")? == 0.0 && number(&got, "size")? == RUNS as f64, "{got}");
    for name in ["p50_us", "p99_us"] {
        report.figure(&format!("list_of_1000_runs_{name}"), number(&got, name)?);
    }
    let health = result(&mut stage.calls(&stage.unix[0], "health", 100, 100, 3))?;
    report.figure("with_1000_runs_100_clients_health_per_second", number(&health, "per_second")?);
    Ok(())
}
