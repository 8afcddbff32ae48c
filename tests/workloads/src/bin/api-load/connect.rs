//! Connections to a server.

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Channel, Endpoint};

/// Where to.
#[derive(Debug, Clone, clap::Args)]
pub struct To {
    /// A unix socket
    #[arg(long, required_unless_present = "tls")]
    unix: Option<PathBuf>,
    /// An address that is served by TLS
    #[arg(long, requires = "folder")]
    tls: Option<SocketAddr>,
    /// The folder of the certificates
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl To {
    /// Connections; by TLS each with a certificate of its own.
    pub async fn connect(&self, count: usize) -> Result<Vec<Channel>> {
        let mut all = Vec::new();
        for n in 0..count {
            all.push(self.one(n).await.with_context(|| format!("connection {n}"))?);
        }
        Ok(all)
    }

    async fn one(&self, n: usize) -> Result<Channel> {
        let endpoint = Endpoint::from_static("http://localhost");
        if let Some(path) = &self.unix {
            let stream = UnixStream::connect(path).await?;
            return channel(endpoint, stream).await;
        }
        let (address, folder) = (self.tls.context("no server")?, self.folder.as_deref().context("no certificates")?);
        let connector = TlsConnector::from(Arc::new(client(folder, n)?));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        channel(endpoint, connector.connect(ServerName::try_from("localhost")?, stream).await?).await
    }
}

async fn channel<S>(endpoint: Endpoint, stream: S) -> Result<Channel>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let stream = std::sync::Mutex::new(Some(stream));
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection has ended")) }
    });
    Ok(endpoint.connect_with_connector(connect).await?)
}

fn client(folder: &Path, n: usize) -> Result<ClientConfig> {
    let read = |name: String| fs::read(folder.join(&name)).with_context(|| name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.crt".into())?)?)?;
    let chain = vec![CertificateDer::from_pem_slice(&read(format!("client-{n}.crt"))?)?];
    let key = PrivateKeyDer::from_pem_slice(&read(format!("client-{n}.key"))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
