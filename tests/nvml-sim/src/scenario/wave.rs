//! A quantity that is more than keyframes: with noise, repeated, or recorded.
//!
//! Noise is a function of seed and time and of nothing else, so a run of a scenario can be had again. A recording is a
//! CSV file with a header line: the first column is seconds, `column` names the one that is meant.

use serde::Deserialize;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

/// How a series departs from its keyframes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Wave {
    amplitude: f64,
    seed: u64,
    step: f64,
    /// Seconds after which it begins again.
    pub(super) repeat: Option<f64>,
}

impl Wave {
    /// The time within one repetition.
    pub(super) fn within(&self, t: f64) -> f64 {
        self.repeat.map_or(t, |period| t.max(0.0) % period)
    }

    /// What is added at `t`: the same for the whole of a step, between minus and plus the amplitude.
    pub(super) fn noise(&self, t: f64) -> f64 {
        if self.amplitude == 0.0 {
            return 0.0;
        }
        let step = (t.max(0.0) / self.step) as u64;
        let bits = mixed(self.seed ^ mixed(step)) >> 11;
        // 53 bits fill a double exactly.
        self.amplitude * (bits as f64 / (1u64 << 52) as f64 - 1.0)
    }
}

/// SplitMix64's finaliser: neighbouring inputs give unrelated outputs.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The table as it is written. Numbers are in the base unit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaveTable {
    value: Option<f64>,
    keyframes: Option<Vec<(f64, f64)>>,
    csv: Option<PathBuf>,
    column: Option<String>,
    #[serde(default)]
    noise: f64,
    #[serde(default)]
    seed: u64,
    step: Option<f64>,
    repeat: Option<f64>,
}

impl WaveTable {
    pub(super) fn wave(&self) -> Result<Wave, String> {
        let step = self.step.unwrap_or(1.0);
        let positive = |it: f64| it.is_finite() && it > 0.0;
        if !(self.noise.is_finite() && self.noise >= 0.0 && positive(step) && self.repeat.is_none_or(positive)) {
            return Err("noise is 0 or more; step and repeat are seconds above 0".into());
        }
        Ok(Wave { amplitude: self.noise, seed: self.seed, step, repeat: self.repeat })
    }

    pub(super) fn points(&self) -> Result<Vec<(f64, f64)>, String> {
        match (self.value, &self.keyframes, &self.csv, &self.column) {
            (Some(value), None, None, None) => Ok(vec![(0.0, value)]),
            (None, Some(points), None, None) => {
                let sound = points.iter().all(|(t, _)| t.is_finite() && *t >= 0.0);
                sound.then(|| points.clone()).ok_or_else(|| "keyframe times are seconds from 0 on".into())
            }
            (None, None, Some(file), Some(column)) => recorded(&FOLDER.with_borrow(|folder| folder.join(file)), column),
            _ => Err("a table has one of value, keyframes, and csv with column".into()),
        }
    }
}

fn recorded(path: &Path, column: &str) -> Result<Vec<(f64, f64)>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("cannot read the recording {}: {e}", path.display()))?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().map_or("", |(_, line)| line);
    let at = header.split(',').position(|name| name.trim() == column).filter(|at| *at > 0);
    let at = at.ok_or_else(|| format!("{} has no column {column}: {header}", path.display()))?;
    let number = |cell: Option<&str>| cell.and_then(|cell| cell.trim().parse::<f64>().ok()).filter(|it| it.is_finite());
    lines
        .map(|(number_of_line, line)| {
            let mut cells = line.split(',');
            let pair = number(cells.next()).filter(|t| *t >= 0.0).zip(number(cells.nth(at - 1)));
            pair.ok_or_else(|| format!("{}:{}: no number of seconds and {column}", path.display(), number_of_line + 1))
        })
        .collect()
}

thread_local! {
    /// Where the scenario is that is being read: a recording's path is relative to it.
    static FOLDER: RefCell<PathBuf> = const { RefCell::new(PathBuf::new()) };
}

/// Reads with paths relative to `folder`.
pub(super) fn in_folder<T>(folder: &Path, read: impl FnOnce() -> T) -> T {
    let before = FOLDER.replace(folder.to_owned());
    let done = read();
    FOLDER.set(before);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_bounded_even_and_the_same_again() {
        let wave = Wave { amplitude: 2.0, seed: 7, step: 0.5, repeat: None };
        let values: Vec<f64> = (0..2_000).map(|n| wave.noise(f64::from(n) * 0.5)).collect();
        assert!(values.iter().all(|it| it.abs() <= 2.0));
        assert!((values.iter().sum::<f64>() / 2_000.0).abs() < 0.1, "its mean is 0");
        assert!(values.iter().any(|it| *it > 1.8) && values.iter().any(|it| *it < -1.8));
        assert_eq!(wave.noise(0.6), wave.noise(0.9), "one step, one value");
        let other = Wave { seed: 8, ..wave };
        assert_ne!(wave.noise(3.0), other.noise(3.0));
    }

    #[test]
    fn a_recording_is_read_by_column_and_names_its_bad_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.csv");
        fs::write(&path, "seconds,power,temperature\n0,300,60\n\n1.5,310,61\n").unwrap();
        assert_eq!(recorded(&path, "temperature").unwrap(), [(0.0, 60.0), (1.5, 61.0)]);
        assert!(recorded(&path, "fan").unwrap_err().contains("no column fan"));
        fs::write(&path, "seconds,power\n0,lots\n").unwrap();
        assert!(recorded(&path, "power").unwrap_err().contains("r.csv:2: no number"));
    }
}
