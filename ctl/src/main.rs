//! `failsafectl`: what the on-call engineer and the scheduler use. It speaks gRPC to failsafed, reads the audit log and
//! recordings itself, and never depends on the daemon's code.
//!
//! ```text
//! args ─► commands/* ─► client (gRPC, to this node or by remote/ to another one) or journal (files) ─► render/* ─► stdout
//! ```
//!
//! Invariants: stdout carries results, stderr everything else; text that a run may have written is shown without control
//! characters; the exit code is one of [`exit::Exit`], except that `run` ends as its command does.

#![forbid(unsafe_code)]
// `eprintln!` and `println!` end the program when nobody reads, or the disk of the reader is full: a job would not be started.
#![cfg_attr(not(test), deny(clippy::print_stderr, clippy::print_stdout))]

/// Writes a line to stderr. A line that cannot be written ends nothing.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _nobody_reads = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod args;
mod bundle;
mod client;
mod commands;
mod digest;
mod entry;
mod exit;
mod incident;
mod incidents;
mod refusal;
mod remote;
mod render;
#[cfg(test)]
mod testing;
mod text;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::dispatch(args) {
        Ok(exit) => exit,
        Err(fail) => {
            if !fail.message.is_empty() {
                note!("{fail}");
            }
            fail.exit.into()
        }
    }
}
