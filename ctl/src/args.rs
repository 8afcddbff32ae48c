//! The command line. What it accepts is a contract: see `docs/cli.md`.

mod attest;
mod audit;
mod control;
mod discover;
mod doctor;
mod drill;
mod incident;
mod list;
mod log;
mod manifest;
mod mode;
mod node;
mod nodes;
mod output;
mod policy;
mod recording;
mod relay;
mod report;
mod run;
mod scrape;

pub use attest::{
    AttestActivateArgs, AttestArgs, AttestCommand, AttestCommonArgs, AttestDiffArgs, AttestExpectArgs,
    AttestKeyCommand, AttestNodeArgs, AttestPreflightArgs, AttestRotateArgs, AttestRunArgs, AttestVerifyArgs,
};
pub use audit::{EventsArgs, ExplainArgs, IncidentsArgs, Source};
pub use control::{ControlArgs, FreezeArgs};
pub use discover::{DiscoverCommand, DiscoverTestArgs};
pub use doctor::DoctorArgs;
pub use drill::DrillCommand;
pub use incident::{
    IncidentCommand, IncidentExportArgs, IncidentListArgs, IncidentShowArgs, IncidentState, IncidentVerifyArgs,
    IncidentWatchArgs,
};
pub use list::{Get, ListArgs, RunRef};
pub use log::{ArchiveArgs, ConsistencyArgs, LogCommand, LogOut, WitnessCommand};
pub use manifest::{CheckpointArgs, ManifestCommand, ManifestHashArgs, ManifestSetArgs, ManifestShowArgs};
pub use mode::{ModeCommand, StatsArgs};
pub use node::{GpuCommand, GpuOrderArgs, HealthArgs, NodeCommand, OrderArgs, PlaceableArgs, TopArgs, WatchArgs, each};
pub use nodes::{NodesArgs, Reach};
pub use output::Output;
pub use policy::{
    CallKind, CanaryCommand, CanaryDecideArgs, CanaryStartArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs,
    PolicyReplayArgs, PolicyTestArgs, PolicyWouldArgs, ShadowCommand,
};
pub use recording::{ExportArgs, ReplayArgs};
pub use relay::RelayArgs;
pub use report::ReportArgs;
pub use run::{RegisterArgs, RerunArgs, RunArgs};
pub use scrape::{Endpoint, RunScrape, ScrapeArgs};

use clap::{Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

/// The daemon's state folder, where none is named.
pub const STATE_DIR: &str = "/var/lib/failsafe";

/// Start, watch, freeze and explain ML runs, and check the health of this node.
#[derive(Debug, Parser)]
#[command(
    name = "failsafectl",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 error, 2 usage, 3 partial, 4 denied, 5 timeout, 6 not found; \
                  `replay` 7 changed; `node health` 10 degraded, 11 draining, 12 unhealthy, 13 unknown; `node placeable` 13 no daemon, 14 no; \
                  `policy would` 30 denied, 31 known on the node only; \
                  `log consistency`, `log witness cosign` 25 forked, 26 shortened, 27 old checkpoint; \
                  `attest verify`, `incident verify` 7 not valid, 15 key not checked; \
                  `attest diff` 15 equal, keys not checked, 20 performance differs, 21 results differ, 22 cannot know; \
                  `attest verify --expect` also 20 to 22, and 28 PCRs differ; `--tpm-roots` 7 a certificate is not valid, 22 not activated; \
                  `--ima` 28 the list does not give PCR 10; `attest common` 23 nothing shared; `attest preflight` 24 warnings; \
                  `run` ends as its command does (126 not executable, 127 not found)."
)]
pub struct Args {
    /// The daemon's socket.
    #[arg(long, global = true, env = "FAILSAFE_SOCKET", default_value = "/run/failsafe/failsafed.sock")]
    pub socket: PathBuf,
    /// The daemon's state folder, for commands that read files without the daemon.
    #[arg(long, global = true, env = "FAILSAFE_STATE_DIR", default_value = STATE_DIR)]
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
    /// Take OTLP and statsd at ports of this host, for libraries of the run that this command runs in.
    Relay(RelayArgs),
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
    /// Keep the terminal of a command open when its watcher has ended; used by `run --user`. Standard input is the terminal,
    /// standard output a pipe that the watcher reads.
    #[command(hide = true)]
    KeepTerminal,
    /// Write the manual pages, for the package.
    #[command(hide = true)]
    Man {
        /// Folder of the pages; it exists.
        folder: PathBuf,
    },
}

pub(crate) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("the reason is empty: give a text that explains the action".to_owned())
    } else {
        Ok(text.trim().to_owned())
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration from 1ms to 1h, such as 10s or 500ms");
    let parsed = failsafe_core::time::Span::parse(text).map(|span| Duration::from_nanos(span.0));
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    parsed.filter(|duration| range.contains(duration)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
