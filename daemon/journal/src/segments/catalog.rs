//! All sealed segments of a log's folder: which ones there are, and what their summaries have.
//!
//! [`Catalog::load`] reads one file for all of them, if an entry of the log states its link and each segment that it names is there.
//! Otherwise it reads the summaries, one by one, and checks that each continues the one before.

use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;

use super::catalog_file::{self, CATALOG_FILE, CatalogFile, Record};
use super::{Brief, Index, Removed, index_path, sealed, summary_path};
use crate::entry::{Entry, Hash, kind};
use crate::frame::{Scanner, Step};
use crate::removal;
use crate::statement;
use crate::storage::{FileStorage, LOG_FILE, bounded};
use crate::view::View;
use crate::walk::Chain;

/// Largest index that is read: that of a log of the versions before segments, in one file.
const LARGEST_INDEX: u64 = 1 << 30;

/// Entries at the beginning of `audit.log` among which the statement about the catalog is. It is the first one, but for what a start
/// of the daemon has to report first.
const STATED_WITHIN: usize = 32;

/// The sealed segments, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The segments.
    pub segments: Vec<Known>,
    /// What retention removed before them.
    pub removed: Option<Removed>,
    /// What does not fit, in words.
    pub problems: Vec<String>,
}

/// A sealed segment.
#[derive(Debug, Clone)]
pub struct Known {
    /// Index of its first entry.
    pub first: u64,
    /// Its summary, where that can be relied on; without it the segment is read whole.
    pub summary: Option<Brief>,
}

impl Catalog {
    /// The segments of the log in `dir`.
    #[must_use]
    pub fn load(dir: &Path) -> Catalog {
        let mut looks = 3;
        loop {
            let removed = removal::read(dir);
            let behind = removed.as_ref().ok().cloned().flatten();
            looks -= 1;
            let problem = match ByFile::read(dir, behind.as_ref()) {
                ByFile::Fits(catalog, _) if removed.is_ok() => return catalog,
                // A log in use may have been sealed, or its segments removed, between two looks.
                ByFile::Lost(_) | ByFile::Unlike(_) if looks > 0 => continue,
                ByFile::Lost(why) => Some(format!("{why}; the summaries are read")),
                // The summaries show what does not fit.
                _ => None,
            };
            let mut catalog = Catalog::of_summaries(dir, behind);
            catalog.problems.splice(0..0, removed.err().into_iter().chain(problem));
            return catalog;
        }
    }

    /// [`load`](Self::load), if retention removed this, whatever the folder says about it.
    pub(crate) fn behind(dir: &Path, removed: Option<Removed>) -> Catalog {
        match ByFile::read(dir, removed.as_ref()) {
            ByFile::Fits(catalog, _) => catalog,
            _ => Catalog::of_summaries(dir, removed),
        }
    }

    /// By the summaries in `dir`, if retention removed this. The newest one counts only if it is the one that `audit.log` names: the
    /// others are named by the one behind them.
    pub(crate) fn of_summaries(dir: &Path, removed: Option<Removed>) -> Catalog {
        // The statement first: a log in use may be sealed before the next look.
        let stated = summary_stated(dir);
        let mut catalog = Catalog::unstated(dir, removed);
        let named = catalog.segments.iter_mut().find_map(|known| {
            let (start, hash) = stated?;
            let other = known.summary.take_if(|brief| brief.end() == start && brief.hash != hash);
            other.map(|brief| brief.first)
        });
        catalog.problems.extend(
            named.map(|first| {
                format!("the summary of segment {first} is not the one that the log states: it was changed")
            }),
        );
        catalog
    }

    /// [`of_summaries`](Self::of_summaries), whatever `audit.log` says.
    pub(crate) fn unstated(dir: &Path, removed: Option<Removed>) -> Catalog {
        let mut catalog = Catalog { removed, ..Catalog::default() };
        let begin = catalog.removed.as_ref().map_or_else(Chain::default, Removed::end);
        // Removed, but the removal of the file was interrupted.
        let firsts: Vec<u64> = sealed(dir).into_iter().filter(|first| *first >= begin.next_index).collect();
        catalog.add(dir, &firsts, begin);
        catalog
    }

    /// Adds the segments that begin at `firsts` by their summaries, which continue `expected`.
    fn add(&mut self, dir: &Path, firsts: &[u64], expected: Chain) {
        let (mut expected, mut previous) = (Some(expected), Some(self.last_hash()));
        for first in firsts.iter().copied() {
            let summary = read_summary(dir, first).and_then(|summary| {
                if expected.is_some_and(|expected| summary.start() != expected) {
                    return Err(format!("segment {first} does not continue the one before it"));
                }
                if previous.is_some_and(|previous| summary.previous_summary != previous) {
                    // Either of the two may have been changed.
                    if let Some(before) = self.segments.last_mut() {
                        before.summary = None;
                    }
                    return Err(format!("the summary of segment {first} does not name the summary before it"));
                }
                Ok(summary)
            });
            match &summary {
                Ok(summary) => (expected, previous) = (Some(summary.end()), Some(summary.hash)),
                Err(why) => {
                    self.problems.push(why.clone());
                    (expected, previous) = (None, None);
                }
            }
            self.segments.push(Known { first, summary: summary.ok() });
        }
    }

    /// What the file behind the sealed segments must continue; `None` where the last summary cannot be relied on.
    #[must_use]
    pub fn end(&self) -> Option<Chain> {
        match self.segments.last() {
            Some(known) => known.summary.as_ref().map(Brief::end),
            None => Some(self.removed.as_ref().map_or_else(Chain::default, Removed::end)),
        }
    }

    /// Hash of the last summary; zeros if there is none.
    #[must_use]
    pub fn last_hash(&self) -> Hash {
        match self.segments.last() {
            Some(known) => known.summary.as_ref().map(|summary| summary.hash).unwrap_or_default(),
            None => self.removed.as_ref().map(|r| r.last_summary).unwrap_or_default(),
        }
    }

    /// Size of the sealed segments, in bytes, as far as their summaries say.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().filter_map(|known| known.summary.as_ref()).map(|summary| summary.bytes).sum()
    }

    /// The summaries of all segments; `None`: that of one cannot be relied on.
    pub(crate) fn briefs(&self) -> Option<Vec<&Brief>> {
        self.segments.iter().map(|known| known.summary.as_ref()).collect()
    }

    /// Whether each segment and each summary has the size that the catalog has of it, and whether each index is there.
    pub(crate) fn is_complete(&self, dir: &Path) -> bool {
        let size = |path: &Path| path.symlink_metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
        self.segments.iter().all(|Known { first, summary }| {
            summary.as_ref().is_some_and(|summary| {
                summary.is_sized(dir).is_ok()
                    && size(&summary_path(dir, *first)) == Some(summary.summary_bytes)
                    && size(&index_path(dir, *first)).is_some()
            })
        })
    }
}

/// The segments by the catalog's file.
pub(crate) enum ByFile {
    /// No entry states one, as in a log of an earlier version.
    NotStated,
    /// The file is not what an entry states, in words.
    Lost(String),
    /// The file is what an entry states, but the folder has other segments.
    Unlike(CatalogFile),
    /// The segments, and the file.
    Fits(Catalog, CatalogFile),
}

impl ByFile {
    /// Of the log in `dir`, if retention removed this. The next look at a log in use may find another one.
    pub fn read(dir: &Path, removed: Option<&Removed>) -> ByFile {
        let Some((start, link)) = statement_of(dir) else { return ByFile::NotStated };
        let path = dir.join(CATALOG_FILE);
        let lost = |why: &dyn std::fmt::Display| {
            ByFile::Lost(format!("the catalog of the audit log, {}, was changed: {why}", path.display()))
        };
        let unread = |why: &dyn std::fmt::Display| {
            ByFile::Lost(format!("the catalog of the audit log, {}, cannot be read: {why}", path.display()))
        };
        let mut records = match catalog_file::read(dir) {
            Ok(records) => records,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return lost(&error),
            // That it is too large, or that the medium fails, is no change.
            Err(error) => return unread(&error),
        };
        let last = records.iter().rposition(|record| record.brief.end() == start && record.link == link);
        let Some(last) = last else {
            return lost(&format!("it does not have what the log states of the entries before {}", start.next_index));
        };
        records.truncate(last + 1);
        let file = CatalogFile::at(dir, link, records[last].end);
        let begin = removed.map_or_else(Chain::default, Removed::end);
        let previous = removed.map_or([0; 32], |removed| removed.last_summary);
        let Some(segments) = continued(records, begin, previous) else { return ByFile::Unlike(file) };
        let firsts: Vec<u64> = sealed(dir).into_iter().filter(|first| *first >= begin.next_index).collect();
        let (before, behind) = firsts.split_at(firsts.partition_point(|first| *first < start.next_index));
        if !before.iter().eq(segments.iter().map(|known| &known.first)) {
            return ByFile::Unlike(file);
        }
        let mut catalog = Catalog { segments, removed: removed.cloned(), problems: Vec::new() };
        // What was sealed since the look at `audit.log`.
        catalog.add(dir, behind, start);
        ByFile::Fits(catalog, file)
    }
}

/// The records from entry `begin` on, if the log begins there with them. Those before it are of removed segments.
fn continued(records: Vec<Record>, begin: Chain, previous: Hash) -> Option<Vec<Known>> {
    let (mut segments, mut at): (Vec<Known>, Option<(Chain, Hash)>) = (Vec::new(), None);
    for Record { mut brief, .. } in records {
        if at.is_some_and(|(end, _)| end != brief.start()) {
            return None;
        }
        at = Some((brief.end(), brief.hash));
        if brief.first == begin.next_index {
            (brief.prev, brief.previous_summary) = (begin.head, previous);
        }
        if brief.first >= begin.next_index {
            segments.push(Known { first: brief.first, summary: Some(brief) });
        } else if brief.end().next_index == begin.next_index && at != Some((begin, previous)) {
            return None;
        }
    }
    let first = segments.first().map(|known| known.first).or(at.map(|(end, _)| end.next_index));
    (first == Some(begin.next_index)).then_some(segments)
}

/// What `audit.log` continues, and the hash of the summary before it that one of its first entries states.
pub(crate) fn summary_stated(dir: &Path) -> Option<(Chain, Hash)> {
    stated_in(dir, statement::sealed_summary)
}

/// What `audit.log` continues, and the link of the catalog that one of its first entries states.
pub(crate) fn statement_of(dir: &Path) -> Option<(Chain, Hash)> {
    stated_in(dir, statement::catalog)
}

fn stated_in(dir: &Path, what: fn(&Entry) -> Option<Hash>) -> Option<(Chain, Hash)> {
    let mut scanner = Scanner::new(FileStorage::open_read_only(&dir.join(LOG_FILE)).ok()?);
    let start = scanner.begin().ok()?.filter(|start| start.next_index > 0)?;
    for _ in 0..STATED_WITHIN {
        let Ok(Step::Frame { bytes, .. }) = scanner.look() else { return None };
        let entry = View::parse(bytes).ok()?.entry_of(|kind| kind == kind::SEGMENT);
        if let Some(stated) = entry.as_ref().and_then(what) {
            return Some((start, stated));
        }
    }
    None
}

fn read_summary(dir: &Path, first: u64) -> Result<Brief, String> {
    let path = summary_path(dir, first);
    let bytes = bounded::read(&path, bounded::LARGEST)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let summary = Brief::read(bytes).ok_or_else(|| format!("{} is no summary", path.display()))?;
    if summary.first != first {
        return Err(format!("{} is not the summary of segment {first}", path.display()));
    }
    summary.is_sized(dir).map(|()| summary)
}

/// The index of a segment, if its file is the one that `summary` names.
#[must_use]
pub fn read_index(dir: &Path, summary: &Brief) -> Option<Index> {
    let bytes = bounded::read(&index_path(dir, summary.first), LARGEST_INDEX).ok()?;
    (Hash::from(Sha256::digest(&bytes)) == summary.index_sha256).then(|| Index::decode(&bytes))?
}
