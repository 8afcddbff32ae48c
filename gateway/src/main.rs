//! `failsafe-gateway`: reads the configuration, and serves.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use failsafe_gateway::config::{self, Config};
use std::{io::stdout, path::PathBuf};
use tracing_subscriber::EnvFilter;

/// Serves metrics of failsafed over HTTP.
///
/// It runs as an unprivileged user and reaches failsafed by its control socket.
#[derive(Parser)]
#[command(name = "failsafe-gateway", version)]
struct Args {
    /// Configuration file; files *.toml in the folder of the same name that ends in .d are read after it
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Check the configuration, print all mistakes, and exit
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print the manual page, for the package.
    #[command(hide = true)]
    Man,
    /// Print a completion script, for the package.
    #[command(hide = true)]
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Man) => return Ok(clap_mangen::Man::new(Args::command()).section("8").render(&mut stdout())?),
        Some(Command::Completion { shell }) => {
            clap_complete::generate(shell, &mut Args::command(), "failsafe-gateway", &mut stdout());
            return Ok(());
        }
        None => {}
    }
    let filter = EnvFilter::try_from_env("FAILSAFE_GATEWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config::load(&args.config)?;
    if args.check {
        config.remote.as_ref().map_or(Ok(()), failsafe_gateway::remote::Server::check)?;
        println!("the configuration is valid");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(failsafe_gateway::run(config))
}
