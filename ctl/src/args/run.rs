//! Arguments of the commands that make a run: `run`, `rerun` and `register`.

use super::{Output, RunScrape, node, reason};
use clap::Args as ClapArgs;
use std::{ffi::OsString, path::PathBuf};

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
    after_help = "Examples:\n  failsafectl run --policy trainer.toml -- python3 train.py\n  failsafectl run -p trainer.toml --name job-1 --gpu 0,1 -- ./train.sh\n  failsafectl run -p trainer.toml --scrape 9400/metrics -- python3 train.py"
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
    #[command(flatten)]
    pub scrape: RunScrape,
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
    #[command(flatten)]
    pub scrape: RunScrape,
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
    /// Keep open connections whose port and protocol a host entry of the allow-list allows. Each address then counts as one
    /// of those hosts while the run lives. Without this, their packets are dropped from the registration on.
    #[arg(long)]
    pub adopt_connections: bool,
    #[command(flatten)]
    pub output: Output,
}

/// What `register` adopts.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// A cgroup: a folder below /sys/fs/cgroup, a cgroup v2 path (/a/b), or a line of /proc/PID/cgroup (0::/a/b).
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// The cgroup of this process.
    #[arg(long)]
    pub pid: Option<u32>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}
