//! Makes a known number of events at a steady rate: datagrams to addresses that the run's policy forbids, one
//! event each: the kernel refuses the call, and no packet leaves. No address comes twice within a second, so that nothing that tells of equal events once
//! only can make two of them one.

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::{
    io::BufRead,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};
use workloads::say;

/// The rate is kept over slices of this length.
const SLICE: Duration = Duration::from_millis(1);

#[derive(Parser)]
#[command(about = "For every line `RATE SECONDS` of its input sends that often a second, and says how many it made")]
struct Args {
    /// The destinations' port
    #[arg(long, default_value_t = 4444)]
    port: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let socket = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    let mut place = 0;
    say(json!({ "ready": true }));
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading what to do")?;
        let (rate, seconds) = line.split_once(' ').context("expected `RATE SECONDS`")?;
        let rate: f64 = rate.parse().context("the rate is no number")?;
        let seconds: f64 = seconds.trim().parse().context("the seconds are no number")?;
        say(burst(&socket, args.port, &mut place, rate, Duration::from_secs_f64(seconds)));
    }
    Ok(())
}

/// Sends `rate` times a second for `length`. What a slice was too short for is caught up with in the next.
fn burst(socket: &UdpSocket, port: u16, place: &mut u32, rate: f64, length: Duration) -> serde_json::Value {
    let wanted = (rate * length.as_secs_f64()).round() as u64;
    let (mut sent, mut refused) = (0u64, 0u64);
    let start = Instant::now();
    while sent < wanted {
        let due = (start.elapsed().as_secs_f64() * rate).ceil() as u64;
        while sent < due.clamp(1, wanted) {
            refused += u64::from(socket.send_to(b"x", destination(place, port)).is_err());
            sent += 1;
        }
        let slices = start.elapsed().as_nanos() / SLICE.as_nanos() + 1;
        let next = SLICE * u32::try_from(slices).unwrap_or(u32::MAX);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    let seconds = start.elapsed().as_secs_f64();
    json!({ "sent": sent, "refused": refused, "seconds": seconds, "rate_per_s": sent as f64 / seconds })
}

/// The next of the four million addresses from 127.64.0.0 on.
fn destination(place: &mut u32, port: u16) -> SocketAddrV4 {
    *place = (*place + 1) & 0x003f_ffff;
    let [_, b, c, d] = place.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, 64 | b, c, d), port)
}
