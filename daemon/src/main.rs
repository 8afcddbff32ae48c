//! failsafed: the daemon. This only reads its arguments and starts what they ask for.

use clap::{Parser, Subcommand};
use failsafed::{config::Config, guard::pin_folder, supervisor};
use std::path::PathBuf;
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

/// The node-level fail-safe for ML training and online tests on GPU hosts.
#[derive(Parser)]
#[command(name = "failsafed", version)]
struct Args {
    /// Configuration file.
    #[arg(long, env = "FAILSAFED_CONFIG")]
    config: Option<PathBuf>,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The process that talks to NVML; the daemon starts it itself.
    #[command(hide = true)]
    NvmlSampler(failsafed::sensors::nvml::SamplerArgs),
    /// Ask NVML everything that only reads, and report it as JSON.
    #[command(hide = true)]
    NvmlCheck(failsafed::sensors::nvml::CheckArgs),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::NvmlSampler(args)) => return failsafed::sensors::nvml::sampler_main(args),
        Some(Command::NvmlCheck(args)) => return failsafed::sensors::nvml::check_main(&args),
        None => {}
    }
    let config = Config::load(args.config.as_deref())?;
    let catalogues = config.catalogues()?;
    if args.check {
        config.bpffs().map_or(Ok(()), pin_folder::check)?;
        println!("the configuration is good");
        return Ok(());
    }
    let filter = EnvFilter::try_from_env("FAILSAFED_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Whoever reads the daemon's own log may be stuck (a full disk under journald): containment must not wait for it.
    let lines = NonBlockingBuilder::default().buffered_lines_limit(4_096);
    let (writer, _flushed_when_dropped) = lines.finish(std::io::stderr());
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(writer).init();
    supervisor::run(config, catalogues)
}
