//! `[limits]`: what users may use of the gRPC interface.

use super::check::Wrong;
use serde::Deserialize;
use std::time::Duration;

/// What one user, all users together, and root with the administrators' group may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    pub connections: Shares,
    /// Open streams: followers of events and health, exports.
    pub streams: Shares,
    /// Requests under way.
    pub requests: Shares,
    /// Requests that change something, in a second.
    pub changes: Rates,
    /// Requests of a user in a second; what is beyond waits.
    pub requests_per_second: u32,
    /// Streams and requests of one connection.
    pub per_connection: u32,
    /// Seconds until a connection that made no request is closed.
    pub first_request_s: u64,
    /// Seconds until a connection without requests is closed.
    pub idle_s: u64,
    /// Seconds until a stream that its client does not read is ended.
    pub unread_s: u64,
    /// Largest message that is taken, in KiB.
    pub message_kib: usize,
}

/// Shares of something that is counted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// Most for one user.
    pub per_user: usize,
    /// Most for all users without a reserve.
    pub total: usize,
    /// Beside that, for root and the administrators' group.
    pub reserve: usize,
}

/// Rates.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of one user.
    pub per_user: u32,
    /// Of all users without a reserve.
    pub total: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: Shares { per_user: 128, total: 1_024, reserve: 4_096 },
            streams: Shares { per_user: 32, total: 512, reserve: 4_096 },
            requests: Shares { per_user: 64, total: 512, reserve: 4_096 },
            changes: Rates { per_user: 10, total: 100 },
            requests_per_second: 200,
            per_connection: 64,
            first_request_s: 30,
            idle_s: 300,
            unread_s: 30,
            message_kib: 512,
        }
    }
}

impl Limits {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let shares = [
            ("limits.connections", self.connections),
            ("limits.streams", self.streams),
            ("limits.requests", self.requests),
        ];
        let mut wrong = Vec::new();
        for (field, Shares { per_user, total, reserve }) in shares {
            if per_user == 0 || per_user >= total || reserve < 16 {
                let expected = "expected per_user of at least 1, total above per_user, reserve of at least 16";
                wrong.push(Wrong::new(field, format!("{expected}, not {per_user}, {total}, {reserve}")));
            }
        }
        if self.changes.per_user == 0 || self.changes.per_user >= self.changes.total {
            let expected = "expected per_user of at least 1 and total above per_user";
            wrong.push(Wrong::new("limits.changes", expected));
        }
        wrong.extend(Wrong::outside([
            ("limits.requests_per_second", u64::from(self.requests_per_second), 10..=100_000),
            ("limits.per_connection", u64::from(self.per_connection), 1..=1_024),
            ("limits.first_request_s", self.first_request_s, 1..=3_600),
            ("limits.idle_s", self.idle_s, 1..=86_400),
            ("limits.unread_s", self.unread_s, 1..=3_600),
            // The largest policy, and what goes with it.
            ("limits.message_kib", self.message_kib as u64, 320..=4_096),
        ]));
        wrong
    }

    /// See [`Limits::first_request_s`].
    pub fn first_request(&self) -> Duration {
        Duration::from_secs(self.first_request_s)
    }

    /// See [`Limits::idle_s`].
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_s)
    }

    /// See [`Limits::unread_s`].
    pub fn unread(&self) -> Duration {
        Duration::from_secs(self.unread_s)
    }

    /// See [`Limits::message_kib`].
    pub fn message(&self) -> usize {
        self.message_kib << 10
    }
}
