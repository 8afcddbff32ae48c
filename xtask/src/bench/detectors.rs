//! How often each detector trips on real, healthy training curves, and how soon it finds a fault that is put into them.
//!
//! The curves are not in the repository: `FAILSAFE_CURVES` names their folder, or it is `../shared/data/training-curves`. With
//! `FAILSAFE_RIVER_PYTHON`, a Python that has river, river's detectors are measured on the same values.

mod curves;
mod faults;
mod own;
mod river;
mod spike;

use super::{Args, report::Report};
use anyhow::{Result, bail};
use curves::Curve;
use failsafe_core::{
    MonoTime,
    detect::{Detect, Sample, Started},
    policy::{Condition, Test, parse::parse},
};
use faults::{Delays, Fault};
use serde_json::json;

/// Steps before alarms count.
const WARM_UP: usize = 2_000;
/// Alarms that follow an alarm within so many steps are one.
const ONE_ALARM: usize = 200;
/// A mean that is so much higher after an alarm than before it has really risen, like after the smallest step that is put in.
const REAL_RISE: f64 = 0.05;
/// Alarms on a million healthy steps at most.
const GOAL_ALARMS: f64 = 2.0;

/// What is measured: its name, and the parameters of the detectors of which one is enough.
const CANDIDATES: &[(&str, &[&str])] = &[
    ("robust-z", &["{ method = \"robust-z\" }"]),
    ("ewma-band", &["{ method = \"ewma-band\" }"]),
    ("cusum", &["{ method = \"cusum\" }"]),
    ("cusum-limit-18", &["{ method = \"cusum\", limit = 18 }"]),
    ("cusum-cautious", &["{ method = \"cusum\", drift = 1.5, limit = 30 }"]),
    ("robust-z-or-cusum", &["{ method = \"robust-z\" }", "{ method = \"cusum\" }"]),
    ("page-hinkley", &["{ method = \"page-hinkley\" }"]),
    ("page-hinkley-limit-5", &["{ method = \"page-hinkley\", limit = 5, side = \"above\" }"]),
    ("adwin-above", &["{ method = \"adwin\", side = \"above\" }"]),
    ("ks", &["{ method = \"ks\" }"]),
    ("psi", &["{ method = \"psi\" }"]),
    ("identical", &["{ method = \"identical\" }"]),
    ("collapse", &["{ method = \"collapse\" }"]),
];

/// The rules that docs/detectors.md recommends for a loss.
const RECOMMENDED: &str = "robust-z-or-cusum";

/// Measures.
///
/// # Errors
/// The curves are missing or cannot be read, or a spike that heals by itself would stop a run.
pub fn run(args: &Args) -> Result<Report> {
    let folder = curves::folder();
    let Some(curves) = curves::read(&folder)? else {
        bail!("{} has no training curves: set FAILSAFE_CURVES", folder.display())
    };
    let mut report = Report::new("detectors", args.trials, cfg!(debug_assertions));
    let steps: usize = curves.iter().map(Curve::judged).sum();
    report.condition("curves", json!(curves.iter().map(|curve| curve.name.clone()).collect::<Vec<_>>()));
    report.condition("healthy_steps", steps);
    let rises: usize = curves.iter().map(Curve::lasting_rises).sum();
    // Each looks like the smallest fault that is put in: who finds that one finds these.
    report.figure("lasting_rises_per_million", rises as f64 * 1e6 / steps as f64);
    report.figure("always-fire_alarms_per_million", 1e6 / ONE_ALARM as f64);
    for (name, tables) in CANDIDATES {
        measure(&mut report, name, &detectors(tables)?, &curves);
    }
    own::run(&mut report, &curves)?;
    spike::run(&mut report, &folder)?;
    river::run(&mut report, &folder)?;
    Ok(report)
}

fn measure(report: &mut Report, name: &str, detectors: &[Detect], curves: &[Curve]) {
    let steps: usize = curves.iter().map(Curve::judged).sum();
    let million = |alarms: usize| alarms as f64 * 1e6 / steps as f64;
    let alarms: Vec<bool> = curves.iter().flat_map(|curve| alarms(detectors, curve)).collect();
    let false_ones = alarms.iter().filter(|risen| !**risen).count();
    report.figure(&format!("{name}_alarms_per_million"), million(alarms.len()));
    report.figure(&format!("{name}_alarms_without_a_rise_per_million"), million(false_ones));
    let mut missed = 0;
    for fault in Fault::ALL {
        let delays = Delays::of(*fault, detectors, curves);
        missed += delays.missed();
        report.figure(&format!("{name}_{}_found_within_100_share", fault.name()), delays.found_share());
        report.figure(&format!("{name}_{}_delay_median_steps", fault.name()), delays.median());
    }
    if name == RECOMMENDED {
        report.ratio("recommended_alarms_per_million", million(alarms.len()), Some(GOAL_ALARMS));
        report.ratio("recommended_alarms_without_a_rise_per_million", million(false_ones), Some(GOAL_ALARMS));
        report.ratio("recommended_faults_missed_within_100_steps", missed as f64, Some(0.0));
    }
}

/// Every alarm after the warm-up, with whether the mean has really risen.
fn alarms(detectors: &[Detect], curve: &Curve) -> Vec<bool> {
    let mut watch = Watch::new(detectors);
    let (mut alarms, mut next) = (Vec::new(), WARM_UP);
    for (n, value) in curve.values.iter().enumerate() {
        if watch.trips(n, *value) && n >= next {
            next = n + ONE_ALARM;
            alarms.push(curve.rises(n));
        }
    }
    alarms
}

/// Detectors of which one is enough, as a rule with `any` has them.
#[derive(Clone)]
struct Watch {
    started: Vec<Started>,
    found: bool,
}

impl Watch {
    fn new(detectors: &[Detect]) -> Watch {
        Watch { started: detectors.iter().map(|detect| detect.start(MonoTime(0))).collect(), found: false }
    }

    /// Whether a rule would trip on the value: it holds, and it did not before.
    fn trips(&mut self, n: usize, value: f64) -> bool {
        self.steps(n, value, n)
    }

    /// The same, of a run that reports another step.
    fn steps(&mut self, n: usize, value: f64, step: usize) -> bool {
        let sample = Sample { value, at: MonoTime(n as u64 * 1_000_000_000), step: Some(step as u64) };
        let mut found = false;
        for started in &mut self.started {
            found |= started.take(sample).is_some_and(|finding| finding.found);
        }
        let before = std::mem::replace(&mut self.found, found);
        found && !before
    }
}

/// The detectors of a rule, as the policy's parser reads them.
fn detectors(tables: &[&str]) -> Result<Vec<Detect>> {
    let one = |table: &&str| -> Result<Detect> {
        let policy = parse("bench.toml", &rule("loss", table)).map_err(|error| anyhow::anyhow!("{error}"))?;
        let when = policy.rules.into_iter().next().map(|rule| rule.when);
        let Some(Condition::Tree(tree)) = when else { bail!("{table} is no detector") };
        match tree.leaves().first().map(|leaf| leaf.test.clone()) {
            Some(Test::Detect { detect, .. }) => Ok(detect),
            _ => bail!("{table} is no detector"),
        }
    };
    tables.iter().map(one).collect()
}

/// A policy with one rule on a metric.
fn rule(metric: &str, table: &str) -> String {
    format!(
        "[policy]\nname = \"bench\"\nowner = \"bench\"\n\n[[rule]]\nid = \"{metric}\"\nrationale = \"measured\"\n\
         when = {{ signal = \"metric.{metric}\", detect = {table} }}\nactions = [\"snapshot\", \"notify\"]\n"
    )
}

#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;

    /// The curves, or why there are none.
    fn curves() -> Option<Vec<Curve>> {
        let folder = curves::folder();
        let curves = curves::read(&folder).unwrap();
        if curves.is_none() {
            skip::skip(&format!("{} has no training curves: set FAILSAFE_CURVES", folder.display()));
        }
        curves
    }

    #[test]
    fn a_spike_detector_is_silent_on_healthy_curves_and_finds_a_step_of_0_3() {
        let Some(curves) = curves() else { return };
        let detectors = detectors(&["{ method = \"robust-z\" }"]).unwrap();
        let alarms: Vec<bool> = curves.iter().flat_map(|curve| alarms(&detectors, curve)).collect();
        assert!(alarms.len() <= 1, "{alarms:?}");
        let delays = Delays::of(Fault::BigStep, &detectors, &curves);
        assert!(delays.found_share() > 0.9, "{delays:?}");
    }

    #[test]
    fn the_slow_detector_finds_every_fault_within_100_steps_and_is_silent_where_nothing_rose() {
        let Some(curves) = curves() else { return };
        let detectors = detectors(&["{ method = \"cusum\" }"]).unwrap();
        for fault in Fault::ALL {
            let delays = Delays::of(*fault, &detectors, &curves);
            assert_eq!(delays.missed(), 0, "{fault:?}: {delays:?}");
        }
        let alarms: Vec<bool> = curves.iter().flat_map(|curve| alarms(&detectors, curve)).collect();
        let false_ones = alarms.iter().filter(|risen| !**risen).count();
        assert!(alarms.len() <= 4 && false_ones == 0, "{alarms:?}");
    }

    #[test]
    fn a_real_spike_that_healed_by_itself_ends_in_snapshot_and_notify() {
        let folder = curves::folder();
        if curves::read(&folder).unwrap().is_none() {
            skip::skip(&format!("{} has no training curves: set FAILSAFE_CURVES", folder.display()));
            return;
        }
        spike::run(&mut Report::new("x", 1, true), &folder).unwrap();
    }
}
