//! Arguments of the commands that read recordings: `replay` and `export`.

use super::Output;
use clap::Args as ClapArgs;
use std::path::PathBuf;

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
