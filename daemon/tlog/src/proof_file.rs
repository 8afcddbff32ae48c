//! Proof files (c2sp.org/tlog-proof): one text that shows, offline, that an entry is in a log. The entry itself travels in the
//! `extra` line, which nothing but the proof vouches for.

use crate::checkpoint::{BadCheckpoint, Checkpoint};
use crate::hash::{self, Hash, leaf_hash};
use crate::note::{Keys, VerifierKey};
use crate::proof::{Wrong, verify_inclusion};
use base64::{Engine, engine::general_purpose::STANDARD};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Most bytes of a proof file: an entry of 8 MiB in base64, and the rest.
pub const MAX_BYTES: usize = 12 << 20;

/// A proof that an entry is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// Extra data; here the entry.
    pub extra: Option<Vec<u8>>,
    /// The entry's place in the tree.
    pub index: u64,
    /// The inclusion proof.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, as bytes.
    pub checkpoint: Vec<u8>,
}

/// A file that is no proof, or proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// Too long.
    #[error("the proof has {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the proof is not UTF-8 text, from byte {0} on")]
    Utf8(usize),
    /// The first line.
    #[error("the first line of a proof must be {HEADER}")]
    Header,
    /// The extra line.
    #[error("the extra line of the proof is not base64 text")]
    Extra,
    /// The index line.
    #[error("the proof has no line `index N`, with a decimal number without leading zeros")]
    Index,
    /// A line of the inclusion proof.
    #[error("hash {0} of the proof is not the base64 text of 32 bytes")]
    Hash(usize),
    /// No empty line.
    #[error("the proof has no checkpoint: an empty line and a signed checkpoint must end it")]
    NoCheckpoint,
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// The inclusion proof.
    #[error("the entry is not proved: {0}")]
    Wrong(#[from] Wrong),
    /// Nothing to prove.
    #[error("the proof has no extra line with the entry")]
    NoEntry,
}

/// What a proof shows.
#[derive(Debug, Clone)]
pub struct Proved {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The key that signed it.
    pub key: VerifierKey,
    /// The entry.
    pub entry: Vec<u8>,
}

impl ProofFile {
    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}\n");
        if let Some(extra) = &self.extra {
            text.push_str(&format!("extra {}\n", STANDARD.encode(extra)));
        }
        text.push_str(&format!("index {}\n", self.index));
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
    /// [`BadProof`].
    pub fn parse(bytes: &[u8]) -> Result<ProofFile, BadProof> {
        if bytes.len() > MAX_BYTES {
            return Err(BadProof::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| BadProof::Utf8(error.valid_up_to()))?;
        let rest = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n')).ok_or(BadProof::Header)?;
        let (proof, checkpoint) = rest.split_once("\n\n").ok_or(BadProof::NoCheckpoint)?;
        let mut lines = proof.split('\n').peekable();
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => Some(STANDARD.decode(&line["extra ".len()..]).map_err(|_| BadProof::Extra)?),
            None => None,
        };
        let index = lines.next().and_then(|line| hash::decimal(line.strip_prefix("index ")?)).ok_or(BadProof::Index)?;
        let hashes = lines.enumerate().map(|(at, line)| hash::decode(line).ok_or(BadProof::Hash(at + 1)));
        let hashes = hashes.collect::<Result<_, _>>()?;
        Ok(ProofFile { extra, index, hashes, checkpoint: checkpoint.as_bytes().to_vec() })
    }

    /// Verifies that the entry in the extra line is in the tree of the checkpoint, and that one of `keys` signed that.
    ///
    /// # Errors
    /// [`BadProof`].
    pub fn verify(&self, keys: &Keys) -> Result<Proved, BadProof> {
        let entry = self.extra.clone().ok_or(BadProof::NoEntry)?;
        let (checkpoint, key) = Checkpoint::open(&self.checkpoint, keys)?;
        verify_inclusion(self.index, checkpoint.size, &leaf_hash(&entry), &self.hashes, &checkpoint.root)?;
        Ok(Proved { checkpoint, key, entry })
    }
}
