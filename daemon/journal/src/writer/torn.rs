//! What a crash, or somebody else, left of the end of a log.

use crate::entry::Hash;
use crate::frame::{self, Bad};
use crate::head::Head;
use crate::storage::ReadAt;
use crate::walk::Chain;
use sha2::{Digest, Sha256};
use std::io;

/// A torn tail that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Where it began.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
    /// What was wrong with it.
    pub why: Bad,
    /// SHA-256 of it.
    pub sha256: Hash,
    /// Its readable beginning, without the frame header, at most [`EXCERPT_BYTES`] bytes.
    pub excerpt: String,
}

/// Most bytes of a dropped tail that a `recovered` entry quotes.
pub const EXCERPT_BYTES: usize = 512;

/// The hash of a torn tail, and its readable beginning.
pub(super) fn inspect(source: &impl ReadAt, offset: u64, why: Bad) -> io::Result<(Hash, String)> {
    let mut hasher = Sha256::new();
    let mut excerpt = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut at = offset;
    loop {
        match source.read_at(at, &mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&chunk[..n]);
                let room = (EXCERPT_BYTES + frame::FRAME_HEADER_BYTES).saturating_sub(excerpt.len());
                excerpt.extend_from_slice(&chunk[..n.min(room)]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let skip = if matches!(why, Bad::HeaderCut) { 0 } else { frame::FRAME_HEADER_BYTES };
    let text = excerpt.get(skip..).unwrap_or_default();
    Ok((hasher.finalize().into(), String::from_utf8_lossy(text).into_owned()))
}

/// What is wrong when a log that once stood at `head` now ends at `chain`.
pub(super) fn shortened(head: &Head, chain: Chain, hash_at: impl Fn(u64) -> Option<Hash>) -> Option<String> {
    let wrong = |what: String| {
        Some(format!(
            "the audit log is not the one that was written last: {what}; the head kept outside it is {} entries, {}",
            head.entries,
            hex::encode(head.hash)
        ))
    };
    let last = head.entries.checked_sub(1)?;
    if chain.next_index == 0 {
        return wrong("it is empty or was deleted".into());
    }
    if head.entries > chain.next_index {
        let missing = head.entries - chain.next_index;
        return wrong(format!("its last {missing} entries are missing: it ends with entry {}", chain.next_index - 1));
    }
    match hash_at(last) {
        Some(hash) if hash == head.hash => None,
        // Older than what retention has left: nothing to compare with.
        None => None,
        Some(hash) => wrong(format!("its entry {last} has hash {}", hex::encode(hash))),
    }
}
