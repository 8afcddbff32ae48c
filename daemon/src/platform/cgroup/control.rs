//! The files of a run's root cgroup that containment uses, open for as long as the run lives.
//!
//! Owns three descriptors. Freezing and killing must work when no descriptor is left and no path can be resolved, so
//! nothing is opened at that moment: every access is a `pread` or `pwrite` on what is open already.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};

/// Open files of one cgroup.
#[derive(Debug)]
pub(super) struct Control {
    pub freeze: OwnedFd,
    pub events: OwnedFd,
    /// Absent before kernel 5.14.
    pub kill: Option<OwnedFd>,
}

impl Control {
    /// The descriptor of a file, where it is one of these.
    pub(super) fn file(&self, name: &str) -> Option<&OwnedFd> {
        match name {
            "cgroup.freeze" => Some(&self.freeze),
            "cgroup.events" => Some(&self.events),
            "cgroup.kill" => self.kill.as_ref(),
            _ => None,
        }
    }
}

/// The whole file, generated anew by the kernel: a read at offset 0 always is.
pub(super) fn read(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0u8; 256];
    loop {
        match pread(fd, &mut buffer, 0) {
            Ok(n) => return Ok(buffer.get(..n).unwrap_or_default().to_vec()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// One write, as the kernel's interface files want it.
pub(super) fn write(fd: &OwnedFd, value: &[u8]) -> Result<(), Errno> {
    loop {
        match pwrite(fd, value, 0) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
