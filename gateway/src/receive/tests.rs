//! The receiver between a client and a failsafed that answers what the test says.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::{
    io::{BufRead, BufReader, IoSliceMut, Read, Write},
    os::{fd::AsRawFd, unix::net},
    sync::mpsc,
};

const JSON: &str = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"loss","gauge":{"dataPoints":[
    {"asDouble":60.5,"attributes":[{"key":"step","value":{"intValue":"7"}}]}]}}]}]}]}"#;

/// Values that failsafed got, for each connection to it.
fn failsafed(path: &Path, answer: &'static str) -> mpsc::Receiver<String> {
    failsafed_that_restarts(path, (0, usize::MAX), answer)
}

/// The same; the first `ended` connections end without an answer, and each further one after `answers`.
fn failsafed_that_restarts(
    path: &Path,
    (ended, answers): (usize, usize),
    answer: &'static str,
) -> mpsc::Receiver<String> {
    let listener = net::UnixListener::bind(path).unwrap();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok).skip(ended) {
            let tx = tx.clone();
            std::thread::spawn(move || one_connection(stream, (answer, answers), &tx));
        }
    });
    rx
}

fn one_connection(mut stream: net::UnixStream, (answer, mut left): (&str, usize), got: &mpsc::Sender<String>) {
    let mut first = [0; 2];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"?\n");
    stream.write_all(b"accepted 0 refused 0\n").unwrap();
    let (mut first, mut space) = ([0; 6], nix::cmsg_space!(std::os::fd::RawFd));
    let mut slices = [IoSliceMut::new(&mut first)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    let passed =
        message.cmsgs().unwrap().any(|c| matches!(c, ControlMessageOwned::ScmRights(files) if files.len() == 1));
    assert!(passed, "a connection is passed with the first bytes");
    assert_eq!(&first, b"!peer\n");
    let mut lines = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while left > 0 && reader.read_line(&mut lines).unwrap_or(0) > 0 {
        if lines.ends_with("?\n") {
            got.send(std::mem::take(&mut lines)).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            left -= 1;
        }
    }
}

struct Rig {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    got: mpsc::Receiver<String>,
}

fn rig(answer: &'static str, change: impl FnOnce(&mut config::Receive)) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut config =
        config::Receive { socket: path("otlp.sock"), metrics_socket: path("m.sock"), ..config::Receive::default() };
    change(&mut config);
    let got = failsafed(&path("m.sock.stream"), answer);
    tokio::spawn(Server::bind(&config).unwrap().serve());
    Rig { socket: config.socket, got, _folder: folder }
}

async fn post(rig: &Rig, path: &str, content: &str, body: Vec<u8>) -> (StatusCode, String) {
    post_as(rig, path, content, "identity", body).await
}

async fn post_as(rig: &Rig, path: &str, content: &str, coding: &str, body: Vec<u8>) -> (StatusCode, String) {
    let stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (mut send, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path).header("host", "x").header("content-type", content);
    let request = request.header("content-encoding", coding);
    let answer = send.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_value_in_json_reaches_failsafed_with_the_clients_connection() {
    let rig = rig("accepted 1 refused 0\n", |_| {});
    let (status, body) = post(&rig, "/v1/metrics", "application/json", JSON.into()).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "{\"partialSuccess\":null}"));
    assert_eq!(rig.got.recv().unwrap(), "loss 6.05e1 7\n?\n");
}

#[tokio::test]
async fn a_request_of_grpc_is_answered_with_its_status() {
    let rig = rig("accepted 1 refused 2 the name is not valid\n", |_| {});
    let stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (mut send, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // loss = NaN: resource_metrics, scope_metrics, metrics, name and gauge, data_points, as_double.
    let point = [&[0x21][..], &f64::NAN.to_le_bytes()].concat();
    let field = |tag: u8, inner: &[u8]| [&[tag << 3 | 2, inner.len() as u8][..], inner].concat();
    let metric = [field(1, b"loss"), field(5, &field(1, &point))].concat();
    let message = field(1, &field(2, &field(2, &metric)));
    let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    let path = "http://localhost/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    for _ in 0..2 {
        let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        let request = request.body(Full::new(Bytes::from(framed.clone()))).unwrap();
        let answer = send.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        let body = String::from_utf8_lossy(&answer.to_bytes()).into_owned();
        assert!(body.contains("the name is not valid"), "{body:?}");
        assert_eq!(rig.got.recv().unwrap(), "loss NaN\n?\n");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_request_that_is_compressed_with_gzip_is_taken() {
    let rig = rig("accepted 1 refused 0\n", |_| {});
    for coding in ["gzip", "GZIP", "x-Gzip"] {
        let (status, body) = post_as(&rig, "/v1/metrics", "application/json", coding, gzip(JSON.as_bytes())).await;
        assert_eq!(status, StatusCode::OK, "{coding}: {body}");
        assert_eq!(rig.got.recv().unwrap(), "loss 6.05e1 7\n?\n");
    }
    let (status, body) = post_as(&rig, "/v1/metrics", "application/json", "Identity", JSON.into()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(rig.got.recv().unwrap(), "loss 6.05e1 7\n?\n");
    // Of gRPC: a message without metrics.
    let stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (mut send, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let path = "http://localhost/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    for (coding, status) in [("gzip", None), ("zstd", Some("12"))] {
        let message = gzip(b"");
        let framed = [&[1, 0, 0, 0, message.len() as u8][..], &message].concat();
        let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        let request = request.header("grpc-encoding", coding).body(Full::new(Bytes::from(framed))).unwrap();
        let answer = send.send_request(request).await.unwrap();
        assert_eq!(answer.headers().get("grpc-status").map(|it| it.to_str().unwrap()), status, "{coding}");
        let expected = if status.is_some() { "!refused 1 encoding\n?\n" } else { "?\n" };
        assert_eq!(rig.got.recv().unwrap(), expected);
    }
}

#[tokio::test]
async fn values_of_statsd_that_come_while_failsafed_is_away_are_a_gap_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = config::Receive {
        socket: path("otlp.sock"),
        statsd_socket: Some(path("statsd.sock")),
        metrics_socket: path("m.sock"),
        ..config::Receive::default()
    };
    let got = failsafed_that_restarts(&path("m.sock.stream"), (1, usize::MAX), "accepted 0 refused 3\n");
    tokio::spawn(Server::bind(&config).unwrap().serve());
    let mut client = net::UnixStream::connect(path("statsd.sock")).unwrap();
    client.write_all(b"loss:1|g\nloss:2|g\nx\n").unwrap();
    // The client has gone when failsafed comes back.
    drop(client);
    let lines = tokio::task::spawn_blocking(move || got.recv_timeout(Duration::from_secs(60)).unwrap()).await.unwrap();
    assert_eq!(lines, "!refused 3 away\n?\n");
}

#[tokio::test]
async fn what_is_refused_is_an_error_of_the_client_and_counted() {
    let refusing = rig("accepted 0 refused 1 the process is in no run that failsafed watches\n", |_| {});
    let (status, body) = post(&refusing, "/v1/metrics", "application/json", JSON.into()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("1 values are refused: the process is in no run"), "{body}");
    let _lines = refusing.got.recv().unwrap();
    let json = "application/json";
    for (content, coding, body, status, word) in [
        (json, "identity", vec![b'{'], StatusCode::BAD_REQUEST, "format"),
        (json, "identity", vec![b' '; 300 << 10], StatusCode::PAYLOAD_TOO_LARGE, "size"),
        (json, "gzip", gzip(&vec![b' '; 1 << 20]), StatusCode::PAYLOAD_TOO_LARGE, "size"),
        (json, "gzip", JSON.into(), StatusCode::BAD_REQUEST, "format"),
        (json, "br", JSON.into(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding"),
        ("text/plain", "identity", JSON.into(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding"),
    ] {
        let (got, _) = post_as(&refusing, "/v1/metrics", content, coding, body).await;
        assert_eq!(got, status);
        assert_eq!(refusing.got.recv().unwrap(), format!("!refused 1 {word}\n?\n"));
    }
}

#[tokio::test]
async fn a_failsafed_that_is_away_is_unavailable() {
    let rig = rig("", |config| config.metrics_socket = "/nowhere/m.sock".into());
    let (status, _) = post(&rig, "/v1/metrics", "application/json", JSON.into()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_histogram_that_is_sent_again_after_503_keeps_its_distribution() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config =
        config::Receive { socket: path("otlp.sock"), metrics_socket: path("m.sock"), ..config::Receive::default() };
    let got = failsafed_that_restarts(&path("m.sock.stream"), (0, 1), "accepted 1 refused 0\n");
    tokio::spawn(Server::bind(&config).unwrap().serve());
    let stream = UnixStream::connect(&config.socket).await.unwrap();
    let (mut send, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (count, status) in [(5, StatusCode::OK), (6, StatusCode::SERVICE_UNAVAILABLE), (6, StatusCode::OK)] {
        let body = format!(
            "{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{{\"name\":\"t\",\"histogram\":{{\"aggregationTemporality\":2,\
             \"dataPoints\":[{{\"count\":\"{count}\",\"bucketCounts\":[\"{count}\",\"0\"],\"explicitBounds\":[1]}}]}}}}]}}]}}]}}"
        );
        let request = Request::post("/v1/metrics").header("host", "x").header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        assert_eq!(send.send_request(request).await.unwrap().status(), status, "{count}");
    }
    assert_eq!(got.recv().unwrap(), "t.count 5e0\n?\n");
    let again = got.recv().unwrap();
    assert!(again.contains("t.sample 5e-1\n"), "{again}");
}

#[tokio::test]
async fn one_user_has_no_more_connections_than_the_limit() {
    let rig = rig("accepted 1 refused 0\n", |config| config.connections_per_user = 1);
    let first = UnixStream::connect(&rig.socket).await.unwrap();
    let second = UnixStream::connect(&rig.socket).await.unwrap();
    let mut byte = [0];
    second.readable().await.unwrap();
    assert_eq!(second.try_read(&mut byte).unwrap(), 0, "it is closed");
    drop((first, second));
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced_and_another_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("otlp.sock");
    drop(net::UnixListener::bind(&socket).unwrap());
    let config = config::Receive { socket: socket.clone(), ..config::Receive::default() };
    let server = Server::bind(&config).unwrap();
    assert!(Server::bind(&config).is_err(), "it listens");
    drop(server);
    std::fs::write(&socket, "precious").unwrap();
    assert!(Server::bind(&config).is_err());
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}
