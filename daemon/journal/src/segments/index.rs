//! The index of one sealed segment: where each entry begins and what it is about, so that a reader finds the entries of a run,
//! an incident, a kind or a time without reading the others.
//!
//! Derived data: it is trusted only if its hash is the one in the segment's summary, and otherwise made again.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::entry::About;
use crate::reader::Filter;
use crate::view::View;

/// First bytes of an index file: name and version.
const MAGIC: &[u8; 8] = b"FSINDEX\x01";

/// The index of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Index of the first entry.
    pub first: u64,
    kinds: Vec<String>,
    runs: Vec<String>,
    incidents: Vec<String>,
    rows: Vec<Packed>,
}

/// One entry, by numbers of the tables above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Packed {
    offset: u64,
    wall_ns: u64,
    kind: u32,
    run: Option<u32>,
    incident: Option<u32>,
}

/// One entry of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The entry's index in the log.
    pub index: u64,
    /// Where its frame begins in the segment.
    pub offset: u64,
    /// Its wall time.
    pub wall_ns: u64,
    /// Its kind.
    pub kind: &'a str,
    /// Its run.
    pub run: Option<&'a str>,
    /// Its incident.
    pub incident: Option<&'a str>,
}

impl Index {
    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Integers and texts always have a postcard form.
        postcard::to_extend(self, MAGIC.to_vec()).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote. `None`: it is something else. Never panics.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Index> {
        let (index, rest): (Index, _) = postcard::take_from_bytes(bytes.strip_prefix(MAGIC)?).ok()?;
        rest.is_empty().then_some(index)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All entries, in order.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = Row<'_>> {
        let text =
            |table: &'_ [String], at: u32| -> Option<usize> { (table.len() > at as usize).then_some(at as usize) };
        self.rows.iter().enumerate().map(move |(at, row)| Row {
            index: self.first.saturating_add(at as u64),
            offset: row.offset,
            wall_ns: row.wall_ns,
            kind: text(&self.kinds, row.kind).map_or("", |at| &self.kinds[at]),
            run: row.run.and_then(|run| text(&self.runs, run)).map(|at| self.runs[at].as_str()),
            incident: row.incident.and_then(|i| text(&self.incidents, i)).map(|at| self.incidents[at].as_str()),
        })
    }

    /// Place of each entry that passes `filter`, in order: its index in the log and its offset.
    pub fn places(&self, filter: &Filter) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.rows()
            .filter(|row| filter.takes(row.wall_ns, row.kind, row.run, row.incident))
            .map(|row| (row.index, row.offset))
    }
}

/// An index in the making, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    index: Index,
    kinds: Table,
    runs: Table,
    incidents: Table,
}

#[derive(Debug, Clone, Default)]
struct Table(BTreeMap<String, (u32, u64)>);

impl Table {
    /// The number of `text` in `list`, where it is put if it is new.
    fn number(&mut self, list: &mut Vec<String>, text: &str) -> u32 {
        if let Some((number, count)) = self.0.get_mut(text) {
            *count += 1;
            return *number;
        }
        // A segment has fewer entries than bytes, and its size is far below u32::MAX.
        let number = u32::try_from(list.len()).unwrap_or(u32::MAX);
        list.push(text.to_owned());
        self.0.insert(text.to_owned(), (number, 1));
        number
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(text, (_, count))| (text.clone(), *count)).collect()
    }
}

impl Builder {
    /// An index of a segment that begins at entry `first`.
    #[must_use]
    pub fn new(first: u64) -> Builder {
        Builder { index: Index { first, ..Index::default() }, ..Builder::default() }
    }

    /// Adds the next entry, of which the frame begins at `offset`.
    pub fn push(&mut self, offset: u64, about: &About) {
        self.row(offset, about.wall_ns, &about.kind, about.run.as_deref(), about.incident.as_deref());
    }

    /// [`push`](Self::push), of an entry that is read.
    pub(crate) fn add(&mut self, offset: u64, view: &View<'_>) {
        self.row(offset, view.wall_ns, &view.kind, view.run.as_deref(), view.incident.as_deref());
    }

    fn row(&mut self, offset: u64, wall_ns: u64, kind: &str, run: Option<&str>, incident: Option<&str>) {
        let Builder { index, kinds, runs, incidents } = self;
        let packed = Packed {
            offset,
            wall_ns,
            kind: kinds.number(&mut index.kinds, kind),
            run: run.map(|run| runs.number(&mut index.runs, run)),
            incident: incident.map(|incident| incidents.number(&mut index.incidents, incident)),
        };
        index.rows.push(packed);
    }

    /// What was added so far.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Entries by run.
    #[must_use]
    pub fn runs(&self) -> BTreeMap<String, u64> {
        self.runs.counts()
    }

    /// Entries by incident.
    #[must_use]
    pub fn incidents(&self) -> BTreeMap<String, u64> {
        self.incidents.counts()
    }

    /// Entries by kind.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<String, u64> {
        self.kinds.counts()
    }

    /// Earliest and latest wall time.
    #[must_use]
    pub fn times(&self) -> (u64, u64) {
        let times = || self.index.rows.iter().map(|row| row.wall_ns);
        (times().min().unwrap_or(0), times().max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn about(n: u64) -> About {
        let run = (!n.is_multiple_of(3)).then(|| format!("run-{}", n % 3));
        About { wall_ns: 100 + n, kind: if n.is_multiple_of(2) { "gap" } else { "run" }.into(), run, incident: None }
    }

    fn ten() -> Index {
        let mut builder = Builder::new(5);
        (0..10).for_each(|n| builder.push(16 + n * 100, &about(n)));
        assert_eq!(builder.times(), (100, 109));
        assert_eq!(builder.runs(), [("run-1".to_owned(), 3), ("run-2".to_owned(), 3)].into());
        builder.index().clone()
    }

    #[test]
    fn entries_are_found_by_what_they_are_about() {
        let index = ten();
        assert_eq!(Index::decode(&index.encode()).as_ref(), Some(&index));
        let filter = Filter { run: Some("run-1".into()), kinds: vec!["run".into()], ..Filter::default() };
        assert_eq!(index.places(&filter).collect::<Vec<_>>(), [(6, 116), (12, 716)]);
        let filter = Filter { since_ns: Some(108), ..Filter::default() };
        assert_eq!(index.places(&filter).collect::<Vec<_>>(), [(13, 816), (14, 916)]);
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..400, with in any::<u8>(), cut in 0usize..400) {
            let mut bytes = ten().encode();
            let len = bytes.len();
            bytes[at % len] = with;
            bytes.truncate(len - cut % len);
            if let Some(index) = Index::decode(&bytes) {
                let _read = index.rows().count();
            }
        }
    }
}
