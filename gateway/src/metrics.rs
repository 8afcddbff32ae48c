//! `/metrics` for Prometheus, and the same metrics sent to a collector of OpenTelemetry.
//!
//! ```text
//! connection (counted, timed) ─► GET /metrics ─► snapshot of failsafed, at most 4 a second ─► families ─► text
//! every otlp_interval_s ─────────────────────────► snapshot of failsafed ───────────────────► families ─► OTLP ─POST─► collector
//! ```
//! Invariant: the values of failsafed are of an answer that is at most [`FRESH`] old. Without one there is `failsafe_up 0`
//! and no value of failsafed.

mod families;
mod notifications;
mod otlp;
mod push;
mod server;
mod snapshot;

pub use push::{check, endpoint, warnings};
pub use server::{Server, Shown};

use std::time::Duration;

/// Scrapes that come within this time of an answer of failsafed get the same one.
const FRESH: Duration = Duration::from_millis(250);
