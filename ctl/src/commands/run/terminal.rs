//! The watcher's terminal: in raw mode while a command of another user has a terminal of its own, and as it was afterwards. While a
//! run is frozen, the keys that send signals are the watcher's: a fatal signal ends a frozen process.

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    unistd::{getpgrp, tcgetpgrp},
};
use std::{
    fs::File,
    io::{IsTerminal, Read, Write, stdin, stdout},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
};

/// What ^C sends in raw mode.
const INTERRUPT: u8 = 3;
/// What ^C, ^\\ and ^Z send: the terminal of a command makes signals of them.
const SIGNALS: [u8; 3] = [INTERRUPT, 0x1c, 0x1a];

/// Raw mode; dropping it restores the terminal.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// Leaves the terminal as it is.
    pub(super) fn none() -> Raw {
        Raw(None)
    }

    /// Sets raw mode where standard input is a terminal.
    pub(super) fn set() -> Raw {
        if !stdin().is_terminal() {
            return Raw(None);
        }
        let Ok(before) = tcgetattr(stdin()) else { return Raw(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Raw(tcsetattr(stdin(), SetArg::TCSANOW, &raw).is_ok().then_some(before))
    }

    /// Whether lines need a carriage return of their own.
    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _restored = tcsetattr(stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// The size of the watcher's terminal.
pub(super) fn size() -> Option<pty_process::Size> {
    let (width, height) = terminal_size::terminal_size()?;
    Some(pty_process::Size::new(height.0, width.0))
}

/// The keys of a terminal that the watcher shares with a frozen run: they make no signals. Dropping it gives them back.
pub(super) struct Keys {
    terminal: File,
    before: Termios,
}

impl Keys {
    /// Takes the keys, if there is a terminal and the watcher is in its foreground: otherwise nothing is typed for the run.
    pub(super) fn take() -> Option<Keys> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        if !in_foreground(&terminal) {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut keys = before.clone();
        keys.local_flags.remove(LocalFlags::ISIG | LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&terminal, SetArg::TCSANOW, &keys).ok()?;
        Some(Keys { terminal, before })
    }

    /// Whether ^C was typed since the last call. What else was typed is lost: the run reads nothing. Never waits.
    pub(super) fn interrupted(&mut self) -> bool {
        let mut buffer = [0; 256];
        let mut interrupted = false;
        while in_foreground(&self.terminal) {
            let mut typed = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut typed, PollTimeout::ZERO), Ok(1..)) {
                break;
            }
            let Ok(n @ 1..) = self.terminal.read(&mut buffer) else { break };
            interrupted |= buffer[..n].contains(&INTERRUPT);
        }
        interrupted
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // In the background the terminal has the settings of others.
        if in_foreground(&self.terminal) {
            let _restored = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
        }
    }
}

fn in_foreground(terminal: &File) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// Copies what is typed to the command's terminal, and reports each ^C. While the run is frozen, keys that send a signal are left out.
pub(super) fn typed(mut to: File, interrupts: Sender<()>, frozen: Arc<AtomicBool>) {
    let mut buffer = [0; 4_096];
    while let Ok(n @ 1..) = stdin().lock().read(&mut buffer) {
        let mut bytes = buffer[..n].to_vec();
        if bytes.contains(&INTERRUPT) {
            let _nobody = interrupts.send(());
        }
        if frozen.load(Ordering::Relaxed) {
            bytes.retain(|byte| !SIGNALS.contains(byte));
        }
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Copies what the command prints, until the last process has closed its terminal.
pub(super) fn printed(mut from: File) {
    let mut buffer = [0; 16 << 10];
    // The kernel ends a terminal that nobody holds open with EIO.
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut out = stdout().lock();
        if out.write_all(&buffer[..n]).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
