//! Reading entries, from a finished log or one that is being written. A reader checks framing, checksums and canonical
//! form of what it returns, and that indices continue; for the `prev` links from the first entry on, see [`mod@crate::verify`].

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::entry::{Entry, ParseError};
use crate::frame::{Bad, Scanner, Step};
use crate::storage::file::FileError;
use crate::storage::{FileStorage, ReadAt};
use crate::view::View;
use crate::walk::Chain;

/// Iterates over the entries of a log, in order.
///
/// At the end the iterator returns `None`, and goes on if the log has grown since: that is how to tail it. An incomplete
/// frame at the end counts as the end ([`LogReader::cut_tail`] tells), since it may just be in the writing. After an error
/// it stays ended.
#[derive(Debug)]
pub struct LogReader<S> {
    scanner: Scanner<S>,
    next_index: u64,
    begun: bool,
    filter: Filter,
    cut_tail: Option<Bad>,
    failed: bool,
}

/// Which entries a reader returns. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only entries about this run.
    pub run: Option<String>,
    /// Only entries about one of these runs.
    pub runs: Option<BTreeSet<String>>,
    /// Only entries about this incident.
    pub incident: Option<String>,
    /// Only entries of these kinds; empty means any.
    pub kinds: Vec<String>,
    /// Only entries of this wall time, nanoseconds since the epoch, or later.
    pub since_ns: Option<u64>,
    /// Only entries of before this wall time.
    pub until_ns: Option<u64>,
}

impl Filter {
    /// Whether `entry` passes.
    #[must_use]
    pub fn accepts(&self, entry: &Entry) -> bool {
        self.takes(entry.wall_ns, &entry.kind, entry.run.as_deref(), entry.incident.as_deref())
    }

    /// [`accepts`](Self::accepts), by what an index has of an entry.
    #[must_use]
    pub fn takes(&self, wall_ns: u64, kind: &str, run: Option<&str>, incident: Option<&str>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        same(&self.run, run)
            && same(&self.incident, incident)
            && self.runs.as_ref().is_none_or(|runs| run.is_some_and(|run| runs.contains(run)))
            && (self.kinds.is_empty() || self.kinds.iter().any(|k| k == kind))
            && self.since_ns.is_none_or(|since| wall_ns >= since)
            && self.until_ns.is_none_or(|until| wall_ns < until)
    }

    pub(crate) fn takes_view(&self, view: &View<'_>) -> bool {
        self.takes(view.wall_ns, &view.kind, view.run.as_deref(), view.incident.as_deref())
    }

    /// Whether every entry passes.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Filter::default()
    }
}

impl LogReader<FileStorage> {
    /// Opens a log file for reading.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(FileStorage::open_read_only(path)?))
    }
}

impl<S: ReadAt> LogReader<S> {
    /// Reads `source` from its first entry.
    pub fn new(source: S) -> Self {
        Self {
            scanner: Scanner::new(source),
            next_index: 0,
            begun: false,
            filter: Filter::default(),
            cut_tail: None,
            failed: false,
        }
    }

    fn begin(&mut self) -> Result<(), ReadError> {
        if !self.begun
            && let Some(start) = self.scanner.begin().map_err(ReadError::Io)?
        {
            (self.begun, self.next_index) = (true, start.next_index);
        }
        Ok(())
    }

    /// Reads the entry `index`, of which an index says that it begins at `offset`.
    ///
    /// # Errors
    /// [`ReadError`]: another entry is there, or none.
    pub fn read_at(&mut self, offset: u64, index: u64) -> Result<Option<Entry>, ReadError> {
        self.begin()?;
        self.scanner.seek(offset);
        self.next_index = index;
        self.read()
    }

    /// Returns only entries that pass `filter` from here on.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Starts at entry `index`, going there by frame lengths alone. Past the end, it starts at the end.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn from_index(mut self, index: u64) -> Result<Self, ReadError> {
        self.begin()?;
        while self.next_index < index && self.scanner.skip().map_err(ReadError::Io)? {
            self.next_index += 1;
        }
        Ok(self)
    }

    /// What the file continues, once its header was read.
    #[must_use]
    pub fn start(&self) -> Option<Chain> {
        self.scanner.start()
    }

    /// Index of the entry that is read next.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Where that entry begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.scanner.offset()
    }

    /// What was incomplete at the end when it was last reached.
    #[must_use]
    pub fn cut_tail(&self) -> Option<Bad> {
        self.cut_tail
    }

    fn read(&mut self) -> Result<Option<Entry>, ReadError> {
        self.next_entry(|_, _| true).map(Option::flatten)
    }

    /// The next entry if it is `wanted`, and `Some(None)` if it is not; `None` at the end.
    fn next_entry(
        &mut self,
        wanted: impl FnOnce(&Filter, &View<'_>) -> bool,
    ) -> Result<Option<Option<Entry>>, ReadError> {
        self.next_view(|filter, view| wanted(filter, view).then(|| view.entry()).transpose())
    }

    /// The index of the next entry, and whether it passes `filter`; `None` at the end.
    pub(crate) fn next_place(&mut self, filter: &Filter) -> Result<Option<(u64, bool)>, ReadError> {
        self.next_view(|_, view| Ok((view.index, filter.takes_view(view))))
    }

    /// What `take` makes of the next entry; `None` at the end.
    fn next_view<T>(
        &mut self,
        take: impl FnOnce(&Filter, &View<'_>) -> Result<T, ParseError>,
    ) -> Result<Option<T>, ReadError> {
        self.cut_tail = None;
        self.begin()?;
        let (index, stands) = (self.next_index, self.scanner.offset());
        match self.scanner.look().map_err(ReadError::Io)? {
            Step::End => Ok(None),
            Step::Bad(bad @ (Bad::HeaderCut | Bad::FrameHeaderCut(_) | Bad::Cut { .. })) => {
                self.cut_tail = Some(bad);
                Ok(None)
            }
            Step::Bad(why) => Err(ReadError::Frame { offset: stands, index, why }),
            Step::Frame { offset, bytes } => {
                let failed = |why| ReadError::Entry { offset, index, why };
                let view = View::parse(bytes).map_err(failed)?;
                if view.index != index {
                    return Err(ReadError::Index { offset, index, found: view.index });
                }
                let taken = take(&self.filter, &view).map_err(failed)?;
                self.next_index += 1;
                Ok(Some(taken))
            }
        }
    }
}

impl<S: ReadAt> Iterator for LogReader<S> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.next_entry(Filter::takes_view) {
                Ok(Some(Some(entry))) => return Some(Ok(entry)),
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// A log that cannot be read on. `offset` is where the frame begins, `index` the index that its entry should have.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The medium failed.
    #[error("read audit log")]
    Io(#[source] io::Error),
    /// Not a frame: torn or tampered with, which [`mod@crate::verify`] tells apart.
    #[error("at byte {offset}, entry {index}: {why}")]
    Frame {
        /// See the enum.
        offset: u64,
        /// See the enum.
        index: u64,
        /// What is wrong.
        why: Bad,
    },
    /// Not an entry.
    #[error("at byte {offset}, entry {index}: {why}")]
    Entry {
        /// See the enum.
        offset: u64,
        /// See the enum.
        index: u64,
        /// What is wrong.
        why: ParseError,
    },
    /// Another entry.
    #[error("at byte {offset}: index is {found}, not {index}")]
    Index {
        /// See the enum.
        offset: u64,
        /// See the enum.
        index: u64,
        /// Index in the entry.
        found: u64,
    },
}
