//! `incident`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use failsafe_core::decision::IncidentId;
use std::{path::PathBuf, time::Duration};

/// `incident`.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// List incidents: state, cause, run. From the memory of the daemon.
    List(IncidentListArgs),
    /// Show one incident: run, cause, each action with what is proved of it.
    Show(IncidentShowArgs),
    /// Print each incident when it changes: first the open ones, or what changed since a revision.
    Watch(IncidentWatchArgs),
    /// Write one incident to one file: log entries with proofs, policy, recording, statement.
    Export(IncidentExportArgs),
    /// Verify such a file, on any machine: without the daemon, the log and the network.
    Verify(IncidentVerifyArgs),
}

/// Which incidents.
#[derive(Debug, ClapArgs)]
pub struct AskedIncidents {
    /// Only of this run: id, name, or an unambiguous prefix of either.
    #[arg(short, long)]
    pub run: Option<String>,
    /// Only of this rule.
    #[arg(long, value_name = "ID")]
    pub rule: Option<String>,
    /// Only of runs with these labels: KEY=VALUE, KEY!=VALUE, KEY or !KEY, separated by commas; all of them must hold.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
}

/// The state of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IncidentState {
    /// Something of it contains the run, or is to contain it.
    Open,
    /// Thawed, or the run ended; or nothing was to be contained.
    Closed,
}

/// `incident list`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl incident list --state open\n  failsafectl incident list -l team=vision --since 24h -o json"
)]
pub struct IncidentListArgs {
    #[command(flatten)]
    pub asked: AskedIncidents,
    /// Only in this state.
    #[arg(long)]
    pub state: Option<IncidentState>,
    /// Only those that were open, or changed, at this time or later: an age (10m, 2h), or a time (2026-11-28T14:00).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only those that began before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `incident show`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl incident show inc-5f0c9a1b2c3d-1")]
pub struct IncidentShowArgs {
    /// The incident, such as inc-5f0c9a1b2c3d-1.
    pub incident: IncidentId,
    #[command(flatten)]
    pub output: Output,
}

/// `incident watch`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl incident watch\n  failsafectl incident watch --since 4711 -o json")]
pub struct IncidentWatchArgs {
    #[command(flatten)]
    pub asked: AskedIncidents,
    /// Changes after this revision, instead of the open incidents.
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
    /// Exit after the known changes.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `incident export`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl incident export inc-5f0c9a1b2c3d-1 -o incident.tar\n  \
                        failsafectl --state-dir /mnt/copy incident export inc-5f0c9a1b2c3d-1 --offline -o incident.tar")]
pub struct IncidentExportArgs {
    /// The incident, such as inc-5f0c9a1b2c3d-1.
    pub incident: IncidentId,
    /// The file to write. Only its owner may read it.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
    /// Read the state folder only, and do not ask the daemon: the file then has a stored statement, or none.
    #[arg(long)]
    pub offline: bool,
    /// How long to wait for a signed checkpoint that covers the incident. The daemon signs one at the interval
    /// `audit_log.checkpoint`. Ignored with --offline.
    #[arg(long, default_value = "90s", value_name = "TIME", value_parser = super::duration)]
    pub wait: Duration,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `incident verify`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl incident verify incident.tar --keys allowed-keys\n  \
                        failsafectl incident verify incident.tar --keys allowed-keys -o json")]
pub struct IncidentVerifyArgs {
    /// The file that `incident export` wrote.
    pub file: PathBuf,
    /// The keys that you trust: lines `KEYID BASE64 COMMENT` or `NAME+ID+KEY`. Without it, the keys in the file are used, which
    /// proves nothing, and the exit code is 15.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}
