//! `replay`: the recordings of a run through the same engine, whether the decisions are the same, and whether the recordings are
//! those that the audit log names.
//!
//! Invariant: a decision of the log that no recording covers is reported, and never counts as identical.

pub(super) mod audit;
pub(super) mod compare;
pub(super) mod found;
mod recording;
mod replayed;
pub(super) mod under;
mod verdicts;

use super::{Place, events, export, file_name, read_policy};
use crate::{
    args::ReplayArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    render::{json, print},
};
use audit::{Audit, Given};
use compare::{Report, What};
use failsafe_core::{
    Policy, RunId,
    replay::{ENGINE, replay as feed},
};
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;
use found::{Lost, RunRecordings};
use recording::Recording;
use replayed::Replayed;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use verdicts::Verdicts;

/// How long the log is asked again while an entry of it may still be on its way to the disk.
const SETTLES: Duration = Duration::from_secs(3);
/// How long to wait before the log or the daemon is asked again.
const ASKED_AGAIN: Duration = Duration::from_millis(50);

pub(super) fn replay(place: &Place<'_>, args: &ReplayArgs) -> Result<Exit, Fail> {
    let other = args.policy.as_deref().map(read_policy).transpose()?.map(|(_, policy)| policy);
    let under = args.policy.as_deref().map(file_name);
    let under = other.as_ref().zip(under.as_deref());
    let log = args.log.as_deref();
    let report = match local(&args.what) {
        Some(file) => judge(&file, under, |given| against_log(place, log, None, given))?,
        None => of_run(place, log, &args.what, under)?,
    };
    print(&if args.output.json() { json::text(&report.json()) } else { report.text() })?;
    Ok(report.exit())
}

/// Replays the recordings that the daemon has of a run. While the log is ahead of them, they are fetched again.
fn of_run(place: &Place<'_>, log: Option<&Path>, run: &str, under: Option<(&Policy, &str)>) -> Result<Report, Fail> {
    let until = Instant::now() + SETTLES;
    loop {
        let folder = Scratch::create()?;
        let file = folder.0.join("run.fsrec");
        let id = block_on(async {
            let client = Client::connect(place.daemon).await?;
            let run = events::get(&client, run).await?.id;
            export::fetch(&client, &run, &file, false).await?;
            Ok::<_, Fail>(run)
        })?;
        let report = judge(&file, under, |given| against_log(place, log, Some(&id), given))?;
        if !report.is_behind() || Instant::now() >= until {
            return Ok(report);
        }
        std::thread::sleep(ASKED_AGAIN);
    }
}

/// The file or folder that is meant, unless a run is.
fn local(what: &str) -> Option<PathBuf> {
    let path = PathBuf::from(what);
    (path.is_file() || what.contains('/') || what.ends_with(".fsrec")).then_some(path)
}

/// Replays the recordings at `file`; `under`: by this policy, of the file with this name.
fn judge(
    file: &Path,
    under: Option<(&Policy, &str)>,
    against: impl FnOnce(&mut Given<'_>) -> Result<Audit, Fail>,
) -> Result<Report, Fail> {
    judge_found(RunRecordings::at(file)?, under, against)
}

/// Replays these recordings, and compares them with the log as `against` does it.
pub(super) fn judge_found(
    RunRecordings { sources, mut lost, all }: RunRecordings,
    under: Option<(&Policy, &str)>,
    against: impl FnOnce(&mut Given<'_>) -> Result<Audit, Fail>,
) -> Result<Report, Fail> {
    let what = match under {
        Some((policy, file)) => What::Other { file: file.to_owned(), digest: policy.digest().to_string() },
        None => What::Same,
    };
    let (mut recordings, mut replayed) = (Vec::<Recording>::new(), Vec::new());
    let mut verdicts = under.map(|(policy, _)| Verdicts::by(policy));
    for source in sources {
        let (name, number) = (source.name.clone(), source.number);
        let one = Recording::open(source).and_then(|mut recording| {
            same_run(recordings.first(), &recording)?;
            let policy = under.map_or_else(|| recording.policy().clone(), |(policy, _)| policy.clone());
            // What another policy would do now is asked of this program's engine.
            let engine = if under.is_some() { ENGINE } else { recording.engine() };
            let replay = match &mut verdicts {
                Some(verdicts) => {
                    let judged = (&mut recording).filter_map(|entry| match entry {
                        Ok(entry) => verdicts.judge(entry).map(Ok),
                        Err(fail) => Some(Err(fail)),
                    });
                    feed(policy, engine, judged)?
                }
                None => feed(policy, engine, &mut recording)?,
            };
            Ok((Replayed::new(&what, &recording, number, replay), recording))
        });
        match one {
            Ok((replay, recording)) => {
                replayed.push(replay);
                recordings.push(recording);
            }
            Err(fail) if all => {
                let exit = if fail.exit == Exit::Tampered { Exit::Tampered } else { Exit::Partial };
                let why = fail.message.strip_prefix(&format!("{name}: ")).unwrap_or(&fail.message).to_owned();
                lost.push(Lost { name, number, why, missing: false, exit });
            }
            Err(fail) => return Err(fail),
        }
    }
    let Some(first) = recordings.first() else {
        let exit = if lost.iter().any(|lost| lost.exit == Exit::Tampered) { Exit::Tampered } else { Exit::Error };
        let all: Vec<String> = lost.iter().map(|lost| format!("{}: {}", lost.name, lost.why)).collect();
        return Err(Fail::new(exit, format!("no recording of the run can be read\n{}", all.join("\n"))));
    };
    let run = first.run().clone();
    let facts = recordings.iter().map(Recording::facts).collect();
    let audit = against(&mut Given { recordings: facts, lost: &lost, latest: false })?;
    Ok(Report::new((what, verdicts.map(Verdicts::counts)), &run, (replayed, lost, all), audit))
}

/// The recordings of one run have the same run and the same policy in their headers.
fn same_run(first: Option<&Recording>, other: &Recording) -> Result<(), Fail> {
    let Some(first) = first else { return Ok(()) };
    let (a, b) = (first.run(), other.run());
    if (a.id, a.policy) == (b.id, b.policy) {
        return Ok(());
    }
    let message = format!(
        "{}: it is a recording of run {} under policy {}, but {} is one of run {} under policy {}",
        other.file(),
        b.id,
        b.policy,
        first.file(),
        a.id,
        a.policy
    );
    Err(Fail::new(Exit::Tampered, message))
}

/// Compares a recording with the audit log, of the daemon for the run `asked`, else of a file where there is one.
fn against_log(
    place: &Place<'_>,
    log: Option<&Path>,
    asked: Option<&str>,
    given: &mut Given<'_>,
) -> Result<Audit, Fail> {
    given.latest = asked.is_some();
    let Some(run) = given.run() else { return Ok(Audit::skipped("there is no recording")) };
    if let Some(asked) = asked.filter(|asked| *asked != run.to_string()) {
        let problem = format!("the recording of run {asked} is one of run {run}");
        return Ok(Audit { problems: vec![problem], ..Audit::default() });
    }
    let until = Instant::now() + SETTLES;
    loop {
        let audit = match entries(place, log, asked.is_some(), run)? {
            Ok(entries) => Audit::of(given, &entries)?,
            Err(why) => Audit::skipped(why),
        };
        let audit = Audit { named: log.is_some(), ..audit };
        if !audit.unsettled || Instant::now() >= until {
            return Ok(audit);
        }
        std::thread::sleep(ASKED_AGAIN);
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
            let client = Client::connect(place.daemon).await?;
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
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub(super) fn create() -> Result<Scratch, Fail> {
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
