//! The same with a collector that is a gRPC server by tonic.

use super::*;
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use std::sync::atomic::AtomicUsize;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tonic::{Status, transport::server::TcpIncoming};
use tower::Service;

type Taken = Result<ExportMetricsServiceResponse, Status>;

/// Answers one request after the other with these, and the last one again.
struct Collector {
    answers: Vec<Taken>,
    answered: AtomicUsize,
    got: mpsc::UnboundedSender<Got>,
}

impl Collector {
    fn of(answers: Vec<Taken>) -> (MetricsServiceServer<Collector>, mpsc::UnboundedReceiver<Got>) {
        let (got, all) = mpsc::unbounded_channel();
        (MetricsServiceServer::new(Collector { answers, answered: AtomicUsize::new(0), got }), all)
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let header = |name| request.metadata().get(name).map_or("", |it| it.to_str().unwrap()).to_owned();
        let (token, content) = (header("x-token"), header("content-type"));
        let body = request.into_inner().encode_to_vec();
        let lines = Form::Protobuf.read(&body, &mut Default::default()).unwrap().lines();
        let _gone = self.got.send(Got { path: String::new(), token, content, lines });
        let n = self.answered.fetch_add(1, Ordering::Relaxed);
        self.answers.get(n).or(self.answers.last()).unwrap().clone().map(tonic::Response::new)
    }
}

fn partial(refused: i64, why: &str) -> Taken {
    let partial = ExportMetricsPartialSuccess { rejected_data_points: refused, error_message: why.to_owned() };
    Ok(ExportMetricsServiceResponse { partial_success: Some(partial) })
}

/// A server without TLS, and where it listens.
async fn serving(answers: Vec<Taken>) -> (String, mpsc::UnboundedReceiver<Got>) {
    let (service, got) = Collector::of(answers);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (format!("http://{address}"), got)
}

fn to(endpoint: String) -> impl FnOnce(&mut config::Metrics) {
    |config| (config.otlp_endpoint, config.otlp_protocol) = (endpoint, Protocol::Grpc)
}

#[tokio::test]
async fn metrics_are_sent_over_grpc_with_the_headers_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "X-Token: s3cret\n").unwrap();
    let (endpoint, mut got) = serving(vec![Ok(ExportMetricsServiceResponse::default())]).await;
    let counts = pushing(|config| {
        to(endpoint)(config);
        config.otlp_headers_file = file;
    })
    .await;
    let first = got.recv().await.unwrap();
    assert_eq!((first.token.as_str(), first.content.as_str()), ("s3cret", "application/grpc"));
    assert!(first.lines.contains("failsafe_up 0e0\n"), "{}", first.lines);
    let second = got.recv().await.unwrap();
    assert!(second.lines.contains("failsafe_gateway_otlp_pushes_total/result/taken 1e0\n"), "{}", second.lines);
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_a_grpc_collector_does_not_take_is_counted_and_the_next_request_is_sent() {
    let answers = vec![Err(Status::unavailable("later")), partial(3, "too old"), partial(0, "")];
    let (endpoint, mut got) = serving(answers).await;
    let counts = pushing(to(endpoint)).await;
    got.recv().await.unwrap();
    let second = got.recv().await.unwrap();
    assert!(second.lines.contains("failsafe_gateway_otlp_pushes_total/result/failed 1e0\n"), "{}", second.lines);
    let third = got.recv().await.unwrap();
    assert!(third.lines.contains("failsafe_gateway_otlp_refused_points_total 3e0\n"), "{}", third.lines);
    let text = counted(&counts);
    assert!(text.contains("failsafe_gateway_otlp_pushes_total{result=\"failed\"} 1\n"), "{text}");
}

/// One request to an endpoint, and why it failed.
async fn failure(config: config::Metrics) -> String {
    let push = Push::open(&config).unwrap().unwrap();
    let sent = push.send(&Families::default(), 0).await;
    format!("{:#}", sent.expect_err("it was taken"))
}

fn over_grpc(endpoint: &str) -> config::Metrics {
    config::Metrics { otlp_endpoint: endpoint.into(), otlp_protocol: Protocol::Grpc, ..config::Metrics::default() }
}

#[tokio::test]
async fn an_answer_of_grpc_is_bounded_and_quoted_only_without_headers() {
    let (endpoint, _got) = serving(vec![Err(Status::permission_denied("no \u{1b}[1mtoken"))]).await;
    let shown = failure(over_grpc(&endpoint)).await;
    assert!(shown.starts_with("gRPC PermissionDenied: no ") && !shown.contains('\u{1b}'), "{shown}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "X-Token: s3cret\n").unwrap();
    let config = config::Metrics { otlp_headers_file: file, ..over_grpc(&endpoint) };
    assert_eq!(failure(config).await, "gRPC PermissionDenied: not quoted");

    let (endpoint, _got) = serving(vec![partial(3, &"x".repeat(100_000))]).await;
    let shown = failure(over_grpc(&endpoint)).await;
    assert!(shown.starts_with("gRPC OutOfRange: "), "{shown}");
    // An HTTP server that knows no gRPC.
    let (endpoint, _got) = collector(vec![(200, Vec::new())]).await;
    let shown = failure(over_grpc(&endpoint)).await;
    assert!(!shown.is_empty());
}

/// A server with TLS that offers these protocols, and the file of its authority.
async fn with_tls(folder: &Path, protocols: &[&str]) -> (String, PathBuf, mpsc::UnboundedReceiver<Got>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = folder.join(format!("{}.pem", protocols.join("-")));
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let mut config = config.unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (service, got) = Collector::of(vec![partial(0, "")]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                assert_eq!(request.uri().scheme_str(), Some("https"));
                service.clone().call(request)
            });
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    });
    (format!("https://localhost:{port}"), file, got)
}

#[tokio::test]
async fn a_grpc_collector_is_verified_by_its_authority_and_speaks_http2() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, authority, mut got) = with_tls(folder.path(), &["h2"]).await;
    let push = Push::open(&config::Metrics { otlp_ca_file: authority, ..over_grpc(&endpoint) }).unwrap().unwrap();
    assert_eq!(push.send(&Families::default(), 0).await.unwrap(), Some((0, String::new())));
    got.recv().await.unwrap();
    let (old, other, _got) = with_tls(folder.path(), &[]).await;
    let shown = failure(config::Metrics { otlp_ca_file: other.clone(), ..over_grpc(&old) }).await;
    assert_eq!(shown, "the server does not speak HTTP/2 over TLS (ALPN)");
    let shown = failure(config::Metrics { otlp_ca_file: other, ..over_grpc(&endpoint) }).await;
    assert!(shown.starts_with("TLS: "), "{shown}");
}

#[tokio::test]
async fn a_grpc_collector_that_is_away_is_counted() {
    let counts = pushing(to("http://127.0.0.1:1".into())).await;
    counts_one(&counts.failed).await;
}

#[test]
fn an_endpoint_of_grpc_has_no_path_and_its_headers_none_of_grpcs_own() {
    for endpoint in ["https://otel.example.org:4317/v1/metrics", "https://otel.example.org/?key=s3cret"] {
        let wrong = super::endpoint(&over_grpc(endpoint)).unwrap_err();
        assert_eq!(wrong, "expected a URL without a path for gRPC, such as https://otel.example.org:4317");
    }
    assert!(super::endpoint(&over_grpc("otel:4317")).unwrap_err().contains("https://otel.example.org:4317"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "Grpc-Timeout: 1S\n").unwrap();
    let error = |protocol| read(&Secret::at(file.clone()), protocol).map_err(|error| format!("{error:#}"));
    assert_eq!(error(Protocol::Grpc).unwrap_err(), "line 1: the gateway sets grpc-timeout itself");
    assert!(error(Protocol::Http).is_ok());
}
