//! The sender between a failsafed that does not answer and a collector that answers what the test says.

mod grpc;

use super::*;
use crate::metrics::{Server, Shown};
use failsafe_intake::otlp::Form;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::{net::TcpListener, sync::mpsc};

/// What the collector got: path, headers, and the values as the gateway itself reads them from others.
#[derive(Debug)]
struct Got {
    path: String,
    token: String,
    content: String,
    lines: String,
}

/// A collector that answers one request after the other with these, and the last one again; where it listens.
async fn collector(answers: Vec<(u16, Vec<u8>)>) -> (String, mpsc::UnboundedReceiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, rx) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answers.get(n).or(answers.last()).unwrap();
            let service = service_fn(|request: Request<Incoming>| async {
                let header = |name| request.headers().get(name).map(|it: &HeaderValue| it.to_str().unwrap().to_owned());
                let (token, content) = (header("x-token"), header("content-type"));
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let lines = Form::Protobuf.read(&body, &mut Default::default()).unwrap().lines();
                let got = Got { path, token: token.unwrap_or_default(), content: content.unwrap_or_default(), lines };
                let _gone = tx.send(got);
                let answered = Response::builder().status(answer.0).body(Full::new(Bytes::from(answer.1.clone())));
                Ok::<_, Infallible>(answered.unwrap())
            });
            let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (format!("http://{address}"), rx)
}

async fn pushing(change: impl FnOnce(&mut config::Metrics)) -> Arc<Counts> {
    let mut config = config::Metrics {
        address: "127.0.0.1:0".parse().unwrap(),
        otlp_interval_s: 1,
        timeout_s: 1,
        ..config::Metrics::default()
    };
    change(&mut config);
    let server = Server::bind(&config, "/nowhere/failsafed.sock".into(), Shown::default()).await.unwrap();
    let counts = server.pushed().unwrap();
    tokio::spawn(server.serve());
    counts
}

fn counted(counts: &Counts) -> String {
    let mut families = Families::default();
    counts.add(&mut families);
    String::from_utf8(families.text().unwrap()).unwrap()
}

#[tokio::test]
async fn the_metrics_that_prometheus_reads_are_sent_with_the_headers_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "# of the collector\nX-Token: s3cret\n\n").unwrap();
    let (endpoint, mut got) = collector(vec![(200, Vec::new())]).await;
    let _counts = pushing(|config| (config.otlp_endpoint, config.otlp_headers_file) = (endpoint, file)).await;
    let first = got.recv().await.unwrap();
    assert_eq!((first.path.as_str(), first.token.as_str()), ("/v1/metrics", "s3cret"));
    assert_eq!(first.content, "application/x-protobuf");
    // failsafed does not answer, which is a value too; and what is sent is counted in it.
    assert!(first.lines.contains("failsafe_up 0e0\n"), "{}", first.lines);
    assert!(first.lines.contains("failsafe_gateway_otlp_pushes_total/result/taken 0e0\n"), "{}", first.lines);
    let second = got.recv().await.unwrap();
    assert!(second.lines.contains("failsafe_gateway_otlp_pushes_total/result/taken 1e0\n"), "{}", second.lines);
}

#[tokio::test]
async fn what_the_collector_does_not_take_is_counted_and_the_next_request_is_sent() {
    let partial = Form::Protobuf.answer(3, "too old");
    let (endpoint, mut got) = collector(vec![(503, b"later".to_vec()), (200, partial), (200, Vec::new())]).await;
    let counts = pushing(|config| config.otlp_endpoint = format!("{endpoint}/own/path")).await;
    let first = got.recv().await.unwrap();
    assert_eq!((first.path.as_str(), first.token.as_str()), ("/own/path", ""));
    let second = got.recv().await.unwrap();
    assert!(second.lines.contains("failsafe_gateway_otlp_pushes_total/result/failed 1e0\n"), "{}", second.lines);
    let third = got.recv().await.unwrap();
    assert!(third.lines.contains("failsafe_gateway_otlp_refused_points_total 3e0\n"), "{}", third.lines);
    let text = counted(&counts);
    assert!(text.contains("failsafe_gateway_otlp_pushes_total{result=\"failed\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_collector_that_is_away_is_counted() {
    let counts = pushing(|config| config.otlp_endpoint = "http://127.0.0.1:1".into()).await;
    counts_one(&counts.failed).await;
}

/// Waits for at least one, 20 seconds at most.
async fn counts_one(count: &AtomicU64) {
    let counted = async {
        while count.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.unwrap();
}

#[tokio::test]
async fn an_answer_of_several_kilobytes_is_read() {
    let partial = Form::Protobuf.answer(3, &"too old ".repeat(2_000));
    let (endpoint, _got) = collector(vec![(200, partial)]).await;
    let counts = pushing(|config| config.otlp_endpoint = endpoint).await;
    counts_one(&counts.refused).await;
    assert_eq!(counts.unclear.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_that_is_too_long_or_none_of_otlp_is_not_counted_as_taken() {
    let long = Form::Protobuf.answer(3, &"x".repeat(100_000));
    for answer in [long, b"{\"ok\":true}".to_vec()] {
        let (endpoint, _got) = collector(vec![(200, answer)]).await;
        let counts = pushing(|config| config.otlp_endpoint = endpoint).await;
        counts_one(&counts.unclear).await;
        assert_eq!((counts.sent.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed)), (0, 0));
    }
}

#[test]
fn path_and_query_of_the_endpoint_are_not_logged_nor_an_answer_that_can_repeat_them() {
    let base = "http://otel.example.org:4318";
    let is_quoted =
        [("", true), ("/v1/metrics", true), ("/s3cret/v1/metrics", false), ("/v1/metrics?key=s3cret", false)];
    for (path, quotes) in is_quoted {
        let config = config::Metrics {
            otlp_endpoint: format!("{base}{path}"),
            otlp_interval_s: 60,
            ..config::Metrics::default()
        };
        let push = Push::open(&config).unwrap().unwrap();
        assert_eq!(push.shown, base);
        let text = push.quoted(&format!("no route {path}"));
        assert_eq!(text.contains("no route"), quotes, "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_file_of_headers_that_is_wrong_is_named_by_line_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    for (text, line) in [("s3cret", 1), ("a: b\nbad name: s3cret", 2), ("a: b\n\nc: s3\u{1}cret", 3)] {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", read(&Secret::at(file.clone()), Protocol::Http).unwrap_err());
        assert_eq!(error, format!("line {line}: expected `NAME: VALUE`"));
    }
    for (text, name) in
        [("X: 1\nHost: a", "host"), ("X: 1\nContent-Length: 3", "content-length"), ("X: 1\nTE: a", "te")]
    {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", read(&Secret::at(file.clone()), Protocol::Http).unwrap_err());
        assert_eq!(error, format!("line 2: the gateway sets {name} itself"));
    }
    std::fs::write(&file, "s3cret").unwrap();
    let config = |endpoint: &str, headers: bool| config::Metrics {
        otlp_endpoint: endpoint.into(),
        otlp_headers_file: if headers { file.clone() } else { PathBuf::new() },
        ..config::Metrics::default()
    };
    let wrong = check(&config("http://127.0.0.1:4318", true));
    assert!(wrong.len() == 1 && wrong[0].field == "metrics.otlp_headers_file", "{wrong:?}");
    for (endpoint, headers, expected) in [
        ("otel.example.org:4318", false, "expected a URL such as https://otel.example.org:4318"),
        ("http://otel.example.org:4318", true, "expected https"),
    ] {
        let wrong = super::endpoint(&config(endpoint, headers)).unwrap_err();
        assert!(wrong.contains(expected), "{wrong}");
    }
    assert_eq!(warnings(&config("http://otel.example.org:4318", false)).len(), 1);
    assert_eq!(warnings(&config("https://otel.example.org:4318", false)).len(), 0);
    assert_eq!(warnings(&config("", false)).len(), 0);
}
