//! Other nodes: their addresses, and the connection to their gateways by TLS with certificates on both sides
//! (`docs/remote-access.md`).

mod address;
mod tls;

pub use address::{Address, DEFAULT_PORT, list};
pub use tls::Files;

use crate::exit::{Exit, Fail, chain};
use std::{fs::File, io::Read, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// A name is looked up, a connection is made and its handshake is done within this time.
const CONNECT: Duration = Duration::from_secs(10);

/// Largest file of nodes, certificates or keys, in bytes.
const FILE: u64 = 1 << 20;

/// What a file that an option names contains. It may be a pipe, such as `<(command)` of a shell.
fn read(option: &str, path: &Path) -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(FILE + 1).read_to_end(&mut bytes));
    file.map_err(|error| Fail::because(format!("{option}: cannot read {}", path.display()), &error))?;
    match bytes.len() as u64 > FILE {
        true => Err(Fail::usage(format!("{option}: {} has more than {FILE} bytes", path.display()))),
        false => Ok(bytes),
    }
}

/// A node that is asked over the network.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where its gateway listens.
    pub address: Address,
    /// The caller's certificate and the authority of the nodes.
    pub files: Files,
}

impl Node {
    /// A connection that the gateway accepted.
    ///
    /// With TLS 1.3 this side is the last to learn whether its certificate is accepted: after its handshake. So the first bytes of
    /// the gateway are awaited, which it sends without being asked (RFC 9113, 3.4). Whoever writes earlier loses the reason.
    ///
    /// # Errors
    /// A file cannot be used, nobody answers within 10 s, the node's certificate is not valid for its name, or the caller's
    /// certificate is refused.
    pub async fn connect(&self) -> Result<BufReader<TlsStream<TcpStream>>, Fail> {
        let connector = self.files.connector()?;
        let address = &self.address;
        let name = address.server_name()?;
        let connected = async {
            let stream = TcpStream::connect((address.host(), address.port())).await.map_err(|error| {
                Fail { exit: Exit::Unknown, ..Fail::because(format!("cannot reach {address}"), &error) }
                    .advise("is failsafe-gateway running there, with a [remote] table? `journalctl -u failsafe-gateway` on the node")
            })?;
            let stream = connector.connect(name, stream).await.map_err(|error| {
                Fail::because(format!("no TLS with {address}"), &error)
                    .advise("--tls-ca names the authority that signed the node's certificate; docs/remote-access.md, \"Errors\"")
            })?;
            let mut stream = BufReader::new(stream);
            let why = match stream.fill_buf().await {
                Ok([]) => "it closed the connection".to_owned(),
                Ok(_) => return Ok(stream),
                Err(error) => chain(&error),
            };
            let refused = format!(
                "{address} refuses the certificate of --tls-cert, or its limit of connections is reached: {why}"
            );
            Err(Fail::new(Exit::Error, refused)
                .advise("docs/remote-access.md, \"Errors\"; `journalctl -u failsafe-gateway` on the node"))
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(done) => done,
            Err(_) => {
                Err(Fail::new(Exit::Timeout, format!("{address} does not answer within {} s", CONNECT.as_secs())))
            }
        }
    }
}
