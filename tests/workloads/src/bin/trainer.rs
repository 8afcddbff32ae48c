//! A small real trainer: gradient descent on a small model, a line and a metric a step. It can go wrong in two ways: its
//! learning rate is raised until the loss truly diverges, or it tries to send its weights away and goes on training. With
//! its learning rate in a file it can be put right again while it runs.

use anyhow::{Context, Result};
use clap::Parser;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use workloads::{errno_name, metrics::Reporter, model::Model, say};

/// What the learning rate is multiplied by when the loss is to diverge.
const DIVERGING: f64 = 100.0;
/// How long a connection may take: a forbidden one is refused at once.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(about = "Trains a small model by gradient descent")]
struct Args {
    /// Steps to train; 0: for ever
    #[arg(long, default_value_t = 200)]
    steps: u64,
    /// Least time of one step, milliseconds
    #[arg(long, default_value_t = 20)]
    step_ms: u64,
    /// Learning rate
    #[arg(long, default_value_t = 0.05)]
    lr: f64,
    /// Seed of the data and of the first weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Read the learning rate from this file before every step; when it is lowered, return to the best weights so far
    #[arg(long)]
    lr_file: Option<PathBuf>,
    /// From this step on the learning rate is far too high
    #[arg(long)]
    diverge_at: Option<u64>,
    /// At this step the weights are sent to `--to`
    #[arg(long, requires = "to")]
    exfiltrate_at: Option<u64>,
    /// Where the weights are sent
    #[arg(long)]
    to: Option<SocketAddr>,
    /// The daemon's metrics socket; without it nothing is reported
    #[arg(long, env = "FAILSAFE_METRICS_SOCKET")]
    report: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let reporter = args.report.clone().map(Reporter::new).transpose().context("making a socket for metrics")?;
    let mut model = Model::new(args.seed);
    let mut rate = args.lr;
    let mut unheard = false;
    let mut best = (f64::INFINITY, model.clone());
    for step in 1.. {
        if args.steps != 0 && step > args.steps {
            break;
        }
        let begin = Instant::now();
        if args.diverge_at == Some(step) {
            rate *= DIVERGING;
            say(format_args!("step {step} learning rate raised to {rate}"));
        }
        if let Some(asked) = args.lr_file.as_deref().and_then(read_rate).filter(|asked| *asked != rate) {
            if asked < rate {
                model = best.1.clone();
            }
            rate = asked;
            say(format_args!("step {step} learning rate set to {rate}"));
        }
        let before = model.clone();
        let loss = model.step(rate);
        if loss < best.0 {
            best = (loss, before);
        }
        say(format_args!("step {step} loss {loss:.6e}"));
        if let Some(Err(error)) = reporter.as_ref().map(|r| r.send("loss", loss, step))
            && !std::mem::replace(&mut unheard, true)
        {
            say(format_args!("step {step} metrics are not heard: {}", errno_name(&error)));
        }
        if let (true, Some(to)) = (args.exfiltrate_at == Some(step), args.to) {
            match exfiltrate(&model.to_bytes(), to) {
                Ok(n) => say(format_args!("step {step} exfiltrate {to} sent {n} bytes")),
                Err(error) => say(format_args!("step {step} exfiltrate {to} refused {}", errno_name(&error))),
            }
        }
        std::thread::sleep(Duration::from_millis(args.step_ms).saturating_sub(begin.elapsed()));
    }
    say("done");
    Ok(())
}

/// A file that is being rewritten may hold nothing for a moment: then the rate stays.
fn read_rate(file: &Path) -> Option<f64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn exfiltrate(weights: &[u8], to: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.write_all(weights)?;
    Ok(weights.len())
}
