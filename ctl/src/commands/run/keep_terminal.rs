//! A process that keeps the terminal of a command of another user open.
//!
//! The kernel ends what runs at a terminal that nobody holds open at its other side, with SIGHUP, and a fatal signal ends a frozen
//! process, too. The watcher holds it, and may be killed or give up a frozen run: then this process goes on.
//!
//! ```text
//! watcher ─► failsafectl keep-terminal: standard input is the terminal's other side, standard output a pipe to the watcher
//!              waits until the watcher has closed the pipe; reads what the command prints until it has ended
//! ```

use crate::{
    commands::scrape::ITSELF,
    exit::{Exit, Fail},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::setsid,
};
use std::{
    fs::File,
    io::{PipeReader, pipe, sink, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

/// Starts the process. It goes on alone once the answer is dropped.
pub(super) fn start(terminal: OwnedFd) -> Result<PipeReader, Fail> {
    let failed = |error: std::io::Error| Fail::because("cannot start the process that keeps the terminal open", &error);
    let (open, end) = pipe().map_err(failed)?;
    Command::new(ITSELF)
        .arg0("failsafectl")
        .arg("keep-terminal")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(terminal))
        .stdout(Stdio::from(end))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(open)
}

/// The process.
///
/// # Errors
/// Standard input cannot be copied.
pub(in crate::commands) fn keep_terminal() -> Result<Exit, Fail> {
    // The end of the watcher's terminal is not the end of this process.
    let _leads_already = setsid();
    let end = stdout();
    // The other side of a pipe is closed: POLLERR, which is always reported.
    let mut watched = [PollFd::new(end.as_fd(), PollFlags::empty())];
    while poll(&mut watched, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    let mut terminal = File::from(stdin().as_fd().try_clone_to_owned()?);
    // A command that prints waits while nobody reads. The kernel ends a terminal that nobody holds open with EIO.
    let _ended = std::io::copy(&mut terminal, &mut sink());
    Ok(Exit::Done)
}
