//! The signed checkpoints of a log: the latest one in a file outside its folder, and one for each border of segments beside them.

use failsafe_tlog::{Checkpoint, Keys, Signer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::edge::edge_path;
use crate::entry::Hash;
use crate::segments::numbered;
use crate::storage::bounded;
use crate::storage::file::sync_dir;
use crate::storage::folder::{MODE, replace_synced};

/// Name of the latest checkpoint, in the state folder.
pub const CHECKPOINT_FILE: &str = "log.checkpoint";

/// The name of the key of logs that were begun before logs had a name. Files that list keys without a name mean this one too.
pub const KEY_NAME: &str = "failsafe";

/// Gives the key that signs now, under a name, or says why there is none.
pub type NodeSigner = Box<dyn Fn(&str) -> Result<Box<dyn Signer>, String> + Send>;

/// Name of the file with the node's public keys, in the state folder.
pub const KEYS_FILE: &str = "log.keys";

/// How checkpoints are signed.
pub struct Signing {
    /// The name of the key for a new log. A log that has an origin keeps the name in it: a name that can change, such as a host's,
    /// must not change the log's identity.
    pub name: String,
    /// With what. Asked for each checkpoint, because a key can be replaced.
    pub signer: NodeSigner,
    /// How often, if there are new entries.
    pub every: Duration,
}

/// A tree that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTree {
    /// Identity of the log.
    pub origin: String,
    /// The entry that is leaf 0.
    pub first: u64,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

impl SignedTree {
    /// What a checkpoint of this log is about. `None`: its origin names a first entry that is no number.
    #[must_use]
    pub fn of(checkpoint: Checkpoint) -> Option<SignedTree> {
        let Checkpoint { origin, size, root, .. } = checkpoint;
        Some(SignedTree { first: first_entry(&origin)?, origin, size, root })
    }

    /// Number of the log's entries that it vouches for, those before its first leaf included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.first.saturating_add(self.size)
    }
}

/// The origin of a log by its name, the hash of an entry in it, and the entry that is leaf 0. A log that replaces another one of
/// the same node must have another origin: under one origin a key signs only trees that contain each other.
#[must_use]
pub fn origin(key: &str, entry: &Hash, first: u64) -> String {
    let id = hex::encode(&entry[..8]);
    match first {
        0 => format!("{key}/log/{id}"),
        first => format!("{key}/log/{id}/from/{first}"),
    }
}

/// The name of the key that signs for the log with this origin.
#[must_use]
pub fn key_name(origin: &str) -> Option<&str> {
    origin.rsplit_once("/log/").map(|(name, _)| name).filter(|name| !name.is_empty())
}

/// The entry that is leaf 0 of the tree with this origin.
#[must_use]
pub fn first_entry(origin: &str) -> Option<u64> {
    match origin.rsplit_once("/from/") {
        Some((_, first)) => failsafe_tlog::hash::decimal(first),
        None => Some(0),
    }
}

/// The checkpoint of the border in front of entry `at`.
#[must_use]
pub fn checkpoint_path(dir: &Path, at: u64) -> PathBuf {
    dir.join(format!("{at:020}.checkpoint"))
}

/// Whether there is anything that was signed.
pub(crate) fn exist(dir: &Path, latest: &Path) -> bool {
    is_there(latest) || !numbered(dir, "checkpoint").is_empty()
}

/// Whether there is anything at `path`: a link to nowhere is evidence too.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The last checkpoint of the log in `dir`, and what is amiss with it.
pub(crate) fn last(dir: &Path, latest: &Path, keys: &Keys, findings: &mut Vec<String>) -> Option<SignedTree> {
    let mut borders = numbered(dir, "checkpoint");
    let border = borders.pop().map(|at| checkpoint_path(dir, at));
    if !is_there(latest) && border.is_some() {
        findings.push(format!("the latest checkpoint of the audit log, {}, is missing", latest.display()));
    }
    let candidates = std::iter::once(latest.to_owned()).filter(|path| is_there(path)).chain(border);
    let mut found: Option<SignedTree> = None;
    for path in candidates {
        let read = bounded::read(&path, bounded::LARGEST).map_err(|error| error.to_string());
        let read = read.and_then(|note| Checkpoint::open(&note, keys).map_err(|error| error.to_string()));
        match read.map(|(checkpoint, _)| SignedTree::of(checkpoint)) {
            Ok(Some(tree)) => match &found {
                Some(latest) if latest.entries() < tree.entries() => {
                    findings.push(format!(
                        "the latest checkpoint of the audit log is of {} entries, but one of {} was signed before: it was replaced \
                         by an older one",
                        latest.entries(),
                        tree.entries()
                    ));
                    found = Some(tree);
                }
                Some(_) => {}
                None => found = Some(tree),
            },
            Ok(None) => findings.push(format!("{}: the origin of the checkpoint names no entry", path.display())),
            Err(error) => findings.push(format!("{}: {error}", path.display())),
        }
    }
    found
}

/// What is amiss with the `last` checkpoint if the log states that one of `stated` entries was signed. What [`last`] finds by itself
/// is not repeated.
pub(crate) fn unlike_stated(latest: &Path, last: Option<&SignedTree>, stated: u64) -> Option<String> {
    if last.map_or(0, SignedTree::entries) >= stated {
        return None;
    }
    let stated = format!("the log states that one of {stated} entries was signed");
    match (is_there(latest), last) {
        (false, None) => {
            Some(format!("the latest checkpoint of the audit log, {}, is missing: {stated}", latest.display()))
        }
        (true, Some(last)) => Some(format!(
            "the latest checkpoint of the audit log, {}, is of {} entries, but {stated}: it was replaced by an older one",
            latest.display(),
            last.entries()
        )),
        (false, Some(_)) | (true, None) => None,
    }
}

/// Keeps a signed checkpoint, durably.
pub(crate) fn keep(dir: &Path, latest: &Path, note: &[u8], border: Option<u64>) -> io::Result<()> {
    // In this order: where a border has a checkpoint, there was a latest one too.
    replace_synced(latest, note, MODE)?;
    border.map_or(Ok(()), |at| replace_synced(&checkpoint_path(dir, at), note, MODE))
}

/// Moves everything that was signed, and the edges, into the folder `checkpoints.aside-<wall_ns>`: the log does not contain it. If
/// there is such a folder, another one is made: what is in it is evidence too. The latest checkpoint goes last: it shows once more
/// what is amiss if this is interrupted.
pub(crate) fn put_aside(dir: &Path, latest: Option<&Path>, wall_ns: u64) -> io::Result<()> {
    let borders = numbered(dir, "checkpoint").into_iter().map(|at| checkpoint_path(dir, at));
    let edges = numbered(dir, "tree").into_iter().map(|at| edge_path(dir, at));
    let latest = latest.map(Path::to_owned).filter(|path| is_there(path));
    let mut paths = borders.chain(edges).chain(latest).peekable();
    if paths.peek().is_none() {
        return Ok(());
    }
    let to = new_folder(dir, &format!("checkpoints.aside-{wall_ns}"))?;
    let mut moved_from = None;
    for path in paths {
        if let Some(name) = path.file_name() {
            fs::rename(&path, to.join(name))?;
        }
        moved_from = path.parent().map(Path::to_owned);
    }
    for folder in [Some(to.as_path()), Some(dir), moved_from.as_deref()].into_iter().flatten() {
        sync_dir(folder).map_err(|error| error.source)?;
    }
    Ok(())
}

/// Makes the folder `name`, or `name-1` and so on if there is one.
fn new_folder(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let mut to = dir.join(name);
    let mut next = 1_u32;
    loop {
        match fs::create_dir(&to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => to = dir.join(format!("{name}-{next}")),
            made => return made.map(|()| to),
        }
        next = next.saturating_add(1);
    }
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").field("name", &self.name).field("every", &self.every).finish_non_exhaustive()
    }
}
