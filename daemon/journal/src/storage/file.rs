//! The real file: `audit.log` in the journal's directory, opened `O_APPEND`, mode 0640, synced with `fdatasync`; the
//! directory is synced when the file appears in it or leaves it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{ReadAt, Storage, bounded};
use nix::fcntl::OFlag;

/// Name of the log in its directory.
pub const LOG_FILE: &str = "audit.log";

/// An open append-only file.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
}

impl FileStorage {
    /// Opens `dir`/[`LOG_FILE`] for appending; creates it, and `dir`, where they do not exist.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        fs::create_dir_all(dir).map_err(FileError::at("create directory", dir))?;
        let path = dir.join(LOG_FILE);
        match bounded::open_regular(&path, OpenOptions::new().read(true).append(true), OFlag::empty()) {
            Ok(file) => Ok(Self { file }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create_new(&path),
            Err(e) => Err(FileError::at("open", &path)(e)),
        }
    }

    /// Creates the file `path`, which must not exist, for appending, and syncs its directory.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn create_new(path: &Path) -> Result<Self, FileError> {
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o640).open(path);
        let file = file.map_err(FileError::at("create", path))?;
        sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Ok(Self { file })
    }

    /// Opens an existing file for appending.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn open_append(path: &Path) -> Result<Self, FileError> {
        let file = bounded::open_regular(path, OpenOptions::new().read(true).append(true), OFlag::empty());
        let file = file.map_err(FileError::at("open", path))?;
        Ok(Self { file })
    }

    /// Opens an existing file for reading only: appending to it fails.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn open_read_only(path: &Path) -> Result<Self, FileError> {
        let file = bounded::open_regular(path, OpenOptions::new().read(true), OFlag::empty());
        Ok(Self { file: file.map_err(FileError::at("open", path))? })
    }
}

/// Moves a tampered log out of the way, to `audit.log.aside-<wall_ns>`, so that a new one can begin; nothing is deleted. Its
/// sealed segments go into the folder `segments.aside-<wall_ns>`. Returns the new path of the file.
///
/// # Errors
/// [`FileError`], with path and operation; also if the target exists.
pub fn set_aside(dir: &Path, wall_ns: u64) -> Result<PathBuf, FileError> {
    let (from, to) = (dir.join(LOG_FILE), dir.join(format!("{LOG_FILE}.aside-{wall_ns}")));
    // A hard link refuses an existing target, a rename would replace it.
    fs::hard_link(&from, &to).map_err(FileError::at("link", &to))?;
    fs::remove_file(&from).map_err(FileError::at("unlink", &from))?;
    let sealed = dir.join(format!("segments.aside-{wall_ns}"));
    let ours = ["segment", "summary", "index", "catalog", "tree", "checkpoint"].map(std::ffi::OsStr::new);
    for entry in fs::read_dir(dir).map_err(FileError::at("read directory", dir))?.flatten() {
        let path = PathBuf::from(entry.file_name());
        let is_removed = path == Path::new(crate::segments::REMOVED_FILE);
        if is_removed || path.extension().is_some_and(|extension| ours.contains(&extension)) {
            fs::create_dir_all(&sealed).map_err(FileError::at("create directory", &sealed))?;
            let to = sealed.join(&path);
            fs::rename(dir.join(&path), &to).map_err(FileError::at("rename to", &to))?;
        }
    }
    sync_dir(dir)?;
    Ok(to)
}

/// The files and folders in `dir` that were set aside from an earlier log, by name: logs, sealed segments, checkpoints.
#[must_use]
pub fn asides(dir: &Path) -> Vec<PathBuf> {
    let is_aside = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".aside-"));
    let mut found: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.retain(is_aside);
    found.sort();
    found
}

/// Moves what lies at `path`, which is evidence, to a free name beside it. Returns that name.
///
/// # Errors
/// Those of the medium.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".aside-{n}"));
        PathBuf::from(name)
    };
    let free = (1..=u32::MAX).map(aside).find(|path| path.symlink_metadata().is_err());
    let free = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &free)?;
    Ok(free)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync directory", dir))
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { operation, path, source }
    }
}

impl ReadAt for FileStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, offset)?;
        #[cfg(test)]
        bounded::counted::read(read);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Storage for FileStorage {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn created_once_not_for_others_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/er");
        for text in [b"ab", b"cd"] {
            let mut storage = FileStorage::open(&state).unwrap();
            assert_eq!(storage.append(text).unwrap(), 2);
            storage.sync().unwrap();
        }
        let path = state.join(LOG_FILE);
        assert_eq!(fs::read(&path).unwrap(), b"abcd");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7, 0, "others have no access: {mode:o}");
    }

    #[test]
    fn set_aside_keeps_the_file_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOG_FILE), "evidence").unwrap();
        let aside = set_aside(dir.path(), 7).unwrap();
        assert_eq!(fs::read(&aside).unwrap(), b"evidence");
        fs::write(dir.path().join(LOG_FILE), "more").unwrap();
        assert!(set_aside(dir.path(), 7).is_err());
        assert_eq!(fs::read(&aside).unwrap(), b"evidence");
        assert_eq!(fs::read(dir.path().join(LOG_FILE)).unwrap(), b"more");
    }
}
