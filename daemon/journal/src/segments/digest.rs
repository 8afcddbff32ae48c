//! A sealed segment read whole and verified: its summary and index are made from its entries.

use std::path::Path;

use super::{Builder, Summary, segment_path};
use crate::entry::Hash;
use crate::storage::FileStorage;
use crate::view::View;
use crate::walk::{Chain, Ending, Walker};

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
