//! `/metrics` for Prometheus.
//!
//! ```text
//! connection (counted, timed) ─► GET /metrics ─► snapshot of failsafed, at most 4 a second ─► families ─► text
//! ```
//! Invariant: the values of failsafed are of an answer that is at most [`FRESH`] old. Without one there is `failsafe_up 0`
//! and no value of failsafed.

mod families;
mod notifications;
mod server;
mod snapshot;

pub use server::{Server, Shown};

use std::time::Duration;

/// Scrapes that come within this time of an answer of failsafed get the same one.
const FRESH: Duration = Duration::from_millis(250);
