//! The parts of a file, read with bounds: its form, digests and list are checked here, and nothing of what they mean.

use super::super::replay::found::Section;
use crate::bundle::{
    Name,
    archive::{each_block, places},
    manifest::{Manifest, check_sums},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs::File, io};

/// The parts.
pub(super) struct Parts {
    pub manifest: Manifest,
    /// All but recordings.
    small: BTreeMap<Name, Vec<u8>>,
    recordings: BTreeMap<u32, Section>,
}

impl Parts {
    /// Reads a file. Recordings are hashed, and not kept in memory.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(file: File) -> Result<Parts, String> {
        let unreadable = |error: io::Error| format!("it cannot be read: {error}");
        let file = Section::whole(file).map_err(unreadable)?;
        let (mut small, mut recordings, mut digests) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (name, (begin, len)) in places(&file)? {
            let section = file.part(begin, len);
            match name {
                Name::Recording(number) => {
                    digests.insert(name, (len, sha256(&section, len).map_err(unreadable)?));
                    recordings.insert(number, section);
                }
                _ => {
                    let bytes = section.read(len).map_err(unreadable)?;
                    digests.insert(name, (len, hex::encode(Sha256::digest(&bytes))));
                    small.insert(name, bytes);
                }
            }
        }
        let sums =
            small.get(&Name::Sums).ok_or("SHA256SUMS is not there: it was removed, or this is another archive")?;
        check_sums(sums, &digests)?;
        let manifest = small.get(&Name::Manifest).ok_or("manifest.json is not there: it was removed")?;
        let manifest = Manifest::parse(manifest, &digests)?;
        Ok(Parts { manifest, small, recordings })
    }

    /// A part that is held in memory.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.small.get(&name).map(Vec::as_slice)
    }

    /// The entries of the log, by index.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.small.iter().filter_map(|(name, bytes)| match name {
            Name::Entry(index) => Some((*index, bytes.as_slice())),
            _ => None,
        })
    }

    /// The entries that there are proofs of.
    pub fn proofs(&self) -> impl Iterator<Item = u64> {
        self.small.keys().filter_map(|name| match name {
            Name::Proof(index) => Some(*index),
            _ => None,
        })
    }

    /// The recordings, by number.
    pub fn recordings(&self) -> impl Iterator<Item = (u32, &Section)> {
        self.recordings.iter().map(|(number, section)| (*number, section))
    }

    /// Why a part is missing, as whoever made the file says.
    pub fn why_missing(&self, what: &str) -> Option<&str> {
        self.manifest.missing.iter().find(|missing| missing.what == what).map(|missing| missing.why.as_str())
    }
}

/// SHA-256 of the first `len` bytes, in hex.
pub(super) fn sha256(content: &dyn failsafe_journal::storage::ReadAt, len: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    each_block(content, 0, len, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hex::encode(hasher.finalize()))
}
