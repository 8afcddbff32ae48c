//! A gRPC channel to the daemon of a test.

use crate::Node;
use anyhow::Result;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Connects to the socket of `node`, and does `work` with the channel.
///
/// # Errors
/// Nobody listens there, or `work` fails.
pub fn with_channel<F: Future<Output = Result<()>>>(node: &Node, work: impl FnOnce(Channel) -> F) -> Result<()> {
    let socket = node.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://failsafed.invalid");
        work(endpoint.connect_with_connector(tower::service_fn(connect)).await?).await
    })
}
