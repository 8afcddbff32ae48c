//! The head of the log, kept outside it: number of entries and hash of the last one. A log that was cut at the border of an
//! entry, emptied, deleted or replaced by an older copy is valid in itself; the head shows that it is not the one that was
//! written last.
//!
//! Each group commit writes the head in place, behind the log's own sync. The file fits one sector, so a reader sees the old
//! or the new text. It is not synced with every commit: after a power cut it may be older than the log, never newer.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::entry::Hash;
use crate::storage::bounded;
use crate::storage::file::{move_aside, sync_dir};

/// Its name in the state folder, beside the log's own folder.
pub const HEAD_FILE: &str = "head.json";

/// The file is padded to this size, so that a shorter text leaves nothing of a longer one.
const FILE_BYTES: usize = 256;

/// Largest file that is read.
const LARGEST_HEAD: u64 = 64 << 10;

/// Where the log stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of entries.
    pub entries: u64,
    /// Leaf hash of the last entry; zeros if there is none.
    #[serde(with = "hex::serde")]
    pub hash: Hash,
    /// When the last commit was, nanoseconds since the epoch.
    pub wall_ns: u64,
}

/// A file that holds the head.
#[derive(Debug)]
pub struct HeadFile {
    file: File,
    /// The file lies here until the first head is in it, so that nobody ever sees one without.
    part: Option<PathBuf>,
    path: PathBuf,
}

impl HeadFile {
    /// Opens `path` for writing. Where it is missing or damaged, it is made with the first head; what is there then is kept beside it.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(path: &Path) -> io::Result<HeadFile> {
        let options = OpenOptions::new().write(true).mode(0o640).clone();
        if let Ok(Some(_)) = HeadFile::read(path) {
            let file = bounded::open_regular(path, &options, OFlag::O_NOFOLLOW)?;
            return Ok(HeadFile { file, part: None, path: path.to_owned() });
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = options.clone().create_new(true).open(&part)?;
        Ok(HeadFile { file, part: Some(part), path: path.to_owned() })
    }

    /// What the file at `path` holds. `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read, or holds no head; in words.
    pub fn read(path: &Path) -> Result<Option<Head>, String> {
        let damaged = |why: &dyn std::fmt::Display| format!("{} holds no head of the audit log: {why}", path.display());
        let read = || match bounded::read(path, LARGEST_HEAD) {
            Ok(bytes) => serde_json::from_slice(bytes.trim_ascii_end()).map(Some).map_err(|error| damaged(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damaged(&error)),
        };
        read().or_else(|_| {
            // The head of a log in use may be in the writing.
            std::thread::sleep(Duration::from_millis(2));
            read()
        })
    }

    /// Writes the head of a log without entries, where there is no file yet.
    pub fn begin(&mut self) {
        if self.part.is_some() && self.path.symlink_metadata().is_err() {
            self.write(&Head { entries: 0, hash: [0; 32], wall_ns: 0 });
        }
    }

    /// Writes the head. A failure is not reported: the log itself is on the same kind of medium, and reports it.
    pub fn write(&mut self, head: &Head) {
        let mut bytes = serde_json::to_vec(head).unwrap_or_default();
        bytes.resize(FILE_BYTES.max(bytes.len() + 1), b' ');
        if let Some(last) = bytes.last_mut() {
            *last = b'\n';
        }
        let written = self.file.write_all_at(&bytes, 0);
        if let Some(part) = &self.part
            && written.is_ok()
            && place(&self.file, part, &self.path).is_ok()
        {
            self.part = None;
        }
    }
}

/// Moves a file that was just written from `part` to `path`, durably. What is there is evidence.
fn place(file: &File, part: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    if path.symlink_metadata().is_ok() {
        move_aside(path)?;
    }
    std::fs::rename(part, path)?;
    path.parent().map_or(Ok(()), |folder| sync_dir(folder).map_err(|error| error.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_head_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.json");
        let mut file = HeadFile::open(&path).unwrap();
        assert_eq!(HeadFile::read(&path), Ok(None));
        for entries in [u64::MAX, 1] {
            let head = Head { entries, hash: [7; 32], wall_ns: entries };
            file.write(&head);
            assert_eq!(HeadFile::read(&path), Ok(Some(head)));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES as u64);
    }
}
