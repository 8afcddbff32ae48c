//! failsafed: the daemon. This only reads its arguments and starts what they ask for.

use clap::{CommandFactory, Parser, Subcommand};
use failsafed::{
    config::Config,
    guard::pin_folder,
    platform::heap,
    supervisor::{self, Origin, hold_hangup},
};
use std::{io::stdout, path::PathBuf, process::ExitCode};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

/// The node-level fail-safe for ML training and online tests on GPU hosts.
#[derive(Parser)]
#[command(name = "failsafed", version)]
struct Args {
    /// Configuration file [default: /etc/failsafe/failsafed.toml, which may be missing]. Files `*.toml` in the folder of
    /// the same name that ends in `.d` are merged over it.
    #[arg(long, env = "FAILSAFED_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is valid; otherwise print every mistake with file, line and field.
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
    /// The process that a drill stops; the daemon starts it itself.
    #[command(hide = true)]
    DrillTarget,
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

const OK: ExitCode = ExitCode::SUCCESS;

fn main() -> ExitCode {
    heap::keep_large_blocks_apart();
    work().unwrap_or_else(|error| {
        // A whole line, without the backtrace that a variable of the environment may ask for.
        eprintln!("failsafed: {error:#}");
        ExitCode::FAILURE
    })
}

fn work() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match args.command {
        Some(Command::NvmlSampler(args)) => return failsafed::sensors::nvml::sampler_main(args).map(|()| OK),
        Some(Command::NvmlCheck(args)) => return failsafed::sensors::nvml::check_main(&args).map(|()| OK),
        Some(Command::DrillTarget) => {
            failsafed::watchers::drill::target::main()?;
            return Ok(OK);
        }
        Some(Command::Man) => {
            clap_mangen::Man::new(Args::command()).section("8").render(&mut stdout())?;
            return Ok(OK);
        }
        Some(Command::Completion { shell }) => {
            clap_complete::generate(shell, &mut Args::command(), "failsafed", &mut stdout());
            return Ok(OK);
        }
        None => {}
    }
    let (config, keys, catalogues) = match Config::load_all(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            eprintln!("failsafed: the configuration has mistakes\n{mistakes}");
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.check {
        if let Some(Err(error)) = config.bpffs().map(pin_folder::check) {
            eprintln!("failsafed: the configuration does not fit this machine\n{error}");
            return Ok(ExitCode::FAILURE);
        }
        let unusable = failsafed::watchers::discover::unusable_policies(&config);
        unusable.iter().for_each(|why| eprintln!("failsafed: warning: {why}"));
        println!("the configuration is valid{}", if unusable.is_empty() { "" } else { ", with warnings" });
        return Ok(OK);
    }
    hold_hangup()?;
    let filter = EnvFilter::try_from_env("FAILSAFED_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Whoever reads the daemon's own log may be stuck (a full disk under journald): containment must not wait for it.
    let lines = NonBlockingBuilder::default().buffered_lines_limit(4_096);
    let (writer, _flushed_when_dropped) = lines.finish(std::io::stderr());
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A line that cannot be written would be reported on stderr itself, and end the daemon.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(writer)
        .log_internal_errors(false)
        .init();
    supervisor::run(config, Origin { file: args.config, keys }, catalogues).map(|()| OK)
}
