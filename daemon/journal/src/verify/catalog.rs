//! The file of the catalog, compared with the segments themselves: a query leaves out a segment whose record does not name what is
//! looked for, so a record that somebody made of something else hides entries.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::entry::Hash;
use crate::segments::catalog::statement_of;
use crate::segments::catalog_file::{self, CATALOG_FILE};
use crate::segments::{Brief, Summary};
use crate::storage::bounded;
use crate::walk::Chain;

/// The records that the segments give, in their order: the first entry, and the hash of the record.
#[derive(Debug, Default)]
pub(super) struct Expected(Vec<(u64, Hash)>);

/// The file does not fit.
enum Unlike {
    /// It is another one than the log states. A log in use may have made it anew since that was read.
    Link(String),
    /// It is the stated one, and the record of a segment is not of its entries.
    Record(String),
}

impl Expected {
    /// Adds a segment of which each entry was read.
    pub fn push(&mut self, summary: &Summary) {
        let record = catalog_file::encode_record(&Brief::of_summary(summary));
        self.0.push((summary.first, Sha256::digest(record).into()));
    }

    /// What is wrong with the file of the log in `dir`, which begins with `begin`, in words. Read the segments before.
    pub fn differs(&self, dir: &Path, begin: &Chain) -> Option<String> {
        let mut looks = 3;
        loop {
            looks -= 1;
            match self.compare(dir, begin) {
                Ok(()) => return None,
                Err(Unlike::Link(_)) if looks > 0 => {}
                Err(Unlike::Link(why) | Unlike::Record(why)) => return Some(why),
            }
        }
    }

    fn compare(&self, dir: &Path, begin: &Chain) -> Result<(), Unlike> {
        // A log of an earlier version, or one that could not write the file, states none. Then nobody relies on one.
        let Some((start, link)) = statement_of(dir) else { return Ok(()) };
        let path = dir.join(CATALOG_FILE);
        let other = |why: &dyn std::fmt::Display| {
            let path = path.display();
            Unlike::Link(format!(
                "the catalog of the segments, {path}, is not the one that the log states ({why}); failsafed does not rely on it, \
                 and makes it again at its next start"
            ))
        };
        let bytes = bounded::read(&path, catalog_file::LARGEST).map_err(|error| other(&error))?;
        let records = catalog_file::decode(&bytes).ok_or_else(|| other(&"it is no catalog"))?;
        let last = records.iter().rposition(|record| record.link == link && record.brief.end() == start);
        let stated = last.and_then(|last| records.get(..=last)).ok_or_else(|| other(&"it has another link"))?;
        let begins = std::iter::once(catalog_file::HEADER_BYTES).chain(stated.iter().map(|record| record.end));
        let found = stated.iter().zip(begins).filter(|(record, _)| record.brief.first >= begin.next_index);
        let mut found = found.map(|(record, at)| {
            let hash: Hash = Sha256::digest(bytes.get(at..record.end).unwrap_or_default()).into();
            (record.brief.first, hash)
        });
        // What was sealed since the segments were read is not compared.
        for expected in self.0.iter().take_while(|(first, _)| *first < start.next_index) {
            if found.next() != Some(*expected) {
                let (path, first) = (path.display(), expected.0);
                return Err(Unlike::Record(format!(
                    "the catalog that the log states does not match the segment that begins at entry {first}, whose entries are \
                     valid: queries of failsafed may miss entries of it; remove {path} and restart failsafed, which makes it again"
                )));
            }
        }
        Ok(())
    }
}
