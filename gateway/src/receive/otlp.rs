//! OTLP over HTTP and gRPC: requests into lines, and failsafed's answer into theirs.
//!
//! | Request | Content |
//! |---|---|
//! | `POST /v1/metrics` | `application/x-protobuf` or `application/json` |
//! | `POST /opentelemetry.proto.collector.metrics.v1.MetricsService/Export` | `application/grpc` |
//!
//! Compressed content is taken with gzip. A request is at most [`MESSAGE`] bytes, also when it is decompressed, and one request is
//! decoded at a time. A request of another type or compression is a gap of the run, as one that cannot be read.

use super::reporter::{Answer, Reporter};
use failsafe_intake::{
    Why,
    gzip::{self, BadGzip},
    histogram::Earlier,
    otlp::Form,
};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tonic::Code;

/// Largest request, in bytes. In memory a request can take 250 times as much, while it is decoded.
const MESSAGE: usize = 256 << 10;
/// A request is read within this time.
const READ: Duration = Duration::from_secs(10);
const HTTP: &str = "/v1/metrics";
const GRPC: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
/// How a message of gRPC is compressed, and how one may be.
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Bytes before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What of a request goes wrong.
struct Failure {
    status: StatusCode,
    code: Code,
    why: String,
    /// What failsafed is to count, where it is known whose request it was.
    refused: Option<Why>,
}

impl Failure {
    fn new(status: StatusCode, code: Code, why: impl Into<String>) -> Failure {
        Failure { status, code, why: why.into(), refused: None }
    }

    fn counted(self, why: Why) -> Failure {
        Failure { refused: Some(why), ..self }
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Http(Form),
    Grpc,
}

/// A request that was read.
struct Read<'a> {
    /// For failsafed.
    lines: String,
    /// The histograms that the client sent, this request included. They count when failsafed has answered: otherwise the client sends
    /// the request again.
    earlier: Earlier,
    /// The room that they take.
    _room: SemaphorePermit<'a>,
}

/// Answers the requests of one client.
pub(super) struct Client {
    /// What reports for it, and the histograms that it sent before. Requests are answered one after the other.
    pub state: Mutex<(Reporter, Earlier)>,
    /// Taken while a request is decoded.
    pub decoding: Arc<Semaphore>,
    /// Taken from then until failsafed has answered: what was decoded is some MB, and the memory of this process is bounded.
    pub reporting: Arc<Semaphore>,
}

impl Client {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let over = match over(&request) {
            Ok(over) => over,
            Err(failure) => {
                count(&mut self.state.lock().await.0, &failure).await;
                return plain(failure);
            }
        };
        let mut state = self.state.lock().await;
        let (reporter, before) = &mut *state;
        let failure = match self.read(over, request, before).await {
            Ok(Read { lines, earlier, _room }) => match reporter.report(&lines).await {
                Ok(answer) => {
                    *before = earlier;
                    return answered(over, &answer);
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "metrics of a run cannot be reported");
                    Failure::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        Code::Unavailable,
                        "failsafed takes no metrics from the gateway now",
                    )
                }
            },
            Err(failure) => failure,
        };
        count(reporter, &failure).await;
        failed(over, &failure)
    }

    /// What a request says, after the histograms `before`.
    async fn read(&self, over: Over, request: Request<Incoming>, before: &Earlier) -> Result<Read<'_>, Failure> {
        let coding = Coding::of(over, request.headers())?;
        let body = tokio::time::timeout(READ, Limited::new(request.into_body(), MESSAGE + PREFIX).collect());
        let bytes = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let why = format!("the request is larger than {MESSAGE} bytes: export fewer metrics at once");
                let failure = Failure::new(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, why);
                return Err(failure.counted(Why::Size));
            }
            Ok(Err(_)) => return Err(Failure::new(StatusCode::BAD_REQUEST, Code::Cancelled, "the request ends early")),
            Err(_) => {
                let why = format!("the request did not arrive within {} s", READ.as_secs());
                return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, why));
            }
        };
        let (form, (is_compressed, message)) = match over {
            Over::Http(form) => (form, (coding == Coding::Gzip, &bytes[..])),
            Over::Grpc => (Form::Protobuf, message(&bytes)?),
        };
        let busy = || {
            let why = "too many requests wait for failsafed: send it again later";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, why)
        };
        let room = tokio::time::timeout(READ, self.reporting.acquire()).await;
        let room = room.ok().and_then(Result::ok).ok_or_else(busy)?;
        let _alone = self.decoding.acquire().await;
        let message = if is_compressed { Cow::Owned(coding.decompress(message)?) } else { Cow::Borrowed(message) };
        let mut earlier = before.clone();
        let taken = form.read(&message, &mut earlier).map_err(|bad| {
            Failure::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, bad.to_string()).counted(Why::Format)
        })?;
        Ok(Read { lines: taken.lines(), earlier, _room: room })
    }
}

/// The answer to the client is the same, whether or not failsafed counts it.
async fn count(reporter: &mut Reporter, failure: &Failure) {
    if let Some(why) = failure.refused {
        let _counted = reporter.report(&format!("!refused 1 {}\n", why.word())).await;
    }
}

/// How a request is compressed. A message of gRPC says beside that whether it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Gzip,
}

impl Coding {
    fn of(over: Over, headers: &HeaderMap) -> Result<Coding, Failure> {
        let header = if over == Over::Grpc { GRPC_ENCODING } else { CONTENT_ENCODING };
        let Some(coding) = headers.get(header).map(HeaderValue::as_bytes) else { return Ok(Coding::None) };
        // RFC 9110, 8.4.1: compared without case, and `x-gzip` is `gzip`.
        let is = |name: &[u8]| coding.eq_ignore_ascii_case(name);
        if is(b"identity") {
            Ok(Coding::None)
        } else if is(b"gzip") || is(b"x-gzip") {
            Ok(Coding::Gzip)
        } else {
            Err(Coding::not_taken())
        }
    }

    fn not_taken() -> Failure {
        let why = "only gzip is taken as compression: set OTEL_EXPORTER_OTLP_COMPRESSION=gzip or none";
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, why).counted(Why::Encoding)
    }

    fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        if self == Coding::None {
            return Err(Coding::not_taken());
        }
        gzip::decompress(bytes, MESSAGE).map_err(|bad| {
            let text = bad.to_string();
            match bad {
                BadGzip::Large(_) => {
                    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, text).counted(Why::Size)
                }
                BadGzip::Gzip(_) => {
                    Failure::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, text).counted(Why::Format)
                }
            }
        })
    }
}

fn over<T>(request: &Request<T>) -> Result<Over, Failure> {
    let content = request.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let content = content.split(';').next().unwrap_or_default().trim();
    match (request.method(), request.uri().path(), content) {
        (&Method::POST, GRPC, "application/grpc" | "application/grpc+proto") => Ok(Over::Grpc),
        (&Method::POST, HTTP, "application/x-protobuf") => Ok(Over::Http(Form::Protobuf)),
        (&Method::POST, HTTP, "application/json") => Ok(Over::Http(Form::Json)),
        (&Method::POST, HTTP, _) => Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::InvalidArgument,
            "expected the content type application/x-protobuf or application/json",
        )
        .counted(Why::Encoding)),
        (_, HTTP, _) => Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "expected POST")),
        (_, _, content) if content.starts_with("application/grpc") => {
            Err(Failure::new(StatusCode::OK, Code::Unimplemented, "only metrics are taken, no traces or logs"))
        }
        _ => {
            Err(Failure::new(StatusCode::NOT_FOUND, Code::Unimplemented, "not found: metrics are taken at /v1/metrics"))
        }
    }
}

/// The one message of a gRPC request, and whether it is compressed.
fn message(bytes: &[u8]) -> Result<(bool, &[u8]), Failure> {
    let bad = |why: &str| Failure::new(StatusCode::OK, Code::InvalidArgument, why).counted(Why::Format);
    let (prefix, message) = bytes.split_first_chunk::<PREFIX>().ok_or_else(|| bad("expected a message"))?;
    let [compressed, length @ ..] = *prefix;
    if compressed > 1 {
        return Err(bad("expected a message that begins with 0, or with 1 if it is compressed"));
    }
    let expected = u32::from_be_bytes(length);
    if usize::try_from(expected).ok() != Some(message.len()) {
        return Err(bad("expected one message of the length that it has before it"));
    }
    Ok((compressed == 1, message))
}

fn answered(over: Over, answer: &Answer) -> Response<Body> {
    if answer.accepted == 0 && answer.refused > 0 {
        // Sending it again would change nothing.
        let why = format!("{} values are refused: {}", answer.refused, answer.why);
        return failed(over, &Failure::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, why));
    }
    match over {
        Over::Http(form) => http(StatusCode::OK, form, form.answer(answer.refused, &answer.why)),
        Over::Grpc => {
            let message = Form::Protobuf.answer(answer.refused, &answer.why);
            let mut framed = vec![0];
            framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
            framed.extend(message);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from(Code::Ok as i32));
            let body = Full::new(Bytes::from(framed)).with_trailers(std::future::ready(Some(Ok(trailers))));
            with_type(StatusCode::OK, "application/grpc", body.boxed_unsync())
        }
    }
}

fn failed(over: Over, failure: &Failure) -> Response<Body> {
    match over {
        Over::Http(form) => {
            let mut answer = http(failure.status, form, form.failure(failure.code as i32, &failure.why));
            if failure.status == StatusCode::SERVICE_UNAVAILABLE {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            answer
        }
        Over::Grpc => {
            let mut answer = with_type(StatusCode::OK, "application/grpc", empty());
            let headers = answer.headers_mut();
            headers.insert("grpc-status", HeaderValue::from(failure.code as i32));
            headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
            if let Ok(why) = HeaderValue::from_str(&failure.why.replace('%', "%25")) {
                headers.insert(HeaderName::from_static("grpc-message"), why);
            }
            answer
        }
    }
}

/// A failure before it is known in which form the client expects the answer.
fn plain(failure: Failure) -> Response<Body> {
    if failure.status == StatusCode::OK {
        return failed(Over::Grpc, &failure);
    }
    let body = Full::new(Bytes::from(failure.why + "\n")).boxed_unsync();
    with_type(failure.status, "text/plain; charset=utf-8", body)
}

fn http(status: StatusCode, form: Form, body: Vec<u8>) -> Response<Body> {
    let content = match form {
        Form::Protobuf => "application/x-protobuf",
        Form::Json => "application/json",
    };
    with_type(status, content, Full::new(Bytes::from(body)).boxed_unsync())
}

fn empty() -> Body {
    http_body_util::Empty::new().boxed_unsync()
}

fn with_type(status: StatusCode, content: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, path: &str, content: &str) -> Result<Over, (StatusCode, Code)> {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content).body(()).unwrap();
        over(&request).map_err(|failure| (failure.status, failure.code))
    }

    #[test]
    fn only_metrics_are_taken_over_http_and_grpc() {
        let post = &Method::POST;
        assert_eq!(asked(post, HTTP, "application/x-protobuf"), Ok(Over::Http(Form::Protobuf)));
        assert_eq!(asked(post, HTTP, "application/json; charset=utf-8"), Ok(Over::Http(Form::Json)));
        assert_eq!(asked(post, GRPC, "application/grpc"), Ok(Over::Grpc));
        for (method, path, content, status) in [
            (&Method::GET, HTTP, "application/json", StatusCode::METHOD_NOT_ALLOWED),
            (post, HTTP, "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (post, "/v1/traces", "application/json", StatusCode::NOT_FOUND),
            (post, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc", StatusCode::OK),
        ] {
            assert_eq!(asked(method, path, content).unwrap_err().0, status, "{path}");
        }
    }

    #[test]
    fn a_grpc_request_is_one_message_with_its_length() {
        let read = |bytes: &[u8]| message(bytes).map(|(is, it)| (is, it.to_vec())).map_err(|failure| failure.code);
        assert_eq!(read(&[0, 0, 0, 0, 2, 7, 8]), Ok((false, vec![7, 8])));
        assert_eq!(read(&[0, 0, 0, 0, 0]), Ok((false, vec![])));
        assert_eq!(read(&[1, 0, 0, 0, 1, 7]), Ok((true, vec![7])));
        for bad in [
            &[2, 0, 0, 0, 0][..],
            &[],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 7],
            &[0, 0, 0, 0, 1, 7, 8],
            &[0, 255, 255, 255, 255],
        ] {
            assert_eq!(read(bad), Err(Code::InvalidArgument), "{bad:?}");
        }
    }
}
