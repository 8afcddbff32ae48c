//! `failsafe-gateway`: reads the configuration, and serves.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use failsafe_gateway::{
    config::{self, Config},
    notify::{self, Delivery},
};
use std::{
    io::{IsTerminal, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

/// Serves metrics of failsafed over HTTP and remote clients over TLS, sends notifications, and receives metrics of runs.
///
/// It runs as an unprivileged user and reaches failsafed by its control socket.
#[derive(Parser)]
#[command(name = "failsafe-gateway", version)]
struct Args {
    /// Configuration file; files *.toml in the folder of the same name that ends in .d are read after it
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Check the configuration and the files that it names, print all mistakes, and exit
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Notifications: [notify] in the configuration
    Notify {
        #[command(subcommand)]
        command: Notify,
    },
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

#[derive(Subcommand)]
enum Notify {
    /// Send a test message to a target, once, and print what it answers
    Test {
        /// Name of the target
        name: String,
    },
}

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            // Without a backtrace: it is for the administrator.
            eprintln!("failsafe-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let args = Args::parse();
    match &args.command {
        Some(Command::Man) => {
            clap_mangen::Man::new(Args::command()).section("8").render(&mut stdout())?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Completion { shell }) => {
            clap_complete::generate(*shell, &mut Args::command(), "failsafe-gateway", &mut stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Notify { command: Notify::Test { name } }) => {
            let config = Config::load(&args.config)?;
            let notify =
                config.notify.context("notifications are off: expected a table [notify] in the configuration")?;
            return match runtime()?.block_on(notify::test(&notify, name))? {
                Delivery::Sent => {
                    println!("{name} took the message");
                    Ok(ExitCode::SUCCESS)
                }
                Delivery::Later(why, _) | Delivery::Refused(why) => bail!("{name} did not take the message: {why}"),
            };
        }
        None => {}
    }
    let filter = EnvFilter::try_from_env("FAILSAFE_GATEWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A line that cannot be written would be reported on the same stderr, and end the gateway.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(stderr)
        .log_internal_errors(false)
        .init();
    if args.check {
        let config = Config::load_with(&args.config, failsafe_gateway::check)?;
        for warning in failsafe_gateway::warnings(&config) {
            eprintln!("warning: {warning}");
        }
        println!("the configuration is valid, and user {} can read the files that it names", nix::unistd::geteuid());
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(&args.config)?;
    runtime()?.block_on(failsafe_gateway::run(config))?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
