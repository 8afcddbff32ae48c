//! Processes that count in a shared file without any system call. A watcher reads the file: counters that stand still are
//! a proof of the freeze that does not rest on the freezer's own word.

use anyhow::{Context, Result};
use clap::Parser;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use workloads::{
    say,
    shared::{Counters, spin},
};

#[derive(Parser)]
#[command(about = "Counts in a shared file, one counter a process")]
struct Args {
    /// Processes, each with a counter of 8 bytes at its place in the file
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// The file of counters
    #[arg(long)]
    counters: PathBuf,
    /// Ends after this, seconds
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Only place this process counts at (given to the children)
    #[arg(long, hide = true)]
    place: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let counters = Counters::open(&args.counters, args.processes)
        .with_context(|| format!("mapping counters in {}", args.counters.display()))?;
    let children = if args.place.is_none() { start_others(&args)? } else { Vec::new() };
    let counter = counters.get(args.place.unwrap_or(0)).context("no such counter")?;
    let (end, parent) = (Instant::now() + Duration::from_secs_f64(args.seconds), parent_id());
    // A child whose first process was killed must not spin on alone.
    spin(counter, || Instant::now() >= end || (args.place.is_some() && parent_id() != parent));
    for mut child in children {
        child.wait().context("waiting for a spinner")?;
    }
    Ok(())
}

fn start_others(args: &Args) -> Result<Vec<Child>> {
    let program = std::env::current_exe().context("finding this program")?;
    let children = (1..args.processes)
        .map(|place| {
            Command::new(&program)
                .args(["--processes", &args.processes.to_string(), "--place", &place.to_string()])
                .args(["--seconds", &args.seconds.to_string(), "--counters"])
                .arg(&args.counters)
                .spawn()
                .context("starting a spinner")
        })
        .collect();
    say(format_args!("spinning in {} process(es)", args.processes));
    children
}
