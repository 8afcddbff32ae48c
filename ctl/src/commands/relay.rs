//! `relay`: ports of this host for libraries that cannot send to a unix socket, in the run that this command runs in.
//!
//! ```text
//! TCP connection ─► of a process of the run? ─► a connection to the gateway's socket for OTLP, bytes both ways
//! UDP datagram   ─► of a process of the run? ─► a frame on the connection to the gateway's socket for statsd
//! ```
//! It reads nothing of what it carries. The gateway's sockets see this process, which is one of the run: the kernel says so. What other
//! users of the host send to the ports is refused, or it would count for the run.

mod otlp;
mod statsd;

use super::scrape::detach;
use crate::{
    args::RelayArgs,
    client::block_on,
    exit::{Exit, Fail},
    render::print,
};
use nix::errno::Errno;
use std::{
    collections::BTreeMap,
    io::{Write, stderr},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, UdpSocket};

/// A reason is printed again after this.
const REPORTED_AGAIN: Duration = Duration::from_secs(60);
/// After an error of a port, such as no descriptor being left, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn relay(args: &RelayArgs) -> Result<Exit, Fail> {
    if args.detach {
        return detach::detach(detach::Ready::WhenItSaysSo);
    }
    if args.beside {
        detach::end_with_the_caller()?;
    } else {
        detach::end_with_the_parent()?;
    }
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let mut ports = String::new();
        for (wanted, may_lack) in args.otlp.iter().flat_map(|wanted| wanted.addresses()) {
            let Some(listener) = bound(TcpListener::bind(wanted).await, wanted, may_lack)? else { continue };
            let address = listener.local_addr().map_err(|error| unbound(wanted, &error))?;
            ports.push_str(&format!("OTLP at {address}\n"));
            tasks.spawn(otlp::accept(listener, address, args.otlp_socket.clone()));
        }
        for (wanted, may_lack) in args.statsd.iter().flat_map(|wanted| wanted.addresses()) {
            let Some(socket) = bound(UdpSocket::bind(wanted).await, wanted, may_lack)? else { continue };
            let address = socket.local_addr().map_err(|error| unbound(wanted, &error))?;
            ports.push_str(&format!("statsd at {address}\n"));
            tasks.spawn(statsd::receive(socket, args.statsd_socket.clone()));
        }
        print(&format!("{ports}{}", if args.beside { detach::READY } else { "" }))?;
        // They do not end.
        tasks.join_next().await;
        Err(Fail::new(Exit::Error, "a port of the relay is closed"))
    })
}

/// The port that was opened; `None`: the host may lack the address, and does.
fn bound<T>(opened: std::io::Result<T>, wanted: SocketAddr, may_lack: bool) -> Result<Option<T>, Fail> {
    match opened {
        Err(error) if may_lack && is_lacking(&error) => Ok(None),
        opened => opened.map(Some).map_err(|error| unbound(wanted, &error)),
    }
}

/// Whether the host lacks the address, as one without IPv6 does.
fn is_lacking(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn unbound(address: SocketAddr, error: &std::io::Error) -> Fail {
    let fail = Fail::because(format!("cannot listen at {address}"), error);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            fail.advise("another process of the host has the port: choose another one, and set it in the library too")
        }
        _ => fail,
    }
}

/// Why something was not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    /// It is not of a process of the run.
    Stranger,
    /// The gateway's socket cannot be reached.
    Gateway,
    /// It waits until another one is closed.
    Full,
    /// A datagram that is too large.
    Large,
    /// The tables of the kernel cannot be read.
    Tables,
}

/// What was not carried, printed once a minute for each reason.
#[derive(Debug, Default)]
struct Losses(Mutex<BTreeMap<Lost, (Instant, u64)>>);

impl Losses {
    fn report(&self, why: Lost, text: &str) {
        if let Some(earlier) = self.due(why, Instant::now()) {
            let more = if earlier > 0 { format!(" ({earlier} more since the last report)") } else { String::new() };
            // Nobody may be left to read it.
            let _closed = writeln!(stderr(), "failsafectl relay: {}{more}", crate::render::clean(text));
        }
    }

    /// How many were not printed since the last one, if this one is to be printed.
    fn due(&self, why: Lost, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&why) {
            Some((at, count)) if now.saturating_duration_since(*at) < REPORTED_AGAIN => {
                *count += 1;
                None
            }
            _ => Some(all.insert(why, (now, 0)).map_or(0, |(_, count)| count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_printed_once_a_minute_with_what_was_not() {
        let (losses, start) = (Losses::default(), Instant::now());
        assert_eq!(losses.due(Lost::Stranger, start), Some(0));
        assert_eq!(losses.due(Lost::Stranger, start), None);
        assert_eq!(losses.due(Lost::Gateway, start), Some(0));
        assert_eq!(losses.due(Lost::Stranger, start + REPORTED_AGAIN), Some(1));
    }
}
