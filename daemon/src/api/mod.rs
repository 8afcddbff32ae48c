//! The gRPC interface `failsafe.v1` on a unix socket. Who the caller is comes from the kernel, anew for each
//! request.
//!
//! ```text
//! connection ─► accept: share ─► lane ─► gate: limits ─► authorize (the one place) ─► service ─► registry (reads), pipeline (acts)
//! ```
//!
//! There are two lanes, each with a thread and workers of its own: one for root and the administrators' group, one for everybody
//! else (`docs/adr/0016`). Invariants: no lane's thread takes a lock that a start, a compilation or a disk can hold: what needs one
//! is [`work`]; protobuf types stop at `convert`; no service decides who may do what; an answer about a run names what was
//! proved and what was not.

mod accept;
mod attestation;
mod authorize;
mod beginning;
mod caller;
mod canary;
mod cgroup_path;
mod connection;
mod control;
mod convert;
mod discovery;
mod doctor;
mod drill;
mod egress;
mod events;
mod export;
mod follow;
mod gate;
mod gpu_info;
mod health;
mod incidents;
mod last_metrics;
pub mod limits;
mod list;
mod log_state;
mod manifest;
mod metrics;
mod mode;
mod node;
mod pace;
mod peer;
mod policy;
mod quotas;
mod remote;
mod repeats;
mod rerun;
mod reset;
mod restart_gate;
mod run_changes;
mod runs;
mod serve;
mod shadow;
mod shared_gpus;
mod start;
mod stored;
mod transparency;
mod usage;
mod work;

pub use attestation::Attestor;
pub use limits::{Limit, Share};
pub use repeats::Repeats;
pub use reset::Resets;
pub use restart_gate::Gates;
pub use run_changes::RunChanges;
pub use serve::{Lanes, ServeError, accept, bind, event_loop, serve};
pub use transparency::limit as proofs;

use crate::{
    attest::NodeFacts,
    config::Config,
    log::Log,
    node::NodeView,
    pipeline::{Sender, health::Shared as NodeHealth, lane::Lane, recording::Flusher},
    runs::{FoundRun, Registry, grants::grants, lineage::Lineages},
    sensors::nvml::NvmlControl,
    shadows::Shadows,
    watchers::{
        discover::view::Shared as Discovered, drill::Shared as Drilled, incidents::Shared as Incidents,
        mode::ModeSwitch, rollback::Shared as Counted, sampler::Health,
    },
};
use authorize::{Authority, Principal, Role};
use failsafe_core::{
    GpuId, Policy,
    policy::{assurance, check},
};
use failsafe_proto::ErrorReason;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tonic::{Request, Status};
use work::Work;

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
    /// The way in for commands.
    pub lane: Lane,
    /// What users may use, and use.
    pub lanes: Lanes,
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
    /// Which run of a user continues which.
    pub lineages: Lineages,
    /// Restarts of which the differences are being judged.
    pub gates: Gates,
    /// What fingerprints are read and signed with.
    pub attestor: Attestor,
    /// Proofs of the log that are being made.
    pub proofs: Arc<Limit>,
    /// What discovery found.
    pub discovery: Arc<Discovered>,
    /// Drills: who waits for one, and the last results.
    pub drills: Arc<Drilled>,
    /// The counter of the TPM against a rollback of the log.
    pub counter: Arc<Counted>,
    /// Commands with a request id, and their answers.
    pub repeats: Arc<Repeats>,
    /// Policies that are judged beside those in force.
    pub shadows: Shadows,
    /// The incidents of the log.
    pub incidents: Arc<Incidents>,
    /// The list of runs, as who watches it saw it last.
    pub run_changes: RunChanges,
}

impl Context {
    /// What changes the mode of the node.
    pub fn mode_switch(&self) -> ModeSwitch {
        let (registry, log, pipeline) = (self.registry.clone(), self.log.clone(), self.pipeline.clone());
        ModeSwitch { registry, log, pipeline }
    }

    /// The workers of a share's lane.
    fn work(&self, share: Share) -> &Arc<Work> {
        self.lanes.work(share)
    }

    /// The caller of a request, see [`Authority::principal`].
    fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        self.authority.principal(request, &self.registry)
    }

    /// The caller of a request that reads what is the same for all who may read it, see [`Authority::reader`].
    fn reader<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        self.authority.reader(request, &self.registry)
    }

    /// The run that a caller means, and what the caller is to it. A run of others looks as if it were not there.
    fn find(&self, who: &Principal, wanted: &str) -> Result<(FoundRun, Role), Status> {
        let found =
            self.registry.find(wanted, |run| who.may_see(run).is_some()).map_err(|e| convert::find_error(&e))?;
        let role =
            who.may_see(found.run()).ok_or_else(|| ErrorReason::RunNotFound.status(format!("no run `{wanted}`")))?;
        Ok((found, role))
    }

    /// Sensors that are blind now, each with the reason: what policies are held against.
    fn blind(&self) -> check::Blind {
        self.view().blind()
    }

    /// What the sensors say of the node.
    fn view(&self) -> MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node's readers are given.
    fn node_facts(&self) -> NodeFacts {
        NodeFacts::of(&self.view(), self.config.nvml.disabled, &self.boot_id)
    }

    /// Signals that this node, or these GPUs, cannot give.
    fn unwatched(&self, gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> check::Unwatched {
        let mut unwatched = self.view().unwatched(gpus, mig);
        let mount = self.registry.root().mount();
        unwatched.extend(crate::sensors::cgroup::unavailable(mount, &self.config.cgroup_parent, Path::new("/proc")));
        unwatched
    }

    /// Why this node does not pin a policy of a run with these GPUs and MIG devices; `None` when it does. With none declared, all count.
    pub fn refusal(
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

pub use authorize::Authority as Roles;
