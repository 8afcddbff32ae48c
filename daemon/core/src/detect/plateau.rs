//! No progress: the slope of the last values over their number is not different from zero. Least squares with the confidence interval of
//! a normal distribution; values are taken as independent, so that a slow wave counts as a slope sooner than it should.

use super::{Detect, Detector, Finding, Param, Sample, Spec, no_check, ring::Ring};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "plateau",
    finds: "no longer rises or falls: the slope of its last values is not different from zero",
    params: &[
        Param::count("window", (1_000, 20, 4_000), "values over which the slope is taken"),
        Param::number("limit", (2.0, 0.1, 10.0), "standard errors within which a slope counts as zero"),
    ],
    waits: false,
    check: no_check,
    bytes: |detect| detect.count("window") * size_of::<f64>(),
    start,
};

#[derive(Debug, Clone)]
struct Plateau {
    limit: f64,
    window: Ring,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Plateau { limit: detect.number("limit"), window: Ring::new(detect.count("window")) })
}

impl Detector for Plateau {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        self.window.push(value);
        if !self.window.is_full() {
            return None;
        }
        let line = Line::through(self.window.iter().enumerate().map(|(n, value)| (n as f64, value)));
        // Without any deviation: a slope is certain, and without a slope it is a plateau.
        let score = if line.slope == 0.0 { 0.0 } else { (line.slope / line.error).abs() };
        score.is_finite().then_some(Finding { found: score < self.limit, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

/// A straight line by least squares.
pub(super) struct Line {
    pub slope: f64,
    /// The standard error of the slope.
    pub error: f64,
}

impl Line {
    /// Through these points, which are walked twice, so that large values lose no precision.
    pub(super) fn through(points: impl Iterator<Item = (f64, f64)> + Clone) -> Line {
        let (mut n, mut x_mean, mut y_mean) = (0.0, 0.0, 0.0);
        for (x, y) in points.clone() {
            n += 1.0;
            x_mean += (x - x_mean) / n;
            y_mean += (y - y_mean) / n;
        }
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in points {
            xx += (x - x_mean) * (x - x_mean);
            xy += (x - x_mean) * (y - y_mean);
            yy += (y - y_mean) * (y - y_mean);
        }
        let slope = xy / xx;
        let rest = (yy - slope * xy).max(0.0);
        Line { slope, error: (rest / (n - 2.0) / xx).sqrt() }
    }
}
