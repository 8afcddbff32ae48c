//! Enters a cgroup and connects in a loop until a connect is refused with EPERM; prints when that was.
//!
//! It prints `ready`, waits for a line on its standard input (the path of a cgroup), and then has as long as `--patience`.

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use std::{
    fs,
    io::stdin,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};
use workloads::say;

#[derive(Parser)]
#[command(about = "Connects until it is refused, and prints when")]
struct Args {
    /// Where to
    #[arg(long, default_value = "127.77.0.9:9")]
    to: SocketAddr,
    /// Seconds
    #[arg(long, default_value_t = 20)]
    patience: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    say("ready");
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let procs = Path::new(line.trim()).join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).with_context(|| format!("entering {}", procs.display()))?;
    let deadline = Instant::now() + Duration::from_secs(args.patience);
    let mut tried = 0_u64;
    while Instant::now() < deadline {
        tried += 1;
        let socket = workloads::stream(args.to)?;
        let refused = workloads::connect_to(&socket, args.to).err().and_then(|error| error.raw_os_error());
        if refused == Some(Errno::EPERM as i32) {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            say(format!("{} {}", i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()), tried - 1));
            return Ok(());
        }
    }
    bail!("not refused within {} s, in {tried} tries", args.patience)
}
