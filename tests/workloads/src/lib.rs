//! What the workloads share. Each program is one file under `src/bin`; nothing here knows of failsafe's code, because a
//! run never has to be modified to be bounded.
//!
//! ```text
//!  bin/trainer ──► model (gradient descent), metrics (one datagram a line)
//!  bin/spinner, bin/forkbomb ──► shared (counters that processes share)
//!  bin/callers, bin/syscall-loop ──► calls (watched system calls, made so that they do nothing)
//!  bin/syscall-loop, bin/connect-loop, bin/cost-loop ──► timing (nanoseconds a call)
//!  bin/cost-loop ──► request (a key-value server and its client)
//!  bin/intruder ──► shared
//! ```

pub mod calls;
pub mod metrics;
pub mod model;
pub mod request;
pub mod shared;
pub mod timing;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, socket};
use std::{
    io::Write,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

/// Prints one line and flushes it, so that a watcher behind a pipe sees it when it happens.
///
/// A reader that has gone away is not an error: the workload goes on.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A TCP socket that is not connected. A refused connect leaves it as it was.
///
/// # Errors
/// It cannot be made.
pub fn stream(to: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// Connects it.
///
/// # Errors
/// Those of connect(2).
pub fn connect_to(stream: &OwnedFd, to: SocketAddr) -> std::io::Result<()> {
    let fd = stream.as_raw_fd();
    match to {
        SocketAddr::V4(to) => connect(fd, &SockaddrIn::from(to))?,
        SocketAddr::V6(to) => connect(fd, &SockaddrIn6::from(to))?,
    }
    Ok(())
}

/// The short name of an error's errno (`EPERM`), or the error in words when it has none.
pub fn errno_name(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
        None => error.to_string(),
    }
}
