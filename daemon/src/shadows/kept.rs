//! Shadows that somebody asked for, as they outlive the daemon: one file each, `shadows/RUN-DIGEST.json` in the state folder.
//!
//! Invariants: the name binds the content: another policy, or one of another run, is not used; what cannot be read stops nothing; number
//! and size are bounded, and what is larger is judged until the daemon ends.

use super::{Asked, By, PER_NODE};
use failsafe_core::{Actor, Policy, PolicyDigest, RunId};
use failsafe_journal::storage::{bounded, folder::replace_synced};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Most bytes of a file.
const MOST_BYTES: u64 = 1 << 20;
const ENDING: &str = ".json";

/// A shadow that an earlier daemon had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The run.
    pub run: RunId,
    /// The policy.
    pub policy: Policy,
    /// Who asked.
    pub uid: u32,
    /// Root or an administrator asked.
    pub reserved: bool,
    /// Who, for the log.
    pub actor: Actor,
}

fn path(folder: &Path, run: RunId, digest: PolicyDigest) -> PathBuf {
    folder.join(format!("{run}-{}{ENDING}", hex::encode(digest.0)))
}

/// Keeps one. Those of rules are made again by discovery.
pub(super) fn keep(folder: &Path, asked: &Asked) -> Result<(), String> {
    let By::User(uid) = asked.by else { return Ok(()) };
    let path = path(folder, asked.run.id, asked.digest);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let stored = Stored {
        run: asked.run.id,
        policy: (*asked.policy).clone(),
        uid,
        reserved: asked.reserved,
        actor: asked.actor.clone(),
    };
    let bytes = serde_json::to_vec(&stored).map_err(|error| failed(error.into()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it has {} bytes, of {MOST_BYTES} that are kept at most", bytes.len()));
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
        _ => replace_synced(&path, &bytes, 0o600).map_err(failed),
    }
}

/// Forgets one, if it is kept.
pub(super) fn forget(folder: &Path, run: RunId, digest: PolicyDigest) -> io::Result<()> {
    remove(&path(folder, run, digest))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths: Result<Vec<PathBuf>, String> = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| path.to_str().is_some_and(|path| path.ends_with(ENDING)));
    paths.sort_unstable();
    Ok(paths)
}

/// All that are kept, and what is wrong with others.
pub(super) fn read_all(folder: &Path) -> (Vec<Stored>, Vec<String>) {
    let paths = match files(folder) {
        Ok(paths) => paths,
        Err(why) => return (Vec::new(), vec![why]),
    };
    let (mut stored, mut wrong) = (Vec::new(), Vec::new());
    for path in paths.iter().take(PER_NODE) {
        match read(folder, path) {
            Ok(one) => stored.push(one),
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    if let Some(more) = paths.len().checked_sub(PER_NODE).filter(|more| *more > 0) {
        wrong.push(format!("{}: {more} files more than the {PER_NODE} shadows of a node", folder.display()));
    }
    (stored, wrong)
}

fn read(folder: &Path, path_of: &Path) -> io::Result<Stored> {
    let bytes = bounded::read(path_of, MOST_BYTES)?;
    let stored: Stored = serde_json::from_slice(&bytes)?;
    if path(folder, stored.run, stored.policy.digest()) != path_of {
        let why = "its name is of another run or policy than its content";
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(stored)
}

/// Removes those of runs that are over. What cannot be read stays, unless its name has such a run.
pub(super) fn tidy(folder: &Path, lives: impl Fn(RunId) -> bool) {
    for path in files(folder).unwrap_or_default() {
        let name = path.file_name().and_then(|name| name.to_str());
        let run = name.and_then(|name| name.get(..36)).and_then(|run| run.parse::<RunId>().ok());
        if run.is_some_and(|run| !lives(run))
            && let Err(error) = remove(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a shadow of a run that is over cannot be removed");
        }
    }
}
