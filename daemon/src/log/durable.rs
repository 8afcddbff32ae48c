//! Reading the audit log while it is written: durable entries only.
//!
//! The writer's file may have more behind them. On a full disk that is a part of an entry, which looks damaged and is written again
//! when there is room. After a crash another entry can have its index.

use super::Log;
use failsafe_journal::{Entry, Query, Search, reader::ReadError, search::SearchError};

/// The durable entries of the log that a query wants, in order.
///
/// As with [`Search`], the iterator returns `None` at the end, and goes on when more entries are durable. After an error it stays
/// ended.
pub struct DurableSearch {
    log: Log,
    /// What is wanted of the entries that were not looked at yet.
    query: Query,
    search: Option<Search>,
    /// What an earlier search found missing.
    missing: Option<String>,
}

impl DurableSearch {
    /// What `query` wants of the log.
    ///
    /// # Errors
    /// [`SearchError`].
    pub fn open(log: Log, query: Query) -> Result<DurableSearch, SearchError> {
        let search = Some(Search::open(log.path(), query.clone())?);
        Ok(DurableSearch { log, query, search, missing: None })
    }

    /// Entries that must be in the log and are not, as far as it was read, in words.
    pub fn missing_in_words(&self) -> Option<String> {
        let found = self.search.as_ref().and_then(Search::missing_in_words);
        found.or_else(|| self.missing.clone())
    }

    fn read(&mut self) -> Result<Option<Entry>, SearchError> {
        let mut search = match self.search.take() {
            Some(search) => search,
            None => Search::open(self.log.path(), self.query.clone())?,
        };
        let found = search.next();
        let index = found.as_ref().and_then(|found| found.as_ref().map_or_else(damaged, |entry| Some(entry.index)));
        // It is looked at after the entry: what is durable by now counts.
        if let Some(index) = index.filter(|index| *index >= *self.log.latest().borrow()) {
            self.missing = search.missing_in_words().or(self.missing.take());
            // What this search has read may change. The next one begins here; the tail was counted by the first one.
            self.query =
                Query { from: index, tail: None, tail_of: None, filter: std::mem::take(&mut self.query.filter) };
            return Ok(None);
        }
        self.search = Some(search);
        found.transpose()
    }
}

impl Iterator for DurableSearch {
    type Item = Result<Entry, SearchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The index of the entry that is damaged. `None`: something else is wrong.
pub fn damaged(error: &SearchError) -> Option<u64> {
    match error {
        SearchError::Read(
            ReadError::Frame { index, .. } | ReadError::Entry { index, .. } | ReadError::Index { index, .. },
        ) => Some(*index),
        SearchError::Read(ReadError::Io(_)) | SearchError::Open(_) => None,
    }
}
