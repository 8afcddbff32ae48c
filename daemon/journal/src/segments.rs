//! Sealed segments of the audit log: what lies in the log's folder beside `audit.log`, which is the segment being written.
//!
//! ```text
//!  audit/00000000000000000000.segment   entries 0..  (bytes as they were written; the header says what the file continues)
//!        00000000000000000000.summary   JSON: entries, times, head, runs, incidents; names the summary before by its hash
//!        00000000000000000000.index     offset, time, kind, run, incident of each entry; the summary has its hash
//!        segments.catalog               what all summaries have, in one file; the first entry of audit.log states its link
//!        removed.json                   the segments that retention removed, if any
//!        audit.log                      the last segment; its first entry names the summary before it by its hash
//! ```
//!
//! Invariants:
//! - A segment's bytes never change; summaries, indices and the catalog are derived from them and are made again where they
//!   are missing or do not fit.
//! - Readers need no lock: a name that ends in `.segment` appears by a rename of the whole, synced file.

pub mod brief;
pub mod catalog;
pub(crate) mod catalog_file;
pub mod digest;
pub mod index;
pub mod names;
pub mod summary;

pub use brief::Brief;
pub use catalog::{Catalog, Known};
pub use catalog_file::{CATALOG_FILE, catalog_briefs};
pub use index::{Builder, Index, Row};
pub use names::{Names, Wanted};
pub use summary::{Removed, Summary};

use std::path::{Path, PathBuf};

/// Size at which the log's file is sealed and a new one begins, in bytes.
pub const SEGMENT_BYTES: u64 = 4 << 20;

/// File of the [`Removed`] segments.
pub const REMOVED_FILE: &str = "removed.json";

/// The entries of the segment that begins at entry `first`.
#[must_use]
pub fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.segment"))
}

/// Its summary.
#[must_use]
pub fn summary_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.summary"))
}

/// Its index.
#[must_use]
pub fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.index"))
}

/// First indices of the sealed segments in `dir`, ascending. A folder that cannot be read has none.
#[must_use]
pub fn sealed(dir: &Path) -> Vec<u64> {
    numbered(dir, "segment")
}

pub(crate) fn numbered(dir: &Path, extension: &str) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            let path = PathBuf::from(entry.file_name());
            (path.extension()? == extension).then(|| path.file_stem()?.to_str()?.parse().ok())?
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
