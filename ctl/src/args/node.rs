//! `node` and `gpu`.

use super::{Output, duration, reason};
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

/// `node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Sensors, GPUs, runs, the log, and what is being paid for it all.
    Status(Output),
    /// How well the node and its GPUs are, and why not better; the exit code says it to a scheduler's prolog.
    Health(HealthArgs),
    /// How many GPUs are free and well, held by runs, drained, or not to be used.
    Capacity(Output),
    /// May work be placed on these GPUs? Exit 0 yes, 14 no.
    Placeable(PlaceableArgs),
    /// Changes of health.
    Watch(WatchArgs),
    /// Place nothing new on the node.
    Cordon(OrderArgs),
    /// The node may be used again.
    Uncordon(OrderArgs),
    /// What speaks against the node is dealt with: judge it anew.
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
    /// The list, again and again.
    Top(TopArgs),
    /// Place nothing new on a GPU.
    Cordon(GpuOrderArgs),
    /// A GPU may be used again.
    Uncordon(GpuOrderArgs),
    /// What speaks against a GPU is dealt with: judge it anew.
    ResetHealth(GpuOrderArgs),
    /// Confirm that a missing GPU was removed on purpose.
    ///
    /// A GPU that was known and that NVML does not list makes the node unhealthy until it is back or forgotten. A GPU that NVML
    /// lists cannot be forgotten.
    Forget(GpuOrderArgs),
    /// Reset a GPU by the vendor's tool; refused while anything runs on it.
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
    /// Degraded will do: exit 0.
    #[arg(long)]
    pub accept_degraded: bool,
    /// Print nothing but what speaks against it.
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
    /// On so many GPUs, whichever. Without it and `--gpu`: on the node itself.
    #[arg(long, default_value_t = 0)]
    pub count: u32,
    /// Degraded will do.
    #[arg(long)]
    pub degraded: bool,
    /// GPUs that runs are on will do.
    #[arg(long)]
    pub shared: bool,
    /// GPUs whose product name has this in it, whatever its case, such as `H100`.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// GPUs with so much memory free now, such as `40GiB`.
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
    /// End when all that is known was printed.
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
    /// End after so many lists.
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
