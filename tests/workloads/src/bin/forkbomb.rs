//! A bounded fork bomb: every process forks as fast as it can while fewer than `--max` are alive, and ends after a short
//! life, so new ones keep coming: what a kill must win against.

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use workloads::{say, shared::Counters};

#[derive(Parser)]
#[command(about = "Forks as fast as it can, up to a bound")]
struct Args {
    /// Most processes alive at one time
    #[arg(long, default_value_t = 200)]
    max: u64,
    /// Life of each child, milliseconds
    #[arg(long, default_value_t = 50)]
    life_ms: u64,
    /// After this everything has ended, seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let counters = Counters::anonymous(2).context("mapping the counters")?;
    let (alive, forks) = (counters.get(0).context("counter")?, counters.get(1).context("counter")?);
    // SAFETY: SIG_IGN is no handler of ours; it makes the kernel reap the children.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.context("ignoring SIGCHLD")?;
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    alive.store(1, Ordering::Relaxed);
    say(format_args!("forking, at most {} alive", args.max));
    let mut my_end = end;
    while Instant::now() < my_end {
        if !reserve(alive, args.max) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        // SAFETY: this program has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => my_end = end.min(Instant::now() + Duration::from_millis(args.life_ms)),
            Ok(ForkResult::Parent { .. }) => _ = forks.fetch_add(1, Ordering::Relaxed),
            Err(_) => _ = alive.fetch_sub(1, Ordering::Relaxed),
        }
    }
    alive.fetch_sub(1, Ordering::Relaxed);
    if my_end == end {
        say(format_args!("pid {}: {} forks in all", std::process::id(), forks.load(Ordering::Relaxed)));
    }
    Ok(())
}

/// Takes a place among the living, if there is one.
fn reserve(alive: &AtomicU64, max: u64) -> bool {
    alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}
