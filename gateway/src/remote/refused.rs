//! What is refused to remote clients: counted by reason for the metrics, and logged as far as a bound allows.
//!
//! Invariant: of each reason, at most [`LINES`] lines come into the log in a minute, so that a stranger fills no disk; what is not
//! logged is summed up. Each reason has lines of its own: noise of strangers hides no request of a client with a certificate.

use failsafe_core::visible::{beginning, clean};
use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_rustls::rustls::{CertificateError, Error};

/// Lines of one reason in [`WINDOW`].
const LINES: u64 = 10;
/// Over which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Longest text of a client in a line, in bytes.
const TEXT: usize = 200;

/// Why something is refused. The names are labels of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Too many handshakes at once, in all or of one address.
    HandshakeLimit,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The handshake failed for another reason: no TLS 1.3, or the client does not trust the node.
    HandshakeFailed,
    /// The client has no certificate.
    CertificateMissing,
    /// The certificate is not valid now.
    CertificateExpired,
    /// The certificate is of another authority or purpose, or damaged.
    CertificateUntrusted,
    /// The certificate has no name that can be an identity.
    CertificateUnnamed,
    /// Too many connections, in all or of one identity.
    ConnectionLimit,
    /// Too many requests at once of one identity, or a limit of failsafed.
    RequestLimit,
    /// No method of failsafe.v1, or a request that is not valid.
    Request,
    /// failsafed does not allow it: no role, or one that is too low.
    Permission,
}

impl Reason {
    const ALL: [Reason; 11] = [
        Reason::HandshakeLimit,
        Reason::HandshakeTimeout,
        Reason::HandshakeFailed,
        Reason::CertificateMissing,
        Reason::CertificateExpired,
        Reason::CertificateUntrusted,
        Reason::CertificateUnnamed,
        Reason::ConnectionLimit,
        Reason::RequestLimit,
        Reason::Request,
        Reason::Permission,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::HandshakeLimit => "handshake-limit",
            Reason::HandshakeTimeout => "handshake-timeout",
            Reason::HandshakeFailed => "handshake-failed",
            Reason::CertificateMissing => "certificate-missing",
            Reason::CertificateExpired => "certificate-expired",
            Reason::CertificateUntrusted => "certificate-untrusted",
            Reason::CertificateUnnamed => "certificate-unnamed",
            Reason::ConnectionLimit => "connection-limit",
            Reason::RequestLimit => "request-limit",
            Reason::Request => "request",
            Reason::Permission => "permission",
        }
    }

    /// Why a handshake failed.
    pub fn of_handshake(error: &io::Error) -> Reason {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented) => Reason::CertificateMissing,
            Some(Error::InvalidCertificate(why)) => match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Reason::CertificateExpired,
                _ => Reason::CertificateUntrusted,
            },
            _ => Reason::HandshakeFailed,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who was refused, and what.
#[derive(Debug, Default)]
pub struct Who<'a> {
    /// Identity of the certificate; empty: not known.
    pub identity: &'a str,
    /// The path of the request; empty: there was none.
    pub method: &'a str,
}

#[derive(Debug, Default)]
struct Counted {
    total: AtomicU64,
    /// Since the beginning of the window.
    recent: AtomicU64,
}

/// What was refused since the start. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Refused(Arc<[Counted; Reason::ALL.len()]>);

impl Refused {
    /// Counts a refusal, and logs it where there is room.
    pub fn note(&self, reason: Reason, from: SocketAddr, who: &Who<'_>, why: &str) {
        if self.count(reason) {
            let (identity, method, why) = (cut(who.identity), cut(who.method), cut(why));
            tracing::warn!(peer = %from, identity, method, %reason, why, "a remote client is refused");
        }
    }

    /// Whether it is logged.
    fn count(&self, reason: Reason) -> bool {
        let counted = &self.0[reason as usize];
        counted.total.fetch_add(1, Ordering::Relaxed);
        counted.recent.fetch_add(1, Ordering::Relaxed) < LINES
    }

    /// Begins a new window, and gives what was not logged in the last one.
    fn close_window(&self) -> Vec<(Reason, u64)> {
        let left = |reason: Reason| self.0[reason as usize].recent.swap(0, Ordering::Relaxed).saturating_sub(LINES);
        Reason::ALL.into_iter().map(|reason| (reason, left(reason))).filter(|(_, left)| *left > 0).collect()
    }

    /// Sums up what is not logged one by one. It does not end by itself.
    pub async fn sum_up(self) {
        loop {
            tokio::time::sleep(WINDOW).await;
            for (reason, count) in self.close_window() {
                tracing::warn!(%reason, count, "more remote clients were refused, without a line of their own");
            }
        }
    }

    /// How often each reason occurred.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::ALL.into_iter().map(|reason| (reason.name(), self.0[reason as usize].total.load(Ordering::Relaxed)))
    }
}

fn cut(text: &str) -> String {
    clean(beginning(text, TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_reason_ten_lines_a_minute_are_logged_and_the_rest_is_counted() {
        let refused = Refused::default();
        let logged = |reason, times: u64| (0..times).filter(|_| refused.count(reason)).count();
        assert_eq!(logged(Reason::CertificateMissing, 1_000), 10);
        assert_eq!(logged(Reason::Permission, 1), 1, "strangers do not hide a client");
        assert_eq!(refused.close_window(), [(Reason::CertificateMissing, 990)]);
        assert_eq!(refused.close_window(), []);
        assert_eq!(logged(Reason::CertificateMissing, 3), 3);
        let totals: Vec<_> = refused.totals().filter(|(_, total)| *total > 0).collect();
        assert_eq!(totals, [("certificate-missing", 1_003), ("permission", 1)]);
    }

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Reason::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    }

    #[test]
    fn text_of_a_client_is_bounded_and_harmless() {
        assert_eq!(cut("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert!(cut(&"ü".repeat(1_000)).len() <= TEXT);
    }
}
