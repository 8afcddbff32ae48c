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
use std::path::Path;

use crate::entry::Hash;

/// Its name in the state folder, beside the log's own folder.
pub const HEAD_FILE: &str = "head.json";

/// The file is padded to this size, so that a shorter text leaves nothing of a longer one.
const FILE_BYTES: usize = 256;

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
}

impl HeadFile {
    /// Opens `path` for writing, and makes it where it is missing.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(path: &Path) -> io::Result<HeadFile> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).clone();
        Ok(HeadFile { file: options.open(path)? })
    }

    /// What the file at `path` holds. `None`: there is none, or it cannot be read.
    #[must_use]
    pub fn read(path: &Path) -> Option<Head> {
        let bytes = std::fs::read(path).ok()?;
        serde_json::from_slice(bytes.trim_ascii_end()).ok()
    }

    /// Writes the head. A failure is not reported: the log itself is on the same kind of medium, and reports it.
    pub fn write(&mut self, head: &Head) {
        let mut bytes = serde_json::to_vec(head).unwrap_or_default();
        bytes.resize(FILE_BYTES.max(bytes.len() + 1), b' ');
        if let Some(last) = bytes.last_mut() {
            *last = b'\n';
        }
        let _disk = self.file.write_all_at(&bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_head_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.json");
        let mut file = HeadFile::open(&path).unwrap();
        assert_eq!(HeadFile::read(&path), None);
        for entries in [u64::MAX, 1] {
            let head = Head { entries, hash: [7; 32], wall_ns: entries };
            file.write(&head);
            assert_eq!(HeadFile::read(&path), Some(head));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES as u64);
    }
}
