//! The folder for pins, before anything is loaded: it is in a BPF file system, or can be made in one.
//!
//! Without pins the kernel's programs end with the daemon, and nothing is enforced until the next one has loaded its own. A
//! configuration that wants pins and cannot have them is therefore an error, both of `--check` and of a start.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::FsFlags;

/// The folder of all instances below it. It may be writable where what is above it is mounted read-only, as in a systemd unit.
pub(super) const OWN: &str = "failsafe";

/// What an operator can do about it.
const ADVICE: &str = "mount a BPF file system (`mount -t bpf bpf /sys/fs/bpf`) and let `bpffs` name it or a folder in it, \
                      or set bpffs = \"\": then nothing is pinned, and no rule is enforced after a crash of the daemon";

/// Why nothing can be pinned below the folder.
#[derive(Debug, thiserror::Error)]
pub enum PinFolderError {
    /// It, or the nearest folder above it, is of another file system.
    #[error(
        "bpffs: the programs cannot be pinned in {}: {} is not in a BPF file system; {ADVICE}",
        folder.display(),
        nearest.display()
    )]
    NotBpf {
        /// As configured.
        folder: PathBuf,
        /// Itself, or the nearest folder above it that exists.
        nearest: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("bpffs: the programs cannot be pinned in {}: its file system is mounted read-only; {ADVICE}", .0.display())]
    ReadOnly(PathBuf),
    /// It is a file.
    #[error("bpffs: the programs cannot be pinned in {}: it is not a folder; {ADVICE}", .0.display())]
    NotAFolder(PathBuf),
    /// The kernel refused to look at it, or to make it.
    #[error("bpffs: cannot {operation} {}; {ADVICE}", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Whether programs can be pinned in the folder. One that does not exist can be made where its nearest parent is in a BPF file system.
///
/// # Errors
/// [`PinFolderError`].
pub fn check(folder: &Path) -> Result<(), PinFolderError> {
    let nearest = nearest(folder)?;
    let of = statfs(&nearest).map_err(|error| PinFolderError::Failed {
        path: nearest.clone(),
        operation: "look at the file system of",
        source: error.into(),
    })?;
    if of.filesystem_type() != BPF_FS_MAGIC {
        return Err(PinFolderError::NotBpf { folder: folder.to_owned(), nearest });
    }
    if of.flags().contains(FsFlags::ST_RDONLY) {
        return Err(PinFolderError::ReadOnly(folder.to_owned()));
    }
    if nearest.is_dir() { Ok(()) } else { Err(PinFolderError::NotAFolder(folder.to_owned())) }
}

/// Checks the folder, and makes it where it does not exist.
///
/// # Errors
/// [`PinFolderError`].
pub fn prepare(folder: &Path) -> Result<(), PinFolderError> {
    check(folder)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| PinFolderError::Failed { path: folder.to_owned(), operation: "create", source })
}

/// The folder of all instances in it, or the nearest one above that which exists.
fn nearest(folder: &Path) -> Result<PathBuf, PinFolderError> {
    for path in folder.join(OWN).ancestors() {
        match fs::metadata(path) {
            Ok(_) => return Ok(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(PinFolderError::Failed { path: path.to_owned(), operation: "look at", source });
            }
        }
    }
    Err(PinFolderError::NotBpf { folder: folder.to_owned(), nearest: PathBuf::from("/") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_folder_outside_a_bpf_file_system_is_refused_with_the_reason_and_the_advice() {
        let folder = tempfile::tempdir().unwrap();
        for wanted in [folder.path().to_owned(), folder.path().join("not/there")] {
            for refused in [check(&wanted), prepare(&wanted)] {
                let error = refused.unwrap_err();
                let text = error.to_string();
                assert!(text.contains(&format!("{} is not in a BPF file system", folder.path().display())), "{text}");
                assert!(text.contains(&wanted.display().to_string()) && text.contains("bpffs = \"\""), "{text}");
                assert!(error.source().is_none());
            }
            assert_eq!(wanted.exists(), wanted == folder.path(), "nothing is made where nothing can be pinned");
        }
    }

    #[test]
    fn a_path_below_a_file_is_refused_with_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = check(&file.join("below")).unwrap_err();
        assert!(matches!(error, PinFolderError::Failed { operation: "look at", .. }), "{error}");
        assert!(error.source().is_some());
    }
}
