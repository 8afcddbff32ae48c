//! One request to a collector by OTLP over gRPC, on a connection of its own, which ends with the answer.

use crate::notify::http::{self, Url};
use anyhow::{Context, Result};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse, metrics_service_client::MetricsServiceClient,
};
use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::ClientConfig;
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    transport::{Endpoint, Uri},
};

/// Largest answer, and largest head of one, in bytes.
const ANSWER: usize = 64 << 10;
const HEAD: u32 = 16 << 10;

/// The same authorities, for a server that speaks HTTP/2.
pub(super) fn over_http2(tls: &ClientConfig) -> Arc<ClientConfig> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

/// Sends it. The answer, or the error that the collector answers, has to arrive within `patience`.
///
/// # Errors
/// There is no answer.
pub(super) async fn export(
    url: &Url,
    tls: Option<&Arc<ClientConfig>>,
    headers: HeaderMap,
    request: ExportMetricsServiceRequest,
    patience: Duration,
) -> Result<Result<ExportMetricsServiceResponse, Status>> {
    let until = Instant::now() + patience;
    let late = || format!("no answer within {} s", patience.as_secs());
    let stream = timeout_at(until, http::connect(url, tls)).await.with_context(late)??;
    // Once: a connection that ends is not made again.
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    let endpoint = Endpoint::try_from(url.shown())?
        .user_agent(concat!("failsafe-gateway/", env!("CARGO_PKG_VERSION")))?
        .http2_max_header_list_size(HEAD);
    let connected = timeout_at(until, endpoint.connect_with_connector(connector)).await.with_context(late)?;
    let mut client = MetricsServiceClient::new(connected?).max_decoding_message_size(ANSWER);
    let mut request = Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request.set_timeout(patience);
    let answer = timeout_at(until, client.export(request)).await.with_context(late)?;
    Ok(answer.map(tonic::Response::into_inner))
}

/// An error as it is logged. What the collector wrote is given to `quoted`; an error of this side has a source.
pub(super) fn shown(status: &Status, quoted: impl Fn(&str) -> String) -> String {
    let text = match status.source() {
        Some(source) => source.to_string(),
        None => quoted(status.message()),
    };
    format!("gRPC {:?}: {text}", status.code())
}
