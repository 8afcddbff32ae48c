//! What a bench hands back: a table for people, one JSON line for machines.

use procfs::{CpuInfo, Current};
use serde_json::{Map, Value, json};
use std::fs;

/// The result of one bench.
pub struct Report {
    bench: &'static str,
    ratios: Map<String, Value>,
    figures: Map<String, Value>,
    conditions: Map<String, Value>,
}

impl Report {
    /// An empty result, with the machine's own conditions.
    pub fn new(bench: &'static str, trials: usize, debug: bool) -> Report {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpus = CpuInfo::current().ok();
        let model = cpus.as_ref().and_then(|cpus| cpus.model_name(0));
        let mut conditions = Map::new();
        conditions.insert("kernel".into(), read("/proc/sys/kernel/osrelease").into());
        conditions.insert("cores".into(), std::thread::available_parallelism().map_or(0, |n| n.get()).into());
        conditions.insert("cpu".into(), model.unwrap_or("unknown").into());
        conditions.insert("loadavg".into(), read("/proc/loadavg").into());
        conditions.insert("build".into(), if debug { "debug" } else { "release" }.into());
        conditions.insert("trials".into(), trials.into());
        Report { bench, ratios: Map::new(), figures: Map::new(), conditions }
    }

    /// A ratio; with a bound, whether it is kept.
    pub fn ratio(&mut self, name: &str, value: f64, at_most: Option<f64>) {
        let kept = at_most.map(|bound| value <= bound);
        self.ratios.insert(name.into(), json!({ "value": value, "at_most": at_most, "kept": kept }));
    }

    /// A figure, with its unit in its name.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// Under what it was measured, beside the machine.
    pub fn condition(&mut self, name: &str, value: impl Into<Value>) {
        self.conditions.insert(name.into(), value.into());
    }

    /// Prints it; the last line is the JSON.
    pub fn print(&self) {
        println!("\n{}", self.bench);
        self.figures.iter().for_each(|(name, value)| println!("  {name:<48} {value:>14.6}"));
        for (name, ratio) in &self.ratios {
            let verdict = match ratio["kept"].as_bool() {
                Some(true) => format!("at most {}: kept", ratio["at_most"]),
                Some(false) => format!("at most {}: NOT KEPT", ratio["at_most"]),
                None => String::new(),
            };
            println!("  {name:<48} {:>14.4}  {verdict}", ratio["value"].as_f64().unwrap_or(f64::NAN));
        }
        println!("{}", self.to_json());
    }

    fn to_json(&self) -> Value {
        json!({ "bench": self.bench, "ratios": self.ratios, "figures": self.figures, "conditions": self.conditions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_judged_and_nan_keeps_none() {
        let mut report = Report::new("x", 3, true);
        report.ratio("good", 1.0, Some(1.01));
        report.ratio("bad", f64::NAN, Some(1.01));
        report.figure("a_ns", 3.5);
        let json = report.to_json();
        assert_eq!(json["ratios"]["good"]["kept"], true);
        assert_eq!(json["ratios"]["bad"]["kept"], false);
        assert_eq!(json["figures"]["a_ns"], 3.5);
        assert_eq!(json["conditions"]["trials"], 3);
        assert!(!json["conditions"]["kernel"].as_str().unwrap().is_empty());
    }
}
