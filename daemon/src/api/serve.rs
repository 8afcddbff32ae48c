//! The socket, and the lanes that serve what is accepted on it.

use super::{
    Context,
    accept::{Acceptor, Incoming},
    attestation, canary,
    connection::Connection,
    discovery, drill, events,
    gate::{Gate, Gates},
    incidents,
    limits::{Limit, PerSecond, Quota, Rate, Share, Usage},
    metrics, node,
    pace::Paces,
    peer::{Admitted, Timeouts},
    policy, runs, shadow, transparency,
    work::{THREADS, Work},
};
use crate::{config::Limits, platform::peer::ask_for_senders};
use failsafe_files::socket::{Taken, replace_stale};
use failsafe_proto::{DESCRIPTOR, v1};
use nix::sys::{
    eventfd::EventFd,
    socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, listen, socket},
};
use std::{
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tower::layer::layer_fn;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// A peer that does not answer a ping for as long as this, after as long without a word from it, is gone.
const PING: Duration = Duration::from_secs(30);
/// Bytes that a client may have on the way, of one stream and of all of a connection: a policy at its largest fits.
const WINDOW: u32 = 256 << 10;

/// Why the interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon listens there.
    #[error("another daemon listens on {0}")]
    InUse(PathBuf),
    /// The socket.
    #[error("cannot {op} socket {path}")]
    Socket {
        /// What was being done.
        op: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server.
    #[error("the gRPC server ended")]
    Server(#[from] tonic::transport::Error),
    /// Reflection.
    #[error("the gRPC reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The interface's description.
    #[error("the interface's description cannot be read")]
    Description(#[from] prost::DecodeError),
    /// An event loop.
    #[error("cannot make an event loop")]
    Loop(#[source] io::Error),
    /// It was served already.
    #[error("the lane is served already")]
    Twice,
}

/// Binds the socket. Anybody may connect: who may do what is decided call by call.
///
/// # Errors
/// [`ServeError`]; a socket that nobody listens on is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let fail = |op| move |source| ServeError::Socket { op, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail("make the folder of"))?;
    }
    replace_stale(path, std::os::unix::net::UnixStream::connect(path).map(drop)).map_err(|taken| match taken {
        Taken::InUse => ServeError::InUse(path.to_owned()),
        Taken::Failed(error) => fail("replace what is at")(error),
    })?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let fd = made.map_err(io::Error::from).map_err(fail("make"))?;
    // Before anybody can connect: the first bytes too name their sender.
    ask_for_senders(&fd).map_err(fail("have senders named on"))?;
    let bound = UnixAddr::new(path).and_then(|address| socket::bind(fd.as_raw_fd(), &address));
    bound.map_err(io::Error::from).map_err(fail("bind"))?;
    let listening = Backlog::new(BACKLOG).and_then(|backlog| listen(&fd, backlog));
    listening.map_err(io::Error::from).map_err(fail("listen on"))?;
    let listener = UnixListener::from(fd);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail("open up"))?;
    Ok(listener)
}

/// A lane: who is served in it, on a thread of its own.
struct Lane {
    work: Arc<Work>,
    enter: UnboundedSender<Incoming>,
    arrivals: Mutex<Option<UnboundedReceiver<Incoming>>>,
}

impl Lane {
    fn new() -> Lane {
        let (enter, arrivals) = unbounded_channel();
        Lane { work: Arc::new(Work::new()), enter, arrivals: Mutex::new(Some(arrivals)) }
    }
}

/// Both lanes, and what may be used in them.
pub struct Lanes {
    reserved: Lane,
    ordinary: Lane,
    connections: Arc<Limit>,
    gates: Arc<Gates>,
    timeouts: Timeouts,
    accept_errors: Arc<AtomicU64>,
    /// Descriptors of this process.
    descriptors: u64,
}

impl Lanes {
    /// Lanes with these limits, made smaller where clients would take more than half of the process's `descriptors`.
    ///
    /// # Errors
    /// [`ServeError::Description`].
    pub fn new(limits: &Limits, descriptors: u64) -> Result<Lanes, ServeError> {
        // A connection takes two, with the pidfd of its maker.
        let connections: Quota = limits.connections.into();
        let [connections, streams, _] = fit([connections, limits.streams.into(), connections], descriptors / 2);
        let (of_user, of_all) = limits.changes.per_second();
        let gates = Gates::new(
            Limit::new("streams", streams),
            Limit::new("requests", limits.requests.into()),
            Rate::new("changes", of_user, of_all),
        )?;
        let rate = limits.requests_per_second;
        let paces = Arc::new(Paces::new(PerSecond { rate, burst: rate.saturating_mul(2) }));
        Ok(Lanes {
            reserved: Lane::new(),
            ordinary: Lane::new(),
            connections: Limit::new("connections", connections),
            gates: Arc::new(gates),
            timeouts: Timeouts { first_request: limits.first_request(), idle: limits.idle(), paces },
            accept_errors: Arc::default(),
            descriptors,
        })
    }

    /// Takes over limits that may change while the daemon serves: those of streams and of requests.
    pub fn apply(&self, limits: &Limits) {
        // What streams get of the descriptors depends on the connections.
        let connections = self.connections.usage().quota;
        let [_, streams, _] = fit([connections, limits.streams.into(), connections], self.descriptors / 2);
        self.gates.streams.resize(streams);
        self.gates.requests.resize(limits.requests.into());
    }

    /// What is used of each limit.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let gates = &self.gates;
        let mut all =
            vec![self.connections.usage(), gates.streams.usage(), gates.requests.usage(), gates.changes.usage()];
        all.extend(self.ordinary.work.usage(&self.reserved.work));
        let open = procfs::process::Process::myself().and_then(|own| own.fd_count()).unwrap_or(0);
        let total = usize::try_from(self.descriptors).unwrap_or(usize::MAX);
        all.push(Usage {
            used: open,
            refused: self.accept_errors.load(Ordering::Relaxed),
            bounded: (false, false),
            ..Usage::of("descriptors", "open files of the daemon", Quota { per_user: 0, total, reserve: 0 })
        });
        all
    }

    fn of(&self, reserved: bool) -> &Lane {
        if reserved { &self.reserved } else { &self.ordinary }
    }

    /// The workers of a share's lane.
    pub(super) fn work(&self, share: Share) -> &Arc<Work> {
        &self.of(share.is_reserved()).work
    }
}

/// Makes quotas of what takes a descriptor each fit into `most`, in proportion.
fn fit<const N: usize>(quotas: [Quota; N], most: u64) -> [Quota; N] {
    let wanted: usize = quotas.iter().map(|quota| quota.total + quota.reserve).sum();
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if wanted <= most {
        return quotas;
    }
    tracing::warn!(
        wanted,
        most,
        "the limits are made smaller: clients get half of this process's descriptors (LimitNOFILE)"
    );
    let smaller = |n: usize| (n.saturating_mul(most) / wanted).max(1);
    quotas.map(|Quota { per_user, total, reserve }| {
        let (total, reserve) = (smaller(total), smaller(reserve));
        Quota { per_user: per_user.min(total.div_ceil(2)), total, reserve }
    })
}

/// Accepts connections until `stop` is written to.
pub fn accept(context: &Context, listener: UnixListener, stop: &EventFd) {
    let lanes = &context.lanes;
    let acceptor = Acceptor {
        listener,
        authority: context.authority.clone(),
        registry: context.registry.clone(),
        connections: lanes.connections.clone(),
        timeouts: lanes.timeouts.clone(),
        reserved: lanes.reserved.enter.clone(),
        ordinary: lanes.ordinary.enter.clone(),
        errors: lanes.accept_errors.clone(),
    };
    acceptor.work(stop);
}

/// An event loop for a lane, which is one thread, and its workers.
///
/// # Errors
/// [`ServeError::Loop`].
pub fn event_loop() -> Result<tokio::runtime::Runtime, ServeError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(THREADS).build().map_err(ServeError::Loop)
}

/// Serves a lane: that of root and the administrators' group, or that of everybody else. It ends only with an error.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(context: Arc<Context>, reserved: bool) -> Result<(), ServeError> {
    let lane = context.lanes.of(reserved);
    let arrivals = lane.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(ServeError::Twice)?;
    let (work, latest) = (lane.work.clone(), context.log.latest());
    let (of_runs, touched) = (work.clone(), context.registry.touched().grown());
    tokio::spawn(async move { work.pass_on(latest).await });
    tokio::spawn(async move { of_runs.pass_on_runs(touched).await });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<v1::run_service_server::RunServiceServer<runs::Runs>>().await;
    health.set_serving::<v1::node_service_server::NodeServiceServer<node::Node>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (gates, message) = (context.lanes.gates.clone(), context.config.limits.message());
    let authority = Arc::new(context.authority.clone());
    let runs = v1::run_service_server::RunServiceServer::new(runs::Runs(context.clone()));
    let policies = v1::policy_service_server::PolicyServiceServer::new(policy::Policies(context.clone()));
    let events = v1::event_service_server::EventServiceServer::new(events::Events(context.clone()));
    let nodes = v1::node_service_server::NodeServiceServer::new(node::Node(context.clone()));
    let discovery = v1::discovery_service_server::DiscoveryServiceServer::new(discovery::Discovery(context.clone()));
    let attestations =
        v1::attestation_service_server::AttestationServiceServer::new(attestation::Attestations(context.clone()));
    let metrics = v1::metrics_service_server::MetricsServiceServer::new(metrics::Metrics(context.clone()));
    let drills = v1::drill_service_server::DrillServiceServer::new(drill::Drills(context.clone()));
    let canaries = v1::canary_service_server::CanaryServiceServer::new(canary::CanaryApi(context.clone()));
    let shadows = v1::shadow_service_server::ShadowServiceServer::new(shadow::ShadowApi(context.clone()));
    let transparency = v1::log_service_server::LogServiceServer::new(transparency::Transparency(context.clone()));
    let incidents = v1::incident_service_server::IncidentServiceServer::new(incidents::IncidentApi(context.clone()));
    tonic::transport::Server::builder()
        .layer(layer_fn(move |inner| Gate::new(inner, gates.clone(), authority.clone())))
        .max_concurrent_streams(context.config.limits.per_connection)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(runs.max_decoding_message_size(message))
        .add_service(policies.max_decoding_message_size(message))
        .add_service(events.max_decoding_message_size(message))
        .add_service(nodes.max_decoding_message_size(message))
        .add_service(discovery.max_decoding_message_size(message))
        .add_service(metrics.max_decoding_message_size(message))
        .add_service(attestations.max_decoding_message_size(message))
        .add_service(drills.max_decoding_message_size(message))
        .add_service(canaries.max_decoding_message_size(message))
        .add_service(shadows.max_decoding_message_size(message))
        .add_service(transparency.max_decoding_message_size(message))
        .add_service(incidents.max_decoding_message_size(message))
        .serve_with_incoming(admitted(UnboundedReceiverStream::new(arrivals)))
        .await?;
    Ok(())
}

/// Connections to serve; those that are refused are seen off beside.
fn admitted(arrivals: impl Stream<Item = Incoming>) -> impl Stream<Item = io::Result<Admitted>> {
    arrivals.filter_map(|incoming| match incoming {
        Incoming::Serve(arrival) => Some(arrival.stream.set_nonblocking(true).and_then(|()| {
            let stream = UnixStream::from_std(arrival.stream)?;
            Ok(Admitted::new(Connection::new(stream), arrival.peer))
        })),
        Incoming::Refuse(refusal) => {
            tokio::spawn(refusal.send());
            None
        }
    })
}
