//! The summary of a sealed segment, as a start and a query need it: its numbers and hashes are read, and its tables of kinds, runs and
//! incidents stay text. So a folder with thousands of segments is opened in milliseconds.

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::ops::Range;

use super::Summary;
use crate::entry::Hash;
use crate::reader::Filter;
use crate::walk::Chain;

/// More names than this are looked up in a table, not in the text.
const LOOKED_FOR: usize = 4;

/// See [`Summary`] for the fields.
#[derive(Debug, Clone)]
pub struct Brief {
    /// Index of the first entry.
    pub first: u64,
    /// Number of entries.
    pub entries: u64,
    /// Size of the segment's file, in bytes.
    pub bytes: u64,
    /// Earliest wall time of an entry, nanoseconds since the epoch.
    pub first_wall_ns: u64,
    /// Latest wall time of an entry.
    pub last_wall_ns: u64,
    /// Leaf hash of the entry before the first.
    pub prev: Hash,
    /// Leaf hash of the last entry.
    pub head: Hash,
    /// SHA-256 of the index file.
    pub index_sha256: Hash,
    /// SHA-256 of the summary of the segment before; zeros for the first.
    pub previous_summary: Hash,
    /// SHA-256 of the summary's file.
    pub hash: Hash,
    text: Box<[u8]>,
    kinds: Range<usize>,
    runs: Range<usize>,
    incidents: Range<usize>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    first: u64,
    entries: u64,
    bytes: u64,
    first_wall_ns: u64,
    last_wall_ns: u64,
    #[serde(with = "hex::serde")]
    prev: Hash,
    #[serde(with = "hex::serde")]
    head: Hash,
    #[serde(with = "hex::serde")]
    index_sha256: Hash,
    #[serde(with = "hex::serde")]
    previous_summary: Hash,
    #[serde(borrow)]
    kinds: &'a RawValue,
    #[serde(borrow)]
    runs: &'a RawValue,
    #[serde(borrow)]
    incidents: &'a RawValue,
}

impl Brief {
    /// Reads the bytes of a summary's file.
    ///
    /// # Errors
    /// They are no JSON object with these fields.
    pub fn read(text: Vec<u8>) -> serde_json::Result<Brief> {
        let Wire {
            first,
            entries,
            bytes,
            first_wall_ns,
            last_wall_ns,
            prev,
            head,
            index_sha256,
            previous_summary,
            kinds,
            runs,
            incidents,
        } = serde_json::from_slice(&text)?;
        let place = |table: &RawValue| {
            let begin = table.get().as_ptr().addr() - text.as_ptr().addr();
            begin..begin + table.get().len()
        };
        let (kinds, runs, incidents) = (place(kinds), place(runs), place(incidents));
        let hash = Sha256::digest(&text).into();
        let text = text.into_boxed_slice();
        Ok(Brief {
            first,
            entries,
            bytes,
            first_wall_ns,
            last_wall_ns,
            prev,
            head,
            index_sha256,
            previous_summary,
            hash,
            text,
            kinds,
            runs,
            incidents,
        })
    }

    /// The whole summary, if the file has exactly its text.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let summary: Summary = serde_json::from_slice(&self.text).ok()?;
        (*summary.encode() == *self.text).then_some(summary)
    }

    /// What the first entry continues.
    #[must_use]
    pub fn start(&self) -> Chain {
        Chain { next_index: self.first, head: self.prev }
    }

    /// What the next segment continues.
    #[must_use]
    pub fn end(&self) -> Chain {
        Chain { next_index: self.first.saturating_add(self.entries), head: self.head }
    }

    /// Whether the segment can have an entry that passes.
    #[must_use]
    pub fn may_have(&self, filter: &Filter) -> bool {
        if filter.since_ns.is_some_and(|since| self.last_wall_ns < since)
            || filter.until_ns.is_some_and(|until| self.first_wall_ns >= until)
        {
            return false;
        }
        if filter.runs.as_ref().is_some_and(|runs| runs.len() > LOOKED_FOR) {
            return self.summary().is_none_or(|summary| summary.may_have(filter));
        }
        let one = |wanted: &Option<String>, table| wanted.as_ref().is_none_or(|wanted| self.names(wanted, table));
        one(&filter.run, &self.runs)
            && one(&filter.incident, &self.incidents)
            && filter.runs.as_ref().is_none_or(|runs| runs.iter().any(|run| self.names(run, &self.runs)))
            && (filter.kinds.is_empty() || filter.kinds.iter().any(|kind| self.names(kind, &self.kinds)))
    }

    /// Whether `wanted` is a name in the table.
    fn names(&self, wanted: &str, table: &Range<usize>) -> bool {
        // What cannot be written cannot be in it.
        let Ok(quoted) = serde_json::to_string(wanted) else { return false };
        let table = self.text.get(table.clone()).unwrap_or_default();
        Finder::new(&format!("{quoted}:")).find(table).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::About;
    use crate::segments::Builder;

    fn summary() -> Summary {
        let mut builder = Builder::new(5);
        let about = |wall_ns, kind: &str, run: &str, incident: Option<&str>| About {
            wall_ns,
            kind: kind.into(),
            run: Some(run.into()),
            incident: incident.map(Into::into),
        };
        builder.push(16, &about(100, "decision", "r1", Some("inc-1")));
        builder.push(116, &about(90, "gap", "with \"quotes\" \u{1}", None));
        let end = Chain { next_index: 7, head: [7; 32] };
        Summary::of(&builder, Chain { next_index: 5, head: [5; 32] }, end, 216, [9; 32]).0
    }

    #[test]
    fn a_brief_says_what_the_summary_says() {
        let summary = summary();
        let brief = Brief::read(summary.encode()).unwrap();
        assert_eq!(brief.summary(), Some(summary.clone()));
        assert_eq!((brief.start(), brief.end(), brief.hash), (summary.start(), summary.end(), summary.hash()));
        assert_eq!((brief.bytes, brief.previous_summary, brief.index_sha256), (216, [9; 32], summary.index_sha256));
        let run = |run: &str| Filter { run: Some(run.into()), ..Filter::default() };
        let runs = |n: usize| Filter { runs: Some((1..=n).map(|n| format!("r{n}")).collect()), ..Filter::default() };
        let filters = [
            Filter::default(),
            run("r1"),
            run("r"),
            run("inc-1"),
            run("with \"quotes\" \u{1}"),
            Filter { incident: Some("inc-1".into()), ..Filter::default() },
            Filter { incident: Some("r1".into()), ..Filter::default() },
            Filter { kinds: vec!["gap".into(), "run".into()], ..Filter::default() },
            Filter { kinds: vec!["run".into()], ..Filter::default() },
            Filter { since_ns: Some(101), ..Filter::default() },
            Filter { since_ns: Some(100), until_ns: Some(91), ..Filter::default() },
            Filter { until_ns: Some(90), ..Filter::default() },
            runs(0),
            runs(LOOKED_FOR),
            runs(LOOKED_FOR + 1),
        ];
        for filter in filters {
            assert_eq!(brief.may_have(&filter), summary.may_have(&filter), "{filter:?}");
        }
    }

    #[test]
    fn another_text_of_the_same_summary_has_another_hash_and_is_not_the_summary() {
        let text = String::from_utf8(summary().encode()).unwrap();
        let other = Brief::read(text.replacen(':', ": ", 1).into_bytes()).unwrap();
        assert!(other.summary().is_none() && other.hash != summary().hash());
        for wrong in ["", "{}", "[]", &text[..text.len() - 1], &text.replacen("\"first\"", "\"other\"", 1)] {
            assert!(Brief::read(wrong.as_bytes().to_vec()).is_err(), "{wrong}");
        }
    }
}
