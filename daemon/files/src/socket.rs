//! Places of unix sockets in the file system, before they are bound.

use std::{
    io::{self, ErrorKind},
    os::unix::fs::FileTypeExt,
    path::Path,
};

/// Why a socket cannot be bound at a place.
#[derive(Debug)]
pub enum Taken {
    /// Somebody listens there.
    InUse,
    /// What is there is no socket, or cannot be looked at or removed.
    Failed(io::Error),
}

/// Makes room for a socket at `path`: a socket that nobody listens on is removed. `connected` is what came of connecting to it, by
/// a socket of the type that is to be bound. A file that is no socket is never removed.
///
/// # Errors
/// [`Taken`].
pub fn replace_stale(path: &Path, connected: io::Result<()>) -> Result<(), Taken> {
    let is_socket = || std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    match connected {
        Ok(()) => Err(Taken::InUse),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket() => {
            std::fs::remove_file(path).map_err(Taken::Failed)
        }
        Err(error) => Err(Taken::Failed(error)),
    }
}

impl From<Taken> for io::Error {
    fn from(taken: Taken) -> io::Error {
        match taken {
            Taken::InUse => io::Error::new(ErrorKind::AddrInUse, "another process listens there"),
            Taken::Failed(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let replace = || replace_stale(&path, UnixStream::connect(&path).map(drop));
        replace().unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(replace(), Err(Taken::InUse)));
        drop(listener);
        replace().unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(replace(), Err(Taken::Failed(_))));
        std::fs::remove_file(&path).unwrap();
        // Somebody reads there, with a socket of another type.
        let _reader = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(replace(), Err(Taken::Failed(_))));
        assert!(path.exists());
    }
}
