//! `cgroup.events`: is anybody there, and is everybody frozen.
//!
//! Owns one descriptor per [`EventsFile`]. Read, never polled: the kernel holds its notification back by up to 10 ms.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::error::{CgroupError, Result, io};

/// `cgroup.events` of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Whether it or a descendant has a live process.
    pub populated: bool,
    /// Whether it and every descendant are frozen. An empty cgroup that was told to freeze reads true.
    pub frozen: bool,
}

/// `cgroup.events`, held open: each read asks the kernel anew.
#[derive(Debug)]
pub struct EventsFile {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl EventsFile {
    /// Reads it from the start.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed.
    pub fn read(&self) -> Result<Events> {
        let mut buffer = [0u8; 256];
        let n = nix::sys::uio::pread(&self.fd, &mut buffer, 0).map_err(|source| io("reading", &self.path, source))?;
        parse_events(buffer.get(..n).unwrap_or_default())
            .ok_or_else(|| CgroupError::Parse { path: self.path.clone(), what: "populated and frozen" })
    }
}

fn parse_events(bytes: &[u8]) -> Option<Events> {
    let flag = |name: &[u8]| {
        bytes.split(|b| *b == b'\n').find_map(|l| match l.strip_prefix(name)? {
            b" 0" => Some(false),
            b" 1" => Some(true),
            _ => None,
        })
    };
    Some(Events { populated: flag(b"populated")?, frozen: flag(b"frozen")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_need_both_flags() {
        assert_eq!(parse_events(b"populated 1\nfrozen 0\nnew 3\n"), Some(Events { populated: true, frozen: false }));
        assert_eq!(parse_events(b"populated 1\n"), None);
        assert_eq!(parse_events(b"populated 2\nfrozen 0\n"), None);
        assert_eq!(parse_events(b""), None);
    }
}
