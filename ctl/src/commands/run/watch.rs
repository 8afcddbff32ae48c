//! The watcher of a run: outside the run's bounds, so that it works while the run is frozen.
//!
//! It prints what happens to the run, passes signals on, and ends with the command's code. It decides nothing: killing the watcher
//! leaves the run as it is. While the run is frozen it passes no signal on: a fatal one would end a frozen process, too, and what was
//! frozen to be looked at would be gone.

use super::{
    keep_terminal, left,
    terminal::{self, Keys, Raw},
};
use crate::{
    client::{Client, Target, block_on},
    commands::Place,
    entry::Logged,
    exit::{Exit, Fail},
    render::{actors, clean},
};
use failsafe_core::{Action, Decision, Mode, decision::Cause, record::Record};
use failsafe_proto::{ErrorReason, v1 as pb};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};
use std::{
    fs::File,
    io::{IsTerminal, PipeReader, Read, Write, stderr, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixListener},
            process::ExitStatusExt,
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Signals that are passed on to the command. SIGINT and SIGQUIT reach it from the terminal itself.
const PASSED_ON: [Signal; 5] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCONT];
/// How long the watcher waits, after a signal ended the command, for the daemon's record of a kill or of the run's end.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Between two attempts to reach a daemon that does not answer.
const RECONNECT: Duration = Duration::from_secs(1);

/// Starts the command in a child process and watches it. `other`: it runs as another user. `scraped`: a scraper ends with it.
pub(super) fn watch(place: &Place<'_>, other: bool, quiet: bool, scraped: bool) -> Result<Exit, Fail> {
    let name = format!("failsafectl-run-{}", uuid::Uuid::new_v4());
    let failed = |error: &std::io::Error| Fail::because("cannot make the watcher's socket", error);
    let address = SocketAddr::from_abstract_name(&name).map_err(|error| failed(&error))?;
    let listener = UnixListener::bind_addr(&address).map_err(|error| failed(&error))?;
    let at_terminal = stdin().is_terminal() || stdout().is_terminal() || stderr().is_terminal();
    let (child, screen) = if other && at_terminal { at_own_terminal(&name)? } else { (plain(&name)?, None) };
    let raw = if screen.is_some() { Raw::set() } else { Raw::none() };
    let frozen = Arc::new(AtomicBool::new(false));
    let pid = child.id();
    let daemon = place.daemon.clone();
    let (last, last_record) = mpsc::channel();
    let id = Arc::new(OnceLock::new());
    let reports = Reports { frozen: frozen.clone(), raw: raw.is_set(), last, id: id.clone() };
    // Ends with this process: it may wait for a run that never comes.
    std::thread::spawn(move || reports.follow(&listener, pid, &daemon));
    let status = block_on(wait(child, screen, frozen, raw.is_set()))?;
    drop(raw);
    let Some(status) = status else { return Ok(Exit::Partial) };
    if status.signal().is_some() {
        // The record of a kill follows the kill. Without a daemon there is nothing to wait for.
        let _in_time = last_record.recv_timeout(LAST_RECORDS);
    }
    if let Some(text) =
        id.get().filter(|_| !quiet).and_then(|id| block_on(left::left(place.daemon, id, scraped)).ok().flatten())
    {
        print_line(false, &text);
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    std::process::exit(code)
}

/// This program again, as the one that becomes the command.
fn arguments(announce: &str) -> Vec<std::ffi::OsString> {
    let mut out = Vec::new();
    let mut given = std::env::args_os().skip(1);
    // The option belongs to `run` or `rerun`, before the `--` of the command; `rerun` has none where it is not given.
    out.extend(given.by_ref().take_while(|argument| argument != "--"));
    let rest: Vec<std::ffi::OsString> = given.collect();
    out.extend(["--announce".into(), announce.into()]);
    if !rest.is_empty() {
        out.push("--".into());
        out.extend(rest);
    }
    out
}

pub(super) fn itself() -> Result<std::path::PathBuf, Fail> {
    std::env::current_exe().map_err(|error| Fail::because("cannot find this program's own file", &error))
}

fn plain(announce: &str) -> Result<Child, Fail> {
    let child = Command::new(itself()?).args(arguments(announce)).spawn();
    child.map_err(|error| Fail::because("cannot start a process", &error))
}

/// With a terminal of its own. What is redirected stays so.
fn at_own_terminal(announce: &str) -> Result<(Child, Option<Screen>), Fail> {
    let failed = |error: pty_process::Error| Fail::because("cannot make a terminal for the command", &error);
    let (pty, pts) = pty_process::blocking::open().map_err(failed)?;
    if let Some(size) = terminal::size() {
        pty.resize(size).map_err(failed)?;
    }
    let mut command = pty_process::blocking::Command::new(itself()?).args(arguments(announce));
    if !stdin().is_terminal() {
        command = command.stdin(Stdio::inherit());
    }
    if !stdout().is_terminal() {
        command = command.stdout(Stdio::inherit());
    }
    if !stderr().is_terminal() {
        command = command.stderr(Stdio::inherit());
    }
    let copied = pty.as_fd().try_clone_to_owned().map_err(|error| Fail::because("cannot copy a descriptor", &error))?;
    let kept_open = keep_terminal::start(copied)?;
    let child = command.spawn(pts).map_err(failed)?;
    Ok((child, Some(Screen { pty, _kept_open: kept_open })))
}

/// The command's terminal, as the watcher holds it.
struct Screen {
    pty: pty_process::blocking::Pty,
    /// Another process keeps the terminal open once this is closed.
    _kept_open: PipeReader,
}

impl Screen {
    fn file(&self) -> Result<File, Fail> {
        let fd: std::io::Result<OwnedFd> = self.pty.as_fd().try_clone_to_owned();
        fd.map(File::from).map_err(|error| Fail::because("cannot copy a descriptor", &error))
    }
}

/// Until the command has ended; `None` when the caller gave up a frozen run.
async fn wait(
    mut child: Child,
    screen: Option<Screen>,
    frozen: Arc<AtomicBool>,
    raw: bool,
) -> Result<Option<ExitStatus>, Fail> {
    let failed = |error: std::io::Error| Fail::because("cannot handle signals", &error);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let (typed, interrupts) = mpsc::channel();
    let mut printer = None;
    if let Some(screen) = &screen {
        if stdin().is_terminal() {
            let (to, frozen) = (screen.file()?, frozen.clone());
            std::thread::spawn(move || terminal::typed(to, typed, frozen));
        }
        let from = screen.file()?;
        printer = Some(std::thread::spawn(move || terminal::printed(from)));
    }
    let (ended, mut has_ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _watcher_gone = ended.send(child.wait());
    });
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    for which in PASSED_ON {
        let mut comes = signal(SignalKind::from_raw(which as i32)).map_err(failed)?;
        let pass = pass.clone();
        tokio::spawn(async move { while comes.recv().await.is_some() && pass.send(which).is_ok() {} });
    }
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut hints = 0;
    // Of a terminal that the run shares.
    let mut keys = None;
    let mut held = Vec::new();
    loop {
        let mut wants_out = false;
        let is_frozen = || frozen.load(Ordering::Relaxed);
        if !is_frozen() {
            keys = None;
            hints = 0;
            for which in held.drain(..) {
                let _ended = kill(pid, which);
            }
        } else if keys.is_none() && screen.is_none() {
            keys = Keys::take();
        }
        tokio::select! {
            status = &mut has_ended => {
                let status = status.map_err(|_| Fail::new(Exit::Error, "the thread that waits for the command ended"))?;
                let status = status.map_err(|error| Fail::because("cannot wait for the command", &error))?;
                drop(screen);
                if let Some(printer) = printer {
                    let _panicked = printer.join();
                }
                return Ok(Some(status));
            }
            Some(which) = passed.recv() => match which {
                // Whoever ends the watcher must not end what is frozen.
                Signal::SIGTERM | Signal::SIGHUP if is_frozen() => {
                    let text = format!("failsafectl: {which} is not passed on: the run is frozen, and stays so; the watcher ends");
                    print_line(raw, &text);
                    return Ok(None);
                }
                Signal::SIGUSR1 | Signal::SIGUSR2 if is_frozen() => {
                    if !held.contains(&which) {
                        print_line(raw, &format!("failsafectl: {which} is passed on when the run is thawed"));
                        held.push(which);
                    }
                }
                _ => {
                    // A command that has ended is seen above.
                    let _ended = kill(pid, which);
                }
            },
            _ = resized.recv() => {
                if let (Some(screen), Some(size)) = (&screen, terminal::size()) {
                    let _ended = screen.pty.resize(size);
                }
            }
            // The terminal sent it to the command too.
            _ = interrupted.recv() => wants_out = true,
            _ = quit.recv() => wants_out = true,
            _ = tick.tick() => {
                wants_out = interrupts.try_iter().count() > 0 || keys.as_mut().is_some_and(Keys::interrupted);
            }
        }
        if wants_out && is_frozen() {
            hints += 1;
            if hints > 1 {
                return Ok(None);
            }
            print_line(
                raw,
                "failsafectl: the run is frozen, and no signal is passed on to it; press Ctrl-C again to leave it frozen and return",
            );
        }
    }
}

/// Follows the run's records and prints what was done to it.
struct Reports {
    frozen: Arc<AtomicBool>,
    raw: bool,
    /// Is sent to when the last record that the watcher waits for is printed.
    last: mpsc::Sender<()>,
    /// The run's id, once it is known.
    id: Arc<OnceLock<String>>,
}

impl Reports {
    fn follow(&self, listener: &UnixListener, child: u32, daemon: &Target) {
        let Some(id) = announced(listener, child) else { return };
        let _first = self.id.set(id.clone());
        let (mut next, mut lost) = (0, false);
        // A daemon may be restarted while the run lives: the next one has the same log. This thread ends with the watcher.
        loop {
            let followed = block_on(self.follow_from(daemon, &id, &mut next, &mut lost));
            let reason = match followed {
                Ok(()) => "the daemon closed the connection".to_owned(),
                Err(error) => clean(&error.message),
            };
            if !std::mem::replace(&mut lost, true) {
                print_line(self.raw, &format!("failsafectl: lost the daemon, trying again: {reason}; the run goes on"));
            }
            std::thread::sleep(RECONNECT);
        }
    }

    /// Reports the run's records from index `next` on, until the connection ends.
    async fn follow_from(&self, daemon: &Target, id: &str, next: &mut u64, lost: &mut bool) -> Result<(), Fail> {
        let client = Client::connect(daemon).await?;
        let request = pb::WatchRequest { from: *next, follow: true, run: id.to_owned(), ..Default::default() };
        let answer = client.events().watch(request).await;
        // The log is another one than before, and shorter: all of it is new.
        if answer.as_ref().is_err_and(|status| ErrorReason::of(status) == Some(ErrorReason::InvalidRequest)) {
            *next = 0;
        }
        let mut records = answer?.into_inner();
        if std::mem::take(lost) {
            print_line(self.raw, "failsafectl: follows the run again");
        }
        while let Some(record) = records.message().await? {
            self.report(&Logged::parse(&record.entry)?, id);
            *next = record.index + 1;
        }
        Ok(())
    }

    fn report(&self, entry: &Logged, id: &str) {
        let decision = match entry.record() {
            Some(Record::Decision { decision, .. }) => decision,
            Some(Record::RunEnded { run, .. }) if run.to_string() == id => {
                let _over = self.last.send(());
                return;
            }
            _ => return,
        };
        if decision.id.run.to_string() != id || decision.mode == Mode::Observe {
            return;
        }
        if let Some(text) = text(decision) {
            let has = |action: &Action| decision.actions.contains(action);
            if has(&Action::Freeze) {
                self.frozen.store(true, Ordering::Relaxed);
            } else if has(&Action::Thaw) {
                self.frozen.store(false, Ordering::Relaxed);
            }
            print_line(self.raw, &format!("failsafectl: {text}"));
            if has(&Action::Kill) {
                let _over = self.last.send(());
            }
        }
    }
}

/// A decision that a person at the terminal must know of, in one line.
fn text(decision: &Decision) -> Option<String> {
    let done = |action: &Action| match action {
        Action::Freeze => Some("frozen"),
        Action::Kill => Some("killed"),
        Action::Thaw => Some("thawed"),
        Action::Block => Some("cut off from the network"),
        _ => None,
    };
    let all: Vec<&str> = decision.actions.iter().filter_map(done).collect();
    let done = all.join(" and ");
    if done.is_empty() {
        return None;
    }
    let by = match &decision.cause {
        Cause::Rule { rule, .. } => format!("by rule {}", clean(rule)),
        Cause::Operator(request) => format!("by {}: {}", actors::requester(request), clean(&request.reason)),
        Cause::Upkeep { .. } => "by failsafe itself".to_owned(),
    };
    let incident = &decision.incident;
    Some(format!("the run was {done} {by}; incident {incident}, see `failsafectl explain {incident}`"))
}

/// The id that the child sends. Only the child's own word counts: the socket's name is open to every process of the node.
fn announced(listener: &UnixListener, child: u32) -> Option<String> {
    for stream in listener.incoming() {
        let stream = stream.ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        if u32::try_from(peer.pid()) != Ok(child) {
            continue;
        }
        let mut id = String::new();
        stream.take(64).read_to_string(&mut id).ok()?;
        return Some(id);
    }
    None
}

/// A line on standard error, which may be in raw mode. Nobody may be left to read it.
fn print_line(raw: bool, text: &str) {
    let end = if raw { "\r\n" } else { "\n" };
    let _closed = write!(stderr(), "{text}{end}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn every_action_of_a_decision_is_printed() {
        let Record::Decision { mut decision, .. } = testing::violation() else { panic!("no decision") };
        decision.actions = vec![Action::Block, Action::Freeze, Action::Notify];
        let text = text(&decision).unwrap();
        assert!(text.starts_with("the run was cut off from the network and frozen by "), "{text}");
        decision.actions = vec![Action::Notify, Action::Snapshot];
        assert_eq!(super::text(&decision), None);
    }
}
