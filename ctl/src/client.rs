//! The connection to the daemon: a unix socket or the gateway of another node, opened once, and what to say when nobody is there.

use crate::{
    exit::{Exit, Fail},
    refusal::{FirstBytes, remembering},
    remote,
};
use failsafe_proto::v1::{
    attestation_service_client::AttestationServiceClient, canary_service_client::CanaryServiceClient,
    discovery_service_client::DiscoveryServiceClient, drill_service_client::DrillServiceClient,
    event_service_client::EventServiceClient, incident_service_client::IncidentServiceClient,
    log_service_client::LogServiceClient, node_service_client::NodeServiceClient,
    policy_service_client::PolicyServiceClient, run_service_client::RunServiceClient,
    shadow_service_client::ShadowServiceClient,
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::Future,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::transport::{Channel, Endpoint};

/// Largest message that is read: an entry of the audit log has at most 8 MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// Another node is asked this often whether it is there, and may take as long to answer.
const PING: Duration = Duration::from_secs(20);

/// An open connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

/// The daemon that is asked.
#[derive(Debug, Clone)]
pub enum Target {
    /// That of this node, at its socket.
    Socket(PathBuf),
    /// That of another node, by its gateway.
    Node(remote::Node),
}

impl Target {
    /// A failure of a request to this daemon: on another node, the node is named, and advice that holds for this node is replaced.
    pub fn explain(&self, mut fail: Fail) -> Fail {
        let Target::Node(node) = self else { return fail };
        if !fail.message.is_empty() {
            fail.message = format!("{}: {}", node.address, fail.message);
        }
        fail.advice = match fail.exit {
            Exit::Denied if fail.message.contains("needs role") => {
                Some("the role of your certificate on that node decides: docs/remote-access.md, \"Roles\"".to_owned())
            }
            Exit::Denied => Some("docs/remote-access.md, \"Roles\" and \"Errors\"".to_owned()),
            _ => fail.advice,
        };
        fail
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or the caller is refused; the advice says what to do.
    pub async fn connect(target: &Target) -> Result<Client, Fail> {
        match target {
            Target::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| unreachable(path, &error))?;
                Client::over(stream, Endpoint::from_static("http://failsafed.invalid"), path.display()).await
            }
            Target::Node(node) => {
                let name = &node.address;
                let origin = Endpoint::from_shared(format!("http://{name}"));
                let origin = origin.map_err(|error| Fail::because(format!("`{name}` is no name of a node"), &error))?;
                // A node that is switched off is noticed while an answer is awaited.
                let origin =
                    origin.http2_keep_alive_interval(PING).keep_alive_timeout(PING).keep_alive_while_idle(true);
                Client::over(node.connect().await?, origin, name).await
            }
        }
    }

    /// Speaks over this connection, and makes no other: the daemon sees this process as its peer, and a refusal keeps its errno.
    async fn over<S>(stream: S, origin: Endpoint, name: impl fmt::Display) -> Result<Client, Fail>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let first = FirstBytes::default();
        let stream = Mutex::new(Some(remembering(stream, first.clone())));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            let why = match &stream {
                Some(_) => None,
                None => first.refusal(),
            };
            async move {
                stream.map(TokioIo::new).ok_or_else(|| match why {
                    Some(why) => io::Error::new(ErrorKind::ConnectionRefused, why),
                    None => io::Error::from(ErrorKind::ConnectionReset),
                })
            }
        });
        let channel = origin
            .connect_with_connector(connector)
            .await
            .map_err(|error| Fail::because(format!("cannot speak with failsafed at {name}"), &error))?;
        Ok(Client { channel })
    }

    /// Runs and their control.
    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Discovery.
    pub fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Drills.
    pub fn drills(&self) -> DrillServiceClient<Channel> {
        DrillServiceClient::new(self.channel.clone())
    }

    /// Canaries.
    pub fn canaries(&self) -> CanaryServiceClient<Channel> {
        CanaryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Shadows.
    pub fn shadows(&self) -> ShadowServiceClient<Channel> {
        ShadowServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Policy checks.
    pub fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    /// The audit log.
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Incidents.
    pub fn incidents(&self) -> IncidentServiceClient<Channel> {
        IncidentServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The audit log as a transparency log.
    pub fn log(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Fingerprints and statements.
    pub fn attestation(&self) -> AttestationServiceClient<Channel> {
        AttestationServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The node.
    pub fn node(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone())
    }
}

/// Runs a command's future on this thread: nothing here needs more, and `run` must have one thread when it changes users.
///
/// # Errors
/// Those of `work`, or the kernel refuses what an event loop needs.
pub fn block_on<T>(work: impl Future<Output = Result<T, Fail>>) -> Result<T, Fail> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Fail::because("cannot start the event loop", &error))?.block_on(work)
}

fn unreachable(socket: &Path, error: &io::Error) -> Fail {
    let at = socket.display();
    let start = "start it with `systemctl start failsafed` (by hand: `failsafed --config FILE`), or name its socket with \
                 --socket or FAILSAFE_SOCKET; `journalctl -u failsafed -b` says why it ended; `explain`, `incidents` and `events` read the log \
                 without it with --offline";
    match error.kind() {
        ErrorKind::NotFound => {
            Fail::new(Exit::Unknown, format!("failsafed is not running: there is no socket {at}")).advise(start)
        }
        ErrorKind::ConnectionRefused => {
            Fail::new(Exit::Unknown, format!("failsafed is not running: nobody listens at {at}")).advise(start)
        }
        ErrorKind::PermissionDenied => {
            Fail::new(Exit::Denied, format!("permission denied on socket {at}"))
                .advise("ask an administrator for membership in the group `failsafe`; other users need write permission on the socket")
        }
        _ => Fail { exit: Exit::Unknown, ..Fail::because(format!("cannot reach failsafed at {at}"), error) }.advise(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_daemon_is_distinguished_from_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let target = Target::Socket(path.clone());
        let connect = || block_on(Client::connect(&target)).unwrap_err();
        let missing = connect();
        assert!(missing.message.contains("there is no socket"), "{missing}");
        assert!(missing.advice.as_deref().unwrap_or_default().contains("systemctl start failsafed"));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let dead = connect();
        assert!(dead.message.contains("nobody listens"), "{dead}");
        assert_eq!((missing.exit, dead.exit), (Exit::Unknown, Exit::Unknown));
    }
}
