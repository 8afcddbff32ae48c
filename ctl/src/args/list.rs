//! Arguments of the commands that show runs: `list`, `get runs`, `describe` and `egress`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand};

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
