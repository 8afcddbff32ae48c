//! Why a log cannot be opened, or a commit did not take place.

use crate::entry::DraftError;
use crate::walk::Problem;
use std::io;

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log was changed by something else than a crash of its writer. It is left as found; the caller decides, see
    /// [`set_aside`](crate::storage::set_aside).
    #[error("tampered at byte {offset}, entry {index}: {why}")]
    Tampered {
        /// Where the first invalid frame begins.
        offset: u64,
        /// The index that the entry there should have.
        index: u64,
        /// What is wrong.
        why: crate::walk::Why,
    },
    /// The log could not be read.
    #[error("{operation} audit log")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The log's file could not be opened.
    #[error("open audit log")]
    File(#[source] crate::storage::file::FileError),
    /// The journal's own entry was refused. Not reachable with a sound clock.
    #[error("write recovered entry")]
    Draft(#[source] DraftError),
    /// The writer thread could not be started.
    #[error("start audit log writer thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

impl From<Problem> for OpenError {
    fn from(Problem { offset, index, why }: Problem) -> Self {
        Self::Tampered { offset, index, why }
    }
}

/// A commit that did not take place.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The medium failed.
    #[error("{operation} audit log")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Someone else changed the file's length since the last commit. Writing on would hide where.
    #[error("audit log is {found} bytes long, not {expected}: something else changed it")]
    Changed {
        /// Length that this writer left.
        expected: u64,
        /// Length found.
        found: u64,
    },
}

impl CommitError {
    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// An error and its sources on one line.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
