//! How much one process may report: a token bucket each, and a bound on how many are remembered.

use std::collections::BTreeMap;

/// Lines a second.
const RATE: u64 = 500;
/// Lines at once.
const BURST: u64 = 2_000;
/// Senders that are remembered; beyond it the least recently heard is forgotten.
const SENDERS: usize = 4_096;

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    filled_ns: u64,
    dropped: u64,
}

/// The buckets, by process id.
#[derive(Debug, Default)]
pub struct Limit {
    senders: BTreeMap<u32, Bucket>,
}

impl Limit {
    /// Whether one more line of `pid` is taken at `now_ns`.
    pub fn take(&mut self, pid: u32, now_ns: u64) -> bool {
        if !self.senders.contains_key(&pid) && self.senders.len() >= SENDERS {
            let oldest = self.senders.iter().min_by_key(|(_, b)| b.filled_ns).map(|(pid, _)| *pid);
            oldest.and_then(|pid| self.senders.remove(&pid));
        }
        let bucket = self.senders.entry(pid).or_insert(Bucket { tokens: BURST, filled_ns: now_ns, dropped: 0 });
        let earned = u128::from(now_ns.saturating_sub(bucket.filled_ns)) * u128::from(RATE) / 1_000_000_000;
        if earned > 0 {
            bucket.tokens = BURST.min(bucket.tokens.saturating_add(u64::try_from(earned).unwrap_or(BURST)));
            bucket.filled_ns = now_ns;
        }
        match bucket.tokens.checked_sub(1) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => {
                bucket.dropped += 1;
                false
            }
        }
    }

    /// Lines dropped since the last call, by sender.
    pub fn dropped(&mut self) -> Vec<(u32, u64)> {
        let over = self.senders.iter_mut().filter(|(_, b)| b.dropped > 0);
        over.map(|(pid, b)| (*pid, std::mem::take(&mut b.dropped))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_others_are_not() {
        let mut limit = Limit::default();
        let taken = (0..5_000).filter(|_| limit.take(1, 0)).count();
        assert_eq!(taken as u64, BURST);
        assert!(limit.take(2, 0));
        assert_eq!(limit.dropped(), [(1, 5_000 - BURST)]);
        assert!(limit.dropped().is_empty());
        assert!(!limit.take(1, 1_000_000) && limit.take(1, 4_000_000), "one token each two milliseconds");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut limit = Limit::default();
        for pid in 0..3 * SENDERS as u32 {
            limit.take(pid, u64::from(pid));
        }
        assert_eq!(limit.senders.len(), SENDERS);
    }
}
