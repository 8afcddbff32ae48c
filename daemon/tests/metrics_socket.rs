//! The metrics sockets against senders in other processes: floods at full speed, and the Python client.

#[path = "../../tests/skip.rs"]
mod skip;

use anyhow::{Context, Result, ensure};
use failsafed::sensors::metrics::{Metric, MetricsEvent, MetricsSocket, Needed, Reporting, Running, Runs, stream_path};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python");

struct Rig {
    events: Receiver<MetricsEvent>,
    _running: Running,
    folder: TempDir,
}

/// Every process is in one run.
struct OneRun;

impl Runs for OneRun {
    fn of_cgroup(&self, _cgroup: &Path) -> Option<Reporting> {
        let run = failsafe_core::RunId(uuid::Uuid::from_u128(1));
        let rule = |id: &str| {
            format!(
                "[[rule]]\nid = \"{id}\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.{id}\", above = 1 }}\n\
                 actions = [\"notify\"]\n"
            )
        };
        let text = format!("[policy]\nname = \"p\"\nowner = \"o\"\n{}{}", rule("loss"), rule("mine"));
        let policy = failsafe_core::policy::parse::parse("p", &text).ok()?;
        Some(Reporting { run, needed: Arc::new(Needed::of(&policy)) })
    }
    fn lives(&self, _run: failsafe_core::RunId) -> bool {
        true
    }
    fn another_is_roots(&self, _run: failsafe_core::RunId) -> bool {
        false
    }
}

impl Rig {
    fn new() -> Result<Rig> {
        let folder = tempfile::tempdir()?;
        let (tell, events) = channel();
        let socket = MetricsSocket::bind(&folder.path().join("m.sock"))?;
        let running = socket.spawn(OneRun, move |event| drop(tell.send(event)))?;
        Ok(Rig { events, _running: running, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("m.sock")
    }

    fn metric(&self) -> Result<Metric> {
        loop {
            let event = self.events.recv_timeout(PATIENCE).context("nothing came from the metrics sockets")?;
            if let MetricsEvent::Metric { metric, .. } = event {
                return Ok(metric);
            }
        }
    }
}

/// A process that ends with the test.
struct Ends(Child);

impl Ends {
    /// What it wrote to stderr, once it has ended.
    fn read_stderr(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut text)?;
        }
        Ok(text)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn python(socket: &Path, program: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-S", "-c", program]).env("PYTHONPATH", CLIENT).env("FAILSAFE_METRICS_SOCKET", socket);
    command.stdin(Stdio::null());
    command
}

fn no_python() -> bool {
    let missing = Command::new("python3").arg("--version").output().is_err();
    if missing {
        skip::skip("python3 is not installed");
    }
    missing
}

fn resident_bytes() -> Result<u64> {
    Ok(procfs::process::Process::myself()?.statm()?.resident * procfs::page_size())
}

#[test]
fn floods_on_both_sockets_cost_another_process_nothing() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let datagrams = "
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setblocking(False)
to = os.environ['FAILSAFE_METRICS_SOCKET']
while True:
    for line in (b'loss 1', b'\\xff\\xfe', b'a b c', b'x' * 9000, b'loss 1\\n' * 64):
        try:
            s.sendto(line, to)
        except OSError:
            pass
";
    let stream = "
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['FAILSAFE_METRICS_SOCKET'] + '.stream')
while True:
    s.sendall(b'loss 1\\nother 1\\n' * 4096)
";
    let _flooders = [Ends(python(&rig.socket(), datagrams).spawn()?), Ends(python(&rig.socket(), stream).spawn()?)];
    while rig.metric()?.name != "loss" {}
    let before = resident_bytes()?;
    let mut mine = UnixStream::connect(stream_path(&rig.socket()))?;
    mine.set_read_timeout(Some(PATIENCE))?;
    for step in 0..100u64 {
        mine.write_all(format!("mine 2.5 {step}\n").as_bytes())?;
    }
    mine.write_all(b"?\n")?;
    let mut steps = Vec::new();
    while steps.len() < 100 {
        let metric = rig.metric()?;
        if metric.name == "mine" {
            ensure!(metric.value == 2.5, "{metric:?}");
            // A rig has one run: over its quota, values that are the same are put together.
            let step = metric.step.context("a step")?;
            steps.extend(step.saturating_sub(metric.repeats)..=step);
        }
    }
    ensure!(steps.iter().copied().eq(0..100), "{steps:?}");
    let mut answer = [0; 64];
    let read = mine.read(&mut answer)?;
    ensure!(&answer[..read] == b"accepted 100 refused 0\n", "{:?}", String::from_utf8_lossy(&answer[..read]));
    let grown = resident_bytes()?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{grown} bytes more after the flood");
    Ok(())
}

#[test]
fn the_python_client_never_raises_never_waits_and_counts_what_it_loses() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let program = "
import failsafe_metrics as f, os, socket, sys, time
assert f.report('loss', 2.31, step=10)
assert f.report('lr', '1e-4')
assert f.report('nan', float('nan'))
assert f.default_reporter().flush(20) == (3, 0, None), f.default_reporter().flush(20)
class Tensor:
    def __float__(self): raise RuntimeError('a tensor with 2 elements cannot be converted')
r = f.Reporter(rank=3)
for bad in (Tensor(), None, 'x', [], 1j, 10 ** 400):
    assert r.report('loss', bad) is False
assert r.report('loss', 1.0, step='x') is False
assert r.dropped == 7, r.dropped
assert r.report('lo$s', 1.0)
accepted, lost, reason = r.flush(20)
assert (accepted, lost) == (0, 8) and 'the name is not' in reason, (accepted, lost, reason)
gone = f.Reporter('/nonexistent/socket')
assert gone.report('loss', 1.0) and gone.flush(20)[:2] == (0, 1), gone.flush(20)
# Nobody reads this one: the buffer fills up; a NaN still has room, and nothing waits.
full = os.path.join(sys.argv[1], 'full.sock')
s = socket.socket(socket.AF_UNIX)
s.bind(full + '.stream')
s.listen()
f._reporter.BUFFER = 1000
r = f.Reporter(full)
start = time.monotonic()
for step in range(100000):
    r.report('loss', 1.0, step)
assert r.dropped > 90000 and r.report('loss', float('nan')) and time.monotonic() - start < 20
# A process forked from the trainer has a connection of its own.
if os.fork() == 0:
    f.report('child', 1)
    os._exit(0 if f.default_reporter().flush(20)[0] == 1 else 1)
assert os.wait()[1] == 0
assert f.report('last', 0) and f.default_reporter().flush(20)[0] == 4
os._exit(0)
";
    let mut client = python(&rig.socket(), program);
    client.arg(rig.folder.path()).env_remove("RANK").stderr(Stdio::piped());
    let mut client = Ends(client.spawn()?);
    let status = client.0.wait()?;
    ensure!(status.success(), "{status}: {}", client.read_stderr()?);
    let got: Vec<Metric> = (0..5).map(|_| rig.metric()).collect::<Result<_>>()?;
    ensure!((got[0].name.as_str(), got[0].value, got[0].step) == ("loss", 2.31, Some(10)), "{got:?}");
    ensure!(got[1].name == "lr" && got[2].value.is_nan(), "{got:?}");
    ensure!(got[3].name == "child" && got[3].series != got[0].series && got[4].series == got[0].series, "{got:?}");
    Ok(())
}

#[test]
fn the_python_client_loses_nothing_of_a_hundred_metrics_in_a_thousand_steps() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    // Fewer values than the client's buffer has places for: nothing is lost however slow the machine is.
    let program = "
import failsafe_metrics as f, time
start = time.monotonic()
for step in range(1000):
    f.report('loss', step, step)
    for n in range(99):
        f.report(f'm{n}', step, step)
reported = time.monotonic() - start
accepted, lost, reason = f.default_reporter().flush(600)
print(f'accepted {accepted} lost {lost} {reason}; reported in {reported:.2f} s, answered after {time.monotonic() - start:.2f} s')
";
    let mut client = python(&rig.socket(), program);
    let client = client.env_remove("RANK").stdout(Stdio::piped()).spawn()?;
    let mut steps = Vec::new();
    while steps.len() < 1_000 {
        let metric = rig.metric()?;
        if metric.name == "loss" {
            steps.extend(metric.step);
        }
    }
    let output = client.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    eprintln!("{text}");
    ensure!(text.starts_with("accepted 100000 lost 0 None"), "{text}");
    ensure!(steps.iter().copied().eq(0..1_000), "{steps:?}");
    Ok(())
}

#[test]
fn the_python_callbacks_report_what_a_training_does() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    // With the standard library alone: the frameworks are made up by the tests.
    let tests = Path::new(CLIENT).join("tests");
    let mut command = Command::new("python3");
    command.args(["-S", "-B", "-m", "unittest", "discover", "-s"]).arg(&tests).env("PYTHONPATH", CLIENT);
    let output = command.env_remove("RANK").output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.contains("\nRan 14 tests"), "{errors}");
    Ok(())
}

#[test]
fn the_python_client_is_typed() -> Result<()> {
    let mypy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mypy/bin/mypy");
    if !mypy.is_file() {
        skip::skip("mypy is not installed (`cargo xtask test` gets it from PyPI)");
        return Ok(());
    }
    let cache = tempfile::tempdir()?;
    let check = |package: &Path| -> Result<(bool, String)> {
        let mut command = Command::new(&mypy);
        command.args(["--strict", "--no-site-packages", "--cache-dir"]).arg(cache.path());
        command.arg("--config-file").arg(Path::new(CLIENT).join("pyproject.toml")).arg(package);
        let output = command.current_dir(cache.path()).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (good, found) = check(&Path::new(CLIENT).join("failsafe_metrics"))?;
    ensure!(good, "{found}");
    // The check itself finds something.
    let wrong = cache.path().join("wrong.py");
    std::fs::write(&wrong, "from typing import List\n\n\ndef f(x) -> List:\n    return x + 1\n")?;
    let (good, found) = check(&wrong)?;
    ensure!(!good && found.contains("Function is missing a type annotation"), "{found}");
    Ok(())
}

#[test]
fn the_python_client_is_a_command_too() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let command = |args: &[&str]| -> Result<Option<i32>> {
        let mut command = Command::new("python3");
        command.args(["-S", "-m", "failsafe_metrics"]).args(args).env("PYTHONPATH", CLIENT);
        Ok(command.env("FAILSAFE_METRICS_SOCKET", rig.socket()).stderr(Stdio::null()).status()?.code())
    };
    ensure!(command(&["loss", "2.31", "7"])? == Some(0));
    let metric = rig.metric()?;
    ensure!((metric.name.as_str(), metric.value, metric.step) == ("loss", 2.31, Some(7)), "{metric:?}");
    ensure!(
        command(&["loss", "two"])? == Some(1) && command(&["loss"])? == Some(2) && command(&["l$", "1"])? == Some(1)
    );
    Ok(())
}
