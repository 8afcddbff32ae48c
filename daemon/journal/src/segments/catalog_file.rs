//! The file of the catalog: what the summaries of all sealed segments have, in one file, so that neither a start nor a query opens
//! them one by one.
//!
//! ```text
//!  segments.catalog   magic | link before | record | record | ...
//!  link               SHA-256(link before || record)
//!  audit.log          its first entry states the link behind the record of the last sealed segment
//! ```
//!
//! Derived data: it counts only as far as an entry of the log states its link, and is made again from the summaries. A record is
//! appended before the segment is sealed, so what is behind the stated link is left of an interrupted sealing.

use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::{Brief, Names, Summary};
use crate::entry::Hash;
use crate::frame::u32_at;
use crate::storage::bounded;
use crate::storage::file::move_aside;
use crate::storage::folder::{MODE, replace_synced};

/// Its name in the log's folder.
pub const CATALOG_FILE: &str = "segments.catalog";

/// First bytes: name and version.
const MAGIC: &[u8; 8] = b"FSCATLG\x01";
/// Largest file: of a log of about 700 GiB. A larger log has none, and its summaries are read.
pub(crate) const LARGEST: u64 = 256 << 20;
/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = MAGIC.len() + 32;
/// A record without names, and without its length.
const FIXED_BYTES: usize = 6 * 8 + 3 * 32;

/// The record of a segment.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What the summary has. `prev` and `previous_summary` of the first record are not known here.
    pub brief: Brief,
    /// The link behind it.
    pub link: Hash,
    /// Where it ends in the file.
    pub end: usize,
}

/// Reads the whole records of the log in `dir`, in order.
///
/// # Errors
/// The file cannot be read, or is no catalog.
pub(crate) fn read(dir: &Path) -> io::Result<Vec<Record>> {
    let bytes = bounded::read(&dir.join(CATALOG_FILE), LARGEST)?;
    decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no catalog"))
}

/// Reads the records up to the first that is incomplete or invalid. Never panics.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Record>> {
    let before = bytes.strip_prefix(MAGIC)?.get(..32)?.try_into().ok()?;
    let (mut list, mut at, mut link): (Vec<Record>, _, Hash) = (Vec::new(), HEADER_BYTES, before);
    while let Some(body) = u32_at(bytes, at).and_then(|len| bytes.get(at + 4..)?.get(..len as usize)) {
        let last = list.last().map(|record| &record.brief);
        let Some(brief) = decode_record(body, last) else { break };
        let end = at + 4 + body.len();
        link = following(&link, &bytes[at..end]);
        list.push(Record { brief, link, end });
        at = end;
    }
    Some(list)
}

/// What the records of a catalog's file have, up to the first that is incomplete or invalid; `None`: it is none.
#[must_use]
pub fn catalog_briefs(bytes: &[u8]) -> Option<Vec<Brief>> {
    decode(bytes).map(|list| list.into_iter().map(|record| record.brief).collect())
}

fn decode_record(body: &[u8], last: Option<&Brief>) -> Option<Brief> {
    let (fixed, names) = body.split_at_checked(FIXED_BYTES)?;
    let number = |at: usize| Some(u64::from_le_bytes(fixed.get(at * 8..at * 8 + 8)?.try_into().ok()?));
    let hash = |at: usize| fixed.get(48 + at * 32..80 + at * 32)?.try_into().ok();
    let head = Summary {
        first: number(0)?,
        entries: number(1)?,
        bytes: number(2)?,
        first_wall_ns: number(3)?,
        last_wall_ns: number(4)?,
        head: hash(0)?,
        index_sha256: hash(1)?,
        prev: last.map_or([0; 32], |last| last.head),
        previous_summary: last.map_or([0; 32], |last| last.hash),
        ..Summary::default()
    };
    Some(Brief::listed(&head, (hash(2)?, number(5)?), Names::decode(names)?))
}

/// The record of a segment, with its length.
pub(crate) fn encode_record(brief: &Brief) -> Vec<u8> {
    let mut body = Vec::with_capacity(FIXED_BYTES);
    let Brief { first, entries, bytes, first_wall_ns, last_wall_ns, summary_bytes, .. } = *brief;
    let numbers = [first, entries, bytes, first_wall_ns, last_wall_ns, summary_bytes];
    numbers.iter().for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
    [brief.head, brief.index_sha256, brief.hash].iter().for_each(|hash| body.extend_from_slice(hash));
    brief.names().encode(&mut body);
    // A record has at most a few KiB.
    let mut record = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    record.append(&mut body);
    record
}

fn following(link: &Hash, record: &[u8]) -> Hash {
    Sha256::new().chain_update(link).chain_update(record).finalize().into()
}

/// A file that readers would refuse is not written.
fn within(bytes: u64, limit: u64) -> io::Result<()> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it would have more than {limit} bytes"))),
    }
}

/// The file as the log's writer keeps it.
#[derive(Debug, Clone)]
pub(crate) struct CatalogFile {
    path: PathBuf,
    /// The link behind the last record that counts.
    pub link: Hash,
    /// Where that record ends.
    bytes: u64,
}

impl CatalogFile {
    /// The file in `dir`, up to the record with this link and end.
    pub fn at(dir: &Path, link: Hash, end: usize) -> CatalogFile {
        CatalogFile { path: dir.join(CATALOG_FILE), link, bytes: end as u64 }
    }

    /// Writes the file anew with these summaries, durably.
    ///
    /// # Errors
    /// Those of the medium, and [`io::ErrorKind::FileTooLarge`]; the file before is then still there, or the new one.
    pub fn make(dir: &Path, briefs: &[&Brief]) -> io::Result<CatalogFile> {
        CatalogFile::make_within(dir, briefs, LARGEST)
    }

    pub(super) fn make_within(dir: &Path, briefs: &[&Brief], limit: u64) -> io::Result<CatalogFile> {
        let mut link = Hash::default();
        let mut out = [MAGIC.as_slice(), &link].concat();
        for brief in briefs {
            let record = encode_record(brief);
            link = following(&link, &record);
            out.extend_from_slice(&record);
            within(out.len() as u64, limit)?;
        }
        let file = CatalogFile::at(dir, link, out.len());
        if file.path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            // Nothing of it is ours, and a file does not replace a folder.
            move_aside(&file.path)?;
        }
        replace_synced(&file.path, &out, MODE)?;
        Ok(file)
    }

    /// Appends the record of one more segment, durably. Returns the file with it. A segment that is not sealed after all has its
    /// record replaced by the next call.
    ///
    /// # Errors
    /// Those of the medium, [`io::ErrorKind::FileTooLarge`], and [`io::ErrorKind::InvalidData`]: the file is not as it was left.
    pub fn with(&self, brief: &Brief) -> io::Result<CatalogFile> {
        self.with_within(brief, LARGEST)
    }

    pub(super) fn with_within(&self, brief: &Brief, limit: u64) -> io::Result<CatalogFile> {
        let record = encode_record(brief);
        within(self.bytes + record.len() as u64, limit)?;
        let mut file = bounded::open_regular(&self.path, OpenOptions::new().append(true), OFlag::O_NOFOLLOW)?;
        let found = file.metadata()?.len();
        if found < self.bytes {
            let text = format!("it has {found} bytes, not {}", self.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // What an earlier attempt left.
        file.set_len(self.bytes)?;
        file.write_all(&record)?;
        file.sync_all()?;
        let bytes = self.bytes + record.len() as u64;
        Ok(CatalogFile { path: self.path.clone(), link: following(&self.link, &record), bytes })
    }

    /// Removes the records of the segments before entry `begin` but the last, if they are more than are left.
    ///
    /// # Errors
    /// Those of the medium, and [`io::ErrorKind::InvalidData`]: the file is not as it was left. It is then as it was.
    pub fn forget(&mut self, begin: u64) -> io::Result<()> {
        let bytes = bounded::read(&self.path, LARGEST)?;
        let as_left = || io::Error::new(io::ErrorKind::InvalidData, "it was changed");
        let list = decode(&bytes).ok_or_else(as_left)?;
        let count = list.iter().position(|record| record.link == self.link).ok_or_else(as_left)? + 1;
        let gone = list.iter().take(count).filter(|record| record.brief.end().next_index < begin).count();
        let Some(last) = gone.checked_sub(1).and_then(|last| list.get(last)).filter(|_| gone > count - gone) else {
            return Ok(());
        };
        let end = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let rest = bytes.get(last.end..end).ok_or_else(as_left)?;
        let out = [MAGIC.as_slice(), &last.link, rest].concat();
        replace_synced(&self.path, &out, MODE)?;
        self.bytes = out.len() as u64;
        Ok(())
    }
}
