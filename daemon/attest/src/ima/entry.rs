//! The entries of a measurement list, in both forms in which the kernel shows it.
//!
//! ```text
//! text    PCR  TEMPLATE-HASH  TEMPLATE  FIELD FIELD ...          one line; names as they are, but for spaces
//! binary  PCR u32 | TEMPLATE-HASH | length u32, TEMPLATE | length u32, data          data: length u32, FIELD | ...
//! ```
//!
//! The kernel computes the hash of a template from the data of the binary form. A text has to be put together again for that.

use super::{BadEntry, Place};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Templates, with the number of their fields. The first field is the hash of the file, the second one its name.
const TEMPLATES: [(&str, usize); 5] =
    [("ima-ng", 2), ("ima-ngv2", 2), ("ima-sig", 3), ("ima-sigv2", 3), ("ima-buf", 3)];
/// Bytes of the template hash: SHA-1, or SHA-256 in newer lists.
const HASHES: [usize; 2] = [20, 32];

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub pcr: u32,
    /// With what the SHA-256 bank was extended.
    pub extended: [u8; 32],
    /// With what kernels extend it that only know SHA-1.
    pub padded: [u8; 32],
    pub violation: bool,
}

/// An entry, or where it is and what is wrong with it.
type Read = Result<Entry, (Place, BadEntry)>;

/// How a list is written.
pub(super) enum Form {
    Text,
    /// With template hashes of so many bytes.
    Binary(usize),
}

impl Form {
    /// A binary list begins with the number of a PCR, little endian: no text has zeros there.
    pub fn of(list: &[u8]) -> Form {
        if list.get(1..4) != Some(&[0_u8; 3][..]) {
            return Form::Text;
        }
        let fits =
            |hash: &usize| Record::cut(list, *hash).is_some_and(|(record, _)| fields_of(record.template).is_ok());
        Form::Binary(HASHES.into_iter().find(fits).unwrap_or(HASHES[0]))
    }

    /// The entries up to the first that is wrong.
    pub fn entries(self, list: &[u8]) -> Box<dyn Iterator<Item = Read> + '_> {
        match self {
            Form::Text if list.is_empty() => Box::new(std::iter::empty()),
            Form::Text => {
                let lines = list.strip_suffix(b"\n").unwrap_or(list).split(|byte| *byte == b'\n');
                Box::new(lines.enumerate().map(|(at, line)| of_line(line).map_err(|why| (Place::Line(at + 1), why))))
            }
            Form::Binary(hash) => Box::new(Records { list, at: 0, count: 0, hash }),
        }
    }
}

/// The entries of a binary list.
struct Records<'a> {
    list: &'a [u8],
    at: usize,
    count: usize,
    hash: usize,
}

impl Iterator for Records<'_> {
    type Item = Read;

    fn next(&mut self) -> Option<Read> {
        let rest = self.list.get(self.at..).filter(|rest| !rest.is_empty())?;
        self.count += 1;
        let place = Place::Record(self.count, self.at);
        let Some((record, bytes)) = Record::cut(rest, self.hash) else {
            self.at = self.list.len();
            return Some(Err((place, BadEntry::Cut)));
        };
        self.at += bytes;
        Some(record.entry().map_err(|why| (place, why)))
    }
}

/// An entry of a binary list.
struct Record<'a> {
    pcr: u32,
    hash: &'a [u8],
    template: &'a [u8],
    data: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first one of these bytes, and how many it has. `None`: they end within it.
    fn cut(bytes: &'a [u8], hash: usize) -> Option<(Record<'a>, usize)> {
        let mut rest = bytes;
        let pcr = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
        let hash = take(&mut rest, hash)?;
        let (template, data) = (sized(&mut rest)?, sized(&mut rest)?);
        Some((Record { pcr, hash, template, data }, bytes.len() - rest.len()))
    }

    fn entry(&self) -> Result<Entry, BadEntry> {
        let (name, fields) = fields_of(self.template)?;
        let mut rest = self.data;
        let all: Option<Vec<&[u8]>> = (0..fields).map(|_| sized(&mut rest)).collect();
        let wrong = || BadEntry::Data(name.to_owned());
        let digest = all.filter(|_| rest.is_empty()).ok_or_else(wrong)?.into_iter().next().ok_or_else(wrong)?;
        // Behind the algorithm: `sha256:`, zero, hash.
        let at = digest.windows(2).position(|pair| pair == b":\0").ok_or_else(wrong)?;
        Entry::of(self.pcr, self.hash, self.data, &digest[at + 2..])
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// What stands behind its length.
fn sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
    take(bytes, usize::try_from(length).ok()?)
}

/// A known template, and how many fields it has.
fn fields_of(template: &[u8]) -> Result<(&'static str, usize), BadEntry> {
    let known = TEMPLATES.into_iter().find(|(name, _)| name.as_bytes() == template);
    known.ok_or_else(|| BadEntry::Template(String::from_utf8_lossy(template).into_owned()))
}

impl Entry {
    /// With this hash of its template, these data, and this hash of the file.
    fn of(pcr: u32, hash: &[u8], data: &[u8], file: &[u8]) -> Result<Entry, BadEntry> {
        // The kernel has no hash of a file that changes while it is read: it shows zeros, and extends the PCR with ones.
        if hash.iter().all(|byte| *byte == 0) {
            let is_violation = file.iter().all(|byte| *byte == 0);
            let (extended, padded) = ([0xff; 32], padded(&[0xff; 20]));
            return is_violation.then_some(Entry { pcr, extended, padded, violation: true }).ok_or(BadEntry::Violation);
        }
        let (sha1, sha256): ([u8; 20], [u8; 32]) = (Sha1::digest(data).into(), Sha256::digest(data).into());
        if hash != sha1 && hash != sha256 {
            return Err(BadEntry::Altered);
        }
        Ok(Entry { pcr, extended: sha256, padded: padded(&sha1), violation: false })
    }
}

/// A SHA-1 hash, filled up with zeros.
fn padded(sha1: &[u8; 20]) -> [u8; 32] {
    let mut all = [0; 32];
    all[..sha1.len()].copy_from_slice(sha1);
    all
}

fn of_line(line: &[u8]) -> Result<Entry, BadEntry> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let mut word = || words.next().ok_or(BadEntry::Form);
    let (pcr, hash, template, shown) = (word()?, word()?, word()?, word()?);
    let pcr = std::str::from_utf8(pcr).ok().and_then(|pcr| pcr.parse().ok()).ok_or(BadEntry::Form)?;
    let hash = hex::decode(hash).ok().filter(|hash| HASHES.contains(&hash.len())).ok_or(BadEntry::Hash)?;
    let (name, fields) = fields_of(template)?;
    let wrong = || BadEntry::Data(name.to_owned());
    // The kernel replaces spaces in names. A missing signature is shown as nothing behind a space.
    let shown: Vec<&[u8]> = shown.split(|byte| *byte == b' ').collect();
    let (digest, path, last) = match shown[..] {
        [digest, path] if fields == 2 => (digest, path, None),
        [digest, path, last] if fields == 3 => (digest, path, Some(last)),
        _ => return Err(wrong()),
    };
    let at = digest.iter().rposition(|byte| *byte == b':').ok_or_else(wrong)?;
    let file = hex::decode(&digest[at + 1..]).map_err(|_| wrong())?;
    let mut data = Vec::new();
    put(&mut data, &[&digest[..at], b":\0", &file].concat());
    put(&mut data, &[path, b"\0"].concat());
    if let Some(last) = last {
        put(&mut data, &hex::decode(last).map_err(|_| wrong())?);
    }
    Entry::of(pcr, &hash, &data, &file)
}

fn put(data: &mut Vec<u8>, field: &[u8]) {
    // A line is shorter than 4 GiB.
    data.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
    data.extend(field);
}
