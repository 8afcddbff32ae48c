//! Relays the requests of one client to failsafed, by one connection to the control socket.
//!
//! Invariants: of a client's headers only those of [`HEADERS`] are passed on, and no trailers; the identities are the certificate's; only methods of
//! `failsafe.v1` are relayed. Their rights are failsafed's matter.

use super::{
    identity::Client,
    refused::{Reason, Refused, Who},
};
use crate::count::Permit;
use http_body_util::{BodyExt, Empty, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::{Bytes, Frame, Incoming},
    client::conn::http2::{SendRequest, handshake},
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{net::UnixStream, sync::Mutex};
use tonic::Code;

/// Headers of a client that are passed on.
const HEADERS: [&str; 6] =
    ["content-type", "te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "user-agent"];
/// The metadata in which failsafed reads the identities.
const IDENTITY: &str = "failsafe-remote-identity";
/// What is relayed.
const SERVICES: &str = "/failsafe.v1.";
/// Longest path, in bytes.
const PATH: usize = 128;
/// Largest request, in bytes.
const MESSAGE: usize = 64 << 10;
/// failsafed begins its answer within this time. A command waits for its proof for at most 60 s.
const ANSWER: Duration = Duration::from_secs(90);

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The way of one client to failsafed.
pub struct Relay {
    socket: PathBuf,
    client: Client,
    from: SocketAddr,
    refused: Refused,
    daemon: Mutex<Option<SendRequest<Content>>>,
}

/// The body of a request as far as it is passed on: at most [`MESSAGE`] bytes, and no trailers, which tonic would take for metadata.
struct Content(Limited<Incoming>);

impl hyper::body::Body for Content {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
            frame => Poll::Ready(frame),
        }
    }

    // Otherwise each request ends with an empty frame, and the server takes a hundred of these for an attack (h2: GOAWAY).
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl Relay {
    /// Of this client.
    pub fn new(socket: PathBuf, client: Client, from: SocketAddr, refused: Refused) -> Relay {
        Relay { socket, client, from, refused, daemon: Mutex::default() }
    }

    /// The answer to a request, which is counted until its answer is sent.
    pub async fn answer(&self, request: Request<Incoming>, permit: Option<Permit<String>>) -> Response<Body> {
        let method = request.uri().path().to_owned();
        let refuse = |reason, code, why: &str| {
            self.note(reason, &method, why);
            refusal(code, why)
        };
        let Some(permit) = permit else {
            let why = "limit `remote.requests_per_identity`: too many requests of this identity at once";
            return refuse(Reason::RequestLimit, Code::ResourceExhausted, why);
        };
        if request.method() != Method::POST || method.len() > PATH || !method.starts_with(SERVICES) {
            return refuse(Reason::Request, Code::Unimplemented, "the gateway relays methods of failsafe.v1 only");
        }
        let answer = match self.relayed(request) {
            Ok(request) => tokio::time::timeout(ANSWER, self.send(request)).await,
            Err(why) => return refuse(Reason::Request, Code::InvalidArgument, why),
        };
        match answer {
            Ok(Ok(answer)) => {
                if let Some((reason, why)) = refused(answer.headers()) {
                    self.note(reason, &method, &why);
                }
                let counted = move |body: Incoming| {
                    body.map_frame(move |frame| {
                        let _counted = &permit;
                        frame
                    })
                };
                answer.map(|body| counted(body).map_err(Into::into).boxed_unsync())
            }
            Ok(Err(why)) => {
                tracing::warn!(why, "failsafed cannot be reached");
                refusal(Code::Unavailable, "failsafed does not answer on this node")
            }
            Err(_) => refusal(Code::DeadlineExceeded, "failsafed did not answer in time"),
        }
    }

    fn note(&self, reason: Reason, method: &str, why: &str) {
        self.refused.note(reason, self.from, &Who { identity: &self.client.name(), method }, why);
    }

    /// The request as failsafed gets it.
    fn relayed(&self, request: Request<Incoming>) -> Result<Request<Content>, &'static str> {
        let (parts, body) = request.into_parts();
        let uri = Uri::builder().scheme("http").authority("failsafed.invalid").path_and_query(parts.uri.path()).build();
        let mut relayed = Request::new(Content(Limited::new(body, MESSAGE)));
        *relayed.method_mut() = Method::POST;
        *relayed.version_mut() = Version::HTTP_2;
        *relayed.uri_mut() = uri.map_err(|_| "the path is not valid")?;
        let headers: &mut HeaderMap = relayed.headers_mut();
        for name in HEADERS {
            if let Some(value) = parts.headers.get(name) {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        for identity in &self.client.identities {
            let value = HeaderValue::from_str(identity).map_err(|_| "the identity is not valid")?;
            headers.append(HeaderName::from_static(IDENTITY), value);
        }
        Ok(relayed)
    }

    async fn send(&self, request: Request<Content>) -> Result<Response<Incoming>, String> {
        let mut daemon = {
            let mut daemon = self.daemon.lock().await;
            match &*daemon {
                Some(open) if !open.is_closed() => open.clone(),
                _ => {
                    let opened = self.connect().await?;
                    *daemon = Some(opened.clone());
                    opened
                }
            }
        };
        daemon.ready().await.map_err(|error| error.to_string())?;
        daemon.send_request(request).await.map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<SendRequest<Content>, String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let made = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (send, connection) = made.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection of a remote client to failsafed ended with an error");
            }
        });
        Ok(send)
    }
}

/// Whether failsafed refuses the client this, and why: such an answer has no body, and its status is in the headers.
fn refused(headers: &HeaderMap) -> Option<(Reason, String)> {
    let status = tonic::Status::from_header_map(headers)?;
    let reason = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Reason::Permission,
        Code::ResourceExhausted => Reason::RequestLimit,
        _ => return None,
    };
    Some((reason, status.message().to_owned()))
}

/// A refusal as gRPC says it: headers alone.
fn refusal(code: Code, why: &str) -> Response<Body> {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code as i32));
    if let Ok(why) = HeaderValue::from_str(&why.replace(' ', "%20")) {
        headers.insert("grpc-message", why);
    }
    answer
}
