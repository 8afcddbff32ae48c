//! `replay`: a recording through the same engine, whether the decisions are the same, and whether the recording is the one
//! that the audit log names.

mod audit;
mod compare;
mod recording;

use super::{Place, events, export, file_name, read_policy};
use crate::{
    args::ReplayArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    render::{json, print},
};
use audit::{Audit, Facts};
use compare::{Report, What};
use failsafe_core::{
    Policy, RunId,
    replay::{ENGINE, replay as feed},
};
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;
use recording::Recording;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long the log is asked again while an entry of it may still be on its way to the disk.
const SETTLES: Duration = Duration::from_secs(3);

pub(super) fn replay(place: &Place<'_>, args: &ReplayArgs) -> Result<Exit, Fail> {
    let other = args.policy.as_deref().map(read_policy).transpose()?.map(|(_, policy)| policy);
    let under = args.policy.as_deref().map(file_name);
    let log = args.log.as_deref();
    let report = match local(&args.what) {
        Some(file) => judge(&file, other, under, |facts| against_log(place, log, None, facts))?,
        None => {
            let folder = Scratch::create()?;
            let file = folder.0.join("run.fsrec");
            let id = block_on(async {
                let client = Client::connect(place.socket).await?;
                let run = client.runs().get(pb::GetRequest { run: args.what.clone() }).await?.into_inner().id;
                export::fetch(&client, &run, &file, false).await?;
                Ok::<_, Fail>(run)
            })?;
            judge(&file, other, under, |facts| against_log(place, log, Some(&id), facts))?
        }
    };
    print(&if args.output.json() { json::text(&report.json()) } else { report.text() })?;
    Ok(report.exit())
}

/// The file that is meant, unless a run is.
fn local(what: &str) -> Option<PathBuf> {
    let path = PathBuf::from(what);
    (path.is_file() || what.contains('/') || what.ends_with(".fsrec")).then_some(path)
}

fn judge(
    file: &Path,
    other: Option<Policy>,
    under: Option<String>,
    against: impl FnOnce(&mut Facts<'_>) -> Result<Audit, Fail>,
) -> Result<Report, Fail> {
    let mut recording = Recording::open(file)?;
    let recorded_policy = recording.policy().clone();
    let what = match (&other, under) {
        (Some(policy), Some(file)) => What::Other { file, digest: policy.digest().to_string() },
        _ => What::Same,
    };
    // What another policy would do now is asked of this program's engine.
    let engine = if other.is_some() { ENGINE } else { recording.engine() };
    let replay = feed(other.unwrap_or(recorded_policy), engine, &mut recording)?;
    let audit = against(&mut recording.facts())?;
    Ok(Report::new(what, &recording, replay, audit))
}

/// Compares a recording with the audit log, of the daemon for the run `asked`, else of a file where there is one.
fn against_log(
    place: &Place<'_>,
    log: Option<&Path>,
    asked: Option<&str>,
    facts: &mut Facts<'_>,
) -> Result<Audit, Fail> {
    facts.latest = asked.is_some();
    if let Some(asked) = asked.filter(|asked| *asked != facts.run.id.to_string()) {
        let problem = format!("the recording of run {asked} is one of run {}", facts.run.id);
        return Ok(Audit { problems: vec![problem], ..Audit::default() });
    }
    let until = Instant::now() + SETTLES;
    loop {
        let audit = match entries(place, log, asked.is_some(), facts.run.id)? {
            Ok(entries) => Audit::of(facts, &entries)?,
            Err(why) => Audit::skipped(why),
        };
        if !audit.unsettled || Instant::now() >= until {
            return Ok(audit);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the log has of a run; else why it cannot be asked.
fn entries(
    place: &Place<'_>,
    log: Option<&Path>,
    daemon: bool,
    run: RunId,
) -> Result<Result<Vec<Logged>, String>, Fail> {
    let kinds = || ["run", "decision", "gap"].map(str::to_owned).to_vec();
    let filter = Filter { run: Some(run.to_string()), kinds: kinds(), ..Filter::default() };
    if let Some(log) = log {
        return entry::load(log, filter).map(Ok);
    }
    let of_daemon = || {
        block_on(async {
            let client = Client::connect(place.socket).await?;
            let request = pb::WatchRequest { run: run.to_string(), kinds: kinds(), ..Default::default() };
            events::collect(&client, request).await
        })
    };
    if daemon {
        return of_daemon().map(Ok);
    }
    let file = entry::log_file(place.state_dir);
    let of_file = entry::load(&file, filter);
    match of_file {
        Ok(found) if !found.is_empty() => Ok(Ok(found)),
        of_file => Ok(of_daemon().map_err(|daemon| match of_file {
            Ok(_) => format!("{} has nothing of run {run}; --log names another log", file.display()),
            Err(file) => format!("{}; {}; --log names a log", file.message, daemon.message),
        })),
    }
}

/// A folder of our own for a fetched recording; it goes with us.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Scratch, Fail> {
        let failed = |error: nix::Error| Fail::because("cannot make a temporary folder", &error);
        nix::unistd::mkdtemp(&std::env::temp_dir().join("failsafectl-XXXXXX")).map(Scratch).map_err(failed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
