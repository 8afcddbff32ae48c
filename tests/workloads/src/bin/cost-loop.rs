//! Does one ordinary thing in a loop and prints, as one JSON line, how many nanoseconds it took: what a program pays for
//! being watched. `syscall-loop` and `connect-loop` do the same for a bare call and for connect.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    net::UdpSocket,
    process::{Command, Stdio},
    time::Duration,
};
use workloads::{request, say, timing};

/// Bytes of a datagram and of a TCP message.
const MESSAGE: [u8; 64] = [b'x'; 64];

#[derive(Parser)]
#[command(about = "Times an ordinary thing in a loop")]
struct Args {
    /// What is done
    #[arg(value_enum)]
    what: What,
    /// For how long, seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Open a file that is there for reading, and close it
    Open,
    /// Start a program (this one) that ends at once, and wait for it
    Spawn,
    /// Send a datagram over loopback to a socket that nobody reads from
    UdpSend,
    /// Send a message over an open TCP connection to a process that reads and drops it
    TcpSend,
    /// Ask a small key-value server over loopback and wait for its answer
    Request,
    /// End at once (what `spawn` starts)
    #[value(hide = true)]
    End,
    /// Serve `request` until its client closes (started by it)
    #[value(hide = true)]
    Serve,
    /// Drop what `tcp-send` sends (started by it)
    #[value(hide = true)]
    Drop,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let length = Duration::from_secs_f64(args.seconds);
    let mut line = match args.what {
        What::Open => open(length)?,
        What::Spawn => spawn(length)?,
        What::UdpSend => udp_send(length)?,
        What::TcpSend => tcp_send(length)?,
        What::Request => request_loop(length)?,
        What::End => return Ok(()),
        What::Serve => return request::serve(request::listen()?),
        What::Drop => return request::swallow(request::listen()?),
    };
    line["call"] = json!(args.what.to_possible_value().map(|value| value.get_name().to_owned()));
    say(line);
    Ok(())
}

fn open(length: Duration) -> Result<Value> {
    // There on every Linux, and no other place than an ordinary file's.
    let path = "/etc/passwd";
    File::open(path).with_context(|| format!("opening {path}"))?;
    Ok(timing::measure(length, 200, || drop(File::open(path))))
}

fn spawn(length: Duration) -> Result<Value> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut failed = 0u64;
    let mut timing = timing::measure(length, 8, || {
        let ended = Command::new(&program).arg("end").stdin(Stdio::null()).status();
        failed += u64::from(!ended.is_ok_and(|status| status.success()));
    });
    if failed > 0 {
        bail!("{failed} of the programs did not start or end well");
    }
    timing["failed"] = json!(failed);
    Ok(timing)
}

fn udp_send(length: Duration) -> Result<Value> {
    let sink = UdpSocket::bind("127.0.0.1:0").context("making the receiving socket")?;
    let to = sink.local_addr().context("finding its address")?;
    let socket = UdpSocket::bind("127.0.0.1:0").context("making the sending socket")?;
    socket.send_to(&MESSAGE, to).context("sending a datagram")?;
    // The queue of the sink is soon full; the kernel then drops the datagram after all hooks have seen it.
    Ok(timing::measure(length, 200, || drop(socket.send_to(&MESSAGE, to))))
}

fn tcp_send(length: Duration) -> Result<Value> {
    use std::io::Write;
    stay()?;
    let mut peer = request::Peer::start("drop")?;
    let mut failed = 0u64;
    let timing = timing::measure(length, 500, || failed += u64::from(peer.stream.write_all(&MESSAGE).is_err()));
    if failed > 0 {
        bail!("{failed} messages could not be sent");
    }
    Ok(timing)
}

fn request_loop(length: Duration) -> Result<Value> {
    stay()?;
    let mut peer = request::Peer::start("serve")?;
    let (mut n, mut failed) = (0u64, 0u64);
    let timing = timing::measure(length, 50, || {
        n += 1;
        failed += u64::from(request::ask(&mut peer.stream, n).is_err());
    });
    if failed > 0 {
        bail!("{failed} requests were not answered as they should be");
    }
    Ok(timing)
}

/// Keeps this process, and the peer it will start, on the CPU it is on: with the two on different ones the time is that of
/// waking a CPU, which varies more than anything that is to be measured.
fn stay() -> Result<()> {
    let cpu = nix::sched::sched_getcpu().context("asking which CPU this is")?;
    let mut only = CpuSet::new();
    only.set(cpu).context("choosing a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &only).context("staying on one CPU")
}
