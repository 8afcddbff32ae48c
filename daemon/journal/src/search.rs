//! Reading a log's folder: all entries in order, or those that pass a filter, across segments and while the log is written.
//!
//! What is read is bounded by what is found: summaries leave out segments, and a segment's index leads to its entries. A
//! segment without a reliable index is read whole. Only `audit.log`, of at most one segment's size, is always scanned.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::entry::Entry;
use crate::reader::{Filter, LogReader, ReadError};
use crate::segments::{Catalog, Known, Wanted, catalog, segment_path};
use crate::storage::file::FileError;
use crate::storage::{FileStorage, LOG_FILE};

/// Which entries are wanted. `tail` counts those before the first that cannot be read; reading on then ends with the error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Index of the first entry that may be returned.
    pub from: u64,
    /// What they are about.
    pub filter: Filter,
    /// Of the entries that there are now, only this many, the last ones.
    pub tail: Option<usize>,
    /// The runs of which `tail` counts entries; `None`: all entries count. Entries that come later are not held back by it.
    pub tail_of: Option<BTreeSet<String>>,
}

/// Iterates over the entries of a log's folder that a [`Query`] wants, in order.
///
/// As with [`LogReader`], the iterator returns `None` at the end and goes on when the log has grown, also when its file was
/// sealed in the meantime. After an error it stays ended.
#[derive(Debug)]
pub struct Search {
    dir: PathBuf,
    filter: Filter,
    wanted: Wanted,
    /// Index of the entry that is looked at next.
    next: u64,
    catalog: Catalog,
    current: Option<Current>,
    /// First index of the last sealed segment that was read to its end.
    done: Option<u64>,
    failed: bool,
}

#[derive(Debug)]
enum Current {
    /// Read from here to the end of the file; `first` names the segment that the file is, or will be.
    Scan { reader: LogReader<FileStorage>, first: u64, sealed: bool },
    /// Only these entries: index and offset.
    Picked { reader: LogReader<FileStorage>, places: VecDeque<(u64, u64)>, end: u64, first: u64 },
}

impl Search {
    /// Opens the folder that the file `log` (`audit.log`) lies in. Another file, such as a copy, is read alone.
    ///
    /// # Errors
    /// [`SearchError`].
    pub fn open(log: &Path, query: Query) -> Result<Search, SearchError> {
        let dir = log.parent().unwrap_or(Path::new(".")).to_owned();
        let alone = log.file_name().is_none_or(|name| name != LOG_FILE);
        let mut search = Search {
            catalog: if alone { Catalog::default() } else { Catalog::load(&dir) },
            dir,
            wanted: Wanted::by(&query.filter),
            filter: query.filter,
            next: query.from,
            current: None,
            done: None,
            failed: false,
        };
        if alone {
            search.scan_file(log, false)?;
        } else if search.catalog.segments.is_empty() {
            // A log that is not there is an error at once, not an empty log.
            search.open_active()?;
        }
        if let Some(tail) = query.tail {
            search.next = search.next.max(search.begin_of_tail(tail, query.tail_of)?);
            if !alone {
                search.current = None;
            } else {
                search.scan_file(log, false)?;
            }
        }
        Ok(search)
    }

    /// What is amiss with the summaries of the sealed segments, in words. Their entries are read all the same.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.catalog.problems
    }

    /// The index from which the last `wanted` entries that pass begin.
    fn begin_of_tail(&mut self, wanted: usize, of: Option<BTreeSet<String>>) -> Result<u64, SearchError> {
        let filter = Filter { runs: of.or_else(|| self.filter.runs.clone()), ..self.filter.clone() };
        let names = Wanted::by(&filter);
        let mut last: VecDeque<u64> = VecDeque::new();
        let mut unreadable;
        if let Some(Current::Scan { reader, .. }) = &mut self.current
            && self.catalog.segments.is_empty()
        {
            unreadable = keep_last(reader, &filter, wanted, &mut last);
        } else {
            let mut active = self.active_reader()?;
            if active.start().map(|start| start.next_index) != self.catalog.end().map(|end| end.next_index) {
                // The file was sealed between the look at the folder and its opening.
                self.catalog = Catalog::load(&self.dir);
            }
            unreadable = keep_last(&mut active, &filter, wanted, &mut last);
            for at in (0..self.catalog.segments.len()).rev() {
                if last.len() >= wanted {
                    break;
                }
                let Known { first, summary } = &self.catalog.segments[at];
                if summary.as_ref().is_some_and(|s| !s.may_have_in(&self.dir, &filter, &names)) {
                    continue;
                }
                let missing = wanted - last.len();
                if let Some(index) = summary.as_ref().and_then(|s| catalog::read_index(&self.dir, s)) {
                    for (index, _) in index.places(&filter).rev().take(missing) {
                        last.push_front(index);
                    }
                } else {
                    let mut found = VecDeque::new();
                    let mut reader = LogReader::open(&segment_path(&self.dir, *first)).map_err(SearchError::Open)?;
                    unreadable = keep_last(&mut reader, &filter, missing, &mut found).or(unreadable);
                    found.into_iter().rev().for_each(|index| last.push_front(index));
                }
            }
        }
        let found = last.front().copied().filter(|_| wanted > 0);
        // Nothing found: only what is written from now on. What cannot be read is reported, not passed over.
        Ok(match found.into_iter().chain(unreadable).min() {
            Some(first) => first,
            None => self.end()?,
        })
    }

    /// Index of the entry that will be written next.
    fn end(&mut self) -> Result<u64, SearchError> {
        let reader = match self.current.take() {
            Some(Current::Scan { reader, .. }) => reader,
            _ => self.active_reader()?,
        };
        Ok(reader.from_index(u64::MAX).map_err(SearchError::Read)?.next_index())
    }

    fn active_reader(&mut self) -> Result<LogReader<FileStorage>, SearchError> {
        self.open_active()?;
        match self.current.take() {
            Some(Current::Scan { reader, .. }) => Ok(reader),
            // Not reached: `open_active` has just set it.
            _ => LogReader::open(&self.dir.join(LOG_FILE)).map_err(SearchError::Open),
        }
    }

    fn scan_file(&mut self, path: &Path, sealed: bool) -> Result<(), SearchError> {
        let reader = LogReader::open(path).map_err(SearchError::Open)?;
        let reader = reader.with_filter(self.filter.clone()).from_index(self.next).map_err(SearchError::Read)?;
        // At the file's beginning the reader may stand before `next`, and passes over what it need not return.
        let first = reader.start().map_or(self.next, |start| start.next_index);
        self.next = self.next.max(reader.next_index());
        self.current = Some(Current::Scan { reader, first, sealed });
        Ok(())
    }

    /// Opens `audit.log`. While it is sealed there is none for an instant.
    fn open_active(&mut self) -> Result<(), SearchError> {
        let path = self.dir.join(LOG_FILE);
        for _ in 0..50 {
            if path.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.scan_file(&path, false)
    }

    /// Opens the file that has, or will have, entry `next`.
    fn open_next(&mut self) -> Result<(), SearchError> {
        loop {
            let Some(Known { first, summary }) = self.following() else {
                let wanted = self.next;
                self.open_active()?;
                let begins = self.current.as_ref().and_then(|c| match c {
                    Current::Scan { first, .. } => Some(*first),
                    Current::Picked { .. } => None,
                });
                if begins.is_some_and(|first| first > wanted) {
                    let catalog = Catalog::load(&self.dir);
                    if catalog.segments.len() > self.catalog.segments.len() {
                        // More was sealed since the last look at the folder.
                        (self.catalog, self.current, self.next) = (catalog, None, wanted);
                        continue;
                    }
                }
                return Ok(());
            };
            // What retention removed, or somebody else, is passed over.
            let (first, next) = (*first, self.next.max(*first));
            let path = segment_path(&self.dir, first);
            // Without a summary its end is known only when it is reached.
            let Some(summary) = summary else {
                self.next = next;
                return self.scan_file(&path, true);
            };
            if next >= summary.end().next_index || !summary.may_have_in(&self.dir, &self.filter, &self.wanted) {
                (self.next, self.done) = (next.max(summary.end().next_index), Some(first));
                continue;
            }
            let index = (!self.filter.is_all()).then(|| catalog::read_index(&self.dir, summary)).flatten();
            let end = summary.end().next_index;
            self.next = next;
            let Some(index) = index else { return self.scan_file(&path, true) };
            let places = index.places(&self.filter).filter(|(index, _)| *index >= next).collect();
            let reader = LogReader::open(&path).map_err(SearchError::Open)?;
            self.current = Some(Current::Picked { reader, places, end, first });
            return Ok(());
        }
    }

    /// The sealed segment that has entry `next`, or the one behind what was read; `None`: `audit.log` has it.
    fn following(&self) -> Option<&Known> {
        let segments = &self.catalog.segments;
        let read = self.done.map_or(0, |done| segments.partition_point(|known| known.first <= done));
        let unread = segments.get(read..)?;
        let behind = unread.partition_point(|known| known.first <= self.next);
        unread.get(behind.saturating_sub(1))
    }

    fn read(&mut self) -> Result<Option<Entry>, SearchError> {
        loop {
            if self.current.is_none() {
                self.open_next()?;
            }
            match &mut self.current {
                Some(Current::Scan { reader, first, sealed }) => {
                    if let Some(entry) = reader.next() {
                        let entry = entry.map_err(SearchError::Read)?;
                        self.next = entry.index + 1;
                        return Ok(Some(entry));
                    }
                    self.next = self.next.max(reader.next_index());
                    let first = *first;
                    if *sealed {
                        (self.current, self.done) = (None, Some(first));
                    } else if segment_path(&self.dir, first).exists() {
                        // It was sealed meanwhile; what it got before that is read first.
                        *sealed = true;
                        self.catalog = Catalog::load(&self.dir);
                    } else {
                        return Ok(None);
                    }
                }
                Some(Current::Picked { reader, places, end, first }) => {
                    let (end, first) = (*end, *first);
                    let Some((index, offset)) = places.pop_front() else {
                        (self.next, self.current, self.done) = (end, None, Some(first));
                        continue;
                    };
                    self.next = index + 1;
                    match reader.read_at(offset, index) {
                        Ok(Some(entry)) if self.filter.accepts(&entry) => return Ok(Some(entry)),
                        // The index is not of this segment after all: the segment is read whole.
                        _ => {
                            self.next = index;
                            let path = segment_path(&self.dir, first);
                            self.scan_file(&path, true)?;
                        }
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Notes the last `wanted` entries that pass, up to the first that cannot be read. Gives the index of that one.
fn keep_last(
    reader: &mut LogReader<FileStorage>,
    filter: &Filter,
    wanted: usize,
    last: &mut VecDeque<u64>,
) -> Option<u64> {
    loop {
        match reader.next_place(filter) {
            Ok(Some((index, true))) => {
                last.push_back(index);
                if last.len() > wanted {
                    last.pop_front();
                }
            }
            Ok(Some((_, false))) => {}
            Ok(None) => return None,
            Err(_) => return Some(reader.next_index()),
        }
    }
}

impl Iterator for Search {
    type Item = Result<Entry, SearchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = self.read();
        self.failed = read.is_err();
        read.transpose()
    }
}

/// A log that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A file could not be opened.
    #[error("open the audit log")]
    Open(#[source] FileError),
    /// A file could not be read.
    #[error(transparent)]
    Read(ReadError),
}
