//! How fast an error budget is spent: the share of bad values over a long and over a short window, as a multiple of the share that an
//! objective allows (Google, The Site Reliability Workbook, chapter 5: multiwindow, multi-burn-rate alerts).
//!
//! ```text
//! burn rate of a window = bad values / values / (1 - objective)        found: both windows burn faster than `factor`
//! ```
//!
//! The long window shows that enough of the budget was spent to matter, the short one that it is still being spent: the finding ends
//! soon after the values are good again. Each window is a ring of buckets with two counts, whatever the rate of the values is.

use super::{Detect, Detector, Finding, Param, Range, Sample, Side, Spec};
use crate::time::{MonoTime, Span};

pub(super) const SPEC: Spec = Spec {
    name: "burn-rate",
    finds: "has more bad values, in a long and in a short window, than its objective allows (burn rate of the error budget)",
    params: &[
        Param { name: "limit", what: "the bound beyond which a value is bad", range: Range::Level },
        Param::number("objective", (0.99, 0.5, 0.99999), "share of the values that must be good"),
        Param::number("factor", (14.4, 1.0, 10_000.0), "how many times as many bad values as allowed"),
        Param {
            name: "long",
            what: "the long window",
            range: Range::Time {
                default: Some(Span::from_secs(3_600)),
                least: Span::from_secs(60),
                most: Span::from_secs(7 * 86_400),
            },
        },
        Param {
            name: "short",
            what: "the short window",
            range: Range::Time {
                default: Some(Span::from_secs(300)),
                least: Span::from_secs(1),
                most: Span::from_secs(86_400),
            },
        },
        Param::count("after", (100, 1, 1_000_000), "values that the long window must have"),
        Param::side(&["above", "below"]),
    ],
    waits: false,
    check,
    bytes: |_| 2 * BUCKETS * size_of::<Bucket>(),
    start,
};

/// The buckets of a window: it ends at most a 60th too early.
const BUCKETS: usize = 60;

/// The share of bad values that the objective allows; never 0, as the range of `objective` says.
fn budget(detect: &Detect) -> f64 {
    1.0 - detect.number("objective")
}

fn check(detect: &Detect) -> Result<(), (&'static str, String)> {
    let (long, short) = (detect.time("long"), detect.time("short"));
    if short >= long {
        return Err(("short", format!("less than {long}, which is `long`")));
    }
    // If every value is bad, the burn rate is 1 / budget. It is not exact: 1 - 0.9 is less than 0.1.
    let most = 1.0 / budget(detect);
    if detect.number("factor") >= most * (1.0 - 1e-9) {
        let objective = detect.number("objective");
        return Err(("factor", format!("less than {most:.6}: with the objective {objective} no burn rate is higher")));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    bad: u32,
    all: u32,
}

/// The values of the last time.
#[derive(Debug, Clone)]
struct Window {
    /// The time of a bucket in nanoseconds.
    width: u64,
    /// The number of the newest bucket, counted from the start.
    newest: u64,
    buckets: Vec<Bucket>,
    bad: u64,
    all: u64,
}

#[derive(Debug, Clone)]
struct BurnRate {
    limit: f64,
    side: Side,
    budget: f64,
    factor: f64,
    after: u64,
    start: MonoTime,
    long: Window,
    short: Window,
}

fn start(detect: &Detect, at: MonoTime) -> Box<dyn Detector> {
    Box::new(BurnRate {
        limit: detect.number("limit"),
        side: detect.side(),
        budget: budget(detect),
        factor: detect.number("factor"),
        after: detect.count("after") as u64,
        start: at,
        long: Window::new(detect.time("long")),
        short: Window::new(detect.time("short")),
    })
}

impl Detector for BurnRate {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        // Compared and not subtracted: the distance of two finite values may overflow.
        let bad = match self.side {
            Side::Above => value > self.limit,
            Side::Below => value < self.limit,
            Side::Both => value != self.limit,
        };
        let age = at.since(self.start);
        self.long.add(age, bad);
        self.short.add(age, bad);
        if self.long.all < self.after {
            return None;
        }
        let score = self.long.share().min(self.short.share()) / self.budget;
        Some(Finding { found: score > self.factor, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Window {
    fn new(length: Span) -> Window {
        let width = (length.0 / BUCKETS as u64).max(1);
        Window { width, newest: 0, buckets: vec![Bucket::default(); BUCKETS], bad: 0, all: 0 }
    }

    /// Adds a value that came so long after the start. One that is older than the newest counts with it.
    fn add(&mut self, age: Span, bad: bool) {
        let now = (age.0 / self.width).max(self.newest);
        let passed = (now - self.newest).min(BUCKETS as u64);
        for number in now - passed + 1..=now {
            let old = std::mem::take(self.bucket(number));
            self.bad -= u64::from(old.bad);
            self.all -= u64::from(old.all);
        }
        self.newest = now;
        let bucket = self.bucket(now);
        // A full bucket takes no more: 4 billion values in a 60th of a window.
        if bucket.all < u32::MAX {
            bucket.all += 1;
            bucket.bad += u32::from(bad);
            self.all += 1;
            self.bad += u64::from(bad);
        }
    }

    fn bucket(&mut self, number: u64) -> &mut Bucket {
        let at = (number % BUCKETS as u64) as usize;
        &mut self.buckets[at]
    }

    /// The share of bad values. Called after a value was added, so that there is one.
    fn share(&self) -> f64 {
        self.bad as f64 / self.all.max(1) as f64
    }
}
