//! Which sealed segments there are, and what is made again where a file that is derived from them does not fit them.

use std::io;
use std::path::Path;

use super::replace;
use crate::entry::Hash;
use crate::segments::catalog::ByFile;
use crate::segments::catalog_file::CatalogFile;
use crate::segments::{Brief, Catalog, Removed, Summary, catalog, digest, index_path, segment_path, summary_path};
use crate::walk::Chain;

/// Writes the index and the summary of a segment. They survive a power cut when the folder was synced.
pub(super) fn write_derived(dir: &Path, summary: &Summary, index: &[u8]) -> io::Result<()> {
    replace(&index_path(dir, summary.first), index)?;
    replace(&summary_path(dir, summary.first), &summary.encode())
}

/// The sealed segments, by the catalog's file if that fits the log. Otherwise by the summaries, and then the file is made again. There
/// is none if not all segments can be relied on.
pub(super) fn listed(
    dir: &Path,
    removed: Option<Removed>,
    findings: &mut Vec<String>,
) -> (Catalog, Option<CatalogFile>) {
    let hashes = |catalog: &Catalog| -> Option<Vec<Hash>> {
        catalog.briefs().map(|briefs| briefs.iter().map(|brief| brief.hash).collect())
    };
    let mut lost = None;
    let stated = match ByFile::read(dir, removed.as_ref()) {
        ByFile::NotStated => None,
        ByFile::Lost(why) => {
            lost = Some(why);
            None
        }
        ByFile::Unlike(file) => Some((file, None)),
        ByFile::Fits(catalog, file) => {
            let newest = catalog.segments.last().and_then(|known| known.summary.as_ref());
            if catalog.is_complete(dir) && newest.is_none_or(|newest| newest.whole(dir).is_some()) {
                return (catalog, Some(file));
            }
            Some((file, hashes(&catalog)))
        }
    };
    let catalog = repaired(dir, removed, findings);
    let now = hashes(&catalog);
    // A file of other summaries than those that were made again would be found incomplete at each start.
    let stated = stated.filter(|(_, before)| before.is_none() || now.is_none() || *before == now);
    if let Some((file, _)) = stated {
        return (catalog, Some(file));
    }
    let briefs = catalog.briefs().filter(|briefs| !briefs.is_empty());
    // A disk that is full is no error: there is only more to read.
    let made = briefs.map(|briefs| CatalogFile::make(dir, &briefs));
    findings.extend(lost.map(|why| match &made {
        Some(Err(error)) => format!("{why}; it cannot be made again: {error}"),
        _ => format!("{why}; it is made again"),
    }));
    (catalog, made.and_then(Result::ok))
}

/// The catalog, with summaries and indices made again where they do not fit their segment.
fn repaired(dir: &Path, removed: Option<Removed>, findings: &mut Vec<String>) -> Catalog {
    let (mut catalog, are_read) = made_again(dir, removed.clone(), findings);
    let stated = catalog::summary_stated(dir).filter(|(start, _)| catalog.end() == Some(*start));
    if are_read && stated.is_some_and(|(_, hash)| hash != catalog.last_hash()) {
        // Summaries before the newest were changed too, each to fit the next.
        catalog.segments.iter_mut().for_each(|known| known.summary = None);
        digested(dir, &catalog, findings);
        catalog = Catalog::unstated(dir, removed);
    }
    catalog.problems.clear();
    catalog
}

/// The catalog by the summaries, of which those that do not fit are made again, and whether each segment could be read for that.
fn made_again(dir: &Path, removed: Option<Removed>, findings: &mut Vec<String>) -> (Catalog, bool) {
    let found = Catalog::of_summaries(dir, removed.clone());
    if found.problems.is_empty() && found.segments.iter().all(|k| index_path(dir, k.first).exists()) {
        return (found, true);
    }
    findings.extend(found.problems.iter().cloned());
    let are_read = digested(dir, &found, findings);
    (Catalog::unstated(dir, removed), are_read)
}

/// Makes the summaries and indices again that `found` does not have, or whose index does not fit. False: a segment cannot be read.
fn digested(dir: &Path, found: &Catalog, findings: &mut Vec<String>) -> bool {
    let (mut end, mut previous) =
        found.removed.as_ref().map_or((Some(Chain::default()), [0; 32]), |r| (Some(r.end()), r.last_summary));
    let mut are_read = true;
    for known in &found.segments {
        let sound = known.summary.as_ref().filter(|s| s.previous_summary == previous);
        let sound = sound.filter(|s| catalog::read_index(dir, s).is_some()).and_then(|s| s.summary(dir));
        let summary = match sound {
            Some(summary) => summary,
            None => match digest::digest(dir, known.first, end, previous) {
                Ok((summary, index)) => {
                    findings.push(match write_derived(dir, &summary, &index) {
                        Ok(()) => format!("summary and index of segment {} were made again", known.first),
                        Err(error) => format!("the summary of segment {} cannot be written: {error}", known.first),
                    });
                    summary
                }
                Err(why) => {
                    findings.push(format!("the audit log was tampered with: {why}"));
                    (end, are_read) = (None, false);
                    continue;
                }
            },
        };
        (end, previous) = (Some(summary.end()), summary.hash());
    }
    are_read
}

/// Makes the summary of the newest segment again, if it is the only one that does not count and gives this hash.
pub(super) fn newest_again(dir: &Path, found: &Catalog, expected: Hash) -> bool {
    let Some((newest, before)) = found.segments.split_last() else { return false };
    if newest.summary.is_some() || before.iter().any(|known| known.summary.is_none()) {
        return false;
    }
    let before = Catalog { segments: before.to_vec(), removed: found.removed.clone(), problems: Vec::new() };
    match digest::digest(dir, newest.first, before.end(), before.last_hash()) {
        Ok((summary, index)) if summary.hash() == expected => write_derived(dir, &summary, &index).is_ok(),
        _ => false,
    }
}

/// The summary of a segment that is to be removed, which is made again from the segment if its file is another one.
///
/// # Errors
/// The segment is not the one that `brief` is of, in words.
pub(super) fn sound(dir: &Path, brief: &Brief, noticed: &mut Vec<String>) -> Result<Summary, String> {
    brief.is_sized(dir)?;
    if let Some(summary) = brief.summary(dir) {
        return Ok(summary);
    }
    let (summary, _) = digest::digest(dir, brief.first, Some(brief.start()), brief.previous_summary)?;
    if summary.hash() != brief.hash {
        let segment = segment_path(dir, brief.first);
        return Err(format!("{} does not give the summary that the catalog names", segment.display()));
    }
    noticed.push(match replace(&summary_path(dir, brief.first), &summary.encode()) {
        Ok(()) => format!("the summary of segment {} was changed: it was made again from the segment", brief.first),
        Err(error) => format!("the summary of segment {} was changed, and cannot be written: {error}", brief.first),
    });
    Ok(summary)
}
