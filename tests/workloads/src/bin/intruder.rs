//! Tries without end to reach a forbidden place, over UDP and TCP, and an allowed one beside it. Each try is counted in a
//! shared file, which can be read at any instant: what the restart bench has going on while the daemon dies and comes
//! back.

use anyhow::{Context, Result};
use clap::Parser;
use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::Ordering,
    time::Duration,
};
use workloads::{say, shared::Counters};

/// The counters of the file, in order.
const TRIED: usize = 0;
const PASSED: usize = 1;
const ALLOWED: usize = 2;
const ALLOWED_REFUSED: usize = 3;

#[derive(Parser)]
#[command(about = "Tries to reach a forbidden place until it is killed")]
struct Args {
    /// Where it may not
    #[arg(long)]
    forbidden: SocketAddr,
    /// Where it may
    #[arg(long)]
    allowed: SocketAddr,
    /// The file of counters: forbidden calls tried, and passed; allowed calls tried, and refused
    #[arg(long)]
    counters: PathBuf,
    /// Pause after each round, microseconds
    #[arg(long, default_value_t = 100)]
    pause_us: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let counters = Counters::open(&args.counters, 4).context("mapping the counters")?;
    let count = |place: usize, n: u64| {
        if let Some(counter) = counters.get(place) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    };
    // Made before the first try, so that none of them fails for want of a socket.
    let loose = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    let bound = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    let fine = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    let attempt = |tried: io::Result<usize>, allowed: bool| match (allowed, tried) {
        (false, tried) => {
            count(TRIED, 1);
            count(PASSED, u64::from(!refused(&tried)));
        }
        (true, tried) => {
            count(ALLOWED, 1);
            count(ALLOWED_REFUSED, u64::from(refused(&tried)));
        }
    };
    say("trying");
    loop {
        attempt(loose.send_to(b"forbidden", args.forbidden), false);
        attempt(bound.connect(args.forbidden).and_then(|()| bound.send(b"forbidden")), false);
        attempt(TcpStream::connect_timeout(&args.forbidden, Duration::from_millis(50)).map(|_| 0), false);
        attempt(fine.send_to(b"allowed", args.allowed), true);
        std::thread::sleep(Duration::from_micros(args.pause_us));
    }
}

/// EPERM is the guard's answer; any other, success too, means that the call passed it.
fn refused(tried: &io::Result<usize>) -> bool {
    tried.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}
