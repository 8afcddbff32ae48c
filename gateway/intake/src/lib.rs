//! Metrics that a run reports in formats of others, as values for failsafed: OTLP, the text of Prometheus, statsd.
//!
//! ```text
//! bytes ──► otlp | prometheus | statsd ──► Taken { values, refused }
//! ```
//! Invariants: nothing in the bytes says which run they are of, and no reader looks for it; what is not taken is counted with a
//! reason of [`Why`], never with text of the sender; at most [`MOST`] values come out of one request; no input panics.
//! The crate reads no clock, file, environment or socket.

#![forbid(unsafe_code)]

#[cfg(feature = "otlp")]
pub mod gzip;
pub mod histogram;
mod name;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod prometheus;
#[cfg(feature = "otlp")]
mod repeats;
pub mod statsd;

use failsafe_core::signal::{Series, metric_name};
use histogram::{Earlier, Report};
use name::Labels;
use std::{collections::BTreeMap, fmt::Write};

/// Most values of one request.
pub const MOST: usize = 10_000;

/// One value, for one line of the daemon's stream socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its name, as `metric_name` of the core allows.
    pub name: String,
    /// The value; NaN and infinities are values too.
    pub value: f64,
    /// The training step, where it is given.
    pub step: Option<u64>,
    /// The series of the run, where it is given.
    pub rank: Option<String>,
}

/// Why a value is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The name.
    Name,
    /// Name and labels together.
    Labels,
    /// The step.
    Step,
    /// The rank.
    Rank,
    /// A kind that is not taken, such as the set of statsd.
    Kind,
    /// The value.
    Value,
    /// More than [`MOST`] values.
    Many,
    /// What cannot be read at all.
    Format,
    /// A request that is too large to be read.
    Size,
    /// The sample rate of statsd.
    Rate,
    /// A content type or a compression that is not taken.
    Encoding,
    /// The buckets of a histogram.
    Buckets,
    /// What failsafed did not answer for.
    Away,
}

impl Why {
    /// The word for it, which the daemon knows (`daemon/src/sensors/metrics/stream/relay.rs`).
    pub fn word(self) -> &'static str {
        match self {
            Why::Name => "name",
            Why::Labels => "labels",
            Why::Step => "step",
            Why::Rank => "rank",
            Why::Kind => "kind",
            Why::Value => "value",
            Why::Many => "many",
            Why::Format => "format",
            Why::Size => "size",
            Why::Rate => "rate",
            Why::Encoding => "encoding",
            Why::Buckets => "buckets",
            Why::Away => "away",
        }
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// The values, in their order.
    pub values: Vec<Value>,
    /// How many were refused, and why.
    pub refused: BTreeMap<Why, u64>,
}

impl Taken {
    fn refuse(&mut self, why: Why) {
        self.refuse_many(why, 1);
    }

    /// Adds what was refused before it was read.
    pub fn refuse_many(&mut self, why: Why, more: u64) {
        if more > 0 {
            self.refused.entry(why).and_modify(|count| *count = count.saturating_add(more)).or_insert(more);
        }
    }

    /// How many values it has, those that were refused included.
    pub fn count(&self) -> u64 {
        let values = u64::try_from(self.values.len()).unwrap_or(u64::MAX);
        self.refused.values().fold(values, |sum, count| sum.saturating_add(*count))
    }

    fn take(&mut self, value: Result<Value, Why>) {
        match value {
            Ok(_) if self.values.len() >= MOST => self.refuse(Why::Many),
            Ok(value) => self.values.push(value),
            Err(why) => self.refuse(why),
        }
    }

    /// Takes what the buckets of the histogram `name` say. `of`: the same with its labels, as of a value. `source`: who counts, where a
    /// client sends for several. `wanted`: the names that are taken.
    fn distribution(
        &mut self,
        name: &str,
        of: &Value,
        source: &str,
        earlier: &mut Earlier,
        report: Report,
        wanted: &dyn Fn(&str) -> bool,
    ) {
        // A label is a part of the name.
        let series = format!("{source} {} {}", of.name, of.rank.as_deref().unwrap_or_default());
        let Some(interval) = earlier.interval(&series, report) else { return };
        let mut is_long = false;
        for (part, value) in interval.values() {
            let name = part_name(name, part, of);
            if !metric_name(&name) {
                is_long = true;
            } else if wanted(&name) {
                self.take(Ok(Value { name, value, ..of.clone() }));
            }
        }
        // Once, and not for each sample.
        if is_long {
            self.refuse(Why::Labels);
        }
    }

    /// Takes what was read apart from it.
    #[cfg(feature = "otlp")]
    fn append(&mut self, other: Taken) {
        for value in other.values {
            self.take(Ok(value));
        }
        for (why, count) in other.refused {
            self.refuse_many(why, count);
        }
    }

    /// The lines for the daemon, without the question for its answer.
    pub fn lines(&self) -> String {
        let mut text = String::with_capacity(self.values.len() * 32);
        for (why, count) in &self.refused {
            // Writing to a string does not fail.
            let _written = writeln!(text, "!refused {count} {}", why.word());
        }
        for Value { name, value, step, rank } in &self.values {
            let _written = write!(text, "{name} {value:e}");
            if let Some(step) = step {
                let _written = write!(text, " {step}");
            }
            if let Some(rank) = rank {
                let _written = write!(text, " rank={rank}");
            }
            text.push('\n');
        }
        text
    }
}

/// The name of a part of the histogram `name`, with the labels of `of`.
fn part_name(name: &str, part: &str, of: &Value) -> String {
    format!("{name}.{part}{}", of.name.strip_prefix(name).unwrap_or_default())
}

/// A value with its labels: `step` and `rank` are what their names say, each other one becomes part of the name.
fn labelled(name: &str, value: f64, labels: Labels) -> Result<Value, Why> {
    let Labels { step, rank, others } = labels;
    if !metric_name(name) {
        return Err(Why::Name);
    }
    let step = step.map(|text| text.parse().map_err(|_| Why::Step)).transpose()?;
    if rank.as_deref().is_some_and(|rank| Series::rank(rank).is_none()) {
        return Err(Why::Rank);
    }
    let mut full = name.to_owned();
    for (key, value) in others {
        full.push('/');
        full.push_str(&key);
        full.push('/');
        full.push_str(&value);
    }
    if !metric_name(&full) {
        return Err(Why::Labels);
    }
    Ok(Value { name: full, value, step, rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_daemons_stream_socket() {
        let mut taken = Taken::default();
        let value = |value: f64, step, rank: Option<&str>| {
            Ok(Value { name: "loss".into(), value, step, rank: rank.map(str::to_owned) })
        };
        taken.take(value(2.5, Some(7), None));
        taken.take(value(f64::NAN, None, Some("3")));
        taken.take(value(f64::NEG_INFINITY, Some(u64::MAX), Some("0")));
        taken.take(Err(Why::Name));
        taken.take(Err(Why::Name));
        let expected = "!refused 2 name\nloss 2.5e0 7\nloss NaN rank=3\nloss -inf 18446744073709551615 rank=0\n";
        assert_eq!(taken.lines(), expected);
    }

    #[test]
    fn values_beyond_the_limit_are_counted() {
        let mut taken = Taken::default();
        for _ in 0..MOST + 5 {
            taken.take(Ok(Value { name: "a".into(), value: 0.0, step: None, rank: None }));
        }
        assert_eq!((taken.values.len(), taken.refused[&Why::Many]), (MOST, 5));
    }
}
