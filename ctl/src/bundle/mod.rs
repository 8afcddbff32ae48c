//! The file of one incident: an uncompressed tar archive that standard tools can open, in exactly one form.
//!
//! ```text
//!  manifest.json     what the parts are, and what is missing
//!  checkpoint        the signed checkpoint of the audit log
//!  keys.untrusted    public keys of the node, as it names them
//!  policy.json       the policy that the run was pinned to
//!  statement.json    the signed statement of the run
//!  entries/N.json    entries of the log, byte for byte
//!  proofs/N.tlog-proof  the inclusion proof of each in the checkpoint
//!  recordings/NNNN.fsrec
//!  SHA256SUMS        of all parts before it
//! ```
//!
//! Invariants: one content has one file, byte for byte, so that no byte can be changed without effect. Nothing is written to disk
//! when a file is read, no name in it is used as a path, and no size in it is believed before it was compared with the file.

pub mod archive;
pub mod manifest;

use failsafe_attest::{envelope::MAX_ENVELOPE, key::MAX_KEYS_FILE};
use failsafe_journal::entry::MAX_ENTRY_BYTES;
use failsafe_tlog::note;
use std::fmt;

/// Most entries of the log.
pub const MAX_ENTRIES: usize = 10_000;
/// Most recordings.
pub const MAX_RECORDINGS: usize = 1_000;
/// Most bytes of all parts that are held in memory: all but recordings.
pub const MAX_IN_MEMORY: u64 = 64 << 20;

/// A part, by its name. Their order is that in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The list of parts.
    Manifest,
    /// The signed checkpoint.
    Checkpoint,
    /// The node's public keys.
    Keys,
    /// The policy.
    Policy,
    /// The statement of the run.
    Statement,
    /// An entry of the log.
    Entry(u64),
    /// Its proof.
    Proof(u64),
    /// A recording.
    Recording(u32),
    /// The digests.
    Sums,
}

impl Name {
    /// The part of this name, if there can be one.
    pub fn parse(text: &str) -> Option<Name> {
        let number = |before: &str, behind: &str| text.strip_prefix(before)?.strip_suffix(behind);
        let fixed = [Name::Manifest, Name::Checkpoint, Name::Keys, Name::Policy, Name::Statement, Name::Sums];
        let entry = || number("entries/", ".json")?.parse().ok().map(Name::Entry);
        let proof = || number("proofs/", ".tlog-proof")?.parse().ok().map(Name::Proof);
        let recording = || number("recordings/", ".fsrec")?.parse().ok().map(Name::Recording);
        let found = fixed.into_iter().find(|name| name.to_string() == text);
        let found = found.or_else(entry).or_else(proof).or_else(recording);
        found.filter(|name| name.to_string() == text)
    }

    /// The largest size that makes sense, in bytes.
    pub fn limit(self) -> u64 {
        let limit = match self {
            Name::Manifest | Name::Sums | Name::Policy => 8 << 20,
            Name::Checkpoint => note::MAX_BYTES,
            Name::Keys => MAX_KEYS_FILE,
            Name::Statement => MAX_ENVELOPE,
            Name::Entry(_) => MAX_ENTRY_BYTES,
            // At most 64 hashes, and the checkpoint.
            Name::Proof(_) => note::MAX_BYTES + (8 << 10),
            Name::Recording(_) => 1 << 30,
        };
        limit as u64
    }

    /// What it is, for programs.
    pub fn media_type(self) -> &'static str {
        match self {
            Name::Manifest | Name::Policy | Name::Entry(_) => "application/json",
            Name::Statement => "application/vnd.dsse+json",
            Name::Checkpoint | Name::Keys | Name::Proof(_) | Name::Sums => "text/plain",
            Name::Recording(_) => "application/octet-stream",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Manifest => f.write_str("manifest.json"),
            Name::Checkpoint => f.write_str("checkpoint"),
            Name::Keys => f.write_str("keys.untrusted"),
            Name::Policy => f.write_str("policy.json"),
            Name::Statement => f.write_str("statement.json"),
            Name::Entry(index) => write!(f, "entries/{index:020}.json"),
            Name::Proof(index) => write!(f, "proofs/{index:020}.tlog-proof"),
            Name::Recording(number) => write!(f, "recordings/{number:04}.fsrec"),
            Name::Sums => f.write_str("SHA256SUMS"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_name() {
        for name in [Name::Manifest, Name::Entry(0), Name::Proof(u64::MAX), Name::Recording(12_345), Name::Sums] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for wrong in ["", "manifest", "entries/23.json", "entries/+0000000000000000023.json", "/etc/passwd", "../keys"]
        {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
