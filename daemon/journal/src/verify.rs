//! Verification of a whole log, offline or beside a running daemon.
//!
//! What it proves: nothing was changed, removed, inserted or moved *within* the log since it was written. What it cannot: that
//! entries are missing at the end, or that the whole file was rewritten with new hashes. That needs the head hash (or, later, a
//! signed checkpoint) from elsewhere: compare [`Report::head_hash`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::entry::Hash;
use crate::frame::Bad;
use crate::storage::file::FileError;
use crate::storage::{FileStorage, LOG_FILE, ReadAt};
use crate::walk::{Ending, Problem, Walker};

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Valid entries from the beginning on.
    pub entries: u64,
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// Leaf hash of the last valid entry; zeros if there is none.
    pub head_hash: Hash,
    /// The judgement.
    pub verdict: Verdict,
}

impl Report {
    /// Whether every byte is accounted for.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.verdict == Verdict::Ok
    }
}

/// The judgement on a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte belongs to a valid entry.
    Ok,
    /// The last entry is incomplete, as a crash leaves it. The next start of the daemon cuts it off and says so.
    Torn {
        /// Where the tail begins.
        offset: u64,
        /// The index that the entry there would have.
        index: u64,
        /// Size of the tail.
        bytes: u64,
        /// What is wrong with it.
        reason: Bad,
    },
    /// Something that no crash leaves behind.
    Tampered(Problem),
}

/// Verifies `audit.log` in `dir`.
///
/// # Errors
/// [`VerifyError`]: the log could not be read, which says nothing about it.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    verify_file(&dir.join(LOG_FILE))
}

/// Verifies a log file by its path, also one that was set aside or copied.
///
/// # Errors
/// As for [`verify`].
pub fn verify_file(path: &Path) -> Result<Report, VerifyError> {
    let storage = FileStorage::open_read_only(path).map_err(VerifyError::Open)?;
    verify_source(storage).map_err(|source| VerifyError::Read { path: path.to_owned(), source })
}

/// Verifies a log wherever its bytes are.
///
/// # Errors
/// Only those of reading.
pub fn verify_source(source: impl ReadAt) -> io::Result<Report> {
    // A torn tail of a log in use may be a write in progress: look again, a few times, from there.
    let mut looks = 5;
    let mut walker = Walker::new(source);
    let ending = loop {
        let ending = walker.run(|_, _| {})?;
        let Ending::Torn { offset, bytes, .. } = ending else { break ending };
        looks -= 1;
        if looks == 0 {
            break ending;
        }
        std::thread::sleep(Duration::from_millis(2));
        if walker.source().len()? == offset + bytes {
            break ending;
        }
    };
    let chain = walker.chain();
    let verdict = match ending {
        Ending::Clean => Verdict::Ok,
        Ending::Torn { offset, bytes, why } => Verdict::Torn { offset, index: chain.next_index, bytes, reason: why },
        Ending::Tampered(problem) => Verdict::Tampered(problem),
    };
    Ok(Report { entries: chain.next_index, bytes: walker.source().len()?, head_hash: chain.head, verdict })
}

/// A log that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be opened.
    #[error("open audit log to verify it")]
    Open(#[source] FileError),
    /// It could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The log file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
