//! A daemon that answers what it is told to, on a real unix socket, and remembers what it was asked and by which process.

use failsafe_proto::v1::{
    self as pb, event_service_server as events, incident_service_server as incidents, node_service_server as node,
    policy_service_server as policy, run_service_server as runs,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};
use tokio::net::UnixListener;
use tokio_stream::{Iter, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

/// What the fake answers.
#[derive(Clone, Default)]
pub struct Answers {
    pub run: pb::Run,
    pub control: pb::ControlResponse,
    pub records: Vec<pb::Record>,
    pub recording: Vec<u8>,
    /// Announces the recording.
    pub part: Option<pb::RecordingPart>,
    pub check: pb::CheckResponse,
    pub doctor: pb::DoctorResponse,
    pub health: pb::HealthResponse,
    pub status: pb::StatusResponse,
    pub incidents: Vec<pb::Incident>,
    /// The reason of a cordon, in answers to orders.
    pub cordoned: String,
    /// Every call fails with this, if it is set.
    pub fails: Option<Status>,
    /// `Control` never answers.
    pub hangs: bool,
    /// `Control` is for others.
    pub denies: bool,
}

/// What it was asked.
#[derive(Default)]
pub struct Asked {
    pub start: Option<(pb::StartRequest, u32)>,
    pub register: Option<pb::RegisterRequest>,
    pub control: Option<pb::ControlRequest>,
    pub watch: Vec<pb::WatchRequest>,
    pub orders: Vec<(&'static str, pb::OrderRequest)>,
    pub watch_runs: Vec<pb::WatchRunsRequest>,
    pub list_incidents: Vec<pb::ListIncidentsRequest>,
    pub watch_incidents: Vec<pb::WatchIncidentsRequest>,
}

/// The fake; it ends with this value.
pub struct Fake {
    pub dir: tempfile::TempDir,
    pub asked: Arc<Mutex<Asked>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
pub struct Service {
    pub answers: Answers,
    asked: Arc<Mutex<Asked>>,
}

impl Fake {
    pub fn start(answers: Answers) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let service = Service { answers, asked: asked.clone() };
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(dir.path().join("s")).unwrap()
        };
        // Also for the users that `run` becomes.
        for (path, mode) in [(dir.path().to_owned(), 0o755), (dir.path().join("s"), 0o666)] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(runs::RunServiceServer::new(service.clone()))
                .add_service(events::EventServiceServer::new(service.clone()))
                .add_service(incidents::IncidentServiceServer::new(service.clone()))
                .add_service(policy::PolicyServiceServer::new(service.clone()))
                .add_service(node::NodeServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Fake { dir, asked, _runtime: runtime }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, set to speak with this fake.
    pub fn command(&self) -> Command {
        let mut command = bare(&self.path("s"));
        command.current_dir(self.dir.path());
        command
    }

    /// Another program, in which failsafectl finds the fake daemon.
    pub fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env("FAILSAFE_SOCKET", self.path("s")).env_remove("SUDO_UID");
        command
    }

    pub fn ctl(&self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().unwrap()
    }
}

/// The program, without what the tester's environment may hold.
pub fn bare(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failsafectl"));
    for name in ["SUDO_UID", "SUDO_GID", "FAILSAFE_SOCKET", "FAILSAFE_STATE_DIR", "FAILSAFE_METRICS_SOCKET"] {
        command.env_remove(name);
    }
    command.env("TZ", "UTC").arg("--socket").arg(socket);
    command
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

impl Service {
    pub fn answer<T>(&self, value: T) -> Result<Response<T>, Status> {
        match &self.answers.fails {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(value)),
        }
    }

    pub fn note(&self, note: impl FnOnce(&mut Asked)) {
        note(&mut self.asked.lock().unwrap());
    }
}

#[tonic::async_trait]
impl runs::RunService for Service {
    type WatchRunsStream = Iter<std::vec::IntoIter<Result<pb::WatchRunsResponse, Status>>>;

    async fn watch_runs(
        &self,
        request: Request<pb::WatchRunsRequest>,
    ) -> Result<Response<Self::WatchRunsStream>, Status> {
        let run = Some(self.answers.run.clone());
        let (present, removed) = (pb::RunChange::Present as i32, pb::RunChange::Removed as i32);
        let request = request.into_inner();
        let missed = request.revision.is_some();
        self.note(|asked| asked.watch_runs.push(request));
        let changes = [
            pb::WatchRunsResponse { change: present, run: run.clone(), ..Default::default() },
            pb::WatchRunsResponse { revision: 7, missed, ..Default::default() },
            pb::WatchRunsResponse { revision: 8, change: removed, run, ..Default::default() },
        ];
        self.answer(tokio_stream::iter(changes.map(Ok).into_iter().collect::<Vec<_>>()))
    }

    type ExportStream = Iter<std::vec::IntoIter<Result<pb::Chunk, Status>>>;

    async fn start(&self, request: Request<pb::StartRequest>) -> Result<Response<pb::Run>, Status> {
        let info = request.extensions().get::<UdsConnectInfo>().unwrap();
        let pid = info.peer_cred.as_ref().and_then(tokio::net::unix::UCred::pid).unwrap();
        self.note(|asked| asked.start = Some((request.into_inner(), u32::try_from(pid).unwrap())));
        self.answer(self.answers.run.clone())
    }

    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::Run>, Status> {
        self.note(|asked| asked.register = Some(request.into_inner()));
        self.answer(self.answers.run.clone())
    }

    async fn begin(&self, _: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
        self.answer(pb::BeginResponse {})
    }

    async fn prepare_rerun(&self, _: Request<pb::PrepareRerunRequest>) -> Result<Response<pb::RerunPlan>, Status> {
        self.answer(pb::RerunPlan::default())
    }

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.answer(pb::ListResponse { runs: vec![self.answers.run.clone()], only_own: false, ..Default::default() })
    }

    async fn get(&self, _: Request<pb::GetRequest>) -> Result<Response<pb::Run>, Status> {
        self.answer(self.answers.run.clone())
    }

    async fn control(&self, request: Request<pb::ControlRequest>) -> Result<Response<pb::ControlResponse>, Status> {
        self.note(|asked| asked.control = Some(request.into_inner()));
        if self.answers.hangs {
            std::future::pending::<()>().await;
        }
        if self.answers.denies {
            return Err(Status::permission_denied("root or the administrators' group may thaw and kill"));
        }
        self.answer(self.answers.control.clone())
    }

    async fn export(&self, _: Request<pb::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let data = self.answers.recording.chunks(1_000);
        let data = data.map(|data| Ok(pb::Chunk { data: data.to_vec(), part: None }));
        // An earlier daemon does not announce a recording.
        let part = self.answers.part.clone().map(|part| Ok(pb::Chunk { data: Vec::new(), part: Some(part) }));
        let chunks: Vec<_> = part.into_iter().chain(data).collect();
        self.answer(tokio_stream::iter(chunks))
    }
}

#[tonic::async_trait]
impl events::EventService for Service {
    type WatchStream = Iter<std::vec::IntoIter<Result<pb::Record, Status>>>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let fits = |r: &&pb::Record| {
            (request.run.is_empty() || request.run == r.run_id)
                && (request.incident.is_empty() || request.incident == r.incident)
                && r.index >= request.from
        };
        let records: Vec<_> = self.answers.records.iter().filter(fits).cloned().map(Ok).collect();
        self.note(|asked| asked.watch.push(request));
        self.answer(tokio_stream::iter(records))
    }
}

#[tonic::async_trait]
impl policy::PolicyService for Service {
    async fn check(&self, _: Request<pb::CheckRequest>) -> Result<Response<pb::CheckResponse>, Status> {
        self.answer(self.answers.check.clone())
    }

    async fn list(&self, _: Request<pb::ListPoliciesRequest>) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        Err(Status::unimplemented("the integration tests ask the daemon"))
    }

    async fn show(&self, _: Request<pb::ShowPolicyRequest>) -> Result<Response<pb::ShowPolicyResponse>, Status> {
        Err(Status::unimplemented("the integration tests ask the daemon"))
    }
}

#[tonic::async_trait]
impl node::NodeService for Service {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.answers.status.clone();
        self.answer(pb::StatusResponse { hostname: "n1".into(), log_state: "healthy".into(), ..status })
    }

    async fn usage(&self, _: Request<pb::UsageRequest>) -> Result<Response<pb::UsageResponse>, Status> {
        Err(Status::unimplemented("the integration tests ask the daemon"))
    }

    async fn doctor(&self, _: Request<pb::DoctorRequest>) -> Result<Response<pb::DoctorResponse>, Status> {
        self.answer(self.answers.doctor.clone())
    }

    async fn health(&self, _: Request<pb::HealthRequest>) -> Result<Response<pb::HealthResponse>, Status> {
        self.answer(self.answers.health.clone())
    }

    async fn reasons(&self, _: Request<pb::ReasonsRequest>) -> Result<Response<pb::ReasonsResponse>, Status> {
        Err(Status::unimplemented("not asked by failsafectl"))
    }

    async fn set_mode(&self, _: Request<pb::SetModeRequest>) -> Result<Response<pb::SetModeResponse>, Status> {
        Err(Status::unimplemented("the integration tests ask the daemon"))
    }

    async fn capacity(&self, _: Request<pb::CapacityRequest>) -> Result<Response<pb::CapacityResponse>, Status> {
        self.answer(pb::CapacityResponse { gpus: 8, free: 3, ..Default::default() })
    }

    async fn placeable(
        &self,
        request: Request<pb::PlaceableRequest>,
    ) -> Result<Response<pb::PlaceableResponse>, Status> {
        let placeable = request.into_inner().count < 4;
        self.answer(pb::PlaceableResponse { placeable, reasons: vec!["3 are free".into()], ..Default::default() })
    }

    type WatchSinceStream = Iter<std::vec::IntoIter<Result<pb::HealthChange, Status>>>;

    async fn watch_since(
        &self,
        request: Request<pb::WatchSinceRequest>,
    ) -> Result<Response<Self::WatchSinceStream>, Status> {
        let change = |revision, gpu: &str| {
            let (from, to) = (pb::HealthLevel::Healthy as i32, pb::HealthLevel::Draining as i32);
            Ok(pb::HealthChange { revision, gpu: gpu.into(), from, to, ..Default::default() })
        };
        let since = request.into_inner().revision;
        let all = vec![change(since + 1, ""), change(since + 2, "GPU-b")];
        self.answer(tokio_stream::iter(all))
    }

    async fn cordon(&self, request: Request<pb::OrderRequest>) -> Result<Response<pb::OrderResponse>, Status> {
        self.ordered("cordon", request)
    }

    async fn uncordon(&self, request: Request<pb::OrderRequest>) -> Result<Response<pb::OrderResponse>, Status> {
        self.ordered("uncordon", request)
    }

    async fn reset_health(&self, request: Request<pb::OrderRequest>) -> Result<Response<pb::OrderResponse>, Status> {
        self.ordered("reset-health", request)
    }

    async fn forget_gpu(&self, request: Request<pb::OrderRequest>) -> Result<Response<pb::OrderResponse>, Status> {
        self.ordered("forget", request)
    }

    async fn reset_gpu(&self, _: Request<pb::ResetGpuRequest>) -> Result<Response<pb::ResetGpuResponse>, Status> {
        self.answer(pb::ResetGpuResponse { done: false, detail: "in use by another client".into() })
    }
}

impl Service {
    fn ordered(
        &self,
        what: &'static str,
        request: Request<pb::OrderRequest>,
    ) -> Result<Response<pb::OrderResponse>, Status> {
        let request = request.into_inner();
        let level = pb::HealthLevel::Draining as i32;
        let text = self.answers.cordoned.clone();
        let reason = pb::HealthReason { code: "cordoned".into(), text, ..Default::default() };
        let reasons = Some(reason).filter(|reason| !reason.text.is_empty()).into_iter().collect();
        let part = pb::PartHealth { gpu: request.gpu.clone(), level, reasons, ..Default::default() };
        self.asked.lock().unwrap().orders.push((what, request));
        self.answer(pb::OrderResponse { revision: 1, part: Some(part) })
    }
}
