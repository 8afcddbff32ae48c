//! Another distribution than at the beginning, by the shares of values in bins: the population stability index, or the divergence of
//! Jensen and Shannon. The bins hold equal shares of the first values.
//!
//! Fixed bounds such as 0.1 trip by chance with small windows. Here the bound follows from the numbers of values: without a change, both
//! measures, times the numbers, are distributed as chi-squared (the divergence with an eighth of it); `limit` is in standard deviations
//! after the transformation of Wilson and Hilferty, which makes that nearly normal.

use super::{Detect, Detector, Finding, Param, Range, Sample, Spec, ring::Ring};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "psi",
    finds: "has another distribution than its first values (shares of values in bins)",
    params: &[
        Param::number("limit", (5.0, 1.0, 40.0), "standard deviations of chance"),
        Param::count("reference", (1_000, 20, 4_000), "first values, with which it is compared"),
        Param::count("window", (200, 20, 2_000), "last values, which are compared"),
        Param::count("bins", (10, 2, 32), "bins with equal shares of the first values"),
        Param { name: "measure", what: "what is computed", range: Range::Choice(&["psi", "jensen-shannon"]) },
    ],
    waits: false,
    check,
    bytes: |detect| (detect.count("reference") + detect.count("window") + 3 * detect.count("bins")) * size_of::<f64>(),
    start,
};

/// Added to each bin, so that an empty one has a share.
const EMPTY: f64 = 0.5;

fn check(detect: &Detect) -> Result<(), (&'static str, String)> {
    if detect.count("reference") < 5 * detect.count("bins") {
        return Err(("bins", format!("at most a fifth of `reference`, which is {}", detect.count("reference"))));
    }
    match critical(detect) < greatest(detect) {
        true => Ok(()),
        false => Err((
            "limit",
            format!(
                "less, or more values: a window with all values in one bin has {:.2}, and this limit is {:.2}",
                greatest(detect),
                critical(detect)
            ),
        )),
    }
}

/// The measure from which a window has another distribution.
fn critical(detect: &Detect) -> f64 {
    let freedom = (detect.count("bins") - 1) as f64;
    let part = 2.0 / (9.0 * freedom);
    let root = 1.0 - part + detect.number("limit") * part.sqrt();
    let values = 1.0 / detect.count("reference") as f64 + 1.0 / detect.count("window") as f64;
    let chance = freedom * root * root * root * values;
    if detect.choice("measure") == "jensen-shannon" { chance / 8.0 } else { chance }
}

/// The measure of a window with all values in one bin, where the first values differ, so that each bin has as many of them.
fn greatest(detect: &Detect) -> f64 {
    let (most, window) = (detect.count("reference") as f64, detect.count("window") as f64);
    let bins = detect.count("bins");
    let counts = (0..bins).map(|bin| (most / bins as f64, if bin == 0 { window } else { 0.0 }));
    measure(counts, (most, window), bins, detect.choice("measure") == "jensen-shannon")
}

/// Both measures, of the counts of the first and of the last values in each bin, and of how many they are.
fn measure(
    counts: impl Iterator<Item = (f64, f64)>,
    (most, window): (f64, f64),
    bins: usize,
    jensen_shannon: bool,
) -> f64 {
    let share = |count: f64, of: f64| (count + EMPTY) / (of + EMPTY * bins as f64);
    let one = |(first, last): (f64, f64)| {
        let (p, q) = (share(first, most), share(last, window));
        if jensen_shannon {
            let mean = f64::midpoint(p, q);
            (p * libm::log(p / mean) + q * libm::log(q / mean)) / 2.0
        } else {
            (p - q) * libm::log(p / q)
        }
    };
    counts.map(one).sum()
}

#[derive(Debug)]
struct Psi {
    critical: f64,
    most: usize,
    bins: usize,
    jensen_shannon: bool,
    /// In the order of their size.
    first: Vec<f64>,
    /// The upper edges of all bins but the last.
    edges: Vec<f64>,
    expected: Vec<f64>,
    counts: Vec<f64>,
    window: Ring,
}

impl Clone for Psi {
    fn clone(&self) -> Psi {
        let with_room = |of: &Vec<f64>| {
            let mut copy = Vec::with_capacity(of.capacity());
            copy.extend(of);
            copy
        };
        Psi {
            first: with_room(&self.first),
            edges: with_room(&self.edges),
            expected: with_room(&self.expected),
            counts: with_room(&self.counts),
            window: self.window.clone(),
            ..*self
        }
    }
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    let (most, window, bins) = (detect.count("reference"), detect.count("window"), detect.count("bins"));
    Box::new(Psi {
        critical: critical(detect),
        most,
        bins,
        jensen_shannon: detect.choice("measure") == "jensen-shannon",
        first: Vec::with_capacity(most),
        edges: Vec::with_capacity(bins),
        expected: Vec::with_capacity(bins),
        counts: Vec::with_capacity(bins),
        window: Ring::new(window),
    })
}

impl Detector for Psi {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        if self.first.len() < self.most {
            let at = self.first.partition_point(|other| *other < value);
            self.first.insert(at, value);
            if self.first.len() == self.most {
                self.learn();
            }
            return None;
        }
        let old = self.window.push(value);
        self.count(value, 1.0);
        if let Some(old) = old {
            self.count(old, -1.0);
        }
        if !self.window.is_full() {
            return None;
        }
        let score = self.score();
        Some(Finding { found: score > self.critical, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Psi {
    /// Makes the bins.
    fn learn(&mut self) {
        for n in 1..self.bins {
            self.edges.push(self.first.get(n * self.most / self.bins).copied().unwrap_or(0.0));
        }
        self.counts.resize(self.bins, 0.0);
        for n in 0..self.first.len() {
            let value = self.first.get(n).copied().unwrap_or(0.0);
            self.count(value, 1.0);
        }
        self.expected.extend(&self.counts);
        self.counts.fill(0.0);
    }

    fn count(&mut self, value: f64, by: f64) {
        let bin = self.edges.partition_point(|edge| *edge <= value);
        if let Some(count) = self.counts.get_mut(bin) {
            *count += by;
        }
    }

    fn score(&self) -> f64 {
        let both = self.expected.iter().copied().zip(self.counts.iter().copied());
        measure(both, (self.most as f64, self.counts.iter().sum()), self.bins, self.jensen_shannon)
    }
}
