//! Arguments of the commands that act on a run: `freeze`, `thaw` and `kill`.

use super::{Output, duration, reason};
use clap::Args as ClapArgs;
use std::time::Duration;

/// `freeze`, `thaw`, `kill`.
#[derive(Debug, ClapArgs)]
pub struct ControlArgs {
    /// The exact id or name (or OWNER_UID/NAME); no prefix.
    pub run: String,
    /// Why; it goes into the audit log. Mandatory, except with --dry-run.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "dry_run", value_parser = reason)]
    pub reason: Option<String>,
    /// Change nothing; list the affected processes, cgroups and GPUs, and what the action does not reach.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// An id of your choice, new for each command: 1 to 64 letters, digits, `-`, `_`, `.` or `:`. Sent again with the same id
    /// within ten minutes, the command is not carried out again, and gets the result of the first one.
    #[arg(long, value_name = "ID", conflicts_with = "dry_run", value_parser = request_id)]
    pub request_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `freeze`.
#[derive(Debug, ClapArgs)]
pub struct FreezeArgs {
    /// The exact id or name (or OWNER_UID/NAME); no prefix.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub run: Option<String>,
    /// Freeze every run that you may freeze, those that start meanwhile too. Ends when a list of the runs shows none that is
    /// not frozen.
    #[arg(long)]
    pub all: bool,
    /// Why; it goes into the audit log. Mandatory, except with --dry-run.
    #[arg(short, long, value_name = "TEXT", required_unless_present = "dry_run", value_parser = reason)]
    pub reason: Option<String>,
    /// Change nothing; list the affected processes, cgroups and GPUs, and what the action does not reach.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the outcome.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// An id of your choice, new for each command: 1 to 64 letters, digits, `-`, `_`, `.` or `:`. Sent again with the same id
    /// within ten minutes, the command is not carried out again, and gets the result of the first one.
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "dry_run"], value_parser = request_id)]
    pub request_id: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

impl FreezeArgs {
    /// The same for one run.
    pub fn of(&self, run: &str) -> ControlArgs {
        let FreezeArgs { reason, dry_run, timeout, request_id, output, .. } = self;
        let (run, reason, request_id) = (run.to_owned(), reason.clone(), request_id.clone());
        ControlArgs { run, reason, dry_run: *dry_run, timeout: *timeout, request_id, output: *output }
    }
}

/// An id of a command, as the daemon takes it.
fn request_id(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err("expected 1 to 64 letters, digits, `-`, `_`, `.` or `:`".to_owned());
    }
    Ok(text.to_owned())
}
