//! `incident`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand};
use failsafe_core::decision::IncidentId;
use std::{path::PathBuf, time::Duration};

/// `incident`.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// Write one incident to one file: log entries with proofs, policy, recording, statement.
    Export(IncidentExportArgs),
    /// Verify such a file, on any machine: without the daemon, the log and the network.
    Verify(IncidentVerifyArgs),
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
