//! `cargo xtask bench NAME`: one figure of the project, measured against its own floor in the same run. What is compared is
//! measured in turns, so that noise of the machine falls on both sides.
//!
//! The last line printed is one JSON object: `bench`, `ratios` (with the bound each must keep), `figures`, `conditions`.

mod api;
mod attest;
mod beside;
mod core;
mod crowd;
mod detectors;
mod discover;
mod events;
mod floor;
mod footprint;
mod gpu;
mod hostile;
mod log;
mod log_start;
mod loops;
mod neighbours;
mod overhead;
mod reaction;
mod replay_day;
mod report;
mod restart;
mod run;
mod sink;
mod soak;
mod statistics;

use crate::{interrupt, setup, shell};
use anyhow::Result;
use clap::ValueEnum;

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    name: Name,
    /// Turns of each measurement
    #[arg(long, default_value_t = 7)]
    trials: usize,
    /// Seconds over which `gpu` takes CPU time
    #[arg(long, default_value_t = 15)]
    window: u64,
    /// Runs that `soak` starts
    #[arg(long, default_value_t = 100_000)]
    runs: usize,
    /// Use the debug build, whose figures say nothing: only to try the bench itself
    #[arg(long)]
    debug: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// From a forbidden connect to its refusal, to the latch, to the whole run frozen and verified, against a bare write
    Reaction,
    /// Memory and CPU of the idle daemon with 8 GPUs and 1, 20 and 1,000 runs, and of the gateway, beside the node exporter
    Footprint,
    /// Sampling of simulated GPUs, beside nvitop and gpustat; time of a pass; from an XID to a frozen run
    Gpu,
    /// The highest rate of events without loss, and whether loss beyond it is accounted exactly
    Events,
    /// Killed and started again under a run that tries the forbidden: what got through, and the time until guarded anew
    Restart,
    /// From a violation to a frozen run of 1, 16 and 64 busy processes, alone and under each attack of the hostile suite
    Hostile,
    /// A start, and queries, with a log of 10^3, 10^5 and 10^6 entries
    LogStart,
    /// Entries made durable and verified in a second, and the sizes of log and proofs at 10^4, 10^5 and 10^6 entries
    Log,
    /// Time and bytes of statements of a node and of a run with 500 libraries, the CPU of following them, and a TPM quote
    Attest,
    /// Rules judged in a second and allocations for each input; two replays of a million random inputs
    Core,
    /// The time of a replay of a recorded day of 8 GPUs and 20 runs, each signal once a second
    ReplayDay,
    /// False alarms and delays of detectors on real training curves, beside river's
    Detectors,
    /// From the creation of a cgroup that discovery matches to its policy in force
    Discover,
    /// Queries of the interface over the unix socket and by TLS beside a hello-world, watchers, and freezes under that load
    Api,
    /// Memory, descriptors, threads, pins and cgroups of the daemon over many short runs
    Soak,
    /// Loops of ordinary work in a run, outside any run, and with no daemon, beside bpftrace and audit
    Overhead,
}

/// Builds what is measured and measures it.
///
/// # Errors
/// A build or a measurement failed.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    // These measure a part alone: no daemon is built for them.
    if let Name::Core = args.name {
        core::run(args)?.print();
        return Ok(());
    }
    if let Name::Detectors = args.name {
        detectors::run(args)?.print();
        return Ok(());
    }
    if let Name::ReplayDay = args.name {
        replay_day::run(args)?.print();
        return Ok(());
    }
    if let Name::Log = args.name {
        log::run(args)?.print();
        return Ok(());
    }
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "-p", "failsafed", "-p", "failsafectl", "-p", "workloads", "-p", "nvml-sim"]);
    if matches!(args.name, Name::Api | Name::Footprint) {
        cargo.args(["-p", "failsafe-gateway"]);
    }
    if !args.debug {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    interrupt::catch()?;
    let report = match args.name {
        Name::Reaction => reaction::run(args)?,
        Name::Footprint => footprint::run(args)?,
        Name::Events => events::run(args)?,
        Name::Restart => restart::run(args)?,
        Name::Gpu => gpu::run(args)?,
        Name::Hostile => hostile::run(args)?,
        Name::LogStart => log_start::run(args)?,
        Name::Discover => discover::run(args)?,
        Name::Overhead => overhead::run(args)?,
        Name::Attest => attest::run(args)?,
        Name::Log => log::run(args)?,
        Name::Api => api::run(args)?,
        Name::Core => core::run(args)?,
        Name::Detectors => detectors::run(args)?,
        Name::ReplayDay => replay_day::run(args)?,
        Name::Soak => soak::run(args)?,
    };
    report.print();
    Ok(())
}
