//! Idle processes, and one that connects to wherever it is told and says how that went: what the reaction bench contains.

use anyhow::{Context, Result};
use clap::Parser;
use nix::unistd::pause;
use std::{
    io::BufRead,
    net::{SocketAddr, UdpSocket},
    process::{Child, Command},
    time::Instant,
};
use workloads::{errno_name, say};

#[derive(Parser)]
#[command(about = "Connects to every ADDRESS:PORT of its input, and answers `ok NANOSECONDS` or `ERRNO NANOSECONDS`")]
struct Args {
    /// Processes in all; the others sleep
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// Read where to connect; without it, sleep
    #[arg(long)]
    ask: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.ask {
        loop {
            pause();
        }
    }
    let program = std::env::current_exe().context("finding this program")?;
    let idle = || Command::new(&program).spawn().context("starting an idle process");
    let mut children: Vec<Child> = (1..args.processes).map(|_| idle()).collect::<Result<_>>()?;
    // A UDP connect sends no packet, so an allowed one takes nothing but the call.
    let socket = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    for line in std::io::stdin().lock().lines() {
        let to: SocketAddr = line.context("reading where to connect")?.parse().context("expected ADDRESS:PORT")?;
        let began = Instant::now();
        let done = socket.connect(to);
        let ns = began.elapsed().as_nanos();
        say(format_args!("{} {ns}", done.as_ref().map_or_else(errno_name, |()| "ok".to_owned())));
    }
    for child in &mut children {
        child.kill().context("ending an idle process")?;
        child.wait().context("waiting for an idle process")?;
    }
    Ok(())
}
