//! Which NVML library may be loaded: one that only root, or who runs the daemon, could have put there.
//!
//! Pure reading. A library runs with the daemon's rights the moment it is loaded, so a path is trusted only if no one
//! else can write to the file or replace it by way of a folder above it.

use nix::unistd::Uid;
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Why a library is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is missing or cannot be looked at.
    #[error("looking at {path}")]
    Look {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device or the like.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Someone else owns it, or a folder above it.
    #[error("{path} belongs to uid {uid}, not to root")]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others may write to it, or to a folder above it.
    #[error("{path} is writable by others (mode {mode:04o})")]
    Writable {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The library's real path, when only root or the caller's own user can change what it holds.
///
/// # Errors
/// What is wrong with the file or with a folder above it.
pub fn trusted_library(path: &Path) -> Result<PathBuf, LibraryError> {
    let look = |source| LibraryError::Look { path: path.to_owned(), source };
    let real = path.canonicalize().map_err(look)?;
    for place in real.ancestors() {
        let meta = place.metadata().map_err(|source| LibraryError::Look { path: place.to_owned(), source })?;
        if place == real && !meta.is_file() {
            return Err(LibraryError::NotAFile { path: real });
        }
        if meta.uid() != 0 && meta.uid() != Uid::effective().as_raw() {
            return Err(LibraryError::Owner { path: place.to_owned(), uid: meta.uid() });
        }
        // In a sticky folder, such as /tmp, others can add but neither replace nor remove.
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            return Err(LibraryError::Writable { path: place.to_owned(), mode: meta.mode() & 0o7777 });
        }
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_files_that_nobody_else_can_change_are_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("lib.so");
        assert!(matches!(trusted_library(&library), Err(LibraryError::Look { .. })));
        fs::write(&library, "x").unwrap();
        mode(&library, 0o644);
        assert_eq!(trusted_library(&library).unwrap(), library.canonicalize().unwrap());

        for bad in [0o666, 0o664, 0o646] {
            mode(&library, bad);
            assert!(matches!(trusted_library(&library), Err(LibraryError::Writable { .. })), "{bad:o}");
        }
        mode(&library, 0o644);
        mode(dir.path(), 0o777);
        assert!(matches!(trusted_library(&library), Err(LibraryError::Writable { .. })), "its folder");
        mode(dir.path(), 0o700);

        assert!(matches!(trusted_library(dir.path()), Err(LibraryError::NotAFile { .. })));
        // A link is judged by what it leads to.
        let link = dir.path().join("link.so");
        std::os::unix::fs::symlink(&library, &link).unwrap();
        assert!(trusted_library(&link).is_ok());
        mode(&library, 0o666);
        assert!(trusted_library(&link).is_err());
    }

    #[test]
    fn a_library_of_another_user_is_refused() {
        if !Uid::effective().is_root() {
            crate::skip::skip("only root can give a file away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("lib.so");
        fs::write(&library, "x").unwrap();
        mode(&library, 0o644);
        nix::unistd::chown(&library, Some(Uid::from_raw(65_534)), None).unwrap();
        assert!(matches!(trusted_library(&library), Err(LibraryError::Owner { uid: 65_534, .. })));
    }
}
