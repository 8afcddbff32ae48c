//! XIDs come in storms, and from two sensors: NVML and the kernel's log. What is the same is told once.
//!
//! Owns when each XID of each GPU was last heard, from whom. Bounded: hostile numbers cannot fill the memory.

use crate::{
    signal::Source,
    time::{MonoTime, Span},
};
use std::collections::BTreeMap;

/// The other sensor speaks of the same XID within this.
const SAME_WITHIN: Span = Span::from_secs(5);
/// The same XID from the same sensor is told again after this; what came between is counted.
const AGAIN_AFTER: Span = Span::from_secs(1);
/// XIDs remembered at most.
const KEPT: usize = 1_024;

/// What to make of an XID that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupResult {
    /// It is new; with it, so many were held back since the last.
    Tell {
        /// Held back since the last that was told.
        held_back: u64,
    },
    /// It is part of a storm: counted.
    Storm,
    /// The other sensor told it already.
    Echo,
}

/// Tells storms and echoes from news.
#[derive(Debug, Clone, Default)]
pub struct Storms {
    last: BTreeMap<(String, u64), Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    told: MonoTime,
    by: Source,
    held_back: u64,
}

impl Storms {
    /// An XID of `gpu` (UUID, or bus address where the UUID is not known), heard by `source`.
    pub fn hear(&mut self, gpu: &str, code: u64, source: Source, at: MonoTime) -> DedupResult {
        let key = (gpu.to_owned(), code);
        if let Some(last) = self.last.get_mut(&key) {
            // The two sensors are not in step: what is told second may be the earlier one.
            let apart = Span(at.0.abs_diff(last.told.0));
            if last.by != source && apart < SAME_WITHIN {
                return DedupResult::Echo;
            }
            if last.by == source && apart < AGAIN_AFTER {
                last.held_back += 1;
                return DedupResult::Storm;
            }
        } else if self.last.len() >= KEPT {
            let oldest = self.last.iter().min_by_key(|(_, last)| last.told).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.last.remove(&oldest);
            }
        }
        let held_back = self.last.get(&key).map_or(0, |last| last.held_back);
        self.last.insert(key, Last { told: at, by: source, held_back: 0 });
        DedupResult::Tell { held_back }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_numbers_do_not_fill_the_memory() {
        let mut storms = Storms::default();
        for code in 0..10_000 {
            storms.hear("GPU-a", code, Source::Kernel, MonoTime(code));
        }
        assert!(storms.last.len() <= KEPT);
    }
}
