//! Signals: what a sensor saw. The catalogue below is the one place where a signal's name, unit and source are declared.

use crate::{event::Event, subject::Subject, time::MonoTime, unit::Unit};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which sensor a signal comes from; a [`crate::input::Gap`] names the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// eBPF events and counters.
    Ebpf,
    /// cgroup files and /proc.
    Cgroup,
    /// NVML.
    Nvml,
    /// The run's own metrics socket.
    App,
    /// The daemon's own observation of the containment.
    Guard,
}

impl Source {
    /// The name in policies, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Source::Ebpf => "ebpf",
            Source::Cgroup => "cgroup",
            Source::Nvml => "nvml",
            Source::App => "app",
            Source::Guard => "guard",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a value is a level or only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A level: compared as it is.
    Gauge,
    /// A level whose growth is worth bounding: compared as it is, or by how much it grew (`/s`).
    Level,
    /// A total since the run's start: compared as it is, or as a rate (`/s`).
    Counter,
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident $name:literal $unit:ident $shape:ident $source:ident;)*) => {
        /// What is measured. The name is what policies write.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
            /// A metric that the run reports itself; the policy's name is `metric.NAME`.
            Metric(String),
            /// Something happened: the value is an [`Event`].
            Event,
        }

        impl Kind {
            /// Every kind with a fixed name.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// The kind of a policy's signal name.
            pub fn parse(name: &str) -> Option<Kind> {
                match name {
                    $($name => Some(Kind::$variant),)*
                    _ => name.strip_prefix("metric.").filter(|n| metric_name(n)).map(|n| Kind::Metric(n.to_owned())),
                }
            }

            /// The unit of the value.
            pub fn unit(&self) -> Unit {
                match self { $(Kind::$variant => Unit::$unit,)* Kind::Metric(_) => Unit::Real, Kind::Event => Unit::Count }
            }

            /// Level or total.
            pub fn shape(&self) -> Shape {
                match self { $(Kind::$variant => Shape::$shape,)* Kind::Metric(_) | Kind::Event => Shape::Gauge }
            }

            /// The sensor it comes from.
            pub fn source(&self) -> Source {
                match self { $(Kind::$variant => Source::$source,)* Kind::Metric(_) => Source::App, Kind::Event => Source::Ebpf }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Kind::$variant => f.write_str($name),)*
                    Kind::Metric(name) => write!(f, "metric.{name}"),
                    Kind::Event => f.write_str("event"),
                }
            }
        }
    };
}

catalogue! {
    /// Bytes sent by the run's sockets (`cgroup_skb/egress`).
    EgressBytes "net.egress_bytes" Bytes Counter Ebpf;
    /// Packets sent.
    EgressPackets "net.egress_packets" Count Counter Ebpf;
    /// Bytes received (`cgroup_skb/ingress`).
    IngressBytes "net.ingress_bytes" Bytes Counter Ebpf;
    /// Packets received.
    IngressPackets "net.ingress_packets" Count Counter Ebpf;
    /// Connects, sends and packets denied in the kernel.
    EgressDenied "net.egress_denied" Count Counter Ebpf;
    /// Packets dropped in the kernel: outside the allow-list, over a budget, or of a blocked run.
    EgressDropped "net.egress_dropped" Count Counter Ebpf;
    /// Events the ring buffer could not take.
    EventsLost "events.lost" Count Counter Ebpf;
    /// Processes made.
    Forks "process.forks" Count Counter Ebpf;
    /// Programs executed.
    Execs "process.execs" Count Counter Ebpf;
    /// Memory of the run: `memory.current`, or resident memory summed over its processes.
    Memory "memory.used" Bytes Level Cgroup;
    /// Page faults (`memory.stat` pgfault, or those of its processes summed).
    PageFaults "memory.page_faults" Count Counter Cgroup;
    /// OOM kills in the run (`memory.events`).
    OomKills "memory.oom_kills" Count Counter Cgroup;
    /// CPU time of the run (`cpu.stat` usage_usec, or summed over its processes).
    CpuTime "cpu.time" Microseconds Counter Cgroup;
    /// Live processes of the run.
    Processes "process.count" Count Gauge Cgroup;
    /// CPU pressure, `some avg10` (PSI).
    PressureCpu "pressure.cpu" MilliPercent Gauge Cgroup;
    /// Memory pressure, `some avg10`.
    PressureMemory "pressure.memory" MilliPercent Gauge Cgroup;
    /// IO pressure, `some avg10`.
    PressureIo "pressure.io" MilliPercent Gauge Cgroup;
    /// Time in which a kernel was running (`nvmlDeviceGetUtilizationRates`).
    GpuUtilization "gpu.utilization" MilliPercent Gauge Nvml;
    /// Time in which memory was read or written.
    GpuMemoryUtilization "gpu.memory_utilization" MilliPercent Gauge Nvml;
    /// Memory in use (`nvmlDeviceGetMemoryInfo_v2`).
    GpuMemory "gpu.memory_used" Bytes Gauge Nvml;
    /// Memory in use, share of the total.
    GpuMemoryShare "gpu.memory_share" MilliPercent Gauge Nvml;
    /// Core temperature (`nvmlDeviceGetTemperature`).
    GpuTemperature "gpu.temperature" MilliCelsius Gauge Nvml;
    /// Power draw (`nvmlDeviceGetPowerUsage`).
    GpuPower "gpu.power" Milliwatts Gauge Nvml;
    /// Power draw, share of the enforced limit.
    GpuPowerShare "gpu.power_share" MilliPercent Gauge Nvml;
    /// SM clock.
    GpuClockSm "gpu.clock_sm" Megahertz Gauge Nvml;
    /// Memory clock.
    GpuClockMemory "gpu.clock_memory" Megahertz Gauge Nvml;
    /// Clock event (throttle) reasons, NVML's bits.
    GpuThrottle "gpu.throttle_reasons" Bits Gauge Nvml;
    /// Uncorrected ECC errors since the driver was loaded.
    GpuEccUncorrected "gpu.ecc_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors since the driver was loaded.
    GpuEccCorrected "gpu.ecc_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors over the GPU's life.
    GpuEccUncorrectedTotal "gpu.ecc_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors over the GPU's life.
    GpuEccCorrectedTotal "gpu.ecc_corrected_total" Count Counter Nvml;
}

/// Whether `name` may be a metric's name: 1 to 64 of letters, digits, `_`, `-`, `.`, `/`.
pub fn metric_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
}

/// A signal's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// An integer in the kind's unit.
    Integer(i64),
    /// A real number; only the run's own metrics have these.
    Real(Real),
    /// What happened.
    Event(Event),
}

impl Value {
    /// The value as a person reads it.
    pub fn show(&self, kind: &Kind) -> String {
        match self {
            Value::Integer(value) => kind.unit().show(*value),
            Value::Real(real) => real.to_string(),
            Value::Event(event) => event.to_string(),
        }
    }
}

/// A double whose NaN and infinities survive JSON: written as text there, as its bits elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Real(pub f64);

impl PartialEq for Real {
    /// Equal bits: NaN equals itself, or a replay could never agree with what it replays.
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Real {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(&self.0) } else { s.serialize_u64(self.0.to_bits()) }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Real, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map(Real).map_err(|_| serde::de::Error::custom(format!("`{text}` is not a real number")))
        } else {
            u64::deserialize(d).map(|bits| Real(f64::from_bits(bits)))
        }
    }
}

/// One thing that a sensor saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Number of the input in the daemon's stream; a decision's `because` refers to it.
    pub seq: u64,
    /// When it was seen, by the kernel where the kernel says so.
    pub at: MonoTime,
    /// The sensor.
    pub source: Source,
    /// Whom it speaks of.
    pub subject: Subject,
    /// What was measured.
    pub kind: Kind,
    /// The value, in the kind's unit.
    pub value: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(&kind.to_string()).as_ref(), Some(kind));
        }
        assert_eq!(Kind::parse("metric.loss"), Some(Kind::Metric("loss".into())));
        assert_eq!(Kind::parse("metric.a b"), None);
        assert_eq!(Kind::parse("metric."), None);
    }

    /// The reference shows totals of one kind as `..._total`, and otherwise every name.
    #[test]
    fn every_signal_and_event_is_in_the_reference() {
        let reference = include_str!("../../../docs/policy.md");
        for kind in Kind::ALL {
            let name = kind.to_string();
            assert!(reference.contains(&format!("`{name}`")) || name.ends_with("_total"), "{name}");
        }
        for event in crate::event::EventKind::ALL.iter().copied() {
            assert!(reference.contains(&format!("`{}`", event.name())), "{}", event.name());
            for field in event.fields() {
                assert!(reference.contains(&format!("`{}`", field.name())), "{}", field.name());
            }
        }
    }

    #[test]
    fn a_nan_survives_json_and_postcard() {
        for real in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1, -0.0, 1e300] {
            let text = serde_json::to_string(&Real(real)).unwrap();
            assert_eq!(serde_json::from_str::<Real>(&text).unwrap(), Real(real), "{text}");
            let bytes = postcard::to_allocvec(&Real(real)).unwrap();
            assert_eq!(postcard::from_bytes::<Real>(&bytes).unwrap(), Real(real));
        }
    }
}
