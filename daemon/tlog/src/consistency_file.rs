//! Files with a consistency proof: one text that shows, offline, that the log of its checkpoint extends an earlier one. It has the
//! form of the request with which a witness is given a checkpoint (c2sp.org/tlog-witness, `add-checkpoint`).

use crate::checkpoint::{BadCheckpoint, Checkpoint};
use crate::hash::{self, Hash};
use crate::note::{self, Keys, VerifierKey};
use crate::proof::{Wrong, verify_consistency};

/// Most hashes of the proof, by the specification.
pub const MAX_HASHES: usize = 63;
/// Most bytes of a file: the largest note, the hashes, and the first line.
pub const MAX_BYTES: usize = note::MAX_BYTES + (MAX_HASHES + 1) * 64;

/// A proof that the log of a checkpoint extends an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyFile {
    /// Leaves of the earlier tree.
    pub old: u64,
    /// The consistency proof.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint of the later tree, as bytes.
    pub checkpoint: Vec<u8>,
}

/// A file that is no consistency proof, or proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConsistency {
    /// Too long.
    #[error("the proof has {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the proof is not UTF-8 text, from byte {0} on")]
    Utf8(usize),
    /// The first line.
    #[error("the first line of the proof must be `old N`, with a decimal number without leading zeros")]
    Old,
    /// A line of the proof.
    #[error("hash {0} of the proof is not the base64 text of 32 bytes")]
    Hash(usize),
    /// Too many lines.
    #[error("the proof has {0} hashes; the limit is {MAX_HASHES}")]
    TooMany(usize),
    /// No empty line.
    #[error("the proof has no checkpoint: an empty line and a signed checkpoint must end it")]
    NoCheckpoint,
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// It is about another earlier tree.
    #[error("the proof is for an earlier tree of {found} entries, not of {expected}")]
    OtherOld {
        /// In the file.
        found: u64,
        /// Of the earlier checkpoint.
        expected: u64,
    },
    /// It is about another log.
    #[error("the proof is of the log {found}, the earlier checkpoint is of {expected}")]
    OtherLog {
        /// Origin of the file's checkpoint.
        found: String,
        /// Origin of the earlier checkpoint.
        expected: String,
    },
    /// It proves nothing.
    #[error(transparent)]
    Wrong(#[from] Wrong),
}

impl ConsistencyFile {
    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("old {}\n", self.old);
        for hash in &self.hashes {
            text.push_str(&hash::encode(hash));
            text.push('\n');
        }
        text.push('\n');
        [text.as_bytes(), &self.checkpoint].concat()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`BadConsistency`].
    pub fn parse(bytes: &[u8]) -> Result<ConsistencyFile, BadConsistency> {
        if bytes.len() > MAX_BYTES {
            return Err(BadConsistency::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| BadConsistency::Utf8(error.valid_up_to()))?;
        let (proof, checkpoint) = text.split_once("\n\n").ok_or(BadConsistency::NoCheckpoint)?;
        let mut lines = proof.split('\n');
        let old = lines.next().and_then(|line| hash::decimal(line.strip_prefix("old ")?)).ok_or(BadConsistency::Old)?;
        let lines: Vec<&str> = lines.collect();
        if lines.len() > MAX_HASHES {
            return Err(BadConsistency::TooMany(lines.len()));
        }
        let hashes = lines.iter().enumerate().map(|(at, line)| hash::decode(line).ok_or(BadConsistency::Hash(at + 1)));
        Ok(ConsistencyFile {
            old,
            hashes: hashes.collect::<Result<_, _>>()?,
            checkpoint: checkpoint.as_bytes().to_vec(),
        })
    }

    /// The checkpoint of the later tree, if one of `keys` signed it.
    ///
    /// # Errors
    /// [`BadConsistency::Checkpoint`].
    pub fn open(&self, keys: &Keys) -> Result<(Checkpoint, VerifierKey), BadConsistency> {
        Ok(Checkpoint::open(&self.checkpoint, keys)?)
    }

    /// Verifies that the tree of `new`, the checkpoint of this file, contains the tree of `old`.
    ///
    /// # Errors
    /// [`BadConsistency`].
    pub fn verify(&self, old: &Checkpoint, new: &Checkpoint) -> Result<(), BadConsistency> {
        if old.origin != new.origin {
            return Err(BadConsistency::OtherLog { found: new.origin.clone(), expected: old.origin.clone() });
        }
        // Before the sizes of the proof: an old checkpoint in it is the finding.
        if new.size < old.size {
            return Err(Wrong::Smaller { earlier: old.size, later: new.size }.into());
        }
        if self.old != old.size {
            return Err(BadConsistency::OtherOld { found: self.old, expected: old.size });
        }
        Ok(verify_consistency((old.size, &old.root), (new.size, &new.root), &self.hashes)?)
    }
}
