//! The gateway: an unprivileged process between failsafed and the network. It serves metrics over HTTP.
//!
//! ```text
//! Prometheus ──HTTP──► metrics ──gRPC, unix socket──► failsafed
//! ```
//! Invariants: it reaches failsafed by the control socket only, and may do no more there than failsafed lets it; whatever a client
//! sends, its connections, memory and time are bounded; what failsafed does not answer now is not served.

#![forbid(unsafe_code)]

pub mod config;
mod daemon;
pub mod metrics;

use anyhow::{Context, Result, bail};
use config::Config;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGTERM or SIGINT, or until a server ends.
///
/// # Errors
/// An address cannot be bound, or a server ended.
pub async fn run(config: Config) -> Result<()> {
    let Some(metrics) = config.metrics else {
        bail!("nothing is to be served: expected a table [metrics] in {}", config::DEFAULT_PATH);
    };
    let server = metrics::Server::bind(&metrics, config.socket).await?;
    tracing::info!(address = %server.address(), "metrics are served");
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd is not notified");
    }
    tokio::select! {
        served = server.serve() => served.context("the metrics server ended"),
        _ = term.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
