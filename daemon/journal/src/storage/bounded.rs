//! Reading and opening files that somebody else may have put there: a pipe would have the daemon's start wait for a writer, a link or
//! a device could be anything, and a huge file takes all memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Largest file that is read whole: those beside the log are far smaller.
pub const LARGEST: u64 = 64 << 20;

/// Opens `path` with `options`, without waiting, if it is a regular file.
///
/// # Errors
/// Those of opening, and [`io::ErrorKind::InvalidData`]: it is something else.
pub fn open_regular(path: &Path, options: &OpenOptions, flags: OFlag) -> io::Result<File> {
    #[cfg(test)]
    counted::opened();
    let file = options.clone().custom_flags((flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits()).open(path);
    let other = || io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file");
    match file {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(other()),
        // A pipe without a reader, a socket, a device without a driver; a link.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENXIO | nix::libc::ENODEV | nix::libc::ELOOP)) => {
            Err(other())
        }
        Err(error) => Err(error),
    }
}

/// The bytes of a regular file of at most `limit` bytes. No link is followed.
///
/// # Errors
/// As for [`open_regular`], and [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path, OpenOptions::new().read(true), OFlag::O_NOFOLLOW)?;
    // One allocation and one read for a file that does not change its size.
    let expected = file.metadata()?.len().min(limit).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    #[cfg(test)]
    counted::read(bytes.len());
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Files that this thread opened, and bytes that it read of them, for tests of what a start and a query cost.
#[cfg(test)]
pub(crate) mod counted {
    use std::cell::Cell;

    thread_local! {
        static COUNTED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    }

    pub fn opened() {
        COUNTED.with(|counted| counted.set((counted.get().0 + 1, counted.get().1)));
    }

    pub fn read(bytes: usize) {
        COUNTED.with(|counted| counted.set((counted.get().0, counted.get().1 + bytes as u64)));
    }

    /// Files and bytes since the last call.
    pub fn take() -> (u64, u64) {
        COUNTED.with(Cell::take)
    }
}
