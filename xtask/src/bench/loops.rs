//! The loops whose time says what watching costs, and the times collected of them.

use super::statistics::median;
use crate::{interrupt, shell};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

/// A loop of ordinary work.
#[derive(Clone, Copy)]
pub struct Loop {
    /// What the figures call it.
    pub name: &'static str,
    /// The program and its arguments.
    pub argv: &'static [&'static str],
    /// Batches short enough to find an undisturbed one.
    seconds: &'static str,
}

const fn a_loop(name: &'static str, argv: &'static [&'static str], seconds: &'static str) -> Loop {
    Loop { name, argv, seconds }
}

/// Every loop.
pub const LOOPS: [Loop; 8] = [
    a_loop("getppid", &["syscall-loop", "--call", "getppid"], "0.2"),
    a_loop("memfd_create", &["syscall-loop", "--call", "memfd_create"], "0.2"),
    a_loop("connect", &["connect-loop"], "0.2"),
    a_loop("open", &["cost-loop", "open"], "0.2"),
    a_loop("fork_exec", &["cost-loop", "spawn"], "0.4"),
    a_loop("udp_send", &["cost-loop", "udp-send"], "0.2"),
    a_loop("tcp_send", &["cost-loop", "tcp-send"], "0.2"),
    a_loop("request", &["cost-loop", "request"], "0.3"),
];

/// Nanoseconds of each loop at each place: the fastest batch and the median batch of every visit.
#[derive(Default)]
pub struct Times(BTreeMap<(&'static str, &'static str), Vec<(f64, f64)>>);

impl Times {
    /// Runs the loop by `command`, to which its length is added, and notes what it prints.
    ///
    /// # Errors
    /// The loop failed.
    pub fn visit(&mut self, work: Loop, place: &'static str, command: &mut Command) -> Result<()> {
        interrupt::check()?;
        let text = shell::read(command.args(["--seconds", work.seconds]))?;
        let line: Value = serde_json::from_str(&text).with_context(|| format!("reading the loop's figure: {text}"))?;
        let number = |name: &str| line[name].as_f64().with_context(|| format!("the loop printed no {name}"));
        let visit = (number("ns_min")?, number("ns_median")?);
        self.0.entry((work.name, place)).or_default().push(visit);
        Ok(())
    }

    /// Places at which the loop was run.
    pub fn places(&self, work: Loop) -> Vec<&'static str> {
        self.0.keys().filter(|(name, _)| *name == work.name).map(|(_, place)| *place).collect()
    }

    /// The fastest batch of all visits: what the work takes undisturbed, since a disturbance only ever adds.
    pub fn fastest(&self, work: Loop, place: &str) -> f64 {
        self.of(work, place).iter().map(|visit| visit.0).min_by(f64::total_cmp).unwrap_or(f64::NAN)
    }

    /// The median over the visits of their median batch.
    pub fn median(&self, work: Loop, place: &str) -> f64 {
        median(&self.of(work, place).iter().map(|visit| visit.1).collect::<Vec<_>>())
    }

    fn of(&self, work: Loop, place: &str) -> &[(f64, f64)] {
        let found = self.0.iter().find(|((name, at), _)| *name == work.name && *at == place);
        found.map_or(&[], |(_, visits)| visits.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_kept_apart_by_place() {
        let mut times = Times::default();
        for (min, median, place) in [(5.0, 9.0, "a"), (4.0, 7.0, "a"), (6.0, 8.0, "a"), (1.0, 1.0, "b")] {
            let line = format!(r#"{{"ns_min":{min},"ns_median":{median}}}"#);
            times.visit(LOOPS[0], place, Command::new("sh").args(["-c", "echo \"$0\"", &line])).unwrap();
        }
        assert_eq!((times.fastest(LOOPS[0], "a"), times.median(LOOPS[0], "a")), (4.0, 8.0));
        assert!(times.fastest(LOOPS[1], "a").is_nan());
        assert_eq!(times.places(LOOPS[0]), ["a", "b"]);
    }
}
