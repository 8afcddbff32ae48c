//! `discover`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// `discover`.
#[derive(Debug, Subcommand)]
pub enum DiscoverCommand {
    /// Say what the rules of discovery make of a cgroup's path: the rule that matches, or why none does.
    Test(DiscoverTestArgs),
    /// List the rules, the cgroups that match, and why some of them have no run.
    #[command(visible_alias = "ls", after_help = "Example:\n  failsafectl discover list")]
    List(Output),
}

/// `discover test`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl discover test system.slice/slurmstepd.scope/job_7/step_0/user\n  \
                  failsafectl discover test --config failsafed.toml docker/0123456789abcdef")]
pub struct DiscoverTestArgs {
    /// The path of a cgroup: below the cgroup2 mount, or with it. There need not be such a cgroup.
    pub path: String,
    /// Read the rules from this configuration and its drop-ins (`FILE` with `.d` for `.toml`), without asking the daemon.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}
