//! `drill`.

use super::{Output, reason};
use clap::Subcommand;

/// `drill`.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Start a run and stop it now, as a proof that this node can: latch, freeze, thaw and kill, each proved.
    #[command(
        after_help = "Examples:\n  failsafectl drill now\n  failsafectl drill now --reason \"after the kernel upgrade\" -o json"
    )]
    Now {
        /// Why; it goes into the audit log.
        #[arg(short, long, value_name = "TEXT", value_parser = reason, default_value = "asked for")]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show the results of the last drills, and when the next one is due.
    #[command(after_help = "Example:\n  failsafectl drill status")]
    Status(Output),
}
