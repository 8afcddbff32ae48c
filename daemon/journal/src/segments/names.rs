//! The kinds, runs and incidents of a segment as marks of 32 bits, so that a query for a few of them need not open the segment's
//! summary. Two names can have the same mark: then a segment is opened in vain. None that has a name is passed over.

use super::Summary;
use crate::reader::Filter;

/// A segment with more names keeps none: a query reads its summary.
const MOST: usize = 1024;

/// The names of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Ascending, each once; `None`: there are too many.
    marks: Option<Vec<u32>>,
}

/// The tables of a summary; the same text in two of them has two marks.
#[derive(Debug, Clone, Copy)]
enum Table {
    Kinds = 0,
    Runs = 1,
    Incidents = 2,
}

fn mark(table: Table, name: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[table as u8]), name.as_bytes())
}

impl Names {
    /// Of a segment with this summary.
    #[must_use]
    pub fn of(summary: &Summary) -> Names {
        let tables =
            [(Table::Kinds, &summary.kinds), (Table::Runs, &summary.runs), (Table::Incidents, &summary.incidents)];
        let names = tables.iter().flat_map(|(table, names)| names.keys().map(|name| mark(*table, name)));
        Names::sorted(names.take(MOST + 1).collect())
    }

    fn sorted(mut marks: Vec<u32>) -> Names {
        if marks.len() > MOST {
            return Names::default();
        }
        marks.sort_unstable();
        marks.dedup();
        Names { marks: Some(marks) }
    }

    /// Whether the segment can have entries that pass, as far as names go.
    #[must_use]
    pub fn may_have(&self, wanted: &Wanted) -> bool {
        let Some(marks) = &self.marks else { return true };
        let has = |mark: &u32| marks.binary_search(mark).is_ok();
        let one_of = |wanted: &Option<Vec<u32>>| {
            wanted.as_ref().is_none_or(|wanted| match wanted.len() > marks.len() {
                true => marks.iter().any(|mark| wanted.binary_search(mark).is_ok()),
                false => wanted.iter().any(has),
            })
        };
        wanted.run.iter().all(has) && wanted.incident.iter().all(has) && one_of(&wanted.runs) && one_of(&wanted.kinds)
    }

    /// Whether the names are not kept, so that the summary has to be read.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        self.marks.is_none()
    }

    /// Appends the bytes of a record: 1 and each mark, or 0.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.marks.is_some()));
        self.marks.iter().flatten().for_each(|mark| out.extend_from_slice(&mark.to_le_bytes()));
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Names> {
        match bytes.split_first()? {
            (0, []) => Some(Names::default()),
            (1, marks) if marks.len().is_multiple_of(4) => {
                let marks = marks.chunks_exact(4).map(|mark| mark.try_into().map(u32::from_le_bytes));
                let marks: Vec<u32> = marks.collect::<Result<_, _>>().ok()?;
                (marks.len() <= MOST && marks.is_sorted()).then_some(Names { marks: Some(marks) })
            }
            _ => None,
        }
    }
}

/// The names of a filter, as marks.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    run: Option<u32>,
    incident: Option<u32>,
    runs: Option<Vec<u32>>,
    kinds: Option<Vec<u32>>,
}

impl Wanted {
    /// Of this filter.
    #[must_use]
    pub fn by(filter: &Filter) -> Wanted {
        let sorted = |mut marks: Vec<u32>| {
            marks.sort_unstable();
            marks
        };
        let runs = |runs: &std::collections::BTreeSet<String>| runs.iter().map(|run| mark(Table::Runs, run)).collect();
        let kinds = || filter.kinds.iter().map(|kind| mark(Table::Kinds, kind)).collect();
        Wanted {
            run: filter.run.as_deref().map(|run| mark(Table::Runs, run)),
            incident: filter.incident.as_deref().map(|incident| mark(Table::Incidents, incident)),
            runs: filter.runs.as_ref().map(runs).map(sorted),
            kinds: (!filter.kinds.is_empty()).then(kinds).map(sorted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn table(names: &[u16]) -> BTreeMap<String, u64> {
        names.iter().map(|name| (format!("n{name}"), 1)).collect()
    }

    fn summary(kinds: &[u16], runs: &[u16], incidents: &[u16]) -> Summary {
        let builder = crate::segments::Builder::new(0);
        let (none, _) = Summary::of(&builder, Default::default(), Default::default(), 0, [0; 32]);
        Summary { kinds: table(kinds), runs: table(runs), incidents: table(incidents), ..none }
    }

    #[test]
    fn the_marks_of_names_are_a_contract() {
        let marks: Vec<u32> =
            [Table::Kinds, Table::Runs, Table::Incidents].map(|table| mark(table, "decision")).to_vec();
        // Computed by an independent bitwise CRC-32C.
        assert_eq!(marks, [2_409_345_891, 2_074_436_907, 1_644_849_410]);
        let names = Names::of(&summary(&[], &[], &[]));
        let mut bytes = Vec::new();
        names.encode(&mut bytes);
        assert_eq!(bytes, [1]);
    }

    #[test]
    fn too_many_names_exclude_nothing() {
        let names: Vec<u16> = (0..2_000).collect();
        let many = Names::of(&summary(&[], &names, &[]));
        let filter = Filter { run: Some("other".into()), ..Filter::default() };
        assert!(many.are_too_many() && many.may_have(&Wanted::by(&filter)));
        let few = Names::of(&summary(&[], &names[..1_000], &[]));
        assert!(!few.are_too_many() && !few.may_have(&Wanted::by(&filter)));
    }

    proptest! {
        #[test]
        fn no_segment_that_has_a_name_is_passed_over(
            kinds in prop::collection::vec(0..9u16, 0..4),
            runs in prop::collection::vec(0..40u16, 0..30),
            incidents in prop::collection::vec(0..9u16, 0..4),
            run in prop::option::of(0..40u16),
            incident in prop::option::of(0..9u16),
            some in prop::option::of(prop::collection::vec(0..40u16, 0..60)),
            of_kinds in prop::collection::vec(0..9u16, 0..3),
        ) {
            let summary = summary(&kinds, &runs, &incidents);
            let named = |n: u16| format!("n{n}");
            let filter = Filter {
                run: run.map(named),
                incident: incident.map(named),
                runs: some.map(|some| some.into_iter().map(named).collect()),
                kinds: of_kinds.into_iter().map(named).collect(),
                ..Filter::default()
            };
            let names = Names::of(&summary);
            let mut bytes = Vec::new();
            names.encode(&mut bytes);
            prop_assert_eq!(Names::decode(&bytes), Some(names.clone()));
            // These few names have different marks.
            prop_assert_eq!(names.may_have(&Wanted::by(&filter)), summary.may_have(&filter));
        }

        #[test]
        fn other_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _read = Names::decode(&bytes);
        }
    }
}
