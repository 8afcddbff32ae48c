//! The test with a detector: what comes is given to the detector of its series, and what it finds is the truth of the test.

use super::{Gauge, LeafState, Sight};
use crate::{
    detect::{Detect, Sample},
    policy::{Over, Test, Truth},
    signal::Signal,
    subject::GpuId,
    time::{MonoTime, Span},
    unit::Unit,
};

impl LeafState {
    /// Gives the value to the detector of its series. One that is not finite, or with which the detector cannot judge, is not known.
    /// `earlier`: the engine that it decides as, where that is not this one.
    pub(super) fn detect(&mut self, detect: &Detect, hold: Span, signal: &Signal, earlier: Option<u32>) {
        let Some((value, step)) = signal.value.number() else { return };
        let Some(gauge) = self.gauge(signal.value.series()) else { return };
        gauge.value = value;
        if !value.is_finite() {
            return gauge.forget();
        }
        let detector = gauge.detector.get_or_insert_with(|| {
            let mut started = detect.start(signal.at);
            if let Some(engine) = earlier {
                started.decide_as(engine);
            }
            started
        });
        match detector.take(Sample { value, at: signal.at, step }) {
            Some(finding) => {
                gauge.score = finding.score;
                gauge.take(signal.at, Some((finding.found, !finding.found)), hold);
            }
            None => gauge.forget(),
        }
    }

    /// Of a detector that waits: time passes for it, but not while nothing could come.
    pub(super) fn waiting(&mut self, test: &Test, gpu: Option<&GpuId>, sight: &Sight<'_>, now: MonoTime) -> Truth {
        // A metric that nobody reports is what it waits for.
        let hidden = test.kind().is_some_and(|kind| sight.cannot_come(kind, gpu));
        for (_, gauge) in &mut self.series {
            let Some(detector) = gauge.detector.as_mut() else { continue };
            if hidden || sight.frozen {
                detector.skip(now, Span(u64::MAX));
            }
            if let Some(finding) = detector.wait(now) {
                (gauge.known, gauge.on, gauge.score) = (true, finding.found, finding.score);
            }
        }
        let each = || self.series.iter().map(|(_, gauge)| gauge.truth());
        match test {
            _ if hidden || self.series.is_empty() => Truth::Unknown,
            Test::Detect { series: Over::All, .. } => Truth::at_least(self.series.len(), each()),
            _ => Truth::at_least(1, each()),
        }
    }

    /// What the detector found, or the bound that moves, in each series that makes the test what it is.
    pub(in crate::engine) fn scores(&self, test: &Test, truth: Truth) -> Vec<String> {
        let scored = self.series.iter().filter(|(_, gauge)| gauge.truth() == truth);
        let show = |gauge: &Gauge| match test {
            // Of a signal in integers the bound is shown in its unit, without a fraction.
            Test::Compare { kind, .. } if kind.unit() != Unit::Real => Some(kind.unit().show(gauge.score as i64)),
            Test::Detect { .. } | Test::Compare { .. } => Some(format!("{:.4}", gauge.score)),
            Test::Threshold { .. }
            | Test::NotFinite { .. }
            | Test::Absent { .. }
            | Test::Event { .. }
            | Test::Count { .. }
            | Test::Phase { .. }
            | Test::Age { .. }
            | Test::Steps { .. } => None,
        };
        scored
            .filter_map(|(series, gauge)| {
                let shown = show(gauge)?;
                Some(series.as_ref().map_or_else(|| shown.clone(), |series| format!("{shown} in {series}")))
            })
            .collect()
    }
}
