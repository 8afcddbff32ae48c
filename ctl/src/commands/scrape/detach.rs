//! `scrape --detach` and `relay --detach`: a process of its own goes on, and ends with the process that called.
//!
//! ```text
//! caller ─► failsafectl scrape --detach ─► failsafectl scrape --beside, with a pidfd of the caller as standard input
//!             ends at once                   not a child of the caller; ends when the caller has ended
//! ```
//! A child would be seen by a caller that waits for all of its children: it would wait for ever.

use super::owner;
use crate::{
    commands::run::close_descriptors,
    exit::{Exit, Fail},
    render::print,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
    unistd::{Pid, setsid},
};
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

/// This program, wherever its file is: a user who cannot enter the folder of it may still execute it.
pub(in crate::commands) const ITSELF: &str = "/proc/self/exe";

/// What a process that has to be waited for prints when it is ready.
pub(in crate::commands) const READY: &str = "ready\n";

/// When the new process is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Ready {
    /// As soon as it runs.
    AtOnce,
    /// When it prints [`READY`]. What it prints before is printed here.
    WhenItSaysSo,
}

/// Starts the process that goes on, and returns when it is ready.
pub(in crate::commands) fn detach(ready: Ready) -> Result<Exit, Fail> {
    let caller = caller()?;
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| if argument == "--detach" { OsString::from("--beside") } else { argument });
    let waits = ready == Ready::WhenItSaysSo;
    let mut child = Command::new(ITSELF)
        .arg0("failsafectl")
        .args(arguments)
        .stdin(Stdio::from(caller))
        .stdout(if waits { Stdio::piped() } else { Stdio::null() })
        .spawn()
        .map_err(|error| Fail::because("cannot start the process that goes on", &error))?;
    if let Some(printed) = child.stdout.take() {
        let mut printed = BufReader::new(printed);
        let mut line = String::new();
        while printed.read_line(&mut line)? > 0 {
            if line == READY {
                return Ok(Exit::Done);
            }
            print(&std::mem::take(&mut line))?;
        }
        // It ended, and printed why.
        return Ok(Exit::Error);
    }
    Ok(Exit::Done)
}

/// The process that called this one, which the new process ends with.
fn caller() -> Result<OwnedFd, Fail> {
    let caller = getppid().ok_or_else(ended)?;
    let held = pidfd_open(caller, PidfdFlags::empty())
        .map_err(|error| Fail::because("cannot hold the process that started this command", &error))?;
    // It may have ended before it was held, and then the parent is another one: mostly one outside the run.
    if getppid() == Some(caller) && owner::is_here(Pid::from_raw(caller.as_raw_nonzero().get())) {
        Ok(held)
    } else {
        Err(ended())
    }
}

/// Ends this process with the one that started it, which is the answer.
pub(in crate::commands) fn end_with_the_parent() -> Result<Pid, Fail> {
    let parent = nix::unistd::getppid();
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| Fail::because("cannot end with the process that started this one", &error))?;
    // The parent may have ended before the call. Then PID 1 or a child subreaper is the parent, which never ends, and is mostly outside of
    // the run. Of a container, the first process is the parent for good.
    let is_first_elsewhere = parent == Pid::from_raw(1) && !owner::is_here(parent);
    if is_first_elsewhere || nix::unistd::getppid() != parent {
        return Err(ended());
    }
    Ok(parent)
}

fn ended() -> Fail {
    Fail::new(Exit::Error, "the process that started this command has ended: start it from one that stays")
}

/// Ends this process when the one of which standard input is a descriptor has ended. Also in the middle of a read: the process must
/// not keep its run alive.
pub(in crate::commands) fn end_with_the_caller() -> Result<(), Fail> {
    // A lock or the end of a pipe that the caller or one before it left open would be held until the caller ends.
    close_descriptors()?;
    let failed = |error: std::io::Error| Fail::because("cannot follow the process that started this one", &error);
    let caller = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    // Ctrl-C at the terminal of the caller is for the caller.
    let _leads_already = setsid();
    // `ps` would show `exe`.
    let _named = prctl::set_name(c"failsafectl");
    let wait = move || {
        let mut watched = [PollFd::new(caller.as_fd(), PollFlags::POLLIN)];
        while poll(&mut watched, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        std::process::exit(0)
    };
    std::thread::Builder::new().name("caller".to_owned()).spawn(wait).map_err(failed)?;
    Ok(())
}
