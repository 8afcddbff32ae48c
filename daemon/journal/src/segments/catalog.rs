//! All sealed segments of a log's folder, by their summaries: which ones there are, and which summaries can be relied on.

use sha2::{Digest, Sha256};
use std::path::Path;

use super::{Brief, Builder, Index, Removed, Summary, index_path, sealed, segment_path, summary_path};
use crate::entry::Hash;
use crate::removal;
use crate::storage::{FileStorage, bounded};
use crate::view::View;
use crate::walk::{Chain, Ending, Walker};

/// Largest index that is read: that of a log of the versions before segments, in one file.
const LARGEST_INDEX: u64 = 1 << 30;

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
    /// Reads the summaries in `dir` and checks that each continues the one before.
    #[must_use]
    pub fn load(dir: &Path) -> Catalog {
        let (removed, problem) = match removal::read(dir) {
            Ok(removed) => (removed, None),
            Err(why) => (None, Some(why)),
        };
        let mut catalog = Catalog::behind(dir, removed);
        catalog.problems.splice(0..0, problem);
        catalog
    }

    /// [`load`](Self::load), if retention removed this, whatever the folder says about it.
    pub(crate) fn behind(dir: &Path, removed: Option<Removed>) -> Catalog {
        let mut catalog = Catalog { removed, ..Catalog::default() };
        let removed = catalog.removed.as_ref();
        let mut expected = Some(removed.map_or_else(Chain::default, Removed::end));
        let mut previous = Some(removed.map_or([0; 32], |r| r.last_summary));
        for first in sealed(dir) {
            // Removed, but the removal of the file was interrupted.
            if catalog.removed.as_ref().is_some_and(|r| first < r.entries) {
                continue;
            }
            let summary = read_summary(dir, first).and_then(|summary| {
                if expected.is_some_and(|expected| summary.start() != expected) {
                    return Err(format!("segment {first} does not continue the one before it"));
                }
                if previous.is_some_and(|previous| summary.previous_summary != previous) {
                    // Either of the two may have been changed.
                    if let Some(before) = catalog.segments.last_mut() {
                        before.summary = None;
                    }
                    return Err(format!("the summary of segment {first} does not name the summary before it"));
                }
                Ok(summary)
            });
            match &summary {
                Ok(summary) => (expected, previous) = (Some(summary.end()), Some(summary.hash)),
                Err(why) => {
                    catalog.problems.push(why.clone());
                    (expected, previous) = (None, None);
                }
            }
            catalog.segments.push(Known { first, summary: summary.ok() });
        }
        catalog
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
}

fn read_summary(dir: &Path, first: u64) -> Result<Brief, String> {
    let path = summary_path(dir, first);
    let bytes = bounded::read(&path, bounded::LARGEST)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let summary = Brief::read(bytes).ok_or_else(|| format!("{} is no summary", path.display()))?;
    if summary.first != first {
        return Err(format!("{} is not the summary of segment {first}", path.display()));
    }
    let segment = segment_path(dir, first);
    match std::fs::metadata(&segment) {
        Ok(found) if found.len() == summary.bytes => Ok(summary),
        Ok(found) => Err(format!("{} has {} bytes, not {}", segment.display(), found.len(), summary.bytes)),
        Err(error) => Err(format!("{} cannot be read: {error}", segment.display())),
    }
}

/// The index of a segment, if its file is the one that `summary` names.
#[must_use]
pub fn read_index(dir: &Path, summary: &Brief) -> Option<Index> {
    let bytes = bounded::read(&index_path(dir, summary.first), LARGEST_INDEX).ok()?;
    (Hash::from(Sha256::digest(&bytes)) == summary.index_sha256).then(|| Index::decode(&bytes))?
}

/// Reads the whole segment that begins at `first`, verifies it, and makes its summary and index.
///
/// # Errors
/// Why the segment is not valid, in words.
pub fn digest(dir: &Path, first: u64, expected: Option<Chain>, previous: Hash) -> Result<(Summary, Vec<u8>), String> {
    digest_seen(dir, first, expected, previous, |_| {})
}

/// [`digest`], which shows each entry to `look`.
pub(crate) fn digest_seen(
    dir: &Path,
    first: u64,
    expected: Option<Chain>,
    previous: Hash,
    mut look: impl FnMut(&View<'_>),
) -> Result<(Summary, Vec<u8>), String> {
    let path = segment_path(dir, first);
    let named = |why: String| format!("{}: {why}", path.display());
    let file = FileStorage::open_read_only(&path).map_err(|e| crate::writer::chain_text(&e))?;
    let mut walker = match expected {
        Some(chain) => Walker::continuing(file, chain),
        None => Walker::new(file),
    };
    let mut builder = Builder::new(first);
    let mut start = None;
    let ending = walker.run(|offset, view| {
        start.get_or_insert(Chain { next_index: view.index, head: view.prev });
        builder.add(offset, view);
        look(view);
    });
    match ending.map_err(|e| named(e.to_string()))? {
        Ending::Clean => {}
        Ending::Torn { offset, why, .. } => return Err(named(format!("at byte {offset}: {why}"))),
        Ending::Tampered(problem) => return Err(named(problem.to_string())),
    }
    let (start, end, bytes) = (start.unwrap_or(walker.chain()), walker.chain(), walker.offset());
    if start.next_index != first {
        return Err(named(format!("begins at entry {}, not {first}", start.next_index)));
    }
    Ok(Summary::of(&builder, start, end, bytes, previous))
}
