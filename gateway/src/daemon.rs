//! The connection to failsafed. It is made when it is needed and kept while it works.

use failsafe_proto::v1::{
    MetricsSnapshotRequest, MetricsSnapshotResponse, Record, WatchRequest, event_service_client::EventServiceClient,
    metrics_service_client::MetricsServiceClient,
};
use hyper_util::rt::TokioIo;
use std::{path::PathBuf, time::Duration};
use tokio::net::UnixStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Largest answer that is read.
const MESSAGE: usize = 4 << 20;

/// failsafed, by its control socket.
#[derive(Debug, Clone)]
pub struct Daemon {
    channel: Channel,
}

impl Daemon {
    /// The daemon behind `socket`, which may not be there yet.
    pub fn new(socket: PathBuf) -> Daemon {
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://failsafed.invalid").connect_timeout(Duration::from_secs(2));
        Daemon { channel: endpoint.connect_with_connector_lazy(connector) }
    }

    /// What monitoring reads.
    ///
    /// # Errors
    /// The daemon does not answer within `patience`, or refuses.
    pub async fn snapshot(&self, patience: Duration) -> Result<MetricsSnapshotResponse, Status> {
        let mut client = MetricsServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE);
        let mut request = Request::new(MetricsSnapshotRequest {});
        request.set_timeout(patience);
        let answer = tokio::time::timeout(patience, client.snapshot(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("failsafed does not answer"))?;
        answer.map(tonic::Response::into_inner)
    }

    /// Entries of the audit log.
    ///
    /// # Errors
    /// The daemon does not answer, or refuses.
    pub async fn events(&self, request: WatchRequest) -> Result<Streaming<Record>, Status> {
        let mut client = EventServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE);
        Ok(client.watch(request).await?.into_inner())
    }
}
