//! The command line. What it accepts is a contract: see `docs/cli.md`.

mod attest;
mod discover;
mod drill;
mod incident;
mod log;
mod manifest;
mod mode;
mod node;
mod nodes;
mod policy;
mod scrape;

pub use attest::{
    AttestArgs, AttestCommand, AttestCommonArgs, AttestDiffArgs, AttestExpectArgs, AttestKeyCommand, AttestNodeArgs,
    AttestPreflightArgs, AttestRotateArgs, AttestRunArgs, AttestVerifyArgs,
};
pub use discover::{DiscoverCommand, DiscoverTestArgs};
pub use drill::DrillCommand;
pub use incident::{
    IncidentCommand, IncidentExportArgs, IncidentListArgs, IncidentShowArgs, IncidentState, IncidentVerifyArgs,
    IncidentWatchArgs,
};
pub use log::{ArchiveArgs, ConsistencyArgs, LogCommand, LogOut, WitnessCommand};
pub use manifest::{CheckpointArgs, ManifestCommand, ManifestHashArgs, ManifestSetArgs, ManifestShowArgs};
pub use mode::{ModeCommand, StatsArgs};
pub use node::{GpuCommand, GpuOrderArgs, HealthArgs, NodeCommand, OrderArgs, PlaceableArgs, TopArgs, WatchArgs, each};
pub use nodes::{NodesArgs, Reach};
pub use policy::{
    CallKind, CanaryCommand, CanaryDecideArgs, CanaryStartArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs,
    PolicyReplayArgs, PolicyTestArgs, PolicyWouldArgs, ShadowCommand,
};
pub use scrape::{Endpoint, ScrapeArgs};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use failsafe_core::record::Record;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Start, watch, freeze and explain ML runs, and check the health of this node.
#[derive(Debug, Parser)]
#[command(
    name = "failsafectl",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 error, 2 usage, 3 partial, 4 denied, 5 timeout, 6 not found; \
                  `replay` 7 changed; `node health` 10 degraded, 11 draining, 12 unhealthy, 13 unknown; `node placeable` 14 no; \
                  `policy would` 30 denied, 31 known on the node only; \
                  `log consistency`, `log witness cosign` 25 forked, 26 shortened, 27 old checkpoint; \
                  `attest verify`, `incident verify` 7 not valid, 15 key not checked; `attest diff` 15 equal, keys not checked, 20 performance differs, 21 results \
                  differ, 22 cannot know; \
                  `run` ends as its command does (126 not executable, 127 not found)."
)]
pub struct Args {
    /// The daemon's socket.
    #[arg(long, global = true, env = "FAILSAFE_SOCKET", default_value = "/run/failsafe/failsafed.sock")]
    pub socket: PathBuf,
    /// The daemon's state folder, for commands that read files without the daemon.
    #[arg(long, global = true, env = "FAILSAFE_STATE_DIR", default_value = "/var/lib/failsafe")]
    pub state_dir: PathBuf,
    /// Other nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command as a run: in its own cgroup, under a policy.
    Run(RunArgs),
    /// Start an ended run again: the same command, folder, variables and policy, from a verified checkpoint.
    Rerun(RerunArgs),
    /// Make a run of an existing cgroup.
    Register(RegisterArgs),
    /// List runs.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Alias for `list` (`get runs`)
    Get {
        /// What.
        #[command(subcommand)]
        what: Get,
    },
    /// Show one run: identity, policy, containment, counters, last events.
    Describe(RunRef),
    /// Show what a run sent: bytes, budgets, attempts by destination, refusals, and what was not counted.
    #[command(after_help = "Examples:\n  failsafectl egress trainer\n  failsafectl egress trainer -o json")]
    Egress(RunRef),
    /// Freeze all processes of a run and verify it.
    #[command(
        override_usage = "failsafectl freeze [OPTIONS] <RUN> --reason <TEXT>\n       failsafectl freeze [OPTIONS] <RUN> --dry-run\n       failsafectl freeze [OPTIONS] --all --reason <TEXT>",
        after_help = "Examples:\n  failsafectl freeze trainer --reason \"loss looks wrong\"\n  failsafectl freeze trainer --dry-run\n  failsafectl freeze --all --reason \"intrusion suspected\""
    )]
    Freeze(FreezeArgs),
    /// Let a frozen run continue, and remove its latch and egress block.
    #[command(
        override_usage = "failsafectl thaw [OPTIONS] <RUN> --reason <TEXT>\n       failsafectl thaw [OPTIONS] <RUN> --dry-run",
        after_help = "Examples:\n  failsafectl thaw trainer --reason \"false alarm\"\n  failsafectl thaw trainer --dry-run"
    )]
    Thaw(ControlArgs),
    /// Kill all processes of a run and verify it.
    #[command(
        override_usage = "failsafectl kill [OPTIONS] <RUN> --reason <TEXT>\n       failsafectl kill [OPTIONS] <RUN> --dry-run",
        after_help = "Examples:\n  failsafectl kill trainer --reason \"not wanted\"\n  failsafectl kill trainer --dry-run"
    )]
    Kill(ControlArgs),
    /// Show the audit log, oldest first.
    Events(EventsArgs),
    /// Explain an incident: cause, exact condition, what is verified, and what to do next.
    Explain(ExplainArgs),
    /// List incidents: what was decided, when, why, and how it stands.
    Incidents(IncidentsArgs),
    /// List, show and watch incidents; write one to a file, and verify such a file on any machine.
    Incident {
        /// What.
        #[command(subcommand)]
        what: IncidentCommand,
    },
    /// Show which cgroups the daemon makes runs of by itself, and why.
    Discover {
        /// What.
        #[command(subcommand)]
        what: DiscoverCommand,
    },
    /// Check and explain policies, ask what they do with a call, and show the named policies of the node.
    Policy {
        /// What.
        #[command(subcommand)]
        what: PolicyCommand,
    },
    /// Replay the recording of a run and compare the decisions.
    Replay(ReplayArgs),
    /// Write the recordings of a run to a file.
    Export(ExportArgs),
    /// Report a metric of the run that this command runs in.
    Report(ReportArgs),
    /// Read a Prometheus endpoint of the run that this command runs in, and report its values, again and again.
    Scrape(ScrapeArgs),
    /// Show whether failsafe acts on runs, and have it observe for a time.
    Mode {
        /// What.
        #[command(subcommand)]
        what: ModeCommand,
    },
    /// Count what would have been done where it was only observed.
    Stats(StatsArgs),
    /// Show and change the health of the node.
    Node {
        /// What.
        #[command(subcommand)]
        what: NodeCommand,
    },
    /// Show and change the health of the GPUs.
    Gpu {
        /// What.
        #[command(subcommand)]
        what: GpuCommand,
    },
    /// Have the node stop a run of its own, as a proof that it can, and show the last results.
    Drill {
        /// What.
        #[command(subcommand)]
        what: DrillCommand,
    },
    /// Check every kernel probe, mount, library and permission, with advice.
    Doctor(DoctorArgs),
    /// The audit log.
    Log {
        /// What.
        #[command(subcommand)]
        what: LogCommand,
    },
    /// Sign, verify and compare what a node or a run computes with.
    Attest {
        /// What.
        #[command(subcommand)]
        what: AttestCommand,
    },
    /// What the owner of a run claims that it computes with.
    Manifest {
        /// What.
        #[command(subcommand)]
        what: ManifestCommand,
    },
    /// Announce a checkpoint of a run.
    Checkpoint(CheckpointArgs),
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for the package.
    #[command(hide = true)]
    Man {
        /// Folder of the pages; it exists.
        folder: PathBuf,
    },
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text.
    Table,
    /// Text with all columns.
    Wide,
    /// JSON.
    Json,
}

/// `-o`.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct Output {
    /// How to print.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
    /// The same as `-o json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Output {
    /// Whether programs read it.
    pub fn json(self) -> bool {
        self.json || self.format == Format::Json
    }

    /// Whether there is room.
    pub fn wide(self) -> bool {
        !self.json && self.format == Format::Wide
    }
}

/// What `run` and `register` have in common.
#[derive(Debug, ClapArgs)]
pub struct NewRun {
    /// The name of a policy of the node (see `policy list`), or a file: a path with `/`, or one that ends with `.toml`.
    #[arg(short, long, value_name = "NAME|FILE")]
    pub policy: PathBuf,
    /// Name of the run, unique among your live runs [default: name of the policy and a number]
    #[arg(short, long)]
    pub name: Option<String>,
    /// A label, may be repeated.
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// A GPU of the run, or a MIG device by its UUID; may be repeated, or separated by commas.
    #[arg(long = "gpu", value_name = "UUID|INDEX|all", value_delimiter = ',', value_parser = node::gpu)]
    pub gpus: Vec<String>,
    /// The run continues your last ended run of this lineage, and is compared with it: see on_drift in docs/policy.md
    #[arg(long, value_name = "NAME")]
    pub lineage: Option<String>,
    /// The manifest of the run, a TOML file: what it computes with (see `manifest set`).
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Start even if the GPU or the node is draining or unhealthy (administrators only; logged)
    #[arg(long)]
    pub repair: bool,
}

/// `run`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl run --policy trainer.toml -- python3 train.py\n  failsafectl run -p trainer.toml --name job-1 --gpu 0,1 -- ./train.sh"
)]
pub struct RunArgs {
    #[command(flatten)]
    pub new: NewRun,
    /// Run the command as this user (name or uid). Root only; to run it as root, give `--user root`.
    #[arg(short, long)]
    pub user: Option<String>,
    /// Pass a variable to the command: `NAME` with the caller's value, or `NAME=VALUE`; may be repeated. With another user, the
    /// command gets only PATH, TERM, the locale, the time zone, variables of failsafe, and what is named here.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Replace failsafectl by the command: no messages about the run, and no own terminal for the command.
    #[arg(long)]
    pub no_watch: bool,
    /// Where the watcher waits for the run's id (abstract unix socket); used by `run` itself.
    #[arg(long, hide = true, value_name = "NAME")]
    pub announce: Option<String>,
    /// Do not print the line about the run.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub output: Output,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `rerun`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl rerun job-1 --print\n  failsafectl rerun job-1 --inherit\n  failsafectl rerun job-1 --from 12000 --env HF_TOKEN --inherit --accept-differences \"new kernel, accepted by the team\""
)]
pub struct RerunArgs {
    /// The ended run: its id, name, or an unambiguous prefix of either.
    pub run: String,
    /// The checkpoint to begin with: `last-good`, the number of a step, or `start` for none. The command finds its path in
    /// FAILSAFE_CHECKPOINT.
    #[arg(long, value_name = "CHECKPOINT", default_value = "last-good")]
    pub from: String,
    /// Only show what would be started, what is missing, and what differs now.
    #[arg(long)]
    pub print: bool,
    /// A variable of the command: `NAME` with the caller's value, or `NAME=VALUE`; may be repeated.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Take variables of which the value was never read from this environment.
    #[arg(long)]
    pub inherit: bool,
    /// Leave out a variable; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub without: Vec<String>,
    /// Start it although factors that can change results differ or are not known. Why; it goes into the audit log.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub accept_differences: Option<String>,
    /// Name of the new run [default: name of the policy and a number]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Execute the command in this folder [default: that of the run]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Other GPUs than those of the run, as for `run`.
    #[arg(long = "gpu", value_name = "UUID|INDEX|all", value_delimiter = ',', value_parser = node::gpu)]
    pub gpus: Vec<String>,
    /// Replace failsafectl by the command, as for `run`.
    #[arg(long)]
    pub no_watch: bool,
    /// Where the watcher waits for the run's id (abstract unix socket); used by `rerun` itself.
    #[arg(long, hide = true, value_name = "NAME")]
    pub announce: Option<String>,
    /// Do not print the line about the run.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub output: Output,
    /// The command again, with its secrets, where arguments were redacted.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `register`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl register -p trainer.toml --pid 4242\n  failsafectl register -p trainer.toml --cgroup /sys/fs/cgroup/slurm/job_17"
)]
pub struct RegisterArgs {
    #[command(flatten)]
    pub new: NewRun,
    #[command(flatten)]
    pub target: Target,
    /// Accept a cgroup whose processes a user other than root may move. Such a process can leave the run and use the
    /// network until it is moved back.
    #[arg(long)]
    pub accept_delegated: bool,
    #[command(flatten)]
    pub output: Output,
}

/// What `register` adopts.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// A cgroup: absolute, or below the cgroup2 mount.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// The cgroup of this process.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// `list`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl list\n  failsafectl list --all -o wide")]
pub struct ListArgs {
    /// Ended runs too.
    #[arg(short, long)]
    pub all: bool,
    /// Runs with these labels only: KEY=VALUE, KEY!=VALUE, KEY or !KEY, separated by commas; all of them must hold.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Print each run when it changes, until interrupted: first the live runs, then what starts, stops and ends.
    #[arg(short, long, conflicts_with = "all")]
    pub watch: bool,
    /// With --watch: changes after this revision, instead of the live runs.
    #[arg(long, value_name = "REVISION", requires = "watch")]
    pub since: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

/// `get`.
#[derive(Debug, Subcommand)]
pub enum Get {
    /// List runs.
    Runs(ListArgs),
}

/// A command on one run.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl describe trainer\n  failsafectl describe inc-5f0c9a1b2c3d-1")]
pub struct RunRef {
    /// Id, name, or an unambiguous prefix of either; or an incident, for its run.
    #[arg(value_name = "RUN|INCIDENT")]
    pub run: String,
    #[command(flatten)]
    pub output: Output,
}

/// `freeze`, `thaw`, `kill`.
#[derive(Debug, ClapArgs)]
pub struct ControlArgs {
    /// The exact id or name (or OWNER_UID/NAME); no prefix.
    pub run: String,
    /// Why; it goes into the audit log. Mandatory, except with --dry-run.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "dry_run", value_parser = reason)]
    pub reason: Option<String>,
    /// Change nothing; list the affected processes, cgroups and GPUs, and what the action does not reach.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// An id of your choice, new for each command: 1 to 64 letters, digits, `-`, `_`, `.` or `:`. Sent again with the same id
    /// within ten minutes, the command is not carried out again, and gets the result of the first one.
    #[arg(long, value_name = "ID", conflicts_with = "dry_run", value_parser = request_id)]
    pub request_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `freeze`.
#[derive(Debug, ClapArgs)]
pub struct FreezeArgs {
    /// The exact id or name (or OWNER_UID/NAME); no prefix.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub run: Option<String>,
    /// Freeze every run that you may freeze, those that start meanwhile too. Ends when a list of the runs shows none that is
    /// not frozen.
    #[arg(long)]
    pub all: bool,
    /// Why; it goes into the audit log. Mandatory, except with --dry-run.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "dry_run", value_parser = reason)]
    pub reason: Option<String>,
    /// Change nothing; list the affected processes, cgroups and GPUs, and what the action does not reach.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// An id of your choice, new for each command: 1 to 64 letters, digits, `-`, `_`, `.` or `:`. Sent again with the same id
    /// within ten minutes, the command is not carried out again, and gets the result of the first one.
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "dry_run"], value_parser = request_id)]
    pub request_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

impl FreezeArgs {
    /// The same for one run.
    pub fn of(&self, run: &str) -> ControlArgs {
        let FreezeArgs { reason, dry_run, timeout, request_id, output, .. } = self;
        let (run, reason, request_id) = (run.to_owned(), reason.clone(), request_id.clone());
        ControlArgs { run, reason, dry_run: *dry_run, timeout: *timeout, request_id, output: *output }
    }
}

/// `events`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl events --follow\n  failsafectl events --run trainer --kind decision,outcome --since 2h\n  failsafectl events --file /mnt/backup/audit.log -o json"
)]
pub struct EventsArgs {
    /// Only of this run; or of this incident.
    #[arg(short, long, value_name = "RUN|INCIDENT")]
    pub run: Option<String>,
    /// Only of this incident.
    #[arg(short, long)]
    pub incident: Option<String>,
    /// Only entries of these kinds: decision, outcome, evidence, control, run, policy, gap, health, order, daemon,
    /// drift, manifest, statement, drill, segment, heartbeat, counter, recovered.
    #[arg(short, long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    pub kind: Vec<String>,
    /// Only entries of this time or later: an age (10m, 2h), or a time (2026-11-28T14:00, with a zone or in the local one).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only entries before this time (same format as --since)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only the last N of them; with --follow, these and what comes.
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u32>,
    /// Start at the entry with this index.
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    pub from: u64,
    /// Wait for new entries and print them.
    #[arg(short, long, conflicts_with_all = ["offline", "file"])]
    pub follow: bool,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub output: Output,
}

impl EventsArgs {
    /// The incident that is wanted: `--run` takes one too.
    pub fn incident(&self) -> Option<&str> {
        self.incident.as_deref().or(self.run.as_deref().filter(|run| is_incident(run)))
    }

    /// The run that is wanted.
    pub fn run(&self) -> Option<&str> {
        self.run.as_deref().filter(|run| !is_incident(run))
    }
}

fn is_incident(text: &str) -> bool {
    text.parse::<failsafe_core::decision::IncidentId>().is_ok()
}

/// Where the audit log is read from.
#[derive(Debug, ClapArgs)]
pub struct Source {
    /// Read the log's file in the state folder instead of asking the daemon.
    #[arg(long)]
    offline: bool,
    /// Read this log file instead of asking the daemon, for example a copy.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Source {
    /// Whether the daemon is not asked.
    pub fn offline(&self) -> bool {
        self.offline || self.file.is_some()
    }

    /// The log's file.
    pub fn log(&self, state_dir: &std::path::Path) -> PathBuf {
        self.file.clone().unwrap_or_else(|| crate::entry::log_file(state_dir))
    }
}

/// `incidents`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl incidents --since 24h\n  failsafectl incidents --run trainer\n  \
                        failsafectl incidents --file /mnt/backup/audit.log")]
pub struct IncidentsArgs {
    /// Only entries about this run.
    #[arg(short, long)]
    pub run: Option<String>,
    /// Only those with a decision at this time or later: an age (10m, 2h), or a time (2026-11-28T14:00).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub output: Output,
}

/// `explain`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl explain trainer\n  failsafectl explain inc-5f0c9a1b2c3d-1 --full\n  \
                        failsafectl explain trainer --offline")]
pub struct ExplainArgs {
    /// The incident, such as inc-5f0c9a1b2c3d-1; or a run, for the incident that stopped it.
    #[arg(value_name = "INCIDENT|RUN")]
    pub what: String,
    /// All that is known: timeline, proofs, processes, last signals, what the actions do not reach.
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub output: Output,
}

/// `replay`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl replay trainer\n  failsafectl replay trainer.fsrec --policy stricter.toml"
)]
pub struct ReplayArgs {
    /// A recording, a file of `export`, the folder of a run's recordings, a run of this node, or an incident, for its run.
    #[arg(value_name = "FILE|RUN|INCIDENT")]
    pub what: String,
    /// Evaluate this policy instead of the recorded one.
    #[arg(short, long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Compare with this audit log. Default: the daemon's for a RUN; for a FILE that of the state folder, else the daemon's.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// `export`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl export trainer -o trainer.fsrec")]
pub struct ExportArgs {
    /// Id, name, or an unambiguous prefix of either; or an incident, for its run.
    #[arg(value_name = "RUN|INCIDENT")]
    pub run: String,
    /// The file to write. Only its owner may read it.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `report`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl report loss 2.5 1200")]
pub struct ReportArgs {
    /// The metric's name: letters, digits, `_`, `-`, `.`, `/`.
    #[arg(value_parser = metric)]
    pub name: String,
    /// Its value; `nan` and `inf` are values too.
    #[arg(allow_hyphen_values = true)]
    pub value: f64,
    /// The training step.
    pub step: Option<u64>,
    /// The series that the value belongs to.
    #[arg(long, env = "RANK", default_value = "cli", value_name = "LABEL")]
    pub rank: String,
    /// The daemon's socket for metrics; the stream socket is beside it, with `.stream` behind its name.
    #[arg(long, env = "FAILSAFE_METRICS_SOCKET", default_value = "/run/failsafe/metrics.sock")]
    pub metrics_socket: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

/// `doctor`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl doctor\n  failsafectl doctor --cleanup --dry-run")]
pub struct DoctorArgs {
    /// Remove the BPF programs that a stopped daemon of this state folder left in the kernel. Root only. Runs that have
    /// processes keep theirs.
    #[arg(long)]
    pub cleanup: bool,
    /// Only list what would be removed.
    #[arg(long, requires = "cleanup")]
    pub dry_run: bool,
    /// Also remove the enforcement of this run, which has processes: nothing limits them afterwards. Run id or cgroup,
    /// not its name; repeatable.
    #[arg(long, requires = "cleanup", value_name = "RUN")]
    pub release: Vec<String>,
    /// Where the BPF file system is mounted, as the daemon's configuration says.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "PATH", requires = "cleanup")]
    pub bpffs: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// An id of a command, as the daemon takes it.
fn request_id(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err("expected 1 to 64 letters, digits, `-`, `_`, `.` or `:`".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("the reason is empty: give a text that explains the action".to_owned())
    } else {
        Ok(text.trim().to_owned())
    }
}

/// The kinds of entries of the audit log: those of records, and the journal's own.
fn kind(text: &str) -> Result<String, String> {
    let kinds = || Record::KINDS.into_iter().chain(["segment", "recovered", "heartbeat", "counter"]);
    match kinds().any(|kind| kind == text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one of {}", kinds().collect::<Vec<_>>().join(", "))),
    }
}

fn metric(text: &str) -> Result<String, String> {
    let good = failsafe_core::signal::metric_name(text);
    good.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 64 of letters, digits, `_`, `-`, `.`, `/`".to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration from 1ms to 1h, such as 10s or 500ms");
    let parsed = failsafe_core::time::Span::parse(text).map(|span| Duration::from_nanos(span.0));
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    parsed.filter(|duration| range.contains(duration)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
