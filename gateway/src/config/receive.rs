//! `[receive]`: how metrics of runs are received.

use super::Wrong;
use serde::Deserialize;
use std::path::PathBuf;

/// `[receive]`: how metrics of runs are received.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receive {
    /// The socket for OTLP, over HTTP and gRPC.
    pub socket: PathBuf,
    /// The socket for statsd; none: it is not received.
    pub statsd_socket: Option<PathBuf>,
    /// The socket for metrics of failsafed (`metrics_socket` in failsafed.toml).
    pub metrics_socket: PathBuf,
    /// Connections at once.
    pub connections: u64,
    /// Connections of one user at once.
    pub connections_per_user: u64,
    /// Seconds after which a connection without a request is closed.
    pub idle_s: u64,
}

impl Default for Receive {
    fn default() -> Receive {
        Receive {
            socket: "/run/failsafe-gateway/otlp.sock".into(),
            statsd_socket: None,
            metrics_socket: "/run/failsafe/metrics.sock".into(),
            connections: 128,
            connections_per_user: 64,
            idle_s: 300,
        }
    }
}

impl Receive {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let statsd = self.statsd_socket.as_ref().map(|path| ("statsd_socket", path));
        let paths = [("socket", &self.socket), ("metrics_socket", &self.metrics_socket)];
        for (key, path) in paths.into_iter().chain(statsd) {
            if !path.is_absolute() {
                let message = format!("expected an absolute path, not `{}`", path.display());
                wrong.push(Wrong::new(format!("receive.{key}"), message));
            }
        }
        wrong.extend(Wrong::outside([
            ("receive.connections", self.connections, 1..=256),
            ("receive.connections_per_user", self.connections_per_user, 1..=256),
            ("receive.idle_s", self.idle_s, 1..=3_600),
        ]));
        wrong
    }
}
