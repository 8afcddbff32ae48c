//! Remote clients, by TLS with client certificates. Who a client is comes from its certificate; what it may do is decided by
//! failsafed alone.
//!
//! ```text
//! connection (counted by address) ─► handshake (timed) ─► identities of the certificate (counted) ─► HTTP/2
//!   └─► relay: headers that are named, and the identities ─► failsafed, by a connection of its own
//! ```
//! Invariants: nothing is read of a client before its certificate is verified, except the handshake; the metadata that names
//! identities is written here and taken over from no client; a connection ends with the client's certificate.

mod identity;
mod refused;
mod relay;
mod tls;

use crate::config::{self, Wrong};
use crate::count::Counts;
use anyhow::{Context, Result};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::Client;
pub use refused::Refused;
use refused::{Reason, Who};
use relay::Relay;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
pub use tls::Expiries;
use tls::{Files, Tls};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// After an error of accept, such as no descriptor being left, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// A handshake may take as long.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once, and of one address.
const HANDSHAKES: usize = 64;
const HANDSHAKES_OF_ONE: usize = 8;
/// A connection may take as long.
const AGE: Duration = Duration::from_secs(3_600);
/// Requests at once of one connection.
const STREAMS: u32 = 16;
/// Size of the headers of a request, in bytes.
const HEADERS: u32 = 16 << 10;
/// A client that does not answer a ping for as long is gone.
const PING: Duration = Duration::from_secs(20);

/// The server of remote clients.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<Tls>,
    reload: Duration,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    socket: PathBuf,
    handshakes: Counts<IpAddr>,
    connections: Counts<String>,
    requests: Counts<String>,
    refused: Refused,
}

impl Server {
    /// Reads the certificates and binds the address.
    ///
    /// # Errors
    /// A file cannot be used, or the address cannot be bound.
    pub async fn bind(config: &config::Remote, socket: PathBuf) -> Result<Server> {
        let files = Files::new(&config.certificate, &config.key, &config.client_ca);
        let tls = Arc::new(Tls::load(files)?);
        let wanted = config.address.context("remote.address: expected an address")?;
        let listener =
            TcpListener::bind(wanted).await.with_context(|| format!("remote.address: cannot bind {wanted}"))?;
        let most = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let all = most(config.connections);
        let shared = Arc::new(Shared {
            socket,
            handshakes: Counts::new(HANDSHAKES, HANDSHAKES_OF_ONE),
            connections: Counts::new(all, most(config.connections_per_identity)),
            requests: Counts::new(usize::MAX, most(config.requests_per_identity)),
            refused: Refused::default(),
        });
        let reload = Duration::from_secs(config.reload_s);
        Ok(Server { address: listener.local_addr()?, listener, tls, reload, shared })
    }

    /// What of the files of a configuration cannot be used.
    pub fn check(config: &config::Remote) -> Vec<Wrong> {
        Tls::check(&Files::new(&config.certificate, &config.key, &config.client_ca))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When the certificates end.
    pub fn certificates(&self) -> Expiries {
        self.tls.expiries()
    }

    /// What is refused.
    pub fn refused(&self) -> Refused {
        self.shared.refused.clone()
    }

    /// Serves. It does not end by itself.
    ///
    /// # Errors
    /// None now.
    pub async fn serve(self) -> Result<()> {
        let (tls, every) = (self.tls.clone(), self.reload);
        tokio::spawn(async move { tls.reload_each(every).await });
        tokio::spawn(self.shared.refused.clone().sum_up());
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a remote connection cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = self.shared.handshakes.take(&from.ip()) else {
                let why = "too many handshakes at once, in all or of this address";
                self.shared.refused.note(Reason::HandshakeLimit, from, &Who::default(), why);
                continue;
            };
            let (acceptor, shared) = (TlsAcceptor::from(self.tls.config()), self.shared.clone());
            tokio::spawn(async move {
                match accept(acceptor, stream).await {
                    Ok((stream, client)) => {
                        drop(permit);
                        shared.serve_one(stream, client, from).await;
                    }
                    Err((reason, why)) => shared.refused.note(reason, from, &Who::default(), &why),
                }
            });
        }
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// The handshake, and who the client is; or why it is refused.
async fn accept(acceptor: TlsAcceptor, stream: TcpStream) -> Result<(TlsStream, Client), (Reason, String)> {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err((Reason::of_handshake(&error), error.to_string())),
        Err(_) => return Err((Reason::HandshakeTimeout, format!("no handshake within {} s", HANDSHAKE.as_secs()))),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let first = certificates.first().ok_or((Reason::CertificateMissing, "no certificate".to_owned()))?;
    let client = Client::of(first).map_err(|error| (Reason::CertificateUnnamed, format!("{error:#}")))?;
    Ok((stream, client))
}

impl Shared {
    async fn serve_one(&self, stream: TlsStream, client: Client, from: SocketAddr) {
        let name = client.name();
        let Some(_counted) = self.connections.take(&name) else {
            let why = "remote.connections or remote.connections_per_identity is reached";
            self.refused.note(Reason::ConnectionLimit, from, &Who { identity: &name, method: "" }, why);
            return;
        };
        tracing::debug!(%from, client = name, "a remote client is connected");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = u64::try_from(client.ends).unwrap_or(0).saturating_sub(now);
        let relay = Arc::new(Relay::new(self.socket.clone(), client, from, self.refused.clone()));
        let service = hyper::service::service_fn(|request| {
            let permit = self.requests.take(&name);
            let relay = relay.clone();
            async move { Ok::<_, std::convert::Infallible>(relay.answer(request, permit).await) }
        });
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let served = server.serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(AGE.min(Duration::from_secs(left)), served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%from, %error, "a remote connection ended with an error"),
            Err(_) => {
                tracing::debug!(%from, client = name, "a remote connection reached its age, or its certificate ended")
            }
        }
    }
}
