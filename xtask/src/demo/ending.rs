//! After the stories: why one run was stopped, whether the recordings lead to the same decisions, and whether the log is
//! whole.

use super::Stage;
use super::stories::StoryResult;
use crate::interrupt::check;
use crate::shell;
use anyhow::Result;
use std::ffi::OsStr;

/// `failsafectl explain` of an incident.
///
/// # Errors
/// It failed.
pub fn explain(stage: &Stage, told: &StoryResult) -> Result<()> {
    stage.screen.title("why was the first run stopped?");
    quoted(stage, &["explain", &told.incident])
}

/// Exports each run's recording and replays it, without the daemon.
///
/// # Errors
/// A replay did not agree.
pub fn replay(stage: &Stage, runs: &[&StoryResult]) -> Result<()> {
    stage.screen.title("do the recorded inputs lead to the same decisions again?");
    for told in runs {
        let bundle = stage.daemon.folder().join(format!("{}.bundle", told.run));
        let bundle = bundle.display().to_string();
        quoted(stage, &["export", &told.run, "--output", &bundle])?;
        quoted(stage, &["replay", &bundle])?;
    }
    Ok(())
}

/// `failsafectl log verify`.
///
/// # Errors
/// The log is damaged.
pub fn verify(stage: &Stage) -> Result<()> {
    stage.screen.title("is the audit log whole?");
    quoted(stage, &["log", "verify"])
}

fn quoted<A: AsRef<OsStr>>(stage: &Stage, args: &[A]) -> Result<()> {
    check()?;
    let mut command = stage.daemon.ctl(args);
    let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    stage.screen.say(format_args!("$ failsafectl {}", shown.join(" ")));
    stage.screen.quote(&shell::read(&mut command)?);
    Ok(())
}
