//! What every request passes before its service: it is counted against its user's share, and has a deadline.
//!
//! ```text
//! request ─► kind of its method ─► rate of changes ─► stream or request of its share ─► service ─► body (counted until sent)
//!                                      └────────────────┴─► RESOURCE_EXHAUSTED with the limit's name
//! ```
//! Invariants: a method is a stream if its descriptor says so, so that a new one cannot be forgotten; commands of the reserved
//! share are refused by no limit.

use super::{
    authorize::Authority,
    limits::{Limit, Permit, Rate, Share},
    peer::{Info, Peer, UnderWay},
    remote::Called,
};
use failsafe_proto::{DESCRIPTOR, ErrorReason};
use prost::Message;
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tonic::{
    Code, Request, Status,
    body::Body,
    codegen::{Body as HttpBody, Service, http},
};

/// Bytes of a status message that a service writes at most. It travels in a header, of which clients take 16 KiB and fewer.
pub const MESSAGE: usize = 3_000;
/// Bytes of its encoded form at most, whoever wrote it: a longer one is cut, so that the client sees the rest and not a broken
/// connection. The details with the reason travel in another header of at most 1,400 bytes; some clients take 8 KiB for all.
const ENCODED: usize = 5_500;

/// What a method is to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It stays open.
    Stream,
    /// An operator's command.
    Command,
    /// It changes something else.
    Change,
    /// It answers and changes nothing.
    Read,
}

/// Operators' commands.
const COMMANDS: [&str; 6] = [
    "/failsafe.v1.RunService/Control",
    "/failsafe.v1.NodeService/Cordon",
    "/failsafe.v1.NodeService/Uncordon",
    "/failsafe.v1.NodeService/ResetHealth",
    "/failsafe.v1.NodeService/ForgetGpu",
    "/failsafe.v1.NodeService/SetMode",
];
/// What else changes something.
const CHANGES: [&str; 13] = [
    "/failsafe.v1.RunService/Start",
    "/failsafe.v1.RunService/Begin",
    "/failsafe.v1.RunService/Register",
    "/failsafe.v1.NodeService/ResetGpu",
    "/failsafe.v1.DrillService/Run",
    "/failsafe.v1.CanaryService/Start",
    "/failsafe.v1.CanaryService/Promote",
    "/failsafe.v1.CanaryService/Withdraw",
    "/failsafe.v1.ShadowService/Add",
    "/failsafe.v1.ShadowService/Remove",
    "/failsafe.v1.AttestationService/RotateKey",
    "/failsafe.v1.AttestationService/SetManifest",
    "/failsafe.v1.AttestationService/AddCheckpoint",
];

/// The methods, by their paths.
#[derive(Debug)]
struct Methods {
    streams: BTreeSet<String>,
}

impl Methods {
    /// Those of the services that are served.
    fn new() -> Result<Methods, prost::DecodeError> {
        let sets = [DESCRIPTOR, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
        let mut streams = BTreeSet::new();
        for set in sets {
            for file in prost_types::FileDescriptorSet::decode(set)?.file {
                for service in &file.service {
                    let streaming = service.method.iter().filter(|m| m.server_streaming() || m.client_streaming());
                    streams.extend(streaming.map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())));
                }
            }
        }
        Ok(Methods { streams })
    }

    fn kind(&self, path: &str) -> Kind {
        match path {
            path if self.streams.contains(path) => Kind::Stream,
            path if COMMANDS.contains(&path) => Kind::Command,
            path if CHANGES.contains(&path) => Kind::Change,
            _ => Kind::Read,
        }
    }
}

/// The limits that requests are held to.
#[derive(Debug)]
pub struct Gates {
    methods: Methods,
    /// Open streams.
    pub streams: Arc<Limit>,
    /// Requests under way.
    pub requests: Arc<Limit>,
    /// Requests that change something.
    pub changes: Rate,
}

impl Gates {
    /// Gates with these limits.
    ///
    /// # Errors
    /// The interface's own description cannot be read.
    pub fn new(streams: Arc<Limit>, requests: Arc<Limit>, changes: Rate) -> Result<Gates, prost::DecodeError> {
        Ok(Gates { methods: Methods::new()?, streams, requests, changes })
    }

    fn enter(&self, kind: Kind, share: Share) -> Result<Option<Permit>, String> {
        if share.is_reserved() && kind == Kind::Command {
            return Ok(None);
        }
        if matches!(kind, Kind::Command | Kind::Change) {
            self.changes.take(share, Instant::now())?;
        }
        let limit = if kind == Kind::Stream { &self.streams } else { &self.requests };
        limit.take(share).map(Some).map_err(|exceeded| exceeded.to_string())
    }
}

/// When the client gives its request up (`grpc-timeout`).
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// That of a request.
    pub fn of<T>(request: &Request<T>) -> Option<Instant> {
        request.extensions().get::<Deadline>().and_then(|deadline| deadline.0)
    }

    fn read(headers: &http::HeaderMap) -> Deadline {
        let parse = |text: &str| {
            let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let count: u64 = count.parse().ok().filter(|_| count.len() <= 8)?;
            Some(match unit {
                "H" => Duration::from_secs(count * 3_600),
                "M" => Duration::from_secs(count * 60),
                "S" => Duration::from_secs(count),
                "m" => Duration::from_millis(count),
                "u" => Duration::from_micros(count),
                "n" => Duration::from_nanos(count),
                _ => return None,
            })
        };
        let after = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        Deadline(after.and_then(|after| Instant::now().checked_add(after)))
    }
}

/// The gate before a service.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    inner: S,
    gates: Arc<Gates>,
    authority: Arc<Authority>,
}

impl<S> Gate<S> {
    /// Before `inner`.
    pub fn new(inner: S, gates: Arc<Gates>, authority: Arc<Authority>) -> Gate<S> {
        Gate { inner, gates, authority }
    }
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let refuse = |status: Status| -> Self::Future { Box::pin(std::future::ready(Ok(status.into_http()))) };
        let Some(Info { maker, peer }) = request.extensions_mut().remove::<Info>() else {
            return refuse(ErrorReason::Internal.status("the connection has no maker"));
        };
        let called = Called::of(request.uri().path(), request.headers());
        let identity = if peer.is_gateway() { self.authority.identity(&called) } else { None };
        let under_way = peer.begin(identity.as_deref());
        let permit = match self.gates.enter(self.gates.methods.kind(request.uri().path()), peer.share()) {
            Ok(permit) => permit,
            Err(why) => return refuse(ErrorReason::LimitReached.status(why)),
        };
        let deadline = Deadline::read(request.headers());
        request.extensions_mut().insert(called);
        request.extensions_mut().insert(maker);
        request.extensions_mut().insert::<Arc<Peer>>(peer);
        request.extensions_mut().insert(deadline);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let counted = (permit, under_way);
            let mut answer = answer.await?;
            give_reason(answer.headers_mut());
            shorten(answer.headers_mut());
            Ok(answer.map(|body| Body::new(Counted { body, _counted: counted })))
        })
    }
}

/// Gives a reason to the refusal of a request that no service saw: its message could not be read. The library that decodes it answers
/// without details, and with a code that stands for a defect of this program.
fn give_reason(headers: &mut http::HeaderMap) {
    let Some(status) = Status::from_header_map(headers).filter(|status| status.details().is_empty()) else { return };
    if !matches!(status.code(), Code::Internal | Code::OutOfRange) {
        return;
    }
    let status = ErrorReason::InvalidRequest.status(format!("the request cannot be read: {}", status.message()));
    let said = status.into_http::<Body>();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        if let Some(value) = said.headers().get(name) {
            headers.insert(name, value.clone());
        }
    }
}

/// Cuts a status message that is longer than clients take in a header.
fn shorten(headers: &mut http::HeaderMap) {
    let Some(long) = headers.get("grpc-message").filter(|message| message.len() > ENCODED) else { return };
    let mut end = ENCODED;
    // Not within `%XX`.
    if let Some(at) = long.as_bytes()[end - 2..end].iter().position(|byte| *byte == b'%') {
        end = end - 2 + at;
    }
    let mut short = long.as_bytes()[..end].to_vec();
    short.extend_from_slice(b"... (cut)");
    if let Ok(short) = http::HeaderValue::from_bytes(&short) {
        headers.insert("grpc-message", short);
    }
}

/// The body of an answer: it is under way until it is sent or given up.
struct Counted {
    body: Body,
    _counted: (Option<Permit>, UnderWay),
}

impl HttpBody for Counted {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            shorten(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_kind() {
        const READS: [&str; 32] = [
            "AttestationService/ActivateKey",
            "AttestationService/Attest",
            "AttestationService/GetEgress",
            "AttestationService/GetFingerprint",
            "AttestationService/GetManifest",
            "AttestationService/ListKeys",
            "CanaryService/List",
            "DiscoveryService/List",
            "DiscoveryService/Test",
            "DrillService/Get",
            "IncidentService/GetIncident",
            "IncidentService/ListIncidents",
            "MetricsService/Snapshot",
            "LogService/GetCheckpoint",
            "LogService/ListEntries",
            "LogService/ProveConsistency",
            "LogService/ProveInclusion",
            "PolicyService/Check",
            "PolicyService/List",
            "PolicyService/Show",
            "RunService/Get",
            "RunService/List",
            "RunService/PrepareRerun",
            "ShadowService/List",
            "ShadowService/Report",
            "NodeService/Capacity",
            "NodeService/Doctor",
            "NodeService/Health",
            "NodeService/Placeable",
            "NodeService/Reasons",
            "NodeService/Status",
            "NodeService/Usage",
        ];
        let methods = Methods::new().unwrap();
        for path in ["/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
            assert_eq!(methods.kind(path), Kind::Stream, "{path}");
        }
        // A method that is added must be put somewhere: it is no read because nobody thought of it.
        for file in prost_types::FileDescriptorSet::decode(DESCRIPTOR).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let kind = methods.kind(&format!("/{}.{name}", file.package()));
                    assert_eq!(kind == Kind::Read, READS.contains(&name.as_str()), "{name}: {kind:?}");
                    assert_eq!(kind == Kind::Stream, method.server_streaming() || method.client_streaming(), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_message_that_clients_do_not_take_is_cut_between_characters() {
        for pad in 0..3 {
            let message = "x".repeat(pad) + &"%20".repeat(4_000);
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-message", message.parse().unwrap());
            shorten(&mut headers);
            let short = headers["grpc-message"].to_str().unwrap();
            let kept = short.strip_suffix("... (cut)").unwrap();
            assert!(kept.len() > ENCODED - 3 && kept.len() <= ENCODED && (kept.len() - pad).is_multiple_of(3), "{pad}");
        }
        let status = ErrorReason::LimitReached.status("short").into_http::<Body>();
        let mut headers = status.headers().clone();
        shorten(&mut headers);
        assert_eq!(headers, *status.headers());
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_with_a_reason() {
        let answered = |status: Status| {
            let mut headers = status.into_http::<Body>().headers().clone();
            give_reason(&mut headers);
            Status::from_header_map(&headers).unwrap()
        };
        for code in ["13", "11"] {
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", "failed%20to%20decode%20Protobuf%20message".parse().unwrap());
            let status = answered(Status::from_header_map(&headers).unwrap());
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(ErrorReason::of(&status), Some(ErrorReason::InvalidRequest));
            assert_eq!(status.message(), "the request cannot be read: failed to decode Protobuf message");
        }
        let defect = answered(ErrorReason::Internal.status("a worker failed"));
        assert_eq!(ErrorReason::of(&defect), Some(ErrorReason::Internal), "a service says so");
        let unknown = answered(Status::unimplemented(""));
        assert_eq!((unknown.code(), ErrorReason::of(&unknown)), (Code::Unimplemented, None));
        let mut done = http::HeaderMap::new();
        give_reason(&mut done);
        assert!(done.is_empty(), "no error");
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            Deadline::read(&headers).0.map(|at| at.saturating_duration_since(Instant::now()))
        };
        assert!(read("1500m").is_some_and(|left| left > Duration::from_secs(1) && left < Duration::from_secs(2)));
        assert!(read("2H").is_some_and(|left| left > Duration::from_secs(7_100)));
        for bad in ["", "m", "5", "5x", "999999999S", "-1S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
