//! The summary of a sealed segment, as a start and a query need it: its numbers and hashes, and of its tables of kinds, runs and
//! incidents what the catalog has. Where the summary itself is read, its tables stay text.

use memchr::memmem::Finder;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, ops::Range, path::Path};

use super::{Names, Summary, Wanted, segment_path, summary_path};
use crate::entry::Hash;
use crate::reader::Filter;
use crate::storage::bounded;
use crate::view::Text;
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
    /// Size of the summary's file, in bytes.
    pub summary_bytes: u64,
    tables: Tables,
}

/// What the summary says about kinds, runs and incidents.
#[derive(Debug, Clone)]
enum Tables {
    /// In the text of the file, where the three tables are.
    Text { text: Box<[u8]>, kinds: Range<usize>, runs: Range<usize>, incidents: Range<usize> },
    /// Read, because a name in it is unusual.
    Whole(Box<Summary>),
    /// What the catalog has of them.
    Listed(Names),
}

impl Brief {
    /// Reads the bytes of a summary's file. `None`: they are not what is written for a summary.
    #[must_use]
    pub fn read(text: Vec<u8>) -> Option<Brief> {
        let file = (Sha256::digest(&text).into(), text.len() as u64);
        if let Some((head, [kinds, runs, incidents])) = usual(&text) {
            let tables = Tables::Text { text: text.into_boxed_slice(), kinds, runs, incidents };
            return Some(Brief::of(&head, file, tables));
        }
        let summary: Summary = serde_json::from_slice(&text).ok()?;
        (summary.encode() == text).then(|| Brief::of(&summary, file, Tables::Whole(Box::new(summary.clone()))))
    }

    /// As the catalog has it: numbers and hashes of `head`, SHA-256 and size of the summary's file, and its names.
    #[must_use]
    pub(super) fn listed(head: &Summary, file: (Hash, u64), names: Names) -> Brief {
        Brief::of(head, file, Tables::Listed(names))
    }

    /// Of a summary that was just made.
    #[must_use]
    pub(crate) fn of_summary(summary: &Summary) -> Brief {
        let text = summary.encode();
        Brief::listed(summary, (Sha256::digest(&text).into(), text.len() as u64), Names::of(summary))
    }

    /// With the numbers and hashes of a summary, whose own tables do not count.
    fn of(head: &Summary, (hash, summary_bytes): (Hash, u64), tables: Tables) -> Brief {
        Brief {
            first: head.first,
            entries: head.entries,
            bytes: head.bytes,
            first_wall_ns: head.first_wall_ns,
            last_wall_ns: head.last_wall_ns,
            prev: head.prev,
            head: head.head,
            index_sha256: head.index_sha256,
            previous_summary: head.previous_summary,
            hash,
            summary_bytes,
            tables,
        }
    }

    /// The whole summary, of the log in `dir`. `None`: its file is missing or another one.
    #[must_use]
    pub fn summary(&self, dir: &Path) -> Option<Summary> {
        match &self.tables {
            Tables::Listed(_) => self.whole(dir)?.held(),
            Tables::Text { .. } | Tables::Whole(_) => self.held(),
        }
    }

    /// The whole summary, where its tables are held here.
    fn held(&self) -> Option<Summary> {
        match &self.tables {
            Tables::Text { text, .. } => serde_json::from_slice(text).ok(),
            Tables::Whole(summary) => Some((**summary).clone()),
            Tables::Listed(_) => None,
        }
    }

    /// As its file has it, if that is the file that the catalog names.
    #[must_use]
    pub fn whole(&self, dir: &Path) -> Option<Brief> {
        let text = bounded::read(&summary_path(dir, self.first), bounded::LARGEST).ok()?;
        Brief::read(text).filter(|read| read.hash == self.hash)
    }

    /// The names of its tables, as the catalog has them.
    #[must_use]
    pub(super) fn names(&self) -> Names {
        match &self.tables {
            Tables::Listed(names) => names.clone(),
            Tables::Text { .. } | Tables::Whole(_) => self.held().as_ref().map(Names::of).unwrap_or_default(),
        }
    }

    /// Whether the segment can have an entry that passes, by the file of its summary where the catalog does not have its names.
    #[must_use]
    pub(crate) fn may_have_in(&self, dir: &Path, filter: &Filter, wanted: &Wanted) -> bool {
        if !self.may_have_wanted(filter, wanted) {
            return false;
        }
        match &self.tables {
            Tables::Listed(names) if names.are_too_many() && !filter.is_all() => {
                self.whole(dir).is_none_or(|whole| whole.may_have_wanted(filter, wanted))
            }
            _ => true,
        }
    }

    /// Whether the segment's file has its size.
    ///
    /// # Errors
    /// It has not, in words.
    pub(crate) fn is_sized(&self, dir: &Path) -> Result<(), String> {
        let segment = segment_path(dir, self.first);
        match std::fs::metadata(&segment) {
            Ok(found) if found.len() == self.bytes => Ok(()),
            Ok(found) => Err(format!("{} has {} bytes, not {}", segment.display(), found.len(), self.bytes)),
            Err(error) => Err(format!("{} cannot be read: {error}", segment.display())),
        }
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

    /// Whether the segment can have an entry that passes, by what is held here.
    fn may_have_wanted(&self, filter: &Filter, wanted: &Wanted) -> bool {
        if filter.since_ns.is_some_and(|since| self.last_wall_ns < since)
            || filter.until_ns.is_some_and(|until| self.first_wall_ns >= until)
        {
            return false;
        }
        let (text, kinds, runs, incidents) = match &self.tables {
            Tables::Whole(summary) => return summary.may_have(filter),
            Tables::Listed(names) => return names.may_have(wanted),
            Tables::Text { text, kinds, runs, incidents } => (text, kinds, runs, incidents),
        };
        if filter.runs.as_ref().is_some_and(|runs| runs.len() > LOOKED_FOR) {
            return self.held().is_none_or(|summary| summary.may_have(filter));
        }
        let names = |wanted: &str, table: &Range<usize>| names(wanted, text.get(table.clone()).unwrap_or_default());
        let one = |wanted: &Option<String>, table| wanted.as_ref().is_none_or(|wanted| names(wanted, table));
        one(&filter.run, runs)
            && one(&filter.incident, incidents)
            && filter.runs.as_ref().is_none_or(|wanted| wanted.iter().any(|run| names(run, runs)))
            && (filter.kinds.is_empty() || filter.kinds.iter().any(|kind| names(kind, kinds)))
    }
}

/// The fields without the tables, and where the tables are, of a text in which each character is where `serde_json` writes it.
fn usual(bytes: &[u8]) -> Option<(Summary, [Range<usize>; 3])> {
    let mut text = Text::of(bytes)?;
    let head = Summary {
        version: u32::try_from(after(&mut text, "{\"version\":", Text::unsigned)?).ok()?,
        first: after(&mut text, ",\"first\":", Text::unsigned)?,
        entries: after(&mut text, ",\"entries\":", Text::unsigned)?,
        bytes: after(&mut text, ",\"bytes\":", Text::unsigned)?,
        first_wall_ns: after(&mut text, ",\"first_wall_ns\":", Text::unsigned)?,
        last_wall_ns: after(&mut text, ",\"last_wall_ns\":", Text::unsigned)?,
        prev: after(&mut text, ",\"prev\":", Text::digest)?,
        head: after(&mut text, ",\"head\":", Text::digest)?,
        index_sha256: after(&mut text, ",\"index_sha256\":", Text::digest)?,
        previous_summary: after(&mut text, ",\"previous_summary\":", Text::digest)?,
        kinds: BTreeMap::new(),
        runs: BTreeMap::new(),
        incidents: BTreeMap::new(),
    };
    let table = |text: &mut Text<'_>| {
        let begin = bytes.len() - text.left();
        text.counts()?;
        Some(begin..bytes.len() - text.left())
    };
    let kinds = after(&mut text, ",\"kinds\":", table)?;
    let runs = after(&mut text, ",\"runs\":", table)?;
    let incidents = after(&mut text, ",\"incidents\":", table)?;
    text.skip("}")?;
    (text.left() == 0).then_some((head, [kinds, runs, incidents]))
}

/// What `read` makes of the text behind `name`.
fn after<'a, T>(text: &mut Text<'a>, name: &str, read: impl FnOnce(&mut Text<'a>) -> Option<T>) -> Option<T> {
    text.skip(name)?;
    read(text)
}

/// Whether `wanted` is a name in the text of a table.
fn names(wanted: &str, table: &[u8]) -> bool {
    // What cannot be written cannot be in it.
    let Ok(quoted) = serde_json::to_string(wanted) else { return false };
    Finder::new(&format!("{quoted}:")).find(table).is_some()
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
        for runs in [summary().runs, [("r1".to_owned(), 1)].into()] {
            assert_brief_matches(&Summary { runs, ..summary() });
        }
    }

    fn assert_brief_matches(summary: &Summary) {
        let brief = Brief::read(summary.encode()).unwrap();
        assert_eq!(brief.summary(Path::new("")).as_ref(), Some(summary));
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
            let by_text = brief.may_have_wanted(&filter, &Wanted::by(&filter));
            assert_eq!(by_text, summary.may_have(&filter), "{filter:?}");
        }
    }

    #[test]
    fn another_text_of_the_same_summary_is_not_one() {
        let text = String::from_utf8(summary().encode()).unwrap();
        let wrong = [
            String::new(),
            "{}".into(),
            "[]".into(),
            text[..text.len() - 1].to_owned(),
            format!("{text} "),
            text.replacen(':', ": ", 1),
            text.replacen("\"first\"", "\"other\"", 1),
            text.replacen("\"gap\":1", "\"gap\":1.0", 1),
            text.replacen("\"gap\":1", "\"gap\":\"1\"", 1),
            text.replacen("\"decision\"", "\"zebra\"", 1),
            text.replacen("\"runs\":{", "\"runs\":[{", 1),
        ];
        for wrong in wrong {
            assert!(wrong != text && Brief::read(wrong.clone().into_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn usual_names_stay_text_and_others_are_read() {
        let usual = Brief::read(Summary { runs: [("r1".to_owned(), 1)].into(), ..summary() }.encode()).unwrap();
        assert!(matches!(usual.tables, Tables::Text { .. }));
        let other = Brief::read(summary().encode()).unwrap();
        assert!(matches!(other.tables, Tables::Whole(_)));
    }
}
