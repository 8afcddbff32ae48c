//! The measurement list of IMA, replayed against PCR 10 of a quote.
//!
//! ```text
//! entry: PCR  TEMPLATE-HASH  TEMPLATE  DATA      PCR' = SHA-256(PCR || SHA-256(data of the template))
//! ```
//!
//! The kernel extends the PCR with the hash of each entry. A list of which every entry is as it was extended gives the value of
//! the PCR; then the quote vouches for each file hash in it. Invariants: the hash of an entry is computed from its data, so that no
//! entry is accepted of which only the hash is right; a template that is not known is an error; what the quote does not vouch for is
//! counted: entries after those of the quote, entries of other PCRs, and violations.

mod entry;

use entry::{Entry, Form};
use sha2::{Digest, Sha256};
use std::fmt;

/// The PCR that IMA extends.
pub const IMA_PCR: u8 = 10;
/// Largest list that is read, bytes: about two million entries.
pub const MAX_LIST: usize = 256 << 20;

/// A list that agrees with the PCR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Entries that the quoted value covers.
    pub entries: usize,
    /// Entries after them, measured after the quote or added by somebody.
    pub later: usize,
    /// Covered entries of files that were written while they were measured: the kernel has no hash of these, and nothing in these
    /// entries is covered, the names of the files included.
    pub violations: usize,
    /// Entries of other PCRs, anywhere in the list. Anybody can add them.
    pub others: usize,
}

/// Why a list is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImaError {
    /// Too large.
    #[error("the list has {0} bytes, expected at most {MAX_LIST}")]
    TooLarge(usize),
    /// No entry.
    #[error("the list has no entry of PCR {IMA_PCR}")]
    Empty,
    /// An entry.
    #[error("{place}: {why}{}", meaning(.place, .why))]
    Entry {
        /// Where it is.
        place: Place,
        /// What is wrong with it.
        why: BadEntry,
    },
    /// The kernel extended the bank with something that proves nothing.
    #[error(
        "PCR {IMA_PCR} was extended with SHA-1 hashes, filled up with zeros, as kernels before 5.8 do it: two lists can give such a \
         value, so that the quote proves neither"
    )]
    OnlySha1,
    /// The value is never reached.
    #[error(
        "after none of its {entries} entries PCR {IMA_PCR} has the quoted value {quoted}: the list is of another boot, was altered, \
         or ends before the quote (after the last entry it would be {last})"
    )]
    NoMatch {
        /// Entries of the PCR in the list.
        entries: usize,
        /// The quoted value, hex.
        quoted: String,
        /// What the whole list gives, hex.
        last: String,
    },
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of a text, from 1.
    Line(usize),
    /// An entry of a binary list, from 1, and the byte at which it begins.
    Record(usize, usize),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Its form.
    #[error("expected `PCR TEMPLATE-HASH TEMPLATE DATA`")]
    Form,
    /// The list ends within it.
    #[error("the list ends within this entry")]
    Cut,
    /// The hash of the template.
    #[error("the template hash is not 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")]
    Hash,
    /// A template of which the data are not known.
    #[error("the template `{0}` is not known; expected ima-ng, ima-sig, ima-buf, ima-ngv2 or ima-sigv2")]
    Template(String),
    /// The data.
    #[error("the data are not of the template `{0}`")]
    Data(String),
    /// The hash is another one.
    #[error("the template hash is not that of its data")]
    Altered,
    /// A violation that has a hash of a file.
    #[error("the template hash is zeros, as for a violation, but the entry has a file hash")]
    Violation,
}

impl ImaError {
    /// Whether the file is no list at all: already its first entry is none. An entry behind a good one was altered.
    #[must_use]
    pub fn is_no_list(&self) -> bool {
        match self {
            ImaError::TooLarge(_) | ImaError::Empty => true,
            ImaError::Entry { place: Place::Line(1) | Place::Record(1, _), why } => *why != BadEntry::Altered,
            ImaError::Entry { .. } | ImaError::OnlySha1 | ImaError::NoMatch { .. } => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Record(entry, at) => write!(f, "entry {entry}, at byte {at}"),
        }
    }
}

/// What an error means, beside what is wrong.
fn meaning(place: &Place, why: &BadEntry) -> &'static str {
    match (place, why) {
        (Place::Line(1), BadEntry::Form) => "",
        // The kernel writes names as they are: one with a line break gives a line that ends early, and one that is no entry.
        (Place::Line(_), BadEntry::Form | BadEntry::Data(_) | BadEntry::Altered) => {
            ": the line was altered, or the name of a file has a line break (the list `binary_runtime_measurements` has no lines)"
        }
        (Place::Record(..), BadEntry::Altered) => ": the entry was altered",
        _ => "",
    }
}

/// Replays a list against the value of PCR 10 of the SHA-256 bank: `/sys/kernel/security/ima/ascii_runtime_measurements` or
/// `binary_runtime_measurements`, also with `_sha256` behind it.
///
/// # Errors
/// [`ImaError`].
pub fn replay(list: &[u8], quoted: &[u8; 32]) -> Result<Replayed, ImaError> {
    if list.len() > MAX_LIST {
        return Err(ImaError::TooLarge(list.len()));
    }
    let mut pcr = Pcr::default();
    let (mut entries, mut violations, mut others, mut found) = (0, 0, 0, None);
    for entry in Form::of(list).entries(list) {
        let entry = entry.map_err(|(place, why)| ImaError::Entry { place, why })?;
        if entry.pcr != u32::from(IMA_PCR) {
            others += 1;
            continue;
        }
        entries += 1;
        violations += usize::from(entry.violation);
        pcr.extend(&entry);
        if pcr.sha256 == *quoted {
            found = Some((entries, violations));
        }
        pcr.was_padded |= pcr.padded == *quoted;
    }
    match found {
        Some((covered, violations)) => Ok(Replayed { entries: covered, later: entries - covered, violations, others }),
        None if entries == 0 => Err(ImaError::Empty),
        None if pcr.was_padded => Err(ImaError::OnlySha1),
        None => Err(ImaError::NoMatch { entries, quoted: hex::encode(quoted), last: hex::encode(pcr.sha256) }),
    }
}

/// What the PCR has.
#[derive(Default)]
struct Pcr {
    sha256: [u8; 32],
    /// Extended as by kernels that know no bank but that of SHA-1.
    padded: [u8; 32],
    was_padded: bool,
}

impl Pcr {
    fn extend(&mut self, entry: &Entry) {
        let extended = |pcr: &[u8; 32], with: &[u8; 32]| Sha256::new().chain_update(pcr).chain_update(with).finalize();
        self.sha256 = extended(&self.sha256, &entry.extended).into();
        self.padded = extended(&self.padded, &entry.padded).into();
    }
}

#[cfg(test)]
mod tests;
