//! `rerun`: starts an ended run again, with the same command, folder, variables and policy, from a checkpoint that is verified first.
//!
//! ```text
//! plan (daemon) ─► command, variables, folder: whole? ─► differences? ─► hash of the checkpoint ─► watcher ─► child ─► Start, exec
//! ```
//! Invariants: nothing is started with a redacted value, and no variable gets a value that nobody gave; the checkpoint is read with
//! the rights of the caller; the daemon compares again when the run is started.

mod page;
mod variables;

use self::{
    page::{differences, shown, shown_json},
    variables::{Missing, Variables, variables},
};
use super::{
    Starting, launch, restart, scraper,
    user::{self, Caller},
    watch, which,
};
use crate::{
    args::RerunArgs,
    client::{Client, block_on},
    commands::Place,
    digest,
    exit::{ACCEPT_DIFFERENCES, Exit, Fail},
    render::{clean, count, json, print},
};
use failsafe_attest::{Manifest, Table};
use failsafe_proto::{ErrorReason, v1 as pb};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// How long the end of a run is waited for, and how far apart it is asked about.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(100);

/// Variables that the command finds the checkpoint by.
const CHECKPOINT: &str = "FAILSAFE_CHECKPOINT";

/// What will be started.
struct Plan {
    of: pb::RerunPlan,
    command: Vec<OsString>,
    directory: PathBuf,
    environment: BTreeMap<String, OsString>,
    checkpoint: Option<pb::Checkpoint>,
}

pub(in crate::commands) fn rerun(place: &Place<'_>, args: &RerunArgs) -> Result<Exit, Fail> {
    let mut of = ended(place, args)?;
    let checkpoint = chosen(&of, &args.from)?;
    let table = Table::built_in().map_err(|error| Fail::new(Exit::Error, error.to_string()))?;
    let command = command(&of, &args.command);
    let Variables { known, missing } = variables(&of, args, |name| std::env::var_os(name))?;
    if args.announce.is_none() {
        of = compared(place, args, of, (command.as_deref().ok(), &known), &missing)?;
    }
    let environment = missing.fail().map_or(Ok(known.clone()), Err);
    if args.print {
        let missing = [command.as_ref().err(), environment.as_ref().err()];
        let missing: Vec<String> = missing.into_iter().flatten().map(|fail| fail.message.clone()).collect();
        let environment = known;
        let page = if args.output.json() {
            json::text(&shown_json(&of, checkpoint.as_ref(), &missing))
        } else {
            shown(&of, &environment, checkpoint.as_ref(), &missing, &table)
        };
        print(&page)?;
        return Ok(if decides(&of).next().is_some() || !of.unknown.is_empty() {
            Exit::ResultDiffers
        } else {
            Exit::Done
        });
    }
    let (command, mut environment) = (command?, environment?);
    let directory =
        args.directory.clone().or_else(|| Some(of.directory.clone().into()).filter(|it: &PathBuf| it != Path::new("")));
    let directory = directory.ok_or_else(|| {
        Fail::usage("the folder of the run is not stored, because its path looks like a secret")
            .advise("give it with --directory")
    })?;
    if args.announce.is_none() {
        refuse_differences(&of, args.accept_differences.as_deref(), &table)?;
        if let Some(checkpoint) = &checkpoint {
            verify(checkpoint)?;
        }
    }
    if let Some(checkpoint) = &checkpoint {
        environment.insert(CHECKPOINT.to_owned(), checkpoint.path.clone().into());
    }
    let user = user::choose(Some(&of.owner_uid.to_string()), &Caller::this())?;
    if args.announce.is_none() {
        scraper::check_again(&args.scrape, &of)?;
    }
    if args.announce.is_none() && !args.no_watch {
        return watch::watch(place, user.is_other(), args.quiet, args.scrape.is_asked());
    }
    start(place, args, user, Plan { of, command, directory, environment, checkpoint })
}

/// The plan of the run, once it has ended: a run that was just left by its last process ends in a moment.
fn ended(place: &Place<'_>, args: &RerunArgs) -> Result<pb::RerunPlan, Fail> {
    block_on(async {
        let deadline = Instant::now() + ENDS_WITHIN;
        let client = Client::connect(place.daemon).await?;
        loop {
            let request = pb::PrepareRerunRequest { run: args.run.clone(), ..Default::default() };
            match client.runs().prepare_rerun(request).await {
                Ok(plan) => return Ok(plan.into_inner()),
                Err(status)
                    if ErrorReason::of(&status) == Some(ErrorReason::RunNotEnded) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(BETWEEN).await
                }
                Err(status) => return Err(status.into()),
            }
        }
    })
}

/// The plan, compared also with the command and the variables that would be started, as far as they are known.
fn compared(
    place: &Place<'_>,
    args: &RerunArgs,
    of: pb::RerunPlan,
    (command, environment): (Option<&[OsString]>, &BTreeMap<String, OsString>),
    missing: &Missing,
) -> Result<pb::RerunPlan, Fail> {
    let kept: Vec<OsString> = of.command.iter().map(OsString::from).collect();
    let words = command.unwrap_or(&kept);
    let with = restart::With { lineage: None, words, directory: Path::new(""), only: Some(environment), other: false };
    let said = restart::request(&with, &Command::new("env"))?;
    let request =
        pb::PrepareRerunRequest { run: args.run.clone(), command: said.command, environment: said.environment };
    let mut of =
        block_on(async { Ok(Client::connect(place.daemon).await?.runs().prepare_rerun(request).await?.into_inner()) })?;
    // What has to be given yet differs in nothing yet.
    of.differences.retain(|change| match change.path.strip_prefix("run/env/") {
        Some(name) => !missing.has(name),
        None => command.is_some() || change.path != "run/command",
    });
    Ok(of)
}

fn start(place: &Place<'_>, args: &RerunArgs, user: user::Target, plan: Plan) -> Result<Exit, Fail> {
    let Plan { of, command: words, directory, environment, checkpoint } = plan;
    let Some((name, arguments)) = words.split_first() else { return Err(Fail::usage("the run has no command")) };
    let programs = which::find(name, environment.get("PATH").map(OsString::as_os_str))?;
    let mut command = Command::new(name);
    command.env_clear().envs(&environment);
    let with = restart::With {
        lineage: None,
        words: &words,
        directory: &directory,
        only: Some(&environment),
        other: user.is_other(),
    };
    let request = pb::StartRequest {
        name: args.name.clone().unwrap_or_default(),
        labels: of.labels.clone(),
        gpus: if args.gpus.is_empty() { of.gpus.clone() } else { args.gpus.clone() },
        manifest: manifest(&of, checkpoint.as_ref())?,
        owner_uid: Some(user.uid()),
        rerun_of: of.run_id.clone(),
        accept_differences: args.accept_differences.clone().unwrap_or_default(),
        checkpoint: checkpoint.map(|it| format!("{} {}", it.path, it.digest)).unwrap_or_default(),
        ..restart::request(&with, &command)?
    };
    let starting = Starting {
        request,
        command,
        name,
        arguments,
        programs,
        user,
        directory: Some(&directory),
        scrape: &args.scrape,
        announce: args.announce.as_deref(),
        quiet: args.quiet,
        json: args.output.json(),
    };
    launch(place, starting)
}

/// The checkpoint to begin with.
fn chosen(of: &pb::RerunPlan, from: &str) -> Result<Option<pb::Checkpoint>, Fail> {
    let last = |is: &dyn Fn(&&pb::Checkpoint) -> bool| of.checkpoints.iter().rev().find(is).cloned();
    let none = |what: String| {
        Fail::new(Exit::NotFound, format!("run {} announced no {what}", clean(&of.run_name)))
            .advise("`failsafectl manifest show RUN` lists its checkpoints; --from start begins without one")
    };
    match from {
        "start" => Ok(None),
        "last-good" => {
            last(&|it| it.good).map(Some).ok_or_else(|| none("good checkpoint (checkpoint --good)".to_owned()))
        }
        step => {
            let number = step.parse::<u64>().map_err(|_| {
                Fail::usage(format!("--from {}: expected last-good, start, or the number of a step", clean(step)))
            })?;
            last(&|it| it.step == Some(number)).map(Some).ok_or_else(|| none(format!("checkpoint of step {number}")))
        }
    }
}

/// The command, whole. What was redacted has to be given.
fn command(of: &pb::RerunPlan, given: &[OsString]) -> Result<Vec<OsString>, Fail> {
    let kept = || of.command.iter().map(OsString::from).collect::<Vec<_>>();
    let places: BTreeSet<usize> = of.redacted.iter().filter_map(|n| usize::try_from(*n).ok()).collect();
    if given.is_empty() {
        if places.is_empty() {
            return Ok(kept());
        }
        let words: Vec<String> = places.iter().filter_map(|n| of.command.get(*n)).map(|word| clean(word)).collect();
        return Err(Fail::usage(format!(
            "{} of the command had a secret, and only the redacted text is kept: {}",
            count(places.len(), "argument", "arguments"),
            words.join(", ")
        ))
        .advise("give the whole command again, with the secrets: failsafectl rerun RUN -- COMMAND"));
    }
    let same = given.len() == of.command.len()
        && given
            .iter()
            .zip(&of.command)
            .enumerate()
            .all(|(n, (new, old))| places.contains(&n) || new.as_os_str() == OsStr::new(old));
    if !same {
        return Err(Fail::usage("the given command is another one than that of the run, not only in its secrets")
            .advise("`failsafectl rerun RUN --print` shows the command; to start another one, use `failsafectl run`"));
    }
    Ok(given.to_vec())
}

/// Hashes the checkpoint with the caller's rights.
fn verify(checkpoint: &pb::Checkpoint) -> Result<(), Fail> {
    let found = digest::of(Path::new(&checkpoint.path))?;
    if found.text == checkpoint.digest {
        return Ok(());
    }
    let message = format!(
        "the checkpoint {} is not the one that was announced: it has {}, expected {}",
        clean(&checkpoint.path),
        found.text,
        clean(&checkpoint.digest)
    );
    Err(Fail::new(Exit::Tampered, message).advise("nothing was started; choose another one with --from"))
}

fn decides(of: &pb::RerunPlan) -> impl Iterator<Item = &pb::FactorChange> {
    of.differences.iter().filter(|change| change.class == "result")
}

fn refuse_differences(of: &pb::RerunPlan, accepted: Option<&str>, table: &Table) -> Result<(), Fail> {
    let open = decides(of).count() + of.unknown.len();
    if open == 0 || accepted.is_some() {
        return Ok(());
    }
    let exit = if decides(of).next().is_some() { Exit::ResultDiffers } else { Exit::CannotKnow };
    let message = format!(
        "the new run would differ from run {} in what can change results\n{}",
        clean(&of.run_name),
        differences(of, table)
    );
    Err(Fail::new(exit, message.trim_end()).advise(ACCEPT_DIFFERENCES))
}

/// The manifest of the run with the new parent and baseline; empty: it had none.
fn manifest(of: &pb::RerunPlan, checkpoint: Option<&pb::Checkpoint>) -> Result<Vec<u8>, Fail> {
    if of.manifest.is_empty() {
        return Ok(Vec::new());
    }
    let broken = |error: &dyn std::error::Error| Fail::because("the manifest of the run cannot be read", error);
    let mut manifest = Manifest::from_json(&of.manifest).map_err(|error| broken(&error))?;
    manifest.parent = Some(of.run_id.clone());
    if let Some(checkpoint) = checkpoint {
        manifest.baseline = Some(checkpoint.path.clone());
    }
    Ok(manifest.canonical().map_err(|error| broken(&error))?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command as Parsed};
    use clap::Parser;

    fn args(more: &[&str]) -> RerunArgs {
        let all = ["failsafectl", "rerun", "r"].iter().chain(more);
        match Args::try_parse_from(all).unwrap().command {
            Parsed::Rerun(args) => args,
            _ => panic!("another command"),
        }
    }

    fn plan() -> pb::RerunPlan {
        let variable =
            |name: &str, value: Option<&str>| pb::RerunVariable { name: name.into(), value: value.map(str::to_owned) };
        pb::RerunPlan {
            run_name: "job".into(),
            command: ["train", "--token", "[redacted]", "--lr=1"].map(str::to_owned).to_vec(),
            redacted: vec![2],
            environment: vec![variable("OMP_NUM_THREADS", Some("2")), variable("XLA_FLAGS", None)],
            variables: ["HOME", "OMP_NUM_THREADS", "XLA_FLAGS"].map(str::to_owned).to_vec(),
            checkpoints: vec![checkpoint(1, true), checkpoint(2, true), checkpoint(3, false)],
            ..pb::RerunPlan::default()
        }
    }

    fn checkpoint(step: u64, good: bool) -> pb::Checkpoint {
        pb::Checkpoint { path: format!("/c/{step}"), step: Some(step), good, ..pb::Checkpoint::default() }
    }

    #[test]
    fn nothing_is_started_with_a_redacted_argument() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let fail = command(&plan(), &[]).unwrap_err();
        assert!(fail.exit == Exit::Usage && fail.message.contains("1 argument") && fail.message.contains("[redacted]"));
        let whole = words(&["train", "--token", "abc", "--lr=1"]);
        assert_eq!(command(&plan(), &whole).unwrap(), whole);
        for other in [&["train", "--token", "abc", "--lr=2"][..], &["train", "--token", "abc"]] {
            assert!(command(&plan(), &words(other)).unwrap_err().message.contains("another one"));
        }
        let plain = pb::RerunPlan { redacted: Vec::new(), command: vec!["true".into()], ..plan() };
        assert_eq!(command(&plain, &[]).unwrap(), words(&["true"]));
    }

    #[test]
    fn each_variable_that_was_redacted_or_never_read_has_to_be_given() {
        let own = |name: &str| (name == "HOME").then(|| OsString::from("/home/me"));
        let fail = variables(&plan(), &args(&[]), own).unwrap().missing.fail().unwrap();
        assert!(fail.message.contains("secret, which is not stored: XLA_FLAGS"), "{}", fail.message);
        assert!(fail.message.contains("never read: HOME"), "{}", fail.message);
        let fail = variables(&plan(), &args(&["--inherit"]), own).unwrap().missing.fail().unwrap();
        assert!(fail.message.contains("XLA_FLAGS") && !fail.message.contains("HOME"), "{}", fail.message);
        let all = variables(&plan(), &args(&["--inherit", "--env", "XLA_FLAGS=x"]), own).unwrap().known;
        assert_eq!(
            (&all["HOME"], &all["OMP_NUM_THREADS"], &all["XLA_FLAGS"]),
            (&"/home/me".into(), &"2".into(), &"x".into())
        );
        let all = variables(&plan(), &args(&["--without", "HOME", "--without", "XLA_FLAGS"]), own).unwrap().known;
        assert_eq!(all.len(), 1);
        let fail = variables(&plan(), &args(&["--inherit", "--env", "XLA_FLAGS=x"]), |_| None)
            .unwrap()
            .missing
            .fail()
            .unwrap();
        assert!(fail.message.contains("your environment has no such variable: HOME"), "{}", fail.message);
    }

    #[test]
    fn the_checkpoint_is_the_last_good_one_or_that_of_a_step() {
        let step = |from: &str| chosen(&plan(), from).map(|found| found.map(|it| it.step.unwrap()));
        assert_eq!(step("last-good"), Ok(Some(2)));
        assert_eq!(step("3"), Ok(Some(3)));
        assert_eq!(step("start"), Ok(None));
        assert_eq!(step("7").unwrap_err().exit, Exit::NotFound);
        assert_eq!(step("yesterday").unwrap_err().exit, Exit::Usage);
        let none = pb::RerunPlan { checkpoints: vec![checkpoint(3, false)], ..plan() };
        assert_eq!(chosen(&none, "last-good").unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn differences_in_results_refuse_the_start_unless_a_reason_is_given() {
        let table = Table::built_in().unwrap();
        let change = |path: &str, class: &str| pb::FactorChange {
            path: path.into(),
            old: Some("a".into()),
            new: Some("b".into()),
            class: class.into(),
        };
        let of = |changes: Vec<pb::FactorChange>, unknown: Vec<String>| pb::RerunPlan {
            differences: changes,
            unknown,
            ..plan()
        };
        let speed = of(vec![change("node/memory", "performance")], vec![]);
        assert_eq!(refuse_differences(&speed, None, &table), Ok(()));
        let results = of(vec![change("node/cpu/model", "result")], vec![]);
        let fail = refuse_differences(&results, None, &table).unwrap_err();
        assert!(
            fail.exit == Exit::ResultDiffers && fail.message.contains("CPU libraries choose their kernels"),
            "{}",
            fail.message
        );
        assert_eq!(refuse_differences(&results, Some("known"), &table), Ok(()));
        let unknown = of(vec![], vec!["the node".into()]);
        assert_eq!(refuse_differences(&unknown, None, &table).unwrap_err().exit, Exit::CannotKnow);
    }
}
