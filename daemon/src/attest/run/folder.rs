//! The folder of a process in `/proc`, held by a descriptor.
//!
//! Invariant: a pid is used once, to open the folder. What is read through the descriptor is of that very process, or fails after
//! its end; it never leads to another process that got the number later.

use crate::attest::files;
use failsafe_attest::Missing;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2},
    sys::stat::Mode,
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Largest small file. `status` of a process with all the groups it may have has less.
const SMALL: u64 = 1 << 20;

/// The folder of a process.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// `None`: there is no such process.
    pub(super) fn open(path: PathBuf) -> Result<Option<Folder>, Missing> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match open(&path, flags, Mode::empty()).map_err(io::Error::from) {
            Ok(fd) => Ok(Some(Folder { fd, path })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(files::missing(&path, &error)),
        }
    }

    /// Opens a file for reading.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// The bytes of a file; if it has more than `most`, one more than that.
    pub(super) fn bytes(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes of a small file; `None`: the process has ended.
    pub(super) fn small(&self, name: &str) -> Result<Option<Vec<u8>>, Missing> {
        match self.bytes(name, SMALL) {
            Ok(bytes) if bytes.len() as u64 > SMALL => {
                Err(Missing::unavailable(format!("{} has more than {SMALL} bytes", self.path.join(name).display())))
            }
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(self.missing(name, &error)),
        }
    }

    /// A handle of the file that a link leads to.
    pub(super) fn handle(&self, link: &str) -> io::Result<File> {
        Ok(File::from(openat(&self.fd, link, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// A handle of the file that has this path for the process. No link leads out of its root, and none of `/proc` is followed.
    pub(super) fn handle_of(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = openat(&self.fd, "root", flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Ok(File::from(openat2(&root, path, OpenHow::new().flags(flags).resolve(resolve))?))
    }

    /// Why a file of it gives no value.
    pub(super) fn missing(&self, name: &str, error: &io::Error) -> Missing {
        files::missing(&self.path.join(name), error)
    }
}

/// Opens what a handle is of for reading, if it is a regular file: opening a FIFO would wait for ever, opening a device may do
/// anything.
pub(super) fn regular(handle: &File) -> io::Result<File> {
    if !handle.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    files::open(&PathBuf::from(format!("/proc/thread-self/fd/{}", handle.as_raw_fd())))
}

/// Whether an error says that the process has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_leads_to_no_process_after_the_end_of_its_own() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let folder = Folder::open(format!("/proc/{}", child.id()).into()).unwrap().unwrap();
        assert!(folder.small("stat").unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        for name in ["stat", "environ", "maps", "cmdline", "cgroup"] {
            assert_eq!(folder.small(name), Ok(None), "{name}");
        }
        assert!(is_gone(&folder.handle("exe").unwrap_err()) && is_gone(&folder.handle_of(Path::new("/")).unwrap_err()));
        assert!(Folder::open(format!("/proc/{}", child.id()).into()).unwrap().is_none());
    }
}
