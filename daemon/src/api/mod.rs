//! The gRPC interface `failsafe.v1` on a unix socket. Who the caller is comes from the kernel, anew for each
//! request.
//!
//! ```text
//! connection ─► pidfd of its maker ─► authorize (the one place) ─► service ─► registry (reads), pipeline (acts)
//! ```
//!
//! Invariants: protobuf types stop at `convert`; no service decides who may do what; an answer about a run names what was
//! proved and what was not.

mod authorize;
mod connection;
mod convert;
mod doctor;
mod events;
mod gpu_info;
mod health;
mod node;
mod policy;
mod reset;
mod runs;
mod start;

pub use reset::Resets;

use crate::{
    config::Config,
    log::Log,
    node::NodeView,
    pipeline::{Sender, health::Shared as NodeHealth, recording::Flusher},
    platform::peer::ask_for_senders,
    runs::{Registry, grants::grants},
    sensors::{nvml::NvmlControl, sampler::Health},
};
use authorize::{Authority, Principal};
use connection::Connection;
use failsafe_core::{
    GpuId, Policy,
    policy::{assurance, check},
};
use failsafe_proto::{DESCRIPTOR, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::net::{UnixListener, UnixSocket};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Status};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// What the services need of the daemon.
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
    /// To have a recording on disk before it is exported.
    pub flusher: Flusher,
    /// What the sensors say of the node.
    pub node: Arc<Mutex<NodeView>>,
    /// How node and GPUs stand.
    pub node_health: Arc<NodeHealth>,
    /// To have a GPU let go of for its reset.
    pub nvml: Option<NvmlControl>,
    /// GPUs that are being reset.
    pub resets: Arc<Resets>,
    /// When the sampler last succeeded.
    pub health: Arc<Health>,
    /// This boot.
    pub boot_id: String,
    /// When the daemon started, wall clock ns.
    pub started_ns: i64,
    /// Who may do what.
    pub authority: Authority,
}

impl Context {
    /// The caller of a request, see [`Authority::principal`].
    fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        self.authority.principal(request, &self.registry)
    }

    /// Sensors that are blind now, each with the reason: what policies are held against.
    fn blind(&self) -> check::Blind {
        let node = self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        node.blind()
    }

    /// Signals that this node, or these GPUs, cannot give.
    fn unwatched(&self, gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> check::Unwatched {
        let mut unwatched = self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner).unwatched(gpus, mig);
        let mount = self.registry.root().mount();
        unwatched.extend(crate::sensors::cgroup::unavailable(mount, &self.config.cgroup_parent, Path::new("/proc")));
        unwatched
    }

    /// Why this node does not pin a policy of a run with these GPUs and MIG devices; `None` when it does. With none declared, all count.
    fn refusal(
        &self,
        policy: &Policy,
        gpus: &BTreeSet<GpuId>,
        mig: &BTreeMap<GpuId, BTreeSet<String>>,
    ) -> Option<String> {
        let unwatched = self.unwatched(gpus, mig);
        check::refusal(policy, &self.blind(), &unwatched)
            .or_else(|| assurance::refusal(policy, &grants(self.registry.kernel())))
    }
}

/// Why the socket could not be made.
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
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServeError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(fail("replace the stale"))?;
    }
    let socket = UnixSocket::new_stream().map_err(fail("make"))?;
    // Before anybody can connect: the first bytes too name their sender.
    ask_for_senders(&socket).map_err(fail("have senders named on"))?;
    socket.bind(path).map_err(fail("bind"))?;
    let listener = socket.listen(BACKLOG).map_err(fail("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail("open up"))?;
    Ok(listener)
}

/// Serves until `stop`.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    context: Arc<Context>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<v1::run_service_server::RunServiceServer<runs::Runs>>().await;
    health.set_serving::<v1::node_service_server::NodeServiceServer<node::Node>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(Connection::new));
    tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(reflection)
        .add_service(v1::run_service_server::RunServiceServer::new(runs::Runs(context.clone())))
        .add_service(v1::policy_service_server::PolicyServiceServer::new(policy::Policies(context.clone())))
        .add_service(v1::event_service_server::EventServiceServer::new(events::Events(context.clone())))
        .add_service(v1::node_service_server::NodeServiceServer::new(node::Node(context)))
        .serve_with_incoming_shutdown(incoming, stop)
        .await?;
    Ok(())
}

pub use authorize::Authority as Roles;
