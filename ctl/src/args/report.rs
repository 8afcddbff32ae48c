//! Arguments of `report`.

use super::Output;
use clap::Args as ClapArgs;
use std::path::PathBuf;

/// `report`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl report loss 2.5 1200")]
pub struct ReportArgs {
    /// The metric's name: letters, digits, `_`, `-`, `.`, `/`.
    #[arg(value_parser = metric)]
    pub name: String,
    /// Its value; `nan` and `inf` are values too.
    #[arg(allow_hyphen_values = true, value_parser = number)]
    pub value: f64,
    /// The training step.
    pub step: Option<u64>,
    /// The series that the value belongs to.
    #[arg(long, env = "RANK", default_value = "cli", value_name = "LABEL")]
    pub rank: String,
    /// The daemon's socket for metrics; the stream socket is beside it, with `.stream` behind its name.
    #[arg(long, env = "FAILSAFE_METRICS_SOCKET", default_value = "/run/failsafe/metrics.sock")]
    pub metrics_socket: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number such as 2.31, nan or inf".to_owned())
}

fn metric(text: &str) -> Result<String, String> {
    let good = failsafe_core::signal::metric_name(text);
    good.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 64 of letters, digits, `_`, `-`, `.`, `/`".to_owned())
}
