//! ADWIN: a window of values that shrinks where the means of its older and its newer part differ more than chance allows (Bifet and
//! Gavaldà, 2007). As river's `drift.ADWIN`, with which the tests compare it; with `side` it tells of a rise or a fall alone.
//!
//! The window is held as buckets of 1, 2, 4, ... values with their sums, so that its memory is bounded however many values it spans.

use super::{Detect, Detector, Finding, Param, Sample, Side, Spec, no_check};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "adwin",
    finds: "has had another mean lately than before, in a window that adapts (ADWIN)",
    params: &[
        Param::number("delta", (0.002, 1e-12, 0.5), "probability of a false finding at one check"),
        Param::count("clock", (32, 1, 10_000), "values between two checks"),
        Param::count("after", (10, 1, 1_000_000), "values in the window before it checks"),
        Param::side(&["both", "above", "below"]),
    ],
    waits: false,
    check: no_check,
    bytes: |_| ROWS * (PER_ROW + 1) * size_of::<Bucket>(),
    start,
};

/// Buckets of one size before two of them become one of the next.
const PER_ROW: usize = 5;
/// Sizes of buckets: 2^31 values of the last one; older ones are forgotten.
const ROWS: usize = 32;
/// The shortest part that is compared.
const SHORTEST: f64 = 5.0;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    total: f64,
    /// The sum of squared distances from the mean.
    variance: f64,
}

#[derive(Debug, Clone)]
struct Adwin {
    delta: f64,
    clock: usize,
    after: f64,
    side: Side,
    /// Values since the start, for the clock.
    ticks: usize,
    /// Of each size the buckets, oldest first.
    rows: Vec<([Bucket; PER_ROW + 1], usize)>,
    width: f64,
    total: f64,
    variance: f64,
    rise: f64,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Adwin {
        delta: detect.number("delta"),
        clock: detect.count("clock"),
        after: detect.count("after") as f64,
        side: detect.side(),
        ticks: 0,
        rows: vec![([Bucket::default(); PER_ROW + 1], 0); ROWS],
        width: 0.0,
        total: 0.0,
        variance: 0.0,
        rise: 0.0,
    })
}

impl Detector for Adwin {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        // Squares of such a value overflow, and the sums would never be numbers again.
        if value.abs() > 1e150 {
            return None;
        }
        self.insert(value);
        self.ticks = self.ticks.wrapping_add(1);
        let checks = self.ticks.is_multiple_of(self.clock) && self.width > self.after;
        let shrunk = checks && self.shrink();
        let found = shrunk && self.side.of(self.rise) > 0.0;
        Some(Finding { found, score: if shrunk { self.rise } else { 0.0 } })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Adwin {
    fn insert(&mut self, value: f64) {
        self.width += 1.0;
        if self.width > 1.0 {
            let mean = self.total / (self.width - 1.0);
            self.variance += (self.width - 1.0) * (value - mean) * (value - mean) / self.width;
        }
        self.total += value;
        let mut carried = Bucket { total: value, variance: 0.0 };
        let mut size = 1.0;
        for (buckets, len) in &mut self.rows {
            if let Some(slot) = buckets.get_mut(*len) {
                *slot = carried;
                *len += 1;
            }
            if *len <= PER_ROW {
                return;
            }
            let [first, second, ..] = *buckets;
            let apart = first.total / size - second.total / size;
            carried = Bucket {
                total: first.total + second.total,
                variance: first.variance + second.variance + size * size * apart * apart / (2.0 * size),
            };
            buckets.copy_within(2.., 0);
            *len -= 2;
            size *= 2.0;
        }
        // The oldest values are forgotten: the window spans 2^33 of them.
        self.width -= size;
        self.total -= carried.total;
        self.variance -= carried.variance;
    }

    /// Drops the oldest bucket.
    fn forget(&mut self) {
        let Some(row) = self.rows.iter().rposition(|(_, len)| *len > 0) else { return };
        let size = f64::from(1u32 << row);
        let Some((buckets, len)) = self.rows.get_mut(row) else { return };
        let [oldest, ..] = *buckets;
        buckets.copy_within(1.., 0);
        *len -= 1;
        self.width -= size;
        self.total -= oldest.total;
        let apart = oldest.total / size - self.total / self.width;
        self.variance -= oldest.variance + size * self.width * apart * apart / (size + self.width);
    }

    /// Shortens the window as long as two parts of it differ. Whether it did; by how much the newer part was higher is in `rise`.
    fn shrink(&mut self) -> bool {
        let mut shrunk = false;
        while let Some(rise) = self.cut() {
            // The first cut says most: the later ones compare what is left.
            if !shrunk {
                self.rise = rise;
            }
            shrunk = true;
            self.forget();
        }
        shrunk
    }

    /// By how much the newer part is higher at the first place where the parts differ more than chance allows.
    fn cut(&self) -> Option<f64> {
        let (mut older, mut older_total) = (0.0, 0.0);
        let confidence = libm::log(2.0 * libm::log(self.width) / self.delta);
        let variance = self.variance / self.width;
        for (row, (buckets, len)) in self.rows.iter().enumerate().rev() {
            let size = f64::from(1u32 << row);
            for (n, bucket) in buckets.iter().take(*len).enumerate() {
                older += size;
                older_total += bucket.total;
                let newer = self.width - older;
                if row == 0 && n + 1 == *len {
                    return None;
                }
                if older < SHORTEST || newer < SHORTEST {
                    continue;
                }
                let rise = (self.total - older_total) / newer - older_total / older;
                let harmonic = 1.0 / (older - SHORTEST + 1.0) + 1.0 / (newer - SHORTEST + 1.0);
                let most = (2.0 * harmonic * variance * confidence).sqrt() + 2.0 / 3.0 * confidence * harmonic;
                if rise.abs() > most {
                    return Some(rise);
                }
            }
        }
        None
    }
}
