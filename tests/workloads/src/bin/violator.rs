//! Idle or busy processes, and one that connects to each address of its input and answers how that went: what the benches
//! contain. One process more may watch for the run's latch, by making allowed calls until one is refused.
//!
//! ```text
//!  violator  told ─► wake the watcher ─► both ready ─► stamp, connect ─────► `EPERM NS`
//!  watcher   asleep ─► ready ─► allowed connect, again, again ... refused ─► `latched NS` since the stamp
//! ```

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{ForkResult, fork, pause},
};
use std::{
    io::{BufRead, PipeReader, PipeWriter, Read, Write},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use workloads::{errno_name, say, shared::Counters};

/// A latch that has not come by then is missed: the run was frozen before the watcher met it, and thawed.
const GIVE_UP: Duration = Duration::from_millis(100);
/// What the two share: the round that each is ready for, and when the violating call began.
const READY: usize = 0;
const GO: usize = 1;
const BEGAN: usize = 2;

#[derive(Parser)]
#[command(
    about = "Connects to every `[tcp ]ADDRESS:PORT` of its input (by UDP without `tcp`), and answers `ok NANOSECONDS` or `ERRNO NANOSECONDS`"
)]
struct Args {
    /// Processes in all; the others sleep
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// Read where to connect; without it, sleep
    #[arg(long)]
    ask: bool,
    /// The other processes compute without a pause, instead of sleeping
    #[arg(long)]
    busy: bool,
    /// Each answer ends with the time at which the connect began, `CLOCK_MONOTONIC` in nanoseconds
    #[arg(long)]
    stamp: bool,
    /// One process more watches for the latch at every connect, by connecting here, where the run may
    #[arg(long)]
    watch: Option<SocketAddr>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.ask {
        loop {
            if args.busy { std::hint::spin_loop() } else { pause() }
        }
    }
    let watcher = args.watch.map(Watcher::start).transpose()?;
    let program = std::env::current_exe().context("finding this program")?;
    let other =
        || Command::new(&program).args(args.busy.then_some("--busy")).spawn().context("starting another process");
    let mut children: Vec<Child> = (1..args.processes).map(|_| other()).collect::<Result<_>>()?;
    // A UDP connect sends no packet, so an allowed one takes nothing but the call; the allow-list refuses only a TCP connect.
    let socket = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    for (line, round) in std::io::stdin().lock().lines().zip(1..) {
        let line = line.context("reading where to connect")?;
        let (by_tcp, to) = line.strip_prefix("tcp ").map_or((false, line.as_str()), |to| (true, to));
        let to: SocketAddr = to.parse().context("expected [tcp ]ADDRESS:PORT")?;
        let stream = workloads::stream(to).context("making a TCP socket")?;
        if let Some(watcher) = &watcher {
            watcher.meet(round)?;
        }
        let began = now()?;
        if let Some(watcher) = &watcher {
            watcher.go(round, began)?;
        }
        let done = if by_tcp { workloads::connect_to(&stream, to) } else { socket.connect(to) };
        let ns = now()? - began;
        let stamp = if args.stamp { format!(" {began}") } else { String::new() };
        say(format_args!("{} {ns}{stamp}", done.as_ref().map_or_else(errno_name, |()| "ok".to_owned())));
    }
    for child in &mut children {
        child.kill().context("ending another process")?;
        child.wait().context("waiting for another process")?;
    }
    Ok(())
}

/// The violator's end of the watcher, which ends when this does.
struct Watcher {
    wake: PipeWriter,
    shared: Counters,
}

impl Watcher {
    fn start(allowed: SocketAddr) -> Result<Watcher> {
        let (sleep, wake) = std::io::pipe().context("making a pipe")?;
        let shared = Counters::anonymous(3).context("mapping what is shared")?;
        // SAFETY: this program has one thread.
        match unsafe { fork() }.context("starting the watcher")? {
            ForkResult::Child => {
                drop(wake);
                let ended = watch(allowed, sleep, &shared);
                std::process::exit(i32::from(ended.is_err()));
            }
            ForkResult::Parent { .. } => Ok(Watcher { wake, shared }),
        }
    }

    /// Wakes it and waits until it looks for nothing but the start.
    fn meet(&self, round: u64) -> Result<()> {
        (&self.wake).write_all(b"w").context("waking the watcher")?;
        let ready = counter(&self.shared, READY)?;
        while ready.load(Ordering::Acquire) < round {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn go(&self, round: u64, began: u64) -> Result<()> {
        counter(&self.shared, BEGAN)?.store(began, Ordering::Release);
        counter(&self.shared, GO)?.store(round, Ordering::Release);
        Ok(())
    }
}

/// The watcher: one line for every time it is woken.
fn watch(allowed: SocketAddr, mut sleep: PipeReader, shared: &Counters) -> Result<()> {
    let (ready, go, began) = (counter(shared, READY)?, counter(shared, GO)?, counter(shared, BEGAN)?);
    let socket = UdpSocket::bind("0.0.0.0:0").context("making a UDP socket")?;
    for round in 1.. {
        if sleep.read(&mut [0]).context("waiting to be woken")? == 0 {
            return Ok(());
        }
        ready.store(round, Ordering::Release);
        while go.load(Ordering::Acquire) < round {
            std::hint::spin_loop();
        }
        let began = began.load(Ordering::Acquire);
        loop {
            let refused = socket.connect(allowed).is_err_and(|e| e.raw_os_error() == Some(libc::EPERM));
            let ns = now()? - began;
            if refused {
                say(format_args!("latched {ns}"));
                break;
            }
            if u128::from(ns) > GIVE_UP.as_nanos() {
                say("latched missed");
                break;
            }
        }
    }
    bail!("more rounds than can be counted")
}

fn counter(shared: &Counters, place: usize) -> Result<&AtomicU64> {
    shared.get(place).context("no such counter")
}

/// `CLOCK_MONOTONIC`, which two processes can compare.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("asking for the time")?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
