//! A copy of the sealed part of a log in a folder, which an auditor verifies without the node, and which keeps entries that retention
//! removes later provable.
//!
//! ```text
//!  DIR/checkpoint            the signed checkpoint of what is archived; the tiles are of its tree
//!      tile/...              hashes of the tree and entry bundles, in the layout of c2sp.org/tlog-tiles
//!      audit/N.segment, ...  sealed segments as they are, with their summaries, indices, edges and checkpoints
//!      log.keys              the public keys of the node, as it names them
//! ```
//!
//! Invariants:
//! - Nothing is written before the log was read once, and compared with its signed checkpoints and with what the folder has.
//! - A file of the archive is never changed, except `checkpoint` and `log.keys`. The checkpoint is replaced only by one of a tree
//!   that contains the earlier tree, and only when all files of the new tree are on disk.

mod files;
mod pass;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::files::{Files, Mode};
use self::pass::Pass;
use crate::removal;
use crate::segments::{Catalog, Removed, sealed};
use crate::storage::folder::replace_synced;
use crate::tree::signed::{KEYS_FILE, SignedTree, checkpoint_path};

/// Name of the archive's checkpoint, as the layout has it.
pub const CHECKPOINT: &str = "checkpoint";
/// Folder of the segments in an archive.
pub const SEGMENTS: &str = "audit";

/// Reads and verifies the checkpoint in a file; the caller knows the keys.
pub type Open<'a> = dyn Fn(&Path) -> Result<SignedTree, String> + 'a;

/// What an archive has, and what was added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The tree of its checkpoint.
    pub signed: SignedTree,
    /// Its first entry.
    pub first: u64,
    /// Sealed segments in it.
    pub segments: usize,
    /// Files that were written.
    pub files: usize,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Whether it has tiles: not, if entries had been removed before it was begun.
    pub tiles: bool,
    /// Entry bundles that it does not have, because the format has no room for one of their entries. The segments have them.
    pub no_bundle: u64,
}

/// An archive that cannot be made, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The log is not in order.
    #[error("the log cannot be archived: {0}")]
    Log(String),
    /// The archive is not in order.
    #[error("the archive is damaged: {0}")]
    Archive(String),
    /// It has another content.
    #[error("{} has another content than the log: it was not replaced", .0.display())]
    Differs(PathBuf),
    /// It is missing.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// It is of another log.
    #[error("the archive is of the log {archive}, this is the log {log}: name another folder")]
    OtherLog {
        /// Origin of the archive's checkpoint.
        archive: String,
        /// Origin of the log's.
        log: String,
    },
    /// It has more than the log.
    #[error(
        "the archive covers {archive} entries, the last sealed segment of the log ends at {log}: the log was shortened"
    )]
    Older {
        /// Entries of the archive.
        archive: u64,
        /// Entries of the log up to its last sealed segment.
        log: u64,
    },
    /// Entries between archive and log are gone.
    #[error(
        "entries {from} to {to} are neither in the archive nor in the log: retention removed them. Name another folder"
    )]
    Gap {
        /// First one.
        from: u64,
        /// Last one.
        to: u64,
    },
    /// A file.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    fn at(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
        move |source| ArchiveError::Io { path: path.to_owned(), source }
    }
}

/// Copies what is new in the sealed part of the log in `log` to the archive `to`. `None`: no sealed segment is signed yet.
///
/// # Errors
/// [`ArchiveError`]. Of the comparison, before anything is written.
pub fn archive(log: &Path, keys: &Path, to: &Path, open: &Open<'_>) -> Result<Option<Archived>, ArchiveError> {
    let Some((path, signed)) = last_border(log, open)? else { return Ok(None) };
    let before = earlier(to, open)?;
    if let Some(before) = &before {
        if before.origin != signed.origin {
            return Err(ArchiveError::OtherLog { archive: before.origin.clone(), log: signed.origin });
        }
        if before.size > signed.size {
            return Err(ArchiveError::Older { archive: before.entries(), log: signed.entries() });
        }
    }
    let source = Source::of(log, &to.join(SEGMENTS), signed.entries())?;
    let known: Vec<&SignedTree> = before.iter().chain([&signed]).collect();
    let compared = Pass::new(&source, Files::new(to, Mode::Compare), open, &known)?.run()?;
    let done = Pass::new(&source, Files::new(to, Mode::Write), open, &known)?.run()?;
    done.files.sync()?;
    let note = fs::read(&path).map_err(ArchiveError::at(&path))?;
    for (name, bytes) in [(KEYS_FILE, fs::read(keys).map_err(ArchiveError::at(keys))?), (CHECKPOINT, note)] {
        let path = to.join(name);
        replace_synced(&path, &bytes, files::FILE_MODE).map_err(ArchiveError::at(&path))?;
    }
    debug_assert_eq!(compared.segments, done.segments);
    Ok(Some(done.archived(&signed)))
}

/// Compares the tiles of an archive with its segments. Its segments are verified by [`crate::verify::verify_archive`].
///
/// # Errors
/// [`ArchiveError`].
pub fn check_tiles(archive: &Path, open: &Open<'_>) -> Result<Archived, ArchiveError> {
    let path = archive.join(CHECKPOINT);
    let signed = earlier(archive, open)?.ok_or(ArchiveError::Missing(path))?;
    let dir = archive.join(SEGMENTS);
    let source = Source::of(&dir, &dir, signed.entries())?;
    Ok(Pass::new(&source, Files::new(archive, Mode::Require), open, &[&signed])?.run()?.archived(&signed))
}

/// The last border of segments of which there is a signed checkpoint.
fn last_border(log: &Path, open: &Open<'_>) -> Result<Option<(PathBuf, SignedTree)>, ArchiveError> {
    let catalog = Catalog::behind(log, removal::read(log).map_err(ArchiveError::Log)?);
    if let Some(why) = catalog.problems.first() {
        return Err(ArchiveError::Log(why.clone()));
    }
    let ends = catalog.segments.iter().filter_map(|known| known.summary.as_ref());
    let ends = ends.map(|summary| checkpoint_path(log, summary.end().next_index));
    let Some(path) = ends.rev().find(|path| path.symlink_metadata().is_ok()) else { return Ok(None) };
    let signed = open(&path).map_err(ArchiveError::Log)?;
    Ok(Some((path, signed)))
}

/// What the archive covers.
fn earlier(to: &Path, open: &Open<'_>) -> Result<Option<SignedTree>, ArchiveError> {
    let path = to.join(CHECKPOINT);
    match path.symlink_metadata() {
        Ok(_) => open(&path).map(Some).map_err(ArchiveError::Archive),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::at(&path)(error)),
    }
}

/// Where the segments of the archive to be are read from: from the log, if it still has them.
struct Source {
    removed: Option<Removed>,
    /// First index and folder of each.
    segments: Vec<(u64, PathBuf)>,
}

impl Source {
    fn of(log: &Path, archive: &Path, entries: u64) -> Result<Source, ArchiveError> {
        let (in_log, archived) = (sealed(log), sealed(archive));
        // An archive begins where the log began when it was first made.
        let removed = match archived.is_empty() {
            true => removal::read(log).map_err(ArchiveError::Log)?,
            false => removal::read(archive).map_err(ArchiveError::Archive)?,
        };
        let begin = removed.as_ref().map_or(0, |removed| removed.entries);
        let all: BTreeSet<u64> = in_log.iter().chain(&archived).copied().collect();
        let in_log: BTreeSet<u64> = in_log.into_iter().collect();
        let segments = all.into_iter().filter(|first| (begin..entries).contains(first));
        let folder = |first: u64| if in_log.contains(&first) { log.to_owned() } else { archive.to_owned() };
        Ok(Source { removed, segments: segments.map(|first| (first, folder(first))).collect() })
    }
}
