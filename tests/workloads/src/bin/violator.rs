//! Idle processes, and one that connects to a forbidden place each time it is told to: what the freeze bench contains.

use anyhow::{Context, Result};
use clap::Parser;
use nix::unistd::pause;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command},
};

#[derive(Parser)]
#[command(about = "Connects to --to for every line read from --trigger; the other processes sleep")]
struct Args {
    /// Processes in all
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// A FIFO: every line in it is one connect
    #[arg(long)]
    trigger: Option<PathBuf>,
    /// Where to
    #[arg(long, default_value = "127.0.0.9:4444")]
    to: SocketAddr,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(trigger) = args.trigger else {
        loop {
            pause();
        }
    };
    let program = std::env::current_exe().context("finding this program")?;
    let idle = || Command::new(&program).spawn().context("starting an idle process");
    let mut children: Vec<Child> = (1..args.processes).map(|_| idle()).collect::<Result<_>>()?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    let file = File::open(&trigger).with_context(|| format!("opening {}", trigger.display()))?;
    for line in BufReader::new(file).lines() {
        line.context("reading the trigger")?;
        // Refused with EPERM: that is the violation.
        let _ = socket.connect(args.to);
    }
    for child in &mut children {
        child.kill().context("ending an idle process")?;
        child.wait().context("waiting for an idle process")?;
    }
    Ok(())
}
