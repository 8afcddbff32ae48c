//! The measurement list of IMA, replayed against PCR 10 of a quote.
//!
//! ```text
//! line: 10 TEMPLATE-HASH TEMPLATE DATA      PCR' = SHA-256(PCR || SHA-256(data of the template))
//! ```
//!
//! The kernel extends the PCR with the hash of each entry. A list of which every entry is as it was extended gives the value of
//! the PCR; then the quote vouches for each file hash in it. Invariants: the hash of an entry is computed from its data, so that no
//! line is accepted of which only the hash is right; a template that is not known is an error. The kernel goes on measuring, so the
//! list may have entries behind those of the quote: they are counted, and not vouched for.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The PCR that IMA extends.
pub const IMA_PCR: u8 = 10;
/// Largest list that is read, bytes: about two million entries.
pub const MAX_LIST: usize = 256 << 20;

/// A list that agrees with the PCR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Entries that the quoted value covers.
    pub entries: usize,
    /// Entries behind them, measured after the quote or added by somebody.
    pub later: usize,
    /// Covered entries of files that were written while they were measured: the kernel has no hash of these.
    pub violations: usize,
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
    /// A line.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: BadEntry,
    },
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

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Its form.
    #[error("expected `PCR TEMPLATE-HASH TEMPLATE DATA`")]
    Form,
    /// The hash of the template.
    #[error("the template hash is not 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")]
    Hash,
    /// A template of which the data cannot be put together again from the text.
    #[error("the template `{0}` is not known; expected ima-ng, ima-sig, ima-buf, ima-ngv2 or ima-sigv2")]
    Template(String),
    /// The data.
    #[error("the data are not of the template `{0}`")]
    Data(String),
    /// It was altered.
    #[error("the template hash is not that of its data: the line was altered")]
    Altered,
}

/// Replays a list, as `/sys/kernel/security/ima/ascii_runtime_measurements` (or `..._sha256`) has it, against the value of PCR 10 of
/// the SHA-256 bank.
///
/// # Errors
/// [`ImaError`].
pub fn replay(list: &[u8], quoted: &[u8; 32]) -> Result<Replayed, ImaError> {
    if list.len() > MAX_LIST {
        return Err(ImaError::TooLarge(list.len()));
    }
    let (mut pcr, mut entries, mut violations, mut found) = ([0; 32], 0, 0, None);
    let text = list.strip_suffix(b"\n").unwrap_or(list);
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let entry = Entry::parse(line).map_err(|why| ImaError::Line { line: number + 1, why })?;
        if entry.pcr != IMA_PCR {
            continue;
        }
        entries += 1;
        violations += usize::from(entry.violation);
        pcr = Sha256::new().chain_update(pcr).chain_update(entry.extended).finalize().into();
        if pcr == *quoted {
            found = Some((entries, violations));
        }
    }
    match found {
        Some((covered, violations)) => Ok(Replayed { entries: covered, later: entries - covered, violations }),
        None if entries == 0 => Err(ImaError::Empty),
        None => Err(ImaError::NoMatch { entries, quoted: hex::encode(quoted), last: hex::encode(pcr) }),
    }
}

/// A line.
struct Entry {
    pcr: u8,
    /// With what the SHA-256 bank was extended.
    extended: [u8; 32],
    violation: bool,
}

impl Entry {
    fn parse(line: &[u8]) -> Result<Entry, BadEntry> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut word = || words.next().ok_or(BadEntry::Form);
        let (pcr, hash, template, data) = (word()?, word()?, word()?, word()?);
        let pcr = std::str::from_utf8(pcr).ok().and_then(|pcr| pcr.parse().ok()).ok_or(BadEntry::Form)?;
        let hash = hex::decode(hash).map_err(|_| BadEntry::Hash)?;
        if hash.len() != 20 && hash.len() != 32 {
            return Err(BadEntry::Hash);
        }
        let template = String::from_utf8_lossy(template).into_owned();
        let data = data_of(&template, data)?;
        // The kernel has no hash of a file that changes while it is read: it shows zeros, and extends the PCR with ones.
        if hash.iter().all(|byte| *byte == 0) {
            return Ok(Entry { pcr, extended: [0xff; 32], violation: true });
        }
        let extended: [u8; 32] = Sha256::digest(&data).into();
        let same = match hash.len() {
            20 => hash == Sha1::digest(&data)[..],
            _ => hash == extended,
        };
        if same { Ok(Entry { pcr, extended, violation: false }) } else { Err(BadEntry::Altered) }
    }
}

/// The bytes of which the kernel computes the hash of a template: each field behind its length.
fn data_of(template: &str, shown: &[u8]) -> Result<Vec<u8>, BadEntry> {
    let signed = match template {
        "ima-ng" | "ima-ngv2" => false,
        "ima-sig" | "ima-sigv2" | "ima-buf" => true,
        other => return Err(BadEntry::Template(other.to_owned())),
    };
    let wrong = || BadEntry::Data(template.to_owned());
    // The kernel replaces spaces in names. A missing signature is shown as nothing behind a space.
    let fields: Vec<&[u8]> = shown.split(|byte| *byte == b' ').collect();
    let (digest, name, last) = match fields[..] {
        [digest, name] if !signed => (digest, name, None),
        [digest, name, last] if signed => (digest, name, Some(last)),
        _ => return Err(wrong()),
    };
    let at = digest.iter().rposition(|byte| *byte == b':').ok_or_else(wrong)?;
    let (algorithm, hash) = (&digest[..at], &digest[at + 1..]);
    let hash = hex::decode(hash).map_err(|_| wrong())?;
    let mut data = Vec::new();
    put(&mut data, &[algorithm, b":\0", &hash].concat());
    put(&mut data, &[name, b"\0"].concat());
    if let Some(last) = last {
        put(&mut data, &hex::decode(last).map_err(|_| wrong())?);
    }
    Ok(data)
}

fn put(data: &mut Vec<u8>, field: &[u8]) {
    // A line is shorter than 4 GiB.
    data.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
    data.extend(field);
}

#[cfg(test)]
mod tests;
