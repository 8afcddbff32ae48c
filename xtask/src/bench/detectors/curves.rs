//! The training curves: one loss for each step.

use super::{ONE_ALARM, REAL_RISE, WARM_UP};
use crate::shell;
use anyhow::{Context, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Losses of a training, by step.
pub struct Curve {
    pub name: String,
    pub values: Vec<f64>,
}

/// Where the curves are.
pub fn folder() -> PathBuf {
    let default = || shell::root().join("../shared/data/training-curves");
    env::var_os("FAILSAFE_CURVES").map_or_else(default, PathBuf::from)
}

/// The healthy curves of the folder, in the order of their names; `None` where there are none.
///
/// # Errors
/// A curve cannot be unpacked or read.
pub fn read(folder: &Path) -> Result<Option<Vec<Curve>>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(None) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".loss.xz"));
    paths.sort();
    let curves: Vec<Curve> = paths.iter().map(|path| unpack(path)).collect::<Result<_>>()?;
    Ok((!curves.is_empty()).then_some(curves))
}

fn unpack(path: &Path) -> Result<Curve> {
    let text = shell::read(Command::new("xz").arg("-dc").arg(path))?;
    let value = |line: &str| line.parse::<f64>().with_context(|| format!("{}: `{line}`", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace(".loss.xz", "");
    Ok(Curve { name, values: text.lines().map(value).collect::<Result<_>>()? })
}

impl Curve {
    /// Steps on which alarms count.
    pub fn judged(&self) -> usize {
        self.values.len().saturating_sub(WARM_UP)
    }

    /// Whether the loss is really higher in the 100 steps after a step than it was before.
    pub fn rises(&self, n: usize) -> bool {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let before = &self.values[n.saturating_sub(1_000 + ONE_ALARM / 2)..n.saturating_sub(ONE_ALARM / 2)];
        let after = &self.values[n..(n + 100).min(self.values.len())];
        mean(after) - mean(before) >= REAL_RISE
    }

    /// How often the loss rises by as much as the smallest fault that is put in, from 100 steps to the next 100, and stays there for
    /// 200 more. Counted without a detector, with knowledge of what comes; rises within 1,000 steps are one.
    pub fn lasting_rises(&self) -> usize {
        let mut sums = vec![0.0];
        for value in &self.values {
            sums.push(sums.last().copied().unwrap_or(0.0) + value);
        }
        let mean = |from: usize, to: usize| (sums[to] - sums[from]) / (to - from) as f64;
        let (mut rises, mut next) = (0, 0);
        for n in WARM_UP..self.values.len().saturating_sub(300) {
            let before = mean(n - 100, n);
            if mean(n, n + 100) - before >= REAL_RISE && mean(n + 100, n + 300) - before >= REAL_RISE {
                rises += usize::from(n >= next);
                next = n + 1_000;
            }
        }
        rises
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_that_lasts_counts_once_and_one_that_heals_does_not() {
        let curve = |rise: &dyn Fn(usize) -> f64| Curve { name: "x".into(), values: (0..6_000).map(rise).collect() };
        assert_eq!(curve(&|_| 3.0).lasting_rises(), 0);
        assert_eq!(curve(&|n| if n < 4_000 { 3.0 } else { 3.06 }).lasting_rises(), 1);
        assert_eq!(curve(&|n| if (4_000..4_050).contains(&n) { 3.2 } else { 3.0 }).lasting_rises(), 0);
        assert_eq!(curve(&|n| if n < 4_000 { 3.0 } else { 3.03 }).lasting_rises(), 0);
    }
}
