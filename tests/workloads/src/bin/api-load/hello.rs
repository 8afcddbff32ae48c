//! Hello-world by tonic: the health service of gRPC, with its one answer. By TLS it verifies clients as the gateway does.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
    server::TlsStream,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Server, server::Connected};

/// Where it is served.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct At {
    /// At this unix socket
    #[arg(long)]
    unix: Option<PathBuf>,
    /// At a port of this host, with the certificates of this folder
    #[arg(long)]
    tls: Option<PathBuf>,
}

pub async fn serve(at: &At) -> Result<Value> {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(service);
    let ended = async {
        let _ended = crate::line().await;
    };
    match (&at.unix, &at.tls) {
        (Some(path), _) => {
            let listener = UnixListener::bind(path)?;
            ready("unix")?;
            server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), ended).await?;
        }
        (None, folder) => {
            let acceptor = TlsAcceptor::from(Arc::new(config(folder.as_deref().context("no folder")?)?));
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            ready(&listener.local_addr()?.to_string())?;
            let (send, accepted) = mpsc::channel(64);
            tokio::spawn(accept(listener, acceptor, send));
            server.serve_with_incoming_shutdown(ReceiverStream::new(accepted), ended).await?;
        }
    }
    Ok(json!({}))
}

fn ready(address: &str) -> Result<()> {
    println!("{address}");
    Ok(std::io::stdout().flush()?)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, send: mpsc::Sender<std::io::Result<Tls>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, send) = (acceptor.clone(), send.clone());
        tokio::spawn(async move {
            let _nodelay = stream.set_nodelay(true);
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ended = send.send(Ok(Tls(stream))).await;
            }
        });
    }
}

fn config(folder: &Path) -> Result<ServerConfig> {
    let read = |name: &str| fs::read(folder.join(name)).with_context(|| name.to_owned());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.crt")?)?)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = vec![CertificateDer::from_pem_slice(&read("node.crt")?)?];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&read("node.key")?)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A connection with TLS, as tonic takes it.
struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
