//! Reading a log's folder: all entries in order, or those that pass a filter, across segments and while the log is written.
//!
//! What is read is bounded by what is found: summaries leave out segments, and a segment's index leads to its entries. A
//! segment without a reliable index is read whole. Only `audit.log`, of at most one segment's size, is always scanned.
//!
//! Entries that are not where they must be, because a file was cut or removed, are passed over: [`Search::missing`] has them then.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
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
    /// Only one file is read.
    alone: bool,
    problems: Vec<String>,
    missing: Vec<Range<u64>>,
}

/// Texts and gaps that are kept.
const MOST_KEPT: usize = 1_000;

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
            catalog: Catalog::default(),
            alone,
            problems: Vec::new(),
            missing: Vec::new(),
            dir,
            wanted: Wanted::by(&query.filter),
            filter: query.filter,
            next: query.from,
            current: None,
            done: None,
            failed: false,
        };
        if !alone {
            search.look(Catalog::load(&search.dir));
        }
        if alone {
            search.scan_file(log, false)?;
        } else if search.catalog.segments.is_empty() {
            // A log that is not there is an error at once, not an empty log.
            search.open_next()?;
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

    /// What is amiss with the catalog and the summaries of the sealed segments, in words. Their entries are read all the same.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Entries that must be in the log and are not, as far as it was read. It says nothing of segments that were not opened, because
    /// nothing of what is looked for is in them.
    #[must_use]
    pub fn missing(&self) -> &[Range<u64>] {
        &self.missing
    }

    /// The same in words; `None`: none were found missing.
    #[must_use]
    pub fn missing_in_words(&self) -> Option<String> {
        let Range { start, end } = self.missing.first()?;
        let others = match self.missing.len() - 1 {
            0 => String::new(),
            n => format!(", and others in {n} places"),
        };
        Some(match end - start {
            1 => format!("entry {start} is missing{others}"),
            _ => format!("entries {start} to {} are missing{others}", end - 1),
        })
    }

    /// Goes on with this catalog.
    fn look(&mut self, catalog: Catalog) {
        for problem in &catalog.problems {
            if self.problems.len() < MOST_KEPT && !self.problems.contains(problem) {
                self.problems.push(problem.clone());
            }
        }
        self.catalog = catalog;
    }

    /// Notes that entries are not there.
    fn lacks(&mut self, entries: Range<u64>) {
        if !entries.is_empty() && self.missing.len() < MOST_KEPT && !self.missing.contains(&entries) {
            self.missing.push(entries);
        }
    }

    /// Up to where retention removed entries.
    fn removed_to(&self) -> u64 {
        self.catalog.removed.as_ref().map_or(0, |removed| removed.end().next_index)
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
                self.look(Catalog::load(&self.dir));
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
                if let Some(begins) = begins.filter(|first| *first > wanted) {
                    let catalog = Catalog::load(&self.dir);
                    let last = |catalog: &Catalog| catalog.segments.last().map(|known| known.first);
                    if last(&catalog) > last(&self.catalog) {
                        // More was sealed since the last look at the folder.
                        self.look(catalog);
                        (self.current, self.next) = (None, wanted);
                        continue;
                    }
                    self.catalog.removed = catalog.removed;
                    self.lacks(wanted.max(self.removed_to())..begins);
                }
                return Ok(());
            };
            // What retention removed is passed over, and what somebody else removed too.
            let (first, next) = (*first, self.next.max(*first));
            let hole = self.next.max(self.removed_to())..first;
            let path = segment_path(&self.dir, first);
            // Without a summary its end is known only when it is reached.
            let Some(summary) = summary else {
                self.lacks(hole);
                self.next = next;
                return self.scan_file(&path, true);
            };
            let end = summary.end().next_index;
            let is_wanted = next < end && summary.may_have_in(&self.dir, &self.filter, &self.wanted);
            let index = (is_wanted && !self.filter.is_all()).then(|| catalog::read_index(&self.dir, summary)).flatten();
            self.lacks(hole);
            if !is_wanted {
                (self.next, self.done) = (next.max(end), Some(first));
                continue;
            }
            self.next = next;
            let Some(index) = index else { return self.scan_file(&path, true) };
            let places = index.places(&self.filter).filter(|(index, _)| *index >= next).collect();
            let reader = LogReader::open(&path).map_err(SearchError::Open)?;
            self.current = Some(Current::Picked { reader, places, end, first });
            return Ok(());
        }
    }

    /// The end of the sealed segment that begins at entry `first`, by its summary.
    fn stated_end(&self, first: u64) -> Option<u64> {
        let known = self.catalog.segments.iter().find(|known| known.first == first)?;
        known.summary.as_ref().map(|summary| summary.end().next_index)
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
                    let read_to = reader.next_index();
                    self.next = self.next.max(read_to);
                    let first = *first;
                    if *sealed {
                        (self.current, self.done) = (None, Some(first));
                        if let Some(end) = self.stated_end(first).filter(|end| *end > read_to) {
                            self.lacks(read_to..end);
                            self.next = self.next.max(end);
                        }
                    } else if !self.alone && segment_path(&self.dir, first).exists() {
                        // It was sealed meanwhile; what it got before that is read first.
                        *sealed = true;
                        self.look(Catalog::load(&self.dir));
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
