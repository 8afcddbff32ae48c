//! The process of a drill: a child of the daemon, with one program and two pipes. It is told what to do and answers; it starts nothing.
//!
//! ```text
//! parent: G ─► opens the device, answers D (denied), O (opened) or E (another error)
//! parent: P ─► answers P            end of the pipe ─► exits: it does not outlive the daemon, unless it is frozen
//! ```
//! The two sides are in one file, so that they agree.

use nix::poll::{PollFd, PollFlags, poll};
use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The hidden command of failsafed that becomes this process.
pub const COMMAND: &str = "drill-target";
/// What the policy of drills denies. See `failsafe_core::drill::POLICY`.
const DEVICE: &str = "/dev/full";

const READY: u8 = b'R';
const GO: u8 = b'G';
const PING: u8 = b'P';
/// The call was denied.
pub(super) const DENIED: u8 = b'D';
const OPENED: u8 = b'O';
const ERROR: u8 = b'E';

/// How long the process may take to end when it is killed.
const ENDS: Duration = Duration::from_secs(2);
/// Longest wait before the stop flag is looked at again, in milliseconds.
const LOOK_MS: u128 = 50;

/// What the process does.
///
/// # Errors
/// A pipe is broken.
pub fn main() -> io::Result<()> {
    let (mut commands, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut answer = |byte: u8| answers.write_all(&[byte]).and_then(|()| answers.flush());
    answer(READY)?;
    let mut command = [0];
    while commands.read(&mut command)? == 1 {
        match command[0] {
            GO => answer(match File::open(DEVICE) {
                Ok(_) => OPENED,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => DENIED,
                Err(_) => ERROR,
            })?,
            _ => answer(PING)?,
        }
    }
    Ok(())
}

/// The process, as the daemon holds it. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Target {
    child: Child,
    commands: ChildStdin,
    answers: ChildStdout,
}

impl Target {
    /// Starts one. It waits for what it is told, in the cgroup of the daemon.
    pub fn start() -> io::Result<Target> {
        // Of this very program, also after its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).env_clear().current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(commands), Some(answers)) => Ok(Target { child, commands, answers }),
            _ => Err(io::Error::other("the process has no pipes")),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether a byte says that it is there and waits.
    pub fn is_ready(byte: u8) -> bool {
        byte == READY
    }

    /// Has it violate the policy.
    pub fn violate(&mut self) -> io::Result<()> {
        self.commands.write_all(&[GO])
    }

    /// Asks it for a sign of life.
    pub fn ping(&mut self) -> io::Result<()> {
        self.commands.write_all(&[PING])
    }

    /// Whether a byte is a sign of life.
    pub fn is_pong(byte: u8) -> bool {
        byte == PING
    }

    /// Its next answer; none until then.
    pub fn hear(&mut self, until: Instant, stop: &dyn Fn() -> bool) -> io::Result<Option<u8>> {
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis().min(LOOK_MS);
            let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, u16::try_from(left).unwrap_or(0))? > 0 {
                let mut byte = [0];
                return match self.answers.read(&mut byte)? {
                    0 => Err(io::Error::other("the process of the drill has ended")),
                    _ => Ok(Some(byte[0])),
                };
            }
            if stop() || Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Kills it, frozen or not, and says how it ended. None: it does not end.
    pub fn end(&mut self) -> Option<ExitStatus> {
        // Already ended is as good.
        let _ended = self.child.kill();
        let until = Instant::now() + ENDS;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if Instant::now() >= until => return None,
                _ => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// How it ended, once it has: whoever killed it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ended = self.end();
    }
}
