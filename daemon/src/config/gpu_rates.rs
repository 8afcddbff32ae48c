//! `[gpu] every`: how often what is read of a GPU, by groups and by single signals.

use failsafe_core::{signal::Kind, time::Span};
use serde::{Deserialize, Deserializer, de::Error};
use std::{collections::BTreeMap, fmt, time::Duration};

/// The longest time between two readings: what is older says little of now.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What can be given a rate of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rated {
    /// GPM and what holds the clocks down.
    Second,
    /// ECC, rows, PCIe, NVLink, fans, limits, engines beside the compute units.
    Slow,
    /// Thresholds and greatest clocks; again what the GPU does not have, and what it is.
    Rare,
    /// One signal of a GPU.
    Signal(Kind),
}

impl Rated {
    /// By a group's or a signal's name.
    ///
    /// # Errors
    /// What is wrong with the name, and what was expected.
    pub fn parse(name: &str) -> Result<Rated, String> {
        match (name, Kind::parse(name)) {
            ("second", _) => Ok(Rated::Second),
            ("slow", _) => Ok(Rated::Slow),
            ("rare", _) => Ok(Rated::Rare),
            ("fast", _) => Err("`fast` is read with every sample: see sample_interval_ms".into()),
            (_, Some(Kind::GpuProcesses | Kind::GpuComputeProcesses)) => {
                Err(format!("`{name}` comes of the lists of processes, which are read with every sample"))
            }
            (_, Some(kind)) if kind.is_read_of_a_gpu() => Ok(Rated::Signal(kind)),
            (_, Some(_)) => Err(format!("`{name}` is not read of a GPU, so it has no rate there")),
            (_, None) => Err(format!("no group and no signal is named `{name}`: expected second, slow, rare or gpu.*")),
        }
    }
}

impl fmt::Display for Rated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rated::Second => f.write_str("second"),
            Rated::Slow => f.write_str("slow"),
            Rated::Rare => f.write_str("rare"),
            Rated::Signal(kind) => kind.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Rated {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Rated, D::Error> {
        Rated::parse(&String::deserialize(d)?).map_err(Error::custom)
    }
}

/// A time between two readings, as the configuration writes it: `500 ms`, `5s`, `1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace(pub Duration);

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Pace, D::Error> {
        let text = String::deserialize(d)?;
        let pace = Span::parse(&text).map(|span| Duration::from_nanos(span.0));
        pace.filter(|pace| (Duration::from_millis(1)..=LONGEST).contains(pace))
            .map(Pace)
            .ok_or_else(|| Error::custom(format!("`{text}`: expected a time up to 1h, such as 500 ms, 5s or 1m")))
    }
}

/// Rates that are otherwise than built in.
pub type Every = BTreeMap<Rated, Duration>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_and_others_are_refused_with_the_reason() {
        for rated in [Rated::Second, Rated::Slow, Rated::Rare, Rated::Signal(Kind::GpuEnergy)] {
            assert_eq!(Rated::parse(&rated.to_string()), Ok(rated));
        }
        for (name, why) in [
            ("fast", "sample_interval_ms"),
            ("gpu.processes", "lists of processes"),
            ("memory.used", "not read of a GPU"),
            ("gpu.derived.spinning", "not read of a GPU"),
            ("gpu.pwoer", "no signal is named"),
        ] {
            let told = Rated::parse(name).unwrap_err();
            assert!(told.contains(why), "{name}: {told}");
        }
    }
}
