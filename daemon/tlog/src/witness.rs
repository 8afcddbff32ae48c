//! What a witness does with a request (c2sp.org/tlog-witness, `add-checkpoint`): it cosigns a checkpoint that extends the one that it
//! cosigned last of the same log, and refuses any other. Pure: the caller keeps what was cosigned, durably, before it hands out the
//! cosignature, and lets one request be judged at a time.

use crate::checkpoint::{BadCheckpoint, Checkpoint};
use crate::consistency_file::{BadConsistency, ConsistencyFile};
use crate::cosignature::{Cosigner, cosign};
use crate::hash::empty_root;
use crate::note::{Keys, NotVerified, Note};
use crate::proof::{Wrong, verify_consistency};

/// A checkpoint that was cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// What the witness keeps now as the latest of this log.
    pub checkpoint: Checkpoint,
    /// The note with the log's signatures that were verified, and the cosignature.
    pub note: Vec<u8>,
    /// The line of the cosignature: the answer to the request.
    pub line: String,
}

/// A request that is refused. Nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no request.
    #[error("the request cannot be read: {0}")]
    Malformed(#[from] BadConsistency),
    /// No key is trusted for the log.
    #[error("the log `{0}` is not one of those that this witness knows")]
    UnknownLog(String),
    /// The signature.
    #[error("the checkpoint is not signed by a known key of its log: {0}")]
    NotSigned(#[from] NotVerified),
    /// The proof is longer than the tree.
    #[error("the request is for an earlier tree of {old} entries, more than the {new} of its checkpoint")]
    Backwards {
        /// In the request.
        old: u64,
        /// Of the checkpoint.
        new: u64,
    },
    /// The request begins at another tree than the last one that was cosigned.
    #[error("the request is for an earlier tree of {old} entries, but this witness cosigned {cosigned} last")]
    Conflict {
        /// In the request.
        old: u64,
        /// Of the checkpoint that was cosigned last; 0: there is none.
        cosigned: u64,
    },
    /// The checkpoint does not extend the last one that was cosigned.
    #[error("the checkpoint does not extend the one that this witness cosigned last: {0}")]
    Inconsistent(#[from] Wrong),
    /// The root of an empty tree.
    #[error("the checkpoint is of an empty tree, but its root hash is not that of an empty tree")]
    EmptyRoot,
    /// What is kept is of another log.
    #[error("the checkpoint that was cosigned last is of the log `{0}`")]
    OtherLog(String),
}

impl Refusal {
    /// The HTTP status of the answer, by the specification.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Malformed(_) | Refusal::Backwards { .. } => 400,
            Refusal::NotSigned(_) => 403,
            Refusal::UnknownLog(_) => 404,
            Refusal::Conflict { .. } => 409,
            Refusal::Inconsistent(_) | Refusal::EmptyRoot => 422,
            Refusal::OtherLog(_) => 500,
        }
    }
}

/// Whether a log with this origin is one of the key with this name: the name is the origin, or begins it up to a slash.
#[must_use]
pub fn is_origin_of(name: &str, origin: &str) -> bool {
    origin.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The origin of the log that a request is about: of which the caller looks up what was cosigned last. It is not verified.
///
/// # Errors
/// [`Refusal::Malformed`].
pub fn origin(request: &ConsistencyFile) -> Result<String, Refusal> {
    Ok(Checkpoint::unverified(&request.checkpoint).map_err(BadConsistency::from)?.origin)
}

/// Judges a request. `last` is what this witness cosigned last of the log; `keys` are the keys that it trusts, `now` is the time in
/// seconds since the epoch.
///
/// # Errors
/// [`Refusal`].
pub fn judge(
    request: &ConsistencyFile,
    last: Option<&Checkpoint>,
    keys: &Keys,
    now: u64,
    cosigner: &dyn Cosigner,
) -> Result<Cosigned, Refusal> {
    let malformed = |error: BadCheckpoint| Refusal::Malformed(error.into());
    let mut note = Note::parse(&request.checkpoint).map_err(|error| malformed(error.into()))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(malformed)?;
    let of_log = Keys::of(keys.iter().filter(|key| is_origin_of(key.name(), &checkpoint.origin)).cloned().collect());
    if of_log.is_empty() {
        return Err(Refusal::UnknownLog(checkpoint.origin));
    }
    note.verify(&of_log)?;
    if request.old > checkpoint.size {
        return Err(Refusal::Backwards { old: request.old, new: checkpoint.size });
    }
    if let Some(last) = last.filter(|last| last.origin != checkpoint.origin) {
        return Err(Refusal::OtherLog(last.origin.clone()));
    }
    let (cosigned, root) = last.map_or_else(|| (0, empty_root()), |last| (last.size, last.root));
    if request.old != cosigned {
        return Err(Refusal::Conflict { old: request.old, cosigned });
    }
    if checkpoint.size == 0 && checkpoint.root != empty_root() {
        return Err(Refusal::EmptyRoot);
    }
    verify_consistency((cosigned, &root), (checkpoint.size, &checkpoint.root), &request.hashes)?;
    // The witness answers for no other signature of the note.
    note.retain(&of_log);
    let signature = cosign(&note, now, cosigner);
    let line = signature.line();
    note.add(signature);
    Ok(Cosigned { checkpoint, note: note.encode(), line })
}
