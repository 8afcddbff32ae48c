//! Load for the gRPC interface, over the unix socket or by TLS with client certificates, for `cargo xtask bench api`; and a hello-world
//! server to compare with. Each command prints one JSON object as its last line.
//!
//! ```text
//! api-load certificates DIR COUNT      an authority, a node and clients
//! api-load hello --unix S | --tls DIR  the server; it ends with its standard input
//! api-load calls ...                   clients that call again as soon as they have an answer
//! api-load watchers ...                followers of the node's health, and how long a change takes to reach them
//! api-load freeze ...                  freezes and thaws a run
//! ```

mod calls;
mod certificates;
mod connect;
mod freeze;
mod hello;
mod watchers;

use anyhow::Result;
use clap::{Parser, Subcommand};
use connect::To;
use std::{path::PathBuf, time::Duration};

#[derive(Parser)]
#[command(about = "Load for the gRPC interface")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write an authority, the certificate of a node, certificates of clients, and the roles of these
    Certificates { folder: PathBuf, count: usize },
    /// Serve hello-world until the standard input ends
    Hello {
        #[command(flatten)]
        at: hello::At,
    },
    /// Call again and again
    Calls {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        method: calls::Method,
        /// Callers at once
        #[arg(long)]
        clients: usize,
        /// Connections that they share
        #[arg(long)]
        connections: usize,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Follow health; after a line on the standard input cordon the node
    Watchers {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        connections: usize,
    },
    /// Freeze and thaw a run
    Freeze {
        #[command(flatten)]
        to: To,
        #[arg(long)]
        run: String,
        #[arg(long)]
        times: usize,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        match args.command {
            Command::Certificates { folder, count } => certificates::write(&folder, count),
            Command::Hello { at } => hello::serve(&at).await,
            Command::Calls { to, method, clients, connections, seconds } => {
                calls::run(&to, method, clients, connections, Duration::from_secs(seconds)).await
            }
            Command::Watchers { to, count, connections } => watchers::run(&to, count, connections).await,
            Command::Freeze { to, run, times } => freeze::run(&to, &run, times).await,
        }
    })?;
    println!("{result}");
    Ok(())
}

/// Waits for a line on the standard input, or for its end.
async fn line() -> Result<()> {
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(())
}

/// Microseconds, of sorted times, by nearest rank.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}
