//! The gateway: an unprivileged process between failsafed and the network. It serves metrics over HTTP, relays remote clients that
//! a certificate identifies, sends notifications, pushes metrics, and receives metrics of runs.
//!
//! ```text
//! Prometheus ──HTTP──────► metrics ──┐
//! client ──TLS, HTTP/2──► remote ───┼─gRPC, unix socket──► failsafed (decides what each identity may do)
//! targets ◄──HTTPS, ...── notify ───┤
//! collector ◄──OTLP, HTTPS── metrics ┘
//! runs ──OTLP, unix socket──► receive ──lines, metrics socket──► failsafed (asks the kernel whose connection it was)
//! ```
//! Invariants: it reaches failsafed by the control socket and the metrics socket only, and may do no more there than failsafed lets it; whatever a client
//! sends, its connections, memory and time are bounded; what failsafed does not answer now is not served.

#![forbid(unsafe_code)]

pub mod config;
mod count;
mod daemon;
pub mod metrics;
pub mod notify;
pub mod receive;
pub mod remote;
mod secret;

use anyhow::{Context, Result, bail};
use config::{Config, Wrong};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// What of the files that the configuration names cannot be used.
pub fn check(config: &Config) -> Vec<Wrong> {
    let remote = config.remote.iter().flat_map(remote::Server::check);
    let metrics = config.metrics.iter().flat_map(metrics::check);
    remote.chain(config.notify.iter().flat_map(notify::check)).chain(metrics).collect()
}

/// What the configuration may say, but an administrator should know: one line each.
pub fn warnings(config: &Config) -> Vec<String> {
    let metrics = config.metrics.iter().flat_map(metrics::warnings);
    config.notify.iter().flat_map(notify::warnings).chain(metrics).collect()
}

/// Serves until SIGTERM or SIGINT, or until a server ends.
///
/// # Errors
/// An address cannot be bound, or a server ended.
pub async fn run(config: Config) -> Result<()> {
    let none = config.metrics.is_none() && config.remote.is_none() && config.notify.is_none();
    if none && config.receive.is_none() {
        bail!(
            "there is nothing to do: expected a table [metrics], [remote], [notify] or [receive] in the configuration"
        );
    }
    for warning in warnings(&config) {
        tracing::warn!("{warning}");
    }
    let remote = match &config.remote {
        Some(remote) => Some(remote::Server::bind(remote, config.socket.clone()).await?),
        None => None,
    };
    let certificates = remote.as_ref().map(remote::Server::certificates).unwrap_or_default();
    let refused = remote.as_ref().map(remote::Server::refused);
    let notifier = config.notify.as_ref().map(|it| notify::Notifier::open(it, config.socket.clone())).transpose()?;
    let seen = notifier.as_ref().map(notify::Notifier::seen);
    let metrics = match &config.metrics {
        Some(metrics) => {
            let shown = metrics::Shown { certificates, refused, notifications: seen };
            Some(metrics::Server::bind(metrics, config.socket.clone(), shown).await?)
        }
        None => None,
    };
    let receiver = config.receive.as_ref().map(receive::Server::bind).transpose()?;
    if let Some(metrics) = &metrics {
        tracing::info!(address = %metrics.address(), "metrics are served");
    }
    if let Some(remote) = &remote {
        tracing::info!(address = %remote.address(), "remote clients are served");
    }
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd is not notified");
    }
    tokio::select! {
        served = or_never(metrics.map(metrics::Server::serve)) => served.context("the metrics server ended"),
        served = or_never(remote.map(remote::Server::serve)) => served.context("the server of remote clients ended"),
        sent = or_never(notifier.map(notify::Notifier::serve)) => sent.context("the notifications ended"),
        received = or_never(receiver.map(receive::Server::serve)) => received.context("the receiver of metrics ended"),
        _ = term.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn or_never(server: Option<impl Future<Output = Result<()>>>) -> Result<()> {
    match server {
        Some(server) => server.await,
        None => std::future::pending().await,
    }
}
