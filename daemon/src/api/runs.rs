//! `RunService`.

use super::{
    Context,
    authorize::{Principal, maker},
    cgroup_path,
    connection::Maker,
    control::{self, has_ended, not_judged},
    convert,
    discovery::claimed,
    export::Recordings,
    follow::{Answer as Stream, Follow},
    gate::MESSAGE,
    last_metrics,
    limits::Share,
    list, manifest,
    peer::Peer,
    rerun::{self, Again},
    restart_gate::{self, Gate},
    run_changes,
    shared_gpus::Holders,
    start,
    usage::AUDIT_LOG,
};
use crate::{
    node::NotNamed,
    pipeline::Message,
    policies,
    runs::{
        FoundRun,
        canaries::Drawn,
        connections::OpenConnections,
        delegation::Delegated,
        grants::grants,
        registrable,
        start::{Place, Wanted, sole_owner},
        started::{Said, Started},
    },
};
use failsafe_core::{
    GpuId, Mode, Policy, RunId,
    canary::LABEL as CANARY,
    health::{Closed, Level, Target},
    policy::parse::parse,
    record::Record,
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};
use tokio::sync::watch::Receiver;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// `RunService`.
pub struct Runs(pub Arc<Context>);

#[tonic::async_trait]
impl v1::run_service_server::RunService for Runs {
    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::Run>, Status> {
        let (who, maker) = (self.0.principal(&request)?, maker(&request)?.clone());
        let share = Peer::of(&request)?.share();
        let v1::StartRequest {
            name,
            labels,
            policy_toml,
            policy_file,
            gpus,
            owner_uid,
            repair,
            lineage,
            command,
            environment,
            manifest,
            policy_name,
            directory,
            variables,
            rerun_of,
            accept_differences,
            checkpoint,
        } = request.into_inner();
        who.may_start(owner_uid)?;
        own_labels(&labels)?;
        let owner = owner_uid.unwrap_or(who.uid());
        let manifest = manifest::New::of_start(&manifest, &self.0)?;
        let gpus = self.gpus(&gpus)?;
        start::after_the_end_of_the_last(&self.0, (owner, &name), &lineage).await?;
        let of = if rerun_of.is_empty() { None } else { Some(rerun::ended(&self.0, &who, &rerun_of)?) };
        if of.is_some() && !(lineage.is_empty() && policy_toml.is_empty() && policy_name.is_empty()) {
            let message = "rerun_of: the policy is that of the run, and no lineage is continued: expected neither";
            return Err(ErrorReason::InvalidRequest.status(message));
        }
        let (policy, canary, gpus) = match &of {
            Some(of) => (rerun::policy(&self.0, of).await?, None, gpus),
            None => {
                let asked = Asked::of(policy_name, policy_file, policy_toml)?;
                self.policy(share, &who, asked, gpus, drawn_as(owner, &lineage, &name)).await?
            }
        };
        if of.is_some()
            && let Some(why) = self.0.refusal(&policy, &gpus.cards, &gpus.mig)
        {
            return Err(ErrorReason::PolicyNotSupported.status(why));
        }
        let wanted = wanted(&who, owner, name, labels, canary, policy, gpus);
        self.has_log(&wanted)?;
        let repair = self.open_to(&who, &wanted.gpus, repair)?;
        let _turn = self.0.work(share).turn(share).await?;
        let variables = variables.into_iter().collect();
        let with = Said { command, directory, environment: environment.into_iter().collect(), variables };
        let (gate, again) = match of {
            Some(of) => {
                let new = (wanted.owner_uid, &wanted.gpus, &wanted.mig);
                let again = Again::compare(&self.0, of, &maker, new, &with, (accept_differences, checkpoint)).await?;
                let gate = Gate::again(again.of.run.id, again.changes.clone(), wanted.owner_uid);
                (Some(Arc::new(gate)), Some(again))
            }
            None => (self.gate(Some(&maker), &wanted, lineage, &with).await?, None),
        };
        let (mut run, unclaimed) = start::start(&self.0, maker, wanted, repair, gate).await?;
        if let Ok(id) = run.id.parse::<RunId>() {
            let (context, name) = (self.0.clone(), run.name.clone());
            let again = again.map(|again| again.record(id, name.clone(), &who));
            blocking(move || {
                if let Some(record) = again {
                    context.log.record(&record, Some(id), None);
                }
                let attestor = &context.attestor;
                let kept = Started::of(id, &with, &attestor.table, &attestor.worker.redact);
                context.log.record(&kept.record(name), Some(id), None);
                if let Err(error) = kept.keep(context.registry.store()) {
                    tracing::warn!(run = %id, error = error.chain(), "with what the run was started cannot be kept");
                }
            })
            .await?;
            manifest::of_new(&self.0, &who, share, (id, unclaimed), manifest).await?;
        }
        run.metrics_socket = self.0.config.metrics_socket.display().to_string();
        if let Some(live) = run.id.parse().ok().and_then(|id| self.0.registry.get(id)) {
            let registry = &self.0.registry;
            run.warnings = Holders::now(registry).warnings(registry, &who, &FoundRun::Live(live));
        }
        Ok(Response::new(run))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let who = self.0.principal(&request)?;
        let v1::BeginRequest { run } = request.into_inner();
        let found = self.0.registry.find_exact(&run, |run| who.is_of(run)).map_err(|e| convert::find_error(&e))?;
        match found {
            FoundRun::Live(live) => restart_gate::begin(&self.0, &live).await?,
            FoundRun::Guarded(guarded) => return Err(not_judged(&guarded)),
            FoundRun::Ended(ended) => return Err(has_ended(&ended.run)),
        }
        Ok(Response::new(v1::BeginResponse {}))
    }

    async fn prepare_rerun(
        &self,
        request: Request<v1::PrepareRerunRequest>,
    ) -> Result<Response<v1::RerunPlan>, Status> {
        let (who, maker) = (self.0.principal(&request)?, maker(&request)?.clone());
        let share = Peer::of(&request)?.share();
        rerun::prepare(&self.0, &who, share, &maker, request.into_inner()).await.map(Response::new)
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::Run>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        who.may_start(None)?;
        let v1::RegisterRequest {
            name,
            labels,
            policy_toml,
            policy_file,
            gpus,
            target,
            repair,
            accept_delegated,
            lineage,
            manifest,
            policy_name,
            adopt_connections,
        } = request.into_inner();
        own_labels(&labels)?;
        let manifest = manifest::New::of_start(&manifest, &self.0)?;
        let gpus = self.gpus(&gpus)?;
        let asked = Asked::of(policy_name, policy_file, policy_toml)?;
        let by = drawn_as(who.uid(), &lineage, &name);
        let (policy, canary, gpus) = self.policy(share, &who, asked, gpus, by).await?;
        let (admin, uid) = (who.admin, who.uid());
        let (registry, of) = (self.0.registry.clone(), self.0.clone());
        let found = self.0.work(share).read(share, move || {
            let invalid = |why: String| ErrorReason::InvalidRequest.status(why);
            let cgroup = match target {
                Some(v1::register_request::Target::Cgroup(text)) => {
                    let mount = registry.root().mount();
                    let path = cgroup_path::of_text(&text, mount).map_err(invalid)?;
                    let opened = registry.root().open_path(&path);
                    opened.map_err(|e| invalid(format!("{}; {}", e.chain(), cgroup_path::expected(mount))))?
                }
                Some(v1::register_request::Target::Pid(pid)) => {
                    registry.root().of_pid(pid).map_err(|e| invalid(e.chain()))?
                }
                None => return Err(invalid("target: expected a cgroup or a pid".into())),
            };
            let owner = sole_owner(&cgroup).map_err(|e| ErrorReason::CgroupUnusable.status(e.chain()))?;
            if !admin && owner != Some(uid) {
                return Err(ErrorReason::PermissionDenied.status(
                    "not every process of that cgroup is yours: root or the administrators' group may register it",
                ));
            }
            if !admin && let Some(why) = claimed(&of.config, &registry, &cgroup.cgroup_path())? {
                return Err(ErrorReason::PermissionDenied.status(why));
            }
            let refusal = if admin { Ok(None) } else { registrable::refusal(&cgroup, uid) };
            if let Some(why) = refusal.map_err(|e| ErrorReason::CgroupUnusable.status(e.chain()))? {
                return Err(ErrorReason::PermissionDenied.status(why));
            }
            let delegated = Delegated::around(cgroup.path(), registry.root().mount());
            Ok::<_, Status>((cgroup, owner, delegated.map_err(|e| ErrorReason::CgroupUnusable.status(e.to_string()))?))
        });
        let (cgroup, owner, delegated) = found.await??;
        if let Some(delegated) = delegated.as_ref().filter(|_| !who.admin && !accept_delegated) {
            return Err(ErrorReason::CgroupUnusable.status(delegated.refusal()));
        }
        let wanted = wanted(&who, owner.unwrap_or(0), name, labels, canary, policy, gpus);
        self.has_log(&wanted)?;
        let repair = self.open_to(&who, &wanted.gpus, repair)?;
        let turn = self.0.work(share).turn(share).await?;
        let gate = self.gate(None, &wanted, lineage, &Said::default()).await?;
        // Last: what a process opens from here on until the run is bounded is not looked at.
        let looked = move || {
            let open = OpenConnections::of(&wanted.policy, &cgroup, adopt_connections);
            (Wanted { learnt: open.learnt(), ..wanted }, cgroup, open)
        };
        let (wanted, cgroup, open) = self.0.work(share).read(share, looked).await?;
        let (live, unclaimed) = start::begin(&self.0, wanted, Place::Existing(cgroup), repair).await?;
        let dropped = live.mode() == Mode::Enforce;
        if let Some(gap) = open.gap(live.run.id, dropped) {
            deliver(&self.0, Message::Input(gap)).await?;
        }
        if let Some(gate) = gate {
            let (context, live) = (self.0.clone(), live.clone());
            // The run exists and is bounded: it is not ended for this.
            blocking(move || gate.keep(&context, &live)).await??;
        }
        if let Some(delegated) = delegated {
            deliver(&self.0, Message::Input(delegated.gap(live.run.id))).await?;
        }
        drop(turn);
        manifest::of_new(&self.0, &who, share, (live.run.id, unclaimed), manifest).await?;
        let mut shown = self.shown(share, &who, FoundRun::Live(live)).await?;
        shown.get_mut().connections = convert::connections(&open, dropped);
        Ok(shown)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        list::list(&self.0, request).await.map(Response::new)
    }

    type WatchRunsStream = Stream<v1::WatchRunsResponse>;

    async fn watch_runs(
        &self,
        request: Request<v1::WatchRunsRequest>,
    ) -> Result<Response<Self::WatchRunsStream>, Status> {
        run_changes::watch(&self.0, request)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Run>, Status> {
        let who = self.0.principal(&request)?;
        let share = Peer::of(&request)?.share();
        let v1::GetRequest { run, metrics } = request.into_inner();
        let (found, _) = self.0.find(&who, &run)?;
        let mut answer = self.shown(share, &who, found.clone()).await?;
        if metrics {
            last_metrics::put(&self.0, &found, answer.get_mut()).await;
        }
        Ok(answer)
    }

    async fn control(&self, request: Request<v1::ControlRequest>) -> Result<Response<v1::ControlResponse>, Status> {
        control::control(&self.0, request).await.map(Response::new)
    }

    type ExportStream = Stream<v1::Chunk>;

    async fn export(&self, request: Request<v1::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let who = self.0.principal(&request)?;
        let peer = Peer::of(&request)?;
        let v1::ExportRequest { run, all } = request.into_inner();
        let (found, _) = self.0.find(&who, &run)?;
        let last = match &found {
            FoundRun::Live(live) => live.part,
            FoundRun::Guarded(guarded) => guarded.part,
            FoundRun::Ended(ended) => ended.part,
        };
        let run = found.run().id;
        self.0.flusher.flush().await;
        let path = |part| self.0.registry.store().recording(run, part);
        let paths = (if all { 0 } else { last }..=last).map(|part| (part, path(part))).collect();
        let work = self.0.work(peer.share()).clone();
        let recordings = work.read(peer.share(), move || Recordings::open(paths, all)).await?;
        let recordings =
            recordings.map_err(|e| ErrorReason::NotStored.status(format!("the run has no recording: {e}")))?;
        let follow = Follow { work, peer, unread: self.0.config.limits.unread(), growth: None::<Receiver<()>> };
        Ok(Response::new(follow.stream(recordings)))
    }
}

/// A GPU that cannot be given to a run.
fn unknown_gpu(wanted: &str, error: &NotNamed) -> Status {
    let or_all = match error {
        NotNamed::Unknown { known, .. } if !known.is_empty() && wanted != "all" => " (or `all`)",
        _ => "",
    };
    ErrorReason::InvalidRequest.status(format!("{error}{or_all}"))
}

/// Most bytes of a refusal's reasons in the audit log; the caller gets all of them.
const REFUSAL_BYTES: usize = 2_000;

/// At most the first `most` bytes of a text.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{} ... ({} more bytes)", &text[..end], text.len() - end)
}

/// The pipeline's queue is bounded; waiting for room in it must not hold up the other calls.
pub(super) async fn deliver(context: &Context, message: Message) -> Result<(), Status> {
    let pipeline = context.pipeline.clone();
    let sent = blocking(move || pipeline.send(message).is_ok()).await?;
    if sent { Ok(()) } else { Err(ErrorReason::DaemonStopping.status("the daemon is stopping")) }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ErrorReason::Internal.status(format!("a worker failed: {e}")))
}

/// Why a run is not started, and how to go on.
fn refusal(closed: &[Closed], first: &Closed) -> String {
    let all: Vec<String> = closed.iter().map(ToString::to_string).collect();
    let (on, undo) = match (&first.target, first.level) {
        (Target::Node, Level::Draining) => ("node".into(), "node uncordon".into()),
        (Target::Node, _) => ("node".into(), "node reset-health".into()),
        (Target::Gpu(gpu), Level::Draining) => (gpu.to_string(), format!("gpu uncordon {gpu}")),
        (Target::Gpu(gpu), _) => (gpu.to_string(), format!("gpu reset-health {gpu}")),
    };
    let instead = match first.target {
        Target::Node => "take another node",
        Target::Gpu(_) => "take another GPU (`failsafectl node placeable --count 1`)",
    };
    format!(
        "{}; nothing new is started there: {instead}, or, once {on} is repaired, `failsafectl {undo} --reason ...`; root and the \
         administrators' group may start there for the repair with --repair",
        all.join("; ")
    )
}

/// The policy of a request: its text, or the name of one of the node's.
pub(super) enum Asked {
    /// The text, and the name of its file.
    Text { file: String, text: String },
    /// The name.
    Name(String),
}

impl Asked {
    /// By the fields of the request.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: both are given.
    pub(super) fn of(name: String, file: String, text: String) -> Result<Asked, Status> {
        match (name.is_empty(), text.is_empty()) {
            (false, true) => Ok(Asked::Name(name)),
            (false, false) => {
                Err(ErrorReason::InvalidRequest
                    .status("policy_name: expected a name or the text of a policy, not both"))
            }
            (true, _) => Ok(Asked::Text { file, text }),
        }
    }

    /// The name, where it is one of the node's.
    fn name(&self) -> Option<&str> {
        match self {
            Asked::Text { .. } => None,
            Asked::Name(name) => Some(name),
        }
    }

    /// Reads and parses it. May take long.
    ///
    /// # Errors
    /// It is none, or the caller may not read it.
    pub(super) fn policy(self, folder: &Path, who: &Principal) -> Result<Policy, Status> {
        match self {
            Asked::Text { file, text } => {
                parse(&file, &text).map_err(|e| ErrorReason::PolicyInvalid.status(e.summary(MESSAGE)))
            }
            Asked::Name(name) => {
                let named = policies::load(folder, &name).map_err(|why| super::policy::refused(&why, who))?;
                who.may_read_policy(named.public)?;
                Ok(named.policy)
            }
        }
    }
}

/// Labels that begin with `failsafe.` say what the daemon knows of a run: nobody else sets one.
fn own_labels(labels: &HashMap<String, String>) -> Result<(), Status> {
    match labels.keys().find(|key| key.starts_with("failsafe.")) {
        Some(key) => Err(ErrorReason::InvalidRequest
            .status(format!("labels: `{}`: names that begin with `failsafe.` are the daemon's", shortened(key, 80)))),
        None => Ok(()),
    }
}

/// Which run it is, for a canary: what continues the same lineage, or has the same name, is drawn alike.
fn drawn_as(owner: u32, lineage: &str, name: &str) -> [String; 2] {
    let run = match (lineage, name) {
        ("", "") => Uuid::now_v7().to_string(),
        ("", name) => format!("name {name}"),
        (lineage, _) => format!("lineage {lineage}"),
    };
    [owner.to_string(), run]
}

fn wanted(
    who: &Principal,
    owner_uid: u32,
    name: String,
    labels: HashMap<String, String>,
    canary: Option<String>,
    policy: Policy,
    gpus: Gpus,
) -> Wanted {
    let canary = canary.map(|label| (CANARY.to_owned(), label));
    let (labels, unlimited) = (labels.into_iter().chain(canary).collect(), who.admin);
    Wanted { name, labels, policy, gpus: gpus.cards, mig: gpus.mig, owner_uid, unlimited, learnt: Vec::new() }
}

/// What a run is given.
#[derive(Debug, Default)]
struct Gpus {
    /// Whole cards, and those of its MIG devices.
    cards: BTreeSet<GpuId>,
    /// MIG devices by their card, where it is not given whole.
    mig: BTreeMap<GpuId, BTreeSet<String>>,
}

impl Runs {
    /// The restart gate of a run that continues another; `None`: it continues none.
    async fn gate(
        &self,
        maker: Option<&Maker>,
        wanted: &Wanted,
        lineage: String,
        said: &Said,
    ) -> Result<Option<Arc<Gate>>, Status> {
        if lineage.is_empty() {
            return Ok(None);
        }
        let (of, gpus) = ((wanted.owner_uid, &wanted.policy), (&wanted.gpus, &wanted.mig));
        let gate = Gate::enter(&self.0, maker, of, gpus, lineage, said);
        Ok(Some(Arc::new(gate.await?)))
    }

    async fn shown(&self, share: Share, who: &Principal, found: FoundRun) -> Result<Response<v1::Run>, Status> {
        let (context, who) = (self.0.clone(), who.clone());
        let run = self.0.work(share).read(share, move || {
            let registry = &context.registry;
            let warnings = Holders::now(registry).warnings(registry, &who, &found);
            v1::Run { warnings, ..convert::run(registry, &found, &grants(registry.kernel())) }
        });
        Ok(Response::new(run.await?))
    }

    /// A run of which nothing could be recorded is not started, unless an administrator starts it.
    fn has_log(&self, wanted: &Wanted) -> Result<(), Status> {
        let uid = wanted.owner_uid;
        match self.0.log.spent(uid).filter(|_| !wanted.unlimited) {
            None => Ok(()),
            Some(bytes) => Err(ErrorReason::LimitReached.status(format!(
                "limit `{AUDIT_LOG}`: what is written about the runs of uid {uid} has reached {} MiB, the budget of a day; it fills up \
                 again over a day: try again later, or ask root or the administrators' group to start the run",
                bytes >> 20
            ))),
        }
    }

    /// Parses a policy, on a thread: it may be large, and its user may have sent many.
    /// The policy of a new run, and the label of the canary that it was drawn for, `by` what is the same when it is started again.
    async fn policy(
        &self,
        share: Share,
        who: &Principal,
        asked: Asked,
        gpus: Gpus,
        by: [String; 2],
    ) -> Result<(Policy, Option<String>, Gpus), Status> {
        let (context, actor, who) = (self.0.clone(), who.actor(), who.clone());
        let parsed = self.0.work(share).compile(share, move || {
            let name = asked.name().map(str::to_owned);
            let policy = asked.policy(&context.config.policy_dir, &who)?;
            let [owner, run] = &by;
            let drawn = name.and_then(|name| context.registry.canaries().draw(&name, policy.digest(), &[owner, run]));
            let (policy, canary) = match drawn {
                Some(Drawn { candidate: Some(candidate), promoted: true, label }) => {
                    ((*candidate).clone(), Some(label))
                }
                Some(Drawn { candidate: Some(candidate), label, .. }) => {
                    match context.refusal(&candidate, &gpus.cards, &gpus.mig) {
                        None => return Ok(((*candidate).clone(), Some(label), gpus)),
                        Some(why) => {
                            tracing::warn!(label, why, "a run gets the policy in force: the candidate is refused");
                            (policy, None)
                        }
                    }
                }
                Some(Drawn { candidate: None, label, .. }) => (policy, Some(label)),
                None => (policy, None),
            };
            if let Some(why) = context.refusal(&policy, &gpus.cards, &gpus.mig) {
                let (policy, actor) = (policy.digest(), Some(actor));
                let record = Record::PolicyRefused { policy, why: shortened(&why, REFUSAL_BYTES), actor };
                context.log.record(&record, None, None);
                return Err(ErrorReason::PolicyNotSupported.status(why));
            }
            Ok((policy, canary, gpus))
        });
        parsed.await?
    }

    fn gpus(&self, wanted: &[String]) -> Result<Gpus, Status> {
        let bad = |why: String| ErrorReason::InvalidRequest.status(why);
        let node = self.0.view();
        let (mut out, mut entire) = (Gpus::default(), BTreeSet::new());
        for one in wanted {
            if one == "all" && !node.gpus.is_empty() {
                entire.extend(node.gpus.keys().cloned());
                continue;
            }
            match node.gpu_or_slice_named(one).map_err(|e| unknown_gpu(one, &e))? {
                (gpu, None) => drop(entire.insert(gpu)),
                (gpu, Some(slice)) => drop(out.mig.entry(gpu).or_default().insert(slice)),
            }
        }
        if let Some((gpu, _)) = out.mig.iter().find(|(gpu, _)| entire.contains(*gpu)) {
            return Err(bad(format!("gpu `{gpu}`: it is given as a whole and as a MIG device: expected one of them")));
        }
        out.cards = entire.into_iter().chain(out.mig.keys().cloned()).collect();
        Ok(out)
    }

    /// Whether a run may be started on these GPUs; what speaks against it where it may for repair only.
    fn open_to(&self, who: &Principal, gpus: &BTreeSet<GpuId>, repair: bool) -> Result<Vec<String>, Status> {
        if repair {
            who.may_repair()?;
        }
        let closed = self.0.node_health.view().closed(gpus);
        match closed.as_slice() {
            [] => Ok(Vec::new()),
            all if repair => Ok(all.iter().map(ToString::to_string).collect()),
            [first, ..] => Err(ErrorReason::NotPlaceable.status(refusal(&closed, first))),
        }
    }
}
