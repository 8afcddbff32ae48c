//! `[metrics]`: how metrics are served, and sent to a collector.

use super::Wrong;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// `[metrics]`: how metrics are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where.
    pub address: SocketAddr,
    /// Connections at once; further ones are closed.
    pub connections: u64,
    /// How long one connection may take, in seconds.
    pub timeout_s: u64,
    /// Runs that have series of their own.
    pub runs: u64,
    /// To which collector the metrics are sent by OTLP; empty: to none.
    pub otlp_endpoint: String,
    /// How they are sent to it.
    pub otlp_protocol: Protocol,
    /// Seconds between two requests.
    pub otlp_interval_s: u64,
    /// File with headers of the requests; empty: none.
    pub otlp_headers_file: PathBuf,
    /// Authorities of the collector, PEM; empty: those of the system.
    pub otlp_ca_file: PathBuf,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            address: SocketAddr::from(([127, 0, 0, 1], 9742)),
            connections: 16,
            timeout_s: 10,
            runs: 200,
            otlp_endpoint: String::new(),
            otlp_protocol: Protocol::Http,
            otlp_interval_s: 60,
            otlp_headers_file: PathBuf::new(),
            otlp_ca_file: PathBuf::new(),
        }
    }
}

/// How metrics are sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// OTLP over HTTP, with protobuf.
    Http,
    /// OTLP over gRPC.
    Grpc,
}

impl Metrics {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Wrong::outside([
            ("metrics.connections", self.connections, 1..=1_024),
            ("metrics.timeout_s", self.timeout_s, 1..=60),
            ("metrics.runs", self.runs, 0..=1_000),
            ("metrics.otlp_interval_s", self.otlp_interval_s, 1..=3_600),
        ]);
        if !self.otlp_endpoint.is_empty() {
            let endpoint = crate::metrics::endpoint(self).err();
            wrong.extend(endpoint.map(|why| Wrong::new("metrics.otlp_endpoint", why)));
        }
        wrong
    }
}
