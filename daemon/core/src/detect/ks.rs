//! Another distribution than at the beginning: the test of Kolmogorov and Smirnov of the last values against the first ones. The critical
//! distance follows from the numbers of values, so that a small window does not trip by chance.

use super::{Detect, Detector, Finding, Param, Sample, Spec, ring::Sorted};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "ks",
    finds: "has another distribution than its first values (test of Kolmogorov and Smirnov)",
    params: &[
        Param::number("alpha", (1e-6, 1e-12, 0.5), "probability of a false finding at one value"),
        Param::count("reference", (1_000, 20, 4_000), "first values, with which it is compared"),
        Param::count("window", (100, 20, 2_000), "last values, which are compared"),
    ],
    waits: false,
    check: |detect| match critical(detect) < GREATEST {
        true => Ok(()),
        false => Err((
            "alpha",
            format!("at least {:.1e}, or more values: no window reaches a smaller one", least_alpha(detect)),
        )),
    },
    bytes: |detect| Sorted::bytes(detect.count("window")) + detect.count("reference") * size_of::<f64>(),
    start,
};

/// The distance of distributions that have no value in common.
const GREATEST: f64 = 1.0;

/// The distance from which a window has another distribution.
fn critical(detect: &Detect) -> f64 {
    (libm::log(2.0 / detect.number("alpha")) / 2.0 * inverse(detect)).sqrt()
}

/// The `alpha` of which the critical distance is the greatest one, rounded up to what is shown of it.
fn least_alpha(detect: &Detect) -> f64 {
    1.05 * 2.0 * libm::exp(-2.0 * GREATEST * GREATEST / inverse(detect))
}

/// One over the number of values that counts.
fn inverse(detect: &Detect) -> f64 {
    let (n, m) = (detect.count("reference") as f64, detect.count("window") as f64);
    (n + m) / (n * m)
}

#[derive(Debug)]
struct Ks {
    critical: f64,
    most: usize,
    reference: Vec<f64>,
    window: Sorted,
}

impl Clone for Ks {
    fn clone(&self) -> Ks {
        let mut reference = Vec::with_capacity(self.most);
        reference.extend(&self.reference);
        Ks { reference, window: self.window.clone(), ..*self }
    }
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    let (most, window) = (detect.count("reference"), detect.count("window"));
    Box::new(Ks { critical: critical(detect), most, reference: Vec::with_capacity(most), window: Sorted::new(window) })
}

impl Detector for Ks {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        if self.reference.len() < self.most {
            let at = self.reference.partition_point(|other| *other < value);
            self.reference.insert(at, value);
            return None;
        }
        self.window.push(value);
        if !self.window.is_full() {
            return None;
        }
        let score = distance(&self.reference, self.window.sorted());
        Some(Finding { found: score > self.critical, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

/// The greatest distance of the shares of two sorted lists that are up to a value.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let (mut of_a, mut of_b, mut greatest) = (0, 0, 0.0f64);
    while let (Some(x), Some(y)) = (a.get(of_a), b.get(of_b)) {
        let value = x.min(*y);
        while a.get(of_a).is_some_and(|x| *x <= value) {
            of_a += 1;
        }
        while b.get(of_b).is_some_and(|y| *y <= value) {
            of_b += 1;
        }
        let apart = of_a as f64 / a.len() as f64 - of_b as f64 / b.len() as f64;
        greatest = greatest.max(apart.abs());
    }
    greatest
}
