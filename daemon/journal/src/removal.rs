//! The removal of segments by retention: the entry that states it, `removed.json`, and the files.
//!
//! In the order that a crash may stop it at: the entry is durable, then `removed.json` is, then the files are removed. Who can write
//! to the folder can write `removed.json` too. So it counts only if an entry of the log states the same, and a start of the daemon
//! removes what an interrupted removal left only if the log was verified from that entry to its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::clock::Stamp;
use crate::entry::{Draft, Entry, kind};
use crate::frame::Scanner;
use crate::reader::LogReader;
use crate::segments::{REMOVED_FILE, Removed, Summary, digest, numbered, sealed, segment_path};
use crate::storage::file::{move_aside, sync_dir};
use crate::storage::{FileStorage, LOG_FILE, bounded};
use crate::view::View;
use crate::walk::{Chain, Ending, Walker};

/// Segments that an entry names one by one.
const NAMED_SEGMENTS: usize = 1_000;

/// The entry about the removal of `segments`.
pub(crate) fn draft(removed: &Removed, segments: &[Summary], now: Stamp) -> Draft {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in segments.iter().flat_map(|summary| &summary.kinds) {
        *kinds.entry(kind).or_default() += count;
    }
    let named = segments.iter().take(NAMED_SEGMENTS).map(|summary| {
        json!({
            "first": summary.first,
            "entries": summary.entries,
            "head": hex::encode(summary.head),
            "summary_sha256": hex::encode(summary.hash()),
        })
    });
    let body = json!({
        "removed": {
            "segments": named.collect::<Vec<Value>>(),
            "segments_so_far": removed.segments,
            "entries": removed.entries,
            "head": hex::encode(removed.head),
            "last_summary_sha256": hex::encode(removed.last_summary),
            "kinds": kinds,
            "why": removed.why,
        },
    });
    Draft::new(Cow::Borrowed(kind::SEGMENT), now, body)
}

/// Whether `entry` states what `removed.json` has. Entries of earlier versions have no `segments_so_far`, and the last summary only
/// where they name the last segment.
pub(crate) fn states(entry: &Entry, removed: &Removed) -> bool {
    let stated = &entry.body["removed"];
    let last = match &stated["last_summary_sha256"] {
        Value::Null => {
            let last = stated["segments"].as_array().and_then(|segments| segments.last());
            let end = |last: &Value| Some(last["first"].as_u64()?.saturating_add(last["entries"].as_u64()?));
            last.filter(|last| end(last) == Some(removed.entries)).map_or(&Value::Null, |last| &last["summary_sha256"])
        }
        last => last,
    };
    let unlike = |stated: &Value, found: &str| stated.as_str().is_some_and(|stated| stated != found);
    entry.kind == kind::SEGMENT
        && entry.wall_ns == removed.wall_ns
        && stated["entries"].as_u64() == Some(removed.entries)
        && stated["head"] == hex::encode(removed.head)
        && stated["why"] == removed.why
        && stated["segments_so_far"].as_u64().is_none_or(|segments| segments == removed.segments)
        && !unlike(last, &hex::encode(removed.last_summary))
}

/// What `removed.json` has. `None`: there is none.
///
/// # Errors
/// It cannot be read, in words.
pub(crate) fn read(dir: &Path) -> Result<Option<Removed>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{REMOVED_FILE} cannot be read: {error}");
    let bytes = match bounded::read(&dir.join(REMOVED_FILE), bounded::LARGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| wrong(&error))
}

/// What a start of the daemon makes of `removed.json`.
#[derive(Debug, Default)]
pub(crate) struct AtStart {
    /// Where the log begins.
    pub removed: Option<Removed>,
    /// An entry states it.
    pub stated: bool,
    /// The file does not count, and is to be put aside.
    pub refused: bool,
    /// What is amiss.
    pub finding: Option<String>,
}

impl AtStart {
    pub fn read(dir: &Path) -> AtStart {
        let removed = match read(dir) {
            Ok(None) => return AtStart::default(),
            Ok(Some(removed)) => removed,
            Err(why) => return AtStart { refused: true, finding: Some(why), ..AtStart::default() },
        };
        if is_stated(dir, &removed) {
            return AtStart { removed: Some(removed), stated: true, ..AtStart::default() };
        }
        let unstated = unstated(&removed);
        if begin(dir) == Some(removed.end()) {
            let finding = format!("{unstated}; the entries before it are missing");
            return AtStart { removed: Some(removed), finding: Some(finding), ..AtStart::default() };
        }
        let finding = format!("{unstated}; nothing is removed, and the file is put aside");
        AtStart { refused: true, finding: Some(finding), ..AtStart::default() }
    }
}

/// What is wrong with a `removed.json` that no entry states.
pub(crate) fn unstated(removed: &Removed) -> String {
    format!(
        "{REMOVED_FILE} has it that retention removed all entries before entry {}, but no entry of the log states that: the daemon did \
         not write it",
        removed.entries
    )
}

/// Where the first file of the log begins, by its header.
fn begin(dir: &Path) -> Option<Chain> {
    let first = sealed(dir).first().map_or_else(|| dir.join(LOG_FILE), |first| segment_path(dir, *first));
    Scanner::new(FileStorage::open_read_only(&first).ok()?).begin().ok()?
}

/// The sealed segments that can have the entry about `removed`, and those behind them.
fn candidates(dir: &Path, removed: &Removed) -> Vec<u64> {
    let mut firsts = sealed(dir);
    firsts.retain(|first| *first >= removed.entries);
    let at = removed.entry.unwrap_or(removed.entries);
    firsts.split_off(firsts.partition_point(|first| *first <= at).saturating_sub(1))
}

fn is_stated(dir: &Path, removed: &Removed) -> bool {
    let paths = candidates(dir, removed).into_iter().map(|first| segment_path(dir, first));
    for path in paths.chain([dir.join(LOG_FILE)]) {
        let from = removed.entry.unwrap_or(0);
        let Some(reader) = LogReader::open(&path).ok().and_then(|reader| reader.from_index(from).ok()) else {
            continue;
        };
        for entry in reader.map_while(Result::ok) {
            if states(&entry, removed) {
                return true;
            }
            if removed.entry.is_some_and(|at| entry.index >= at) {
                return false;
            }
        }
    }
    false
}

/// Verifies all files of the log from the one with the entry about `removed` on. Whether the entry is there, and all of them valid.
fn is_proved(dir: &Path, removed: &Removed) -> bool {
    let (mut seen, mut chain) = (false, None);
    let mut look = |view: &View<'_>| {
        seen |= view.entry_of(|kind| kind == kind::SEGMENT).is_some_and(|entry| states(&entry, removed));
    };
    for first in candidates(dir, removed) {
        let chain_before = chain.or((first == removed.entries).then(|| removed.end()));
        match digest::digest_seen(dir, first, chain_before, [0; 32], &mut look) {
            Ok((summary, _)) => chain = Some(summary.end()),
            Err(_) => return false,
        }
    }
    let Ok(file) = FileStorage::open_read_only(&dir.join(LOG_FILE)) else { return false };
    let ending = Walker::continuing(file, chain.unwrap_or(removed.end())).run(|_, view| look(view));
    matches!(ending, Ok(Ending::Clean)) && seen
}

/// Removes what an interrupted removal left, if the log shows that it was the daemon's.
///
/// # Errors
/// Those of the medium; what is left is removed at the next start.
pub(crate) fn finish(dir: &Path, removed: &Removed) -> io::Result<()> {
    let left =
        EXTENSIONS.iter().any(|extension| numbered(dir, extension).first().is_some_and(|at| *at < removed.entries));
    if left && is_proved(dir, removed) { remove_files(dir, 0, removed.entries) } else { Ok(()) }
}

/// All that there is of a segment: its entries first, because what is left of the others has no use without them.
const EXTENSIONS: [&str; 5] = ["segment", "summary", "index", "tree", "checkpoint"];

/// Removes the files of the segments that begin at `from` or behind it, and before `to`.
///
/// # Errors
/// Those of the medium.
pub(crate) fn remove_files(dir: &Path, from: u64, to: u64) -> io::Result<()> {
    for extension in EXTENSIONS {
        for at in numbered(dir, extension).into_iter().filter(|at| (from..to).contains(at)) {
            fs::remove_file(dir.join(format!("{at:020}.{extension}")))?;
        }
    }
    Ok(())
}

/// Moves a `removed.json` that does not count out of the way; it is evidence.
///
/// # Errors
/// Those of the medium.
pub(crate) fn put_aside(dir: &Path) -> io::Result<()> {
    move_aside(&dir.join(REMOVED_FILE))?;
    sync_dir(dir).map_err(|error| error.source)
}
