//! `policy replay`: recorded inputs of any number of runs, judged by another policy.
//!
//! Invariant: what a recording does not contain is reported as not recorded, and never counts as "no decision".

use super::{Scratch, Verdicts, events, export, found::RunRecordings, local, read_policy, recording::Recording};
use crate::{
    args::PolicyReplayArgs,
    client::{Client, block_on},
    commands::{Place, file_name},
    exit::{Exit, Fail},
    render::{
        json, print,
        replayed::{self, Compared, Lack, OfRun},
    },
};
use failsafe_core::{
    Input, Kind, Policy,
    replay::{Compute, ENGINE, Recorded, replay as feed},
};
use failsafe_journal::RecordingEnd;
use failsafe_matchers::recorded::{never_came, unrecorded};
use indicatif::{ProgressBar, ProgressStyle};
use std::{collections::BTreeSet, path::Path};

/// So many inputs between two updates of the progress.
const STEP: u64 = 20_000;

pub(in crate::commands) fn replay(place: &Place<'_>, args: &PolicyReplayArgs) -> Result<Exit, Fail> {
    let (_, policy) = read_policy(&args.policy)?;
    // It draws nothing where stderr is no terminal.
    let bar = ProgressBar::new(u64::try_from(args.recordings.len()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("replaying {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    let (mut all, mut runs) = (Vec::new(), Vec::new());
    for what in &args.recordings {
        bar.set_message(what.clone());
        let (recordings, run) = of(place, what, &policy, &bar)?;
        all.extend(recordings);
        runs.push(run);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let file = file_name(&args.policy);
    print(&if args.output.json() {
        json::text(&replayed::json(&file, &policy, &all, &runs))
    } else {
        replayed::text(&file, &policy, &all, &runs)
    })?;
    Ok(if all.iter().any(Compared::differs) {
        Exit::Error
    } else if all.iter().any(|one| !one.is_whole()) {
        Exit::Partial
    } else {
        Exit::Done
    })
}

/// The recordings of a file, a folder, or a run of this node.
fn of(place: &Place<'_>, what: &str, policy: &Policy, bar: &ProgressBar) -> Result<(Vec<Compared>, OfRun), Fail> {
    // Kept until its files are read.
    let mut _scratch = None;
    let file = match local(what) {
        Some(file) => file,
        None => {
            let folder = Scratch::create()?;
            let file = folder.0.join("run.fsrec");
            block_on(async {
                let client = Client::connect(place.daemon).await?;
                let run = events::get(&client, what).await?.id;
                export::fetch(&client, &run, &file, false).await.map(drop)
            })?;
            _scratch = Some(folder);
            file
        }
    };
    of_file(what, &file, policy, bar)
}

fn of_file(what: &str, file: &Path, policy: &Policy, bar: &ProgressBar) -> Result<(Vec<Compared>, OfRun), Fail> {
    let RunRecordings { sources, lost, .. } = RunRecordings::at(file)?;
    let (mut all, mut run) = (Vec::new(), None);
    for source in sources {
        let recording = Recording::open(source)?;
        let of = run.get_or_insert_with(|| OfRun {
            name: recording.run().name.clone(),
            id: recording.run().id.to_string(),
            incomplete: !lost.is_empty(),
            compute: Compute::default(),
        });
        if of.id != recording.run().id.to_string() {
            let message =
                format!("{}: it is a recording of run {}, not of {}", recording.file(), recording.run().id, of.id);
            return Err(Fail::new(Exit::Tampered, message));
        }
        all.push(one(recording, policy, bar, &mut of.compute)?);
    }
    let (Some(first), Some(run)) = (all.first_mut(), run) else {
        let why: Vec<String> = lost.iter().map(|lost| format!("{}: {}", lost.name, lost.why)).collect();
        return Err(Fail::new(Exit::Error, format!("{what}: no recording can be read\n{}", why.join("\n"))));
    };
    first.lacks.extend(lost.iter().map(|lost| Lack { rule: None, what: format!("{}: {}", lost.name, lost.why) }));
    Ok((all, run))
}

fn one(mut recording: Recording, policy: &Policy, bar: &ProgressBar, compute: &mut Compute) -> Result<Compared, Fail> {
    let mut verdicts = Verdicts::by(policy);
    let mut came: BTreeSet<Kind> = BTreeSet::new();
    let mut numbers: BTreeSet<String> = BTreeSet::new();
    let (mut inputs, name) = (0u64, recording.file().to_owned());
    let judged = (&mut recording).filter_map(|entry| match entry {
        Ok(entry) => {
            if let Recorded::Input(input) = &entry {
                inputs += 1;
                compute.input(input);
                if inputs.is_multiple_of(STEP) {
                    bar.set_message(format!("{name}: {inputs} inputs"));
                }
                if let Input::Signal(signal) = input
                    && !came.contains(&signal.kind)
                {
                    came.insert(signal.kind.clone());
                }
                if let Input::Manifest { values, .. } = input {
                    numbers.extend(values.keys().cloned());
                }
            }
            verdicts.judge(entry).map(Ok)
        }
        Err(fail) => Some(Err::<_, Fail>(fail)),
    });
    // What another policy would do now is asked of this program's engine.
    let replay = feed(policy.clone(), ENGINE, judged)?;
    compute.replayed(&replay);
    let lacks = unrecorded(recording.policy(), policy).into_iter().chain(never_came(policy, &came));
    let mut lacks: Vec<Lack> = lacks.map(|lack| Lack { rule: lack.rule, what: lack.what }).collect();
    for rule in &policy.rules {
        let missing = rule.when.manifest_keys().into_iter().filter(|key| !numbers.contains(*key));
        lacks.extend(missing.map(|key| Lack {
            rule: Some(rule.id.clone()),
            what: format!("{key} of the run's manifest: the recording has no such number"),
        }));
    }
    match recording.end() {
        RecordingEnd::Finished | RecordingEnd::Open => {}
        _ => lacks.push(Lack { rule: None, what: "the recording is cut off: what came after its end".to_owned() }),
    }
    lacks.extend(
        verdicts.counts().kept_lines(recording.policy(), policy).into_iter().map(|what| Lack { rule: None, what }),
    );
    let run = recording.run();
    Ok(Compared::new(
        (recording.file().to_owned(), run.name.clone(), run.id.to_string()),
        recording.policy(),
        run.registered,
        replay,
        lacks,
    ))
}

#[cfg(test)]
mod tests;
