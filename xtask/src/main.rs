//! The project's own commands, `cargo xtask NAME`: each is one module and does its own set-up, so that a fresh clone needs
//! nothing but the Rust toolchain.
//!
//! ```text
//!  setup ◄── test, demo, bench        what the machine must have
//!  daemon ◄── demo, bench             a daemon on a private state folder
//!  vm ◄── test                        Debian's kernels
//!  dist (with vm's Debian root)       what is shipped
//!  tidy                               the rules that no compiler holds
//! ```

#![forbid(unsafe_code)]

mod bench;
mod daemon;
mod demo;
mod dist;
mod gpu_check;
mod interrupt;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install and mount what building and testing needs
    Setup(setup::Args),
    /// Set up, build, and run every test
    Test(test::Args),
    /// Run the kernel-facing tests on Debian's kernels, in virtual machines
    Vm(vm::Args),
    /// Check the rules that no compiler holds: allowed crate edges, file heads, policies
    Tidy,
    /// The whole flow on this machine: three runs that go wrong, contained and explained
    Demo(demo::Args),
    /// What every NVML function says on this machine, as JSON
    GpuCheck(gpu_check::Args),
    /// Build what is shipped: a Debian package, its debug symbols, an archive, the Python client
    Dist(dist::Args),
    /// Measure: reaction, events, restart, overhead, footprint, gpu
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if interrupt::requested() => {
            eprintln!("xtask: ended on request ({error:#}); what it had started is gone");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup(args) => setup::command(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::command(&args),
        Command::Tidy => tidy::run(),
        Command::Demo(args) => demo::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Dist(args) => dist::command(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
