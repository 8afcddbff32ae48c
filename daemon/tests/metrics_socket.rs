//! The metrics socket against senders in other processes: a flood at full speed, and the Python client.

#[path = "../../tests/skip.rs"]
mod skip;

use anyhow::{Context, Result, ensure};
use failsafed::sensors::metrics::{MetricsEvent, MetricsSocket, Running};
use nix::unistd::{SysconfVar, sysconf};
use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python");

struct Rig {
    events: Receiver<MetricsEvent>,
    _running: Running,
    folder: TempDir,
}

impl Rig {
    fn new() -> Result<Rig> {
        let folder = tempfile::tempdir()?;
        let (tell, events) = channel();
        let socket = MetricsSocket::bind(&folder.path().join("m.sock"))?;
        let running = socket.spawn(move |event| drop(tell.send(event)))?;
        Ok(Rig { events, _running: running, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("m.sock")
    }

    fn next(&self) -> Result<MetricsEvent> {
        self.events.recv_timeout(PATIENCE).context("nothing came from the metrics socket")
    }
}

/// A process that ends with the test.
struct Ends(Child);

impl Ends {
    /// What it wrote to stderr, once it has ended.
    fn says(&mut self) -> Result<String> {
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
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * u64::try_from(sysconf(SysconfVar::PAGE_SIZE)?.context("page size")?)?)
}

#[test]
fn a_flood_at_full_speed_costs_another_process_nothing_but_a_retry() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let program = "
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
    let flooder = Ends(python(&rig.socket(), program).spawn()?);
    // From the first flood report on, the flooder is over its limit.
    let until = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < until, "the flood was never told");
        if let MetricsEvent::Flood { pid, dropped } = rig.next()? {
            ensure!(pid == flooder.0.id() && dropped > 0, "{pid} {dropped}");
            break;
        }
    }
    let before = resident_bytes()?;
    let mine = UnixDatagram::unbound()?;
    mine.set_nonblocking(true)?;
    for step in 0..100u64 {
        let line = format!("mine 2.5 {step}");
        let until = Instant::now() + PATIENCE;
        while let Err(error) = mine.send_to(line.as_bytes(), rig.socket()) {
            ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
            ensure!(Instant::now() < until, "the flood keeps every other sender out");
            std::thread::yield_now();
        }
    }
    let mut steps = Vec::new();
    while steps.len() < 100 {
        if let MetricsEvent::Metric { pid, name, step, value, .. } = rig.next()?
            && name == "mine"
        {
            ensure!(pid == std::process::id() && value == 2.5, "{pid} {value}");
            steps.extend(step);
        }
    }
    ensure!(steps.iter().copied().eq(0..100), "{steps:?}");
    let grown = resident_bytes()?.saturating_sub(before);
    ensure!(grown < 16 << 20, "{grown} bytes more after the flood");
    Ok(())
}

#[test]
fn the_python_client_never_raises_and_never_blocks() -> Result<()> {
    if no_python() {
        return Ok(());
    }
    let rig = Rig::new()?;
    let program = "
import failsafe_metrics as f, os, socket, sys
assert f.report('loss', 2.31, step=10)
assert f.report('lr', '1e-4')
assert f.report('nan', float('nan'))
class Tensor:
    def __float__(self): raise RuntimeError('a tensor with 2 elements cannot be converted')
r = f.Reporter()
for bad in (Tensor(), None, 'x', [], 1j, 10 ** 400):
    assert r.report('loss', bad) is False
assert r.report('loss', 1.0, step='x') is False
assert r.dropped == 7, r.dropped
gone = f.Reporter('/nonexistent/socket')
assert gone.report('loss', 1.0) is False and gone.dropped == 1
# Nobody reads this one: its queue fills up, and then reports are dropped, not waited for.
full = os.path.join(sys.argv[1], 'full.sock')
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(full)
r = f.Reporter(full)
for step in range(10000):
    if not r.report('loss', 1.0, step):
        break
assert r.dropped == 1, 'the queue never filled'
# A process forked from the trainer has a socket of its own.
if os.fork() == 0:
    os._exit(0 if f.report('child', 1) else 1)
assert os.wait()[1] == 0
assert f.report('last', 0)
# A sender is placed by its cgroup, which can be read only while it lives.
sys.stdin.read()
";
    let mut client = python(&rig.socket(), program);
    client.arg(rig.folder.path()).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut client = Ends(client.spawn()?);
    let mut got: Vec<(String, f64, Option<u64>)> = Vec::new();
    // The forked child ends at once, so its metric may come without a cgroup to be placed by.
    while got.last().is_none_or(|(name, ..)| name != "last") {
        match rig.next() {
            Ok(MetricsEvent::Metric { name, value, step, .. }) => got.push((name, value, step)),
            Ok(_) => {}
            // It blocked, or failed and said why.
            Err(error) => {
                client.0.kill()?;
                return Err(error.context(client.says()?));
            }
        }
    }
    drop(client.0.stdin.take());
    let status = client.0.wait()?;
    ensure!(status.success(), "{status}: {}", client.says()?);
    ensure!(got[0] == ("loss".to_owned(), 2.31, Some(10)) && got[1] == ("lr".to_owned(), 1e-4, None), "{got:?}");
    ensure!(got[2].0 == "nan" && got[2].1.is_nan(), "{got:?}");
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
    let MetricsEvent::Metric { name, value, step, .. } = rig.next()? else { anyhow::bail!("not a metric") };
    ensure!((name.as_str(), value, step) == ("loss", 2.31, Some(7)), "{name} {value} {step:?}");
    ensure!(command(&["loss", "two"])? == Some(1) && command(&["loss"])? == Some(2));
    let lines = fs::read_to_string(Path::new(CLIENT).join("failsafe_metrics.py"))?.lines().count();
    ensure!(lines <= 100, "{lines} lines");
    Ok(())
}
