//! The summary of one sealed segment: small, JSON, chained by hash. Reading all summaries takes the place of reading the log.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use super::Builder;
use crate::entry::Hash;
use crate::reader::Filter;
use crate::walk::Chain;

/// Version of summaries that this crate writes.
pub const VERSION: u32 = 1;

/// What a sealed segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`VERSION`].
    pub version: u32,
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
    #[serde(with = "hex::serde")]
    pub prev: Hash,
    /// Leaf hash of the last entry.
    #[serde(with = "hex::serde")]
    pub head: Hash,
    /// SHA-256 of the index file.
    #[serde(with = "hex::serde")]
    pub index_sha256: Hash,
    /// SHA-256 of the summary of the segment before; zeros for the first.
    #[serde(with = "hex::serde")]
    pub previous_summary: Hash,
    /// Entries by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Entries by run.
    pub runs: BTreeMap<String, u64>,
    /// Entries by incident.
    pub incidents: BTreeMap<String, u64>,
}

impl Summary {
    /// Of the entries in `builder`, which lie between `start` and `end` in a file of `bytes`.
    #[must_use]
    pub fn of(builder: &Builder, start: Chain, end: Chain, bytes: u64, previous: Hash) -> (Summary, Vec<u8>) {
        let index = builder.index().encode();
        let (first_wall_ns, last_wall_ns) = builder.times();
        let summary = Summary {
            version: VERSION,
            first: start.next_index,
            entries: end.next_index.saturating_sub(start.next_index),
            bytes,
            first_wall_ns,
            last_wall_ns,
            prev: start.head,
            head: end.head,
            index_sha256: Sha256::digest(&index).into(),
            previous_summary: previous,
            kinds: builder.kinds(),
            runs: builder.runs(),
            incidents: builder.incidents(),
        };
        (summary, index)
    }

    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Integers, hashes and maps of texts always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// SHA-256 of its file.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.encode()).into()
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
        let has = |wanted: &Option<String>, found: &BTreeMap<String, u64>| {
            wanted.as_ref().is_none_or(|wanted| found.contains_key(wanted))
        };
        has(&filter.run, &self.runs)
            && has(&filter.incident, &self.incidents)
            && filter.runs.as_ref().is_none_or(|runs| runs.iter().any(|run| self.runs.contains_key(run)))
            && (filter.kinds.is_empty() || filter.kinds.iter().any(|kind| self.kinds.contains_key(kind)))
            && filter.since_ns.is_none_or(|since| self.last_wall_ns >= since)
            && filter.until_ns.is_none_or(|until| self.first_wall_ns < until)
    }
}

/// What retention removed from the front of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Number of segments.
    pub segments: u64,
    /// Number of entries: the log begins at this index now.
    pub entries: u64,
    /// Leaf hash of the last removed entry.
    #[serde(with = "hex::serde")]
    pub head: Hash,
    /// SHA-256 of the summary of the last removed segment.
    #[serde(with = "hex::serde")]
    pub last_summary: Hash,
    /// When the last of them was removed, nanoseconds since the epoch.
    pub wall_ns: u64,
    /// Why.
    pub why: String,
    /// Index of the entry that states it; files of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
}

impl Removed {
    /// What the first segment that is left continues.
    #[must_use]
    pub fn end(&self) -> Chain {
        Chain { next_index: self.entries, head: self.head }
    }
}
