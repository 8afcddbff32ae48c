//! `node` and `gpu`.

use super::{Output, duration, reason};
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

/// `node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show sensors, GPUs, runs, the log, limits and monitoring overhead.
    Status(Output),
    /// Show what users have used of their quotas: all users for administrators, otherwise your own.
    Usage(Output),
    /// Show the health of the node and its GPUs, with reasons. The exit code is for a scheduler.
    Health(HealthArgs),
    /// Count GPUs that are free, in use, drained or unhealthy.
    Capacity(Output),
    /// Check whether work may be placed here (exit code 0 yes, 14 no)
    Placeable(PlaceableArgs),
    /// Print changes of health as they happen.
    Watch(WatchArgs),
    /// Cordon the node: start no new runs on it.
    Cordon(OrderArgs),
    /// Remove the cordon of the node.
    Uncordon(OrderArgs),
    /// Clear the node's unhealthy state and evaluate it again.
    ResetHealth(OrderArgs),
}

/// `gpu`.
#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// Every GPU with its health, load and runs.
    #[command(visible_alias = "ls")]
    List(Output),
    /// One GPU: health with reasons, every signal, processes.
    Describe {
        /// UUID or index.
        #[arg(value_parser = gpu)]
        gpu: String,
        #[command(flatten)]
        output: Output,
    },
    /// Changes of the GPUs' health.
    Watch(WatchArgs),
    /// Print the list of GPUs repeatedly.
    Top(TopArgs),
    /// Place nothing new on a GPU.
    Cordon(GpuOrderArgs),
    /// A GPU may be used again.
    Uncordon(GpuOrderArgs),
    /// Clear a GPU's unhealthy state and evaluate it again (does not reset the hardware)
    ResetHealth(GpuOrderArgs),
    /// Confirm that a missing GPU was removed on purpose.
    ///
    /// A GPU that was known and that NVML does not list makes the node unhealthy until it is back or forgotten. A GPU that NVML
    /// lists cannot be forgotten.
    Forget(GpuOrderArgs),
    /// Reset the hardware of a GPU with nvidia-smi; refused while a run or process uses it.
    Reset(GpuOrderArgs),
}

/// `node health`.
#[derive(Debug, ClapArgs)]
pub struct HealthArgs {
    /// Only these GPUs, and the node itself: a UUID, an index, a range of indices such as 0-3, `minor:N` (N of /dev/nvidiaN, as
    /// in SLURM_JOB_GPUS), `pci:ADDRESS`, or the UUID of a MIG device. May be repeated, or separated by commas.
    #[arg(long = "gpu", value_name = "GPU", value_delimiter = ',', value_parser = gpu)]
    pub gpus: Vec<String>,
    /// While the daemon does not answer or the health is unknown, try again for this long. A prolog uses it so that a restart of
    /// the daemon does not drain the node.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Exit with 0 also if the level is degraded.
    #[arg(long)]
    pub accept_degraded: bool,
    /// Print nothing if the level is healthy.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `node placeable`.
#[derive(Debug, Clone, ClapArgs)]
pub struct PlaceableArgs {
    /// On these GPUs: a UUID, an index, a range of indices such as 0-3, `minor:N`, or `pci:ADDRESS`. May be repeated, or separated
    /// by commas.
    #[arg(long = "gpu", value_name = "GPU", value_delimiter = ',', value_parser = gpu, conflicts_with = "count")]
    pub gpus: Vec<String>,
    /// Also compare this node with a statement or with reference values (`attest expect`): does it compute the same results? The exit
    /// code is that of `attest diff`.
    #[arg(long, value_name = "FILE")]
    pub like: Option<std::path::PathBuf>,
    /// With --like: the allowed keys, as for `attest verify`.
    #[arg(long, value_name = "FILE", requires = "like")]
    pub keys: Option<std::path::PathBuf>,
    /// Number of GPUs, whichever they are. Without --count and --gpu: the node itself.
    #[arg(long, default_value_t = 0)]
    pub count: u32,
    /// Accept degraded GPUs.
    #[arg(long)]
    pub degraded: bool,
    /// Accept GPUs that are in use by runs.
    #[arg(long)]
    pub shared: bool,
    /// Only GPUs whose product name contains NAME (case-insensitive), such as `H100`.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Only GPUs with at least this much free memory, such as `40GiB`.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory_free: Option<u64>,
    /// GPUs in MIG mode (`on`), not in it (`off`), or with a MIG device of a profile, such as `1g.10gb`.
    #[arg(long, value_name = "on|off|PROFILE")]
    pub mig: Option<String>,
    /// All of them on one NUMA node.
    #[arg(long)]
    pub same_numa_node: bool,
    /// Each with NVLinks that are up to each other one, directly or through a switch.
    #[arg(long)]
    pub nvlinked: bool,
    /// None of these; may be repeated, or separated by commas.
    #[arg(long, value_name = "UUID|INDEX", value_delimiter = ',', value_parser = gpu)]
    pub exclude: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `node watch`, `gpu watch`.
#[derive(Debug, ClapArgs)]
pub struct WatchArgs {
    /// Changes after this revision.
    #[arg(long, default_value_t = 0)]
    pub since: u64,
    /// Exit after the known changes.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub output: Output,
}

/// An order about the node.
#[derive(Debug, ClapArgs)]
pub struct OrderArgs {
    /// Why; it goes into the audit log.
    #[arg(short, long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

/// An order about a GPU.
#[derive(Debug, ClapArgs)]
pub struct GpuOrderArgs {
    /// UUID or index.
    #[arg(value_parser = gpu)]
    pub gpu: String,
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `gpu top`.
#[derive(Debug, ClapArgs)]
pub struct TopArgs {
    /// Time between two lists.
    #[arg(short, long, default_value = "2s", value_parser = duration)]
    pub interval: Duration,
    /// Exit after N lists.
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<u32>,
}

/// A GPU by name; an empty variable of a scheduler is none.
pub(super) fn gpu(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("expected a UUID or an index, and it is empty: leave the option out where there is no GPU".into());
    }
    Ok(text.to_owned())
}

/// Most GPUs that a range names.
const RANGE: u32 = 64;

/// The GPUs of a list, with ranges such as `0-3` and `minor:0-3` written out.
pub fn each(gpus: &[String]) -> Vec<String> {
    let range = |text: &String| {
        let (prefix, numbers) = match text.strip_prefix("minor:") {
            Some(numbers) => ("minor:", numbers),
            None => ("", text.as_str()),
        };
        let (from, to) = numbers.split_once('-')?;
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to - from < RANGE).then(|| (from..=to).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>())
    };
    gpus.iter().flat_map(|text| range(text).unwrap_or_else(|| vec![text.clone()])).collect()
}

/// A size as policies write it.
fn bytes(text: &str) -> Result<u64, String> {
    match failsafe_core::unit::parse(text, failsafe_core::unit::Unit::Bytes) {
        Ok((bytes, false)) if bytes > 0 => u64::try_from(bytes).map_err(|e| e.to_string()),
        _ => Err("expected a size above 0, such as 40GiB or 500MB".into()),
    }
}
