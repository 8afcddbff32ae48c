//! The gateway with a server for remote clients, and connections to it.

use crate::authority::{Authority, Signed};
use anyhow::{Result, ensure};
use failsafe_proto::v1::{Command, ControlRequest, run_service_client::RunServiceClient};
use hyper_util::rt::TokioIo;
use integration::{
    Node, TestCgroup,
    gateway::{self, Gateway, accepts},
    on_node,
};
use std::{
    fs::{self, Permissions},
    future::Future,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

const ROLES: &str = "[[identity]]\nsan = \"dns:viewer\"\nrole = \"viewer\"\n\n\
    [[identity]]\nsan = \"uri:spiffe://test/operator\"\nrole = \"operator\"\n\n\
    [[identity]]\nsan = \"email:admin@test\"\nrole = \"administrator\"\n";

/// Whether the gateway's authority signs the clients and the server.
pub struct Door {
    pub authority: Authority,
    pub gateway: Gateway,
    pub address: SocketAddr,
}

impl Door {
    /// The gateway with a server for remote clients; `settings` are further lines of its table.
    fn open(node: &Node, cgroup: &TestCgroup, settings: &str) -> Result<Door> {
        let authority = Authority::new()?;
        write(node, &authority.server()?, &authority.pem)?;
        let path = |name: &str| format!("{:?}", node.file(name).display().to_string());
        let config = format!(
            "[metrics]\naddress = \"127.0.0.1:0\"\n[remote]\naddress = \"127.0.0.1:0\"\ncertificate = {}\nkey = {}\nclient_ca = {}\n\
             reload_s = 1\n{settings}",
            path("node.crt"),
            path("node.key"),
            path("ca.crt")
        );
        let mut gateway = Gateway::start(node, cgroup.path(), &config)?;
        let address = gateway.address("remote clients are served")?;
        Ok(Door { authority, gateway, address })
    }

    pub async fn connect(&self, identity: &str) -> Result<Channel> {
        connect(self.address, &self.authority.pem, Some(&self.authority.client(identity)?)).await
    }
}

pub fn on_door(
    test: &'static str,
    settings: &str,
    run: impl FnOnce(&mut Node, &mut Door, &TestCgroup) -> Result<()>,
) -> Result<()> {
    let Some(cgroup) = gateway::cgroup(test) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let roles = folder.path().join("roles.toml");
    fs::write(&roles, ROLES)?;
    let config = format!("{}roles = {:?}\n", accepts(&cgroup), roles.display().to_string());
    on_node(test, &config, |node| {
        let mut door = Door::open(node, &cgroup, settings)?;
        let done = run(node, &mut door, &cgroup);
        if done.is_err() {
            eprintln!("--- the gateway's log\n{}---", door.gateway.log());
        }
        done
    })
}

/// Files that the gateway's user may read.
pub fn write(node: &Node, server: &Signed, ca: &str) -> Result<()> {
    for (file, text) in [("node.crt", server.certificate.as_str()), ("node.key", &server.key), ("ca.crt", ca)] {
        let path = node.file(file);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Makes a connection with TLS.
pub fn tls(
    address: SocketAddr,
    ca: &str,
    client: Option<&Signed>,
) -> Result<impl Future<Output = std::io::Result<TlsStream<TcpStream>>> + Send + 'static> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match client {
        Some(Signed { certificate, key }) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Ok(async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        connector.connect(name, stream).await
    })
}

/// Connects with TLS. An error of the handshake comes with the first request at the latest.
pub async fn connect(address: SocketAddr, ca: &str, client: Option<&Signed>) -> Result<Channel> {
    let stream = tls(address, ca, client)?.await?;
    // Once: a connection that ends is not made again.
    let stream = std::sync::Mutex::new(Some(stream));
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection has ended")) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connect).await?)
}

/// Runs the test's part that is a client.
pub fn client<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

pub async fn control(channel: &Channel, run: &str, command: Command) -> Result<(), Status> {
    let request = ControlRequest {
        run: run.to_owned(),
        command: command as i32,
        reason: "test".to_owned(),
        ..ControlRequest::default()
    };
    RunServiceClient::new(channel.clone()).control(request).await.map(|_| ())
}

pub fn is<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, what: &str) -> Result<()> {
    let got = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    ensure!(got == code, "{what}: expected {code:?}, got {answer:?}");
    Ok(())
}
