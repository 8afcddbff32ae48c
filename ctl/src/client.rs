//! The connection to the daemon: one unix socket, opened once, and what to say when nobody is there.

use crate::{
    exit::{Exit, Fail},
    refusal::{FirstBytes, remembering},
};
use failsafe_proto::v1::{
    attestation_service_client::AttestationServiceClient, discovery_service_client::DiscoveryServiceClient,
    event_service_client::EventServiceClient, node_service_client::NodeServiceClient,
    policy_service_client::PolicyServiceClient, run_service_client::RunServiceClient,
};
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    io::{self, ErrorKind},
    path::Path,
    sync::Mutex,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Largest message that is read: an entry of the audit log has at most 8 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// An open connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or the socket's permissions refuse the caller; the advice says how to start the daemon.
    pub async fn connect(socket: &Path) -> Result<Client, Fail> {
        let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
        // Made by hand, so that the daemon sees this process as its peer and a refusal keeps its errno.
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
        let channel = Endpoint::from_static("http://failsafed.invalid")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Fail::because(format!("cannot speak with failsafed at {}", socket.display()), &error))?;
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

    /// Policy checks.
    pub fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    /// The audit log.
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
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
            Fail::new(Exit::Error, format!("failsafed is not running: there is no socket {at}")).advise(start)
        }
        ErrorKind::ConnectionRefused => {
            Fail::new(Exit::Error, format!("failsafed is not running: nobody listens at {at}")).advise(start)
        }
        ErrorKind::PermissionDenied => {
            Fail::new(Exit::Denied, format!("permission denied on socket {at}"))
                .advise("ask an administrator for membership in the group `failsafe`; other users need write permission on the socket")
        }
        _ => Fail::because(format!("cannot reach failsafed at {at}"), error).advise(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_daemon_is_told_apart_from_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let connect = || block_on(Client::connect(&path)).unwrap_err();
        let missing = connect();
        assert!(missing.message.contains("there is no socket"), "{missing}");
        assert!(missing.advice.unwrap().contains("systemctl start failsafed"));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let dead = connect();
        assert!(dead.message.contains("nobody listens"), "{dead}");
        assert_eq!(dead.exit, Exit::Error);
    }
}
