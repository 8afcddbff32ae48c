//! Memory that wears out: pages retired and rows remapped in a week.
//!
//! Owns the counters as last seen and when they grew, on the wall clock: both outlive restarts and boots, since the counters
//! are of the board's own memory. DCGM warns about a GPU that retires more than one page a week; remapped rows are the same on
//! boards since Ampere.

use super::{
    level::Level,
    thresholds::{Bounds, Thresholds},
};
use crate::{signal::Kind, time::Span, xid::Advice};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Growths remembered of one kind.
const KEPT: usize = 64;

/// What wears out: the reason's code, in words, and the counters that are summed.
pub(super) const WORN: [(&str, &str, [Kind; 2]); 2] = [
    ("retired-pages-rate", "page(s) retired", [Kind::GpuRetiredPagesSingle, Kind::GpuRetiredPagesDouble]),
    ("row-remap-rate", "row(s) remapped", [Kind::GpuRemappedRowsCorrectable, Kind::GpuRemappedRowsUncorrectable]),
];

/// The wear of one GPU's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Wear {
    worn: [Worn; WORN.len()],
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Worn {
    /// Each counter as last seen.
    last: [Option<i64>; 2],
    /// When they grew, ns since the epoch, and by how many.
    grew: VecDeque<(i64, u64)>,
}

/// What a value says of the wear.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WearResult {
    /// It speaks against the GPU: code, level, words, advice.
    Bad(&'static str, Level, String, Advice),
    /// Nothing of that code does.
    Good(&'static str),
}

impl Wear {
    /// A value of the GPU; `None` where it is of no counter of wear.
    pub(super) fn value(
        &mut self,
        thresholds: &Thresholds,
        kind: &Kind,
        value: i64,
        wall_ns: i64,
    ) -> Option<WearResult> {
        let (n, at) = WORN
            .iter()
            .enumerate()
            .find_map(|(n, (_, _, kinds))| Some((n, kinds.iter().position(|one| one == kind)?)))?;
        let (code, what, _) = &WORN[n];
        let Bounds { bound, within, .. } = thresholds.wear(n);
        let total = self.worn[n].take(at, value, wall_ns, within);
        Some(if total > u64::try_from(bound).unwrap_or(0) {
            let text = format!("{total} {what} within {}; {bound} is the most", in_words(within));
            WearResult::Bad(code, Level::Degraded, text, Advice::ContactSupport)
        } else {
            WearResult::Good(code)
        })
    }
}

impl Worn {
    /// Takes a counter's value; how many of all came within that time.
    fn take(&mut self, at: usize, value: i64, wall_ns: i64, within: Span) -> u64 {
        let within = i64::try_from(within.0).unwrap_or(i64::MAX);
        // What was there before the GPU was first seen says nothing of when it came; a counter that falls is another board's.
        let by = self.last[at].map_or(0, |last| value.saturating_sub(last));
        self.last[at] = Some(value);
        if let Ok(by @ 1..) = u64::try_from(by) {
            self.grew.push_back((wall_ns, by));
        }
        while self.grew.len() > KEPT || self.grew.front().is_some_and(|(at, _)| wall_ns.saturating_sub(*at) > within) {
            self.grew.pop_front();
        }
        self.grew.iter().fold(0, |sum, (_, by)| sum.saturating_add(*by))
    }
}

/// Whether the reason is of wear.
pub(super) fn is_code(code: &str) -> bool {
    WORN.iter().any(|(worn, ..)| *worn == code)
}

/// A time of days as people say it.
pub(super) fn in_words(within: Span) -> String {
    const HOUR: u64 = 3_600_000_000_000;
    match within.0 / HOUR {
        168 => "a week".to_owned(),
        24 => "a day".to_owned(),
        hours if within.0.is_multiple_of(HOUR) => format!("{hours} h"),
        _ => within.to_string(),
    }
}
