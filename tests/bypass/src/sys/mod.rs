//! The raw system calls that the attempts need and no crate of ours wraps: the one place of this crate with unsafe code.
//! Every wrapper takes slices and descriptors, never a pointer, and gives the kernel's own answer.

pub mod bpf;
pub mod fs;
pub mod net;
pub mod process;
pub mod uring;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// -1 is an error, all else is the answer.
fn answer(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The answer as a descriptor of our own.
fn descriptor(value: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer(value)?).map_err(io::Error::other)?;
    // SAFETY: the call that gave this number has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that whoever started this program has left open for it.
///
/// # Errors
/// Nothing is open under that number.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD takes no pointer; a number that is not open is answered with EBADF.
    descriptor(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into())
}
