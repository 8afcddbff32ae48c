//! Arguments of the commands that read the audit log: `events`, `incidents` and `explain`.

use super::Output;
use clap::Args as ClapArgs;
use failsafe_core::record::Record;
use std::path::PathBuf;

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

/// The kinds of entries of the audit log: those of records, and the journal's own.
fn kind(text: &str) -> Result<String, String> {
    let kinds = || Record::KINDS.into_iter().chain(["segment", "recovered", "heartbeat", "counter"]);
    match kinds().any(|kind| kind == text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one of {}", kinds().collect::<Vec<_>>().join(", "))),
    }
}
