//! From an answer of failsafed to series. Names begin with `failsafed_`, those of the gateway with `failsafe_gateway_`.
//!
//! Invariants: labels that users choose are on `failsafe_run_info` only; a value that failsafed does not know, or that is older than its
//! health may be, has no series.

mod canaries;
mod node;
mod runs;

use super::families::Families;
use failsafe_proto::v1::MetricsSnapshotResponse;
use std::time::Duration;

/// What the gateway counts itself.
pub struct Own {
    /// Connections for metrics that were closed because of the limit.
    pub refused: u64,
    /// Scrapes that failsafed did not answer.
    pub failed: u64,
    /// How long failsafed took.
    pub took: Duration,
    /// When each certificate ends, seconds since the epoch.
    pub certificates: Vec<(&'static str, i64)>,
    /// What was refused to remote clients, by reason.
    pub remote: Vec<(&'static str, u64)>,
}

/// All series. `None`: failsafed does not answer.
pub fn families(answer: Option<&MetricsSnapshotResponse>, own: &Own, runs: usize) -> Families {
    let mut families = Families::default();
    let up = f64::from(u8::from(answer.is_some()));
    families.gauge("failsafe_up", "Whether failsafed answered this scrape. At 0 there is no series of failsafed.", up);
    let build = "Version of the gateway.";
    families.gauges("failsafe_gateway_build_info", build).with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    families.counter(
        "failsafe_gateway_metrics_connections_refused_total",
        "Connections for metrics that were closed because of the limit metrics.connections.",
        own.refused as f64,
    );
    families.counter(
        "failsafe_gateway_daemon_failures_total",
        "Scrapes that failsafed did not answer.",
        own.failed as f64,
    );
    families.gauge(
        "failsafe_gateway_daemon_answer_seconds",
        "Time that failsafed took for this answer.",
        own.took.as_secs_f64(),
    );
    let help = "When the certificate of the node, or the first of the authorities of clients, ends.";
    let mut expiry = families.gauges("failsafe_gateway_certificate_expiry_timestamp_seconds", help);
    for (certificate, ends) in &own.certificates {
        expiry.with(&[("certificate", certificate)], *ends as f64);
    }
    drop(expiry);
    let help = "Remote connections and requests that were refused, by reason.";
    let mut refused = families.counters("failsafe_gateway_remote_refused_total", help);
    for (reason, count) in &own.remote {
        refused.with(&[("reason", reason)], *count as f64);
    }
    drop(refused);
    if let Some(answer) = answer {
        node::add(&mut families, answer);
        canaries::add(&mut families, answer);
        runs::add(&mut families, answer, runs);
    }
    families
}

/// Seconds of nanoseconds.
fn seconds(ns: impl Into<i128>) -> f64 {
    ns.into() as f64 / 1e9
}

#[cfg(test)]
mod tests;
