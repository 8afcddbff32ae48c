//! Connections of the gateway, which reads formats that the daemon does not (OTLP, for example) for the processes of runs.
//!
//! ```text
//! process of a run ──► socket of the gateway ──► gateway ──`!peer` + the accepted connection──► daemon
//! ```
//! The gateway does not say whose the values are. It passes the connection that it accepted, and the kernel's note on that
//! connection decides, as with a process that connects here. So a gateway that is taken over can report only for runs that
//! connect to it.

use super::{Connection, Streams};
use crate::{
    platform::clock,
    sensors::metrics::{MetricsEvent, Runs, Shared, peer::Peer},
};
use failsafe_core::signal::Series;
use nix::sys::socket::{UnixAddr, getpeername};
use std::os::fd::{AsRawFd, OwnedFd};

/// Why what reads other formats refuses values, by its word for it.
const REASONS: &[(&str, &str)] = &[
    ("name", "the name is not 1 to 64 of letters, digits, `_`, `-`, `.`, `/`"),
    ("labels", "the name with its attributes is not 1 to 64 of letters, digits, `_`, `-`, `.`, `/`"),
    ("step", "the step is not a whole number from 0 to 2^64 - 1"),
    ("rank", "the rank is not 1 to 32 of letters, digits, `-`, `_`, `.`"),
    ("kind", "the kind of the metric is not taken"),
    ("value", "the value is not a number"),
    ("many", "too many values in one request"),
    ("format", "the request cannot be read"),
    ("size", "the request is too large"),
    ("rate", "the sample rate is not above 0 and at most 1"),
    ("encoding", "the request has a content type or a compression that is not taken"),
    ("buckets", "the buckets of a histogram are not in order, or too many"),
    ("away", "failsafed did not answer when they were reported: they may be lost"),
];

impl Streams {
    /// From now on the connection carries the values of the process at the other end of `passed`.
    pub(super) fn adopt<R: Runs, F: FnMut(MetricsEvent)>(
        &mut self,
        token: u64,
        passed: &OwnedFd,
        shared: &mut Shared<R, F>,
    ) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.relays = false;
        match peer_of(passed, shared) {
            Ok(peer) => {
                connection.series = Series::Process { pid: peer.pid, start_ticks: peer.start_ticks };
                connection.peer = peer;
                self.seek(token, shared);
            }
            Err(why) => connection.nobody = why,
        }
    }

    /// Looks for the run of the process whose values the connection carries. Where there is none, or no room for the connection, it is
    /// looked for again later: the run of a process may be registered after the process has connected.
    pub(super) fn seek<R: Runs, F: FnMut(MetricsEvent)>(&mut self, token: u64, shared: &mut Shared<R, F>) {
        let Some(peer) = self.connections.get(&token).map(|connection| connection.peer) else { return };
        let found = self.run_of(&peer, shared);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.looked_ns = clock::monotonic_ns();
        match found {
            Ok(of) => (connection.of, connection.sought_ns) = (Some(of), None),
            Err(why) => (connection.nobody, connection.sought_ns) = (why, Some(connection.looked_ns)),
        }
    }

    fn run_of<R: Runs, F: FnMut(MetricsEvent)>(
        &self,
        peer: &Peer,
        shared: &mut Shared<R, F>,
    ) -> Result<super::Reporting, String> {
        let cgroup = peer.cgroup(&shared.proc).ok_or("the process that connected has ended")?;
        let of = shared.runs.of_cgroup(&cgroup).ok_or(super::NO_RUN)?;
        if let Some(why) = self.too_many(Some(of.run), peer.uid) {
            shared.lose(of.run, &why, 1);
            return Err(why);
        }
        Ok(of)
    }
}

/// The process at the other end of a connection that was passed.
fn peer_of<R: Runs, F: FnMut(MetricsEvent)>(passed: &OwnedFd, shared: &Shared<R, F>) -> Result<Peer, String> {
    // A connection that the gateway made itself has the address of a listener at the other end, and the kernel's note on it
    // is who listens there. One that it accepted has none, because clients do not bind.
    let other = getpeername::<UnixAddr>(passed.as_raw_fd()).map_err(|error| format!("not a connection: {error}"))?;
    if other.path().is_some() || other.as_abstract().is_some() {
        return Err("the client's socket is bound to an address: connect without one".to_owned());
    }
    Ok(Peer::of(passed, &shared.proc).ok_or("the process that connected has ended")?)
}

impl Connection {
    /// `!refused COUNT WORD`: values that the gateway, or `failsafectl scrape`, refused.
    pub(super) fn refused_before<R: Runs, F: FnMut(MetricsEvent)>(&mut self, text: &str, shared: &mut Shared<R, F>) {
        let parsed = text.split_once(' ').and_then(|(count, word)| {
            let reason = REASONS.iter().find(|(known, _)| *known == word)?;
            Some((count.parse::<u64>().ok()?, reason.1))
        });
        match parsed {
            Some((count, why)) => self.refuse_many(count, why, shared),
            None => self.refuse("unknown reason, expected !refused COUNT WORD", shared),
        }
    }
}
