//! The watcher's terminal: in raw mode while a command of another user has a terminal of its own, and as it was afterwards.

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::{
    fs::File,
    io::{IsTerminal, Read, Write, stdin, stdout},
    sync::mpsc::Sender,
};

/// What ^C sends in raw mode.
const INTERRUPT: u8 = 3;

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

/// Copies what is typed to the command's terminal, and reports each ^C.
pub(super) fn typed(mut to: File, interrupts: Sender<()>) {
    let mut buffer = [0; 4_096];
    while let Ok(n @ 1..) = stdin().lock().read(&mut buffer) {
        if buffer[..n].contains(&INTERRUPT) {
            let _nobody = interrupts.send(());
        }
        if to.write_all(&buffer[..n]).is_err() {
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
