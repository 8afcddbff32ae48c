//! `mode` and `stats`.

use super::{Output, Source, reason};
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

/// `mode`.
#[derive(Debug, Subcommand)]
pub enum ModeCommand {
    /// Show whether failsafe acts on the runs of this node.
    #[command(after_help = "Example:\n  failsafectl mode show")]
    Show(Output),
    /// For a time: judge and record everything, refuse and freeze nothing. What is frozen stays frozen.
    #[command(after_help = "Example:\n  failsafectl mode observe --for 1h --reason \"false alarms since the upgrade\"")]
    Observe {
        /// For how long: 1s to 7d. The order ends by itself, and survives restarts of the daemon.
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Duration,
        /// Why; it goes into the audit log.
        #[arg(short, long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// End an order to observe: the configuration counts again.
    #[command(after_help = "Example:\n  failsafectl mode enforce --reason \"policy corrected\"")]
    Enforce {
        /// Why; it goes into the audit log.
        #[arg(short, long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
}

/// `stats`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl stats --would\n  failsafectl stats --would --since 24h -o json")]
pub struct StatsArgs {
    /// What would have been done where it was only observed: for each rule how often, and to whom.
    #[arg(long, required = true)]
    pub would: bool,
    /// Only decisions of this time or later: an age (10m, 2h), or a time (2026-11-28T14:00).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub output: Output,
}

fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration from 1s to 7d, such as 1h or 30m");
    let parsed = failsafe_core::time::Span::parse(text).map(|span| Duration::from_nanos(span.0));
    let range = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);
    parsed.filter(|length| range.contains(length)).ok_or_else(wrong)
}
