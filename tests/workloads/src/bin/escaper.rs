//! Moves itself to another cgroup and says whether the kernel let it: the escape that a watcher must see.

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use workloads::{errno_name, say};

#[derive(Parser)]
#[command(about = "Moves itself to another cgroup")]
struct Args {
    /// Folder of the cgroup to move to
    #[arg(long)]
    to: PathBuf,
    /// Wait before the move, milliseconds
    #[arg(long, default_value_t = 0)]
    after_ms: u64,
    /// Live on after the move, seconds, saying where it is whenever that changes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut at = here();
    say(format_args!("at {at}"));
    std::thread::sleep(Duration::from_millis(args.after_ms));
    match std::fs::write(args.to.join("cgroup.procs"), std::process::id().to_string()) {
        Ok(()) => say("moved"),
        Err(error) => say(format_args!("move refused {}", errno_name(&error))),
    }
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end {
        let now = here();
        if now != at {
            say(format_args!("at {now}"));
            at = now;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The cgroup v2 path of this process, from /proc/self/cgroup (cgroups(7)).
fn here() -> String {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("nowhere").to_owned()
}
