//! Reads entries one after the other for the tree, across the files of a log, by frames and checksums alone: what they contain is
//! verified by the root.

use std::io;
use std::path::{Path, PathBuf};

use crate::frame::{Scanner, Step};
use crate::segments::{sealed, segment_path};
use crate::storage::{FileStorage, LOG_FILE, ReadAt};

/// Reads the entries from one on.
#[derive(Debug)]
pub struct Leaves {
    dir: PathBuf,
    next: u64,
    /// The file that is read, and whether it is sealed.
    file: Option<(Scanner<FileStorage>, bool)>,
    at_border: bool,
}

impl Leaves {
    /// The entries of the log in `dir` from `from` on.
    #[must_use]
    pub fn new(dir: &Path, from: u64) -> Leaves {
        Leaves { dir: dir.to_owned(), next: from, file: None, at_border: false }
    }

    /// Index of the entry that is read next.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Whether the entry that was read last is the first of its file.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.at_border
    }

    /// The bytes of the next entry; `None` at the end of the log, or in front of an incomplete entry there.
    ///
    /// # Errors
    /// The log cannot be read, or a sealed segment is damaged or missing.
    pub fn next_entry(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let (scanner, is_sealed) = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(open(&self.dir, self.next)?),
            };
            match scanner.step()? {
                Step::Frame { bytes, .. } => {
                    self.at_border = scanner.start().is_some_and(|start| start.next_index == self.next);
                    self.next += 1;
                    return Ok(Some(bytes));
                }
                // The file may have been sealed since it was opened.
                Step::End if !*is_sealed && sealed_since(&self.dir, scanner) => *is_sealed = true,
                Step::End | Step::Bad(_) if !*is_sealed => return Ok(None),
                Step::End => self.file = None,
                Step::Bad(bad) => {
                    let text = format!("sealed segment, at entry {}: {bad}", self.next);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
    }
}

fn sealed_since(dir: &Path, scanner: &Scanner<FileStorage>) -> bool {
    scanner.start().is_some_and(|start| segment_path(dir, start.next_index).exists())
}

/// Opens the file that has entry `at`, and goes there.
fn open(dir: &Path, at: u64) -> io::Result<(Scanner<FileStorage>, bool)> {
    let segments = sealed(dir);
    let log = dir.join(LOG_FILE);
    let mut candidates: Vec<(PathBuf, bool)> = segments
        .iter()
        .rev()
        .find(|first| **first <= at)
        .map(|first| (segment_path(dir, *first), true))
        .into_iter()
        .collect();
    candidates.push((log, false));
    for (path, is_sealed) in candidates {
        let mut scanner = Scanner::new(FileStorage::open_read_only(&path).map_err(|error| error.source)?);
        // An empty file behind which nothing is, is the beginning of a log.
        let mut index = scanner.begin()?.map_or(0, |start| start.next_index);
        while index < at && scanner.skip()? {
            index += 1;
        }
        if index == at && !(is_sealed && scanner.source().len()? == scanner.offset()) {
            return Ok((scanner, is_sealed));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("entry {at} is in none of the files of the log")))
}
