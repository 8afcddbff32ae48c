//! Connects in a loop and prints, as one JSON line, how many nanoseconds a connect took and how many were refused.
//! A UDP connect sends no packet: it is the cheapest way through the cgroup's connect hook. It is also never refused, except to
//! a latched run: `--stream` connects a TCP socket, which is.

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use workloads::{errno_name, say, timing};

#[derive(Parser)]
#[command(about = "Times connect(2) of a UDP or TCP socket in a loop")]
struct Args {
    /// Where to
    #[arg(long, default_value = "127.0.0.1:9")]
    to: SocketAddr,
    /// A TCP socket
    #[arg(long)]
    stream: bool,
    /// For how long, seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connects in one batch
    #[arg(long, default_value_t = 200)]
    batch: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let any = if args.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let datagram = UdpSocket::bind(any).context("making a UDP socket")?;
    let stream = workloads::stream(args.to).context("making a TCP socket")?;
    let connect = || {
        if args.stream { workloads::connect_to(&stream, args.to) } else { datagram.connect(args.to) }
    };
    let mut refused = BTreeMap::<String, u64>::new();
    let mut line = timing::measure(Duration::from_secs_f64(args.seconds), args.batch, || {
        if let Err(error) = connect() {
            *refused.entry(errno_name(&error)).or_default() += 1;
        }
    });
    line["call"] = json!("connect");
    line["refused"] = json!(refused);
    say(line);
    Ok(())
}
