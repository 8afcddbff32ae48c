//! `incident export`: gathers the parts, writes them in their one form, and checks the file as `incident verify` does.

use super::{
    super::{
        Place,
        file::{Part as NewFile, free},
        log::keys::{self, Known},
        replay::{Scratch, found::RunRecordings},
    },
    check::Checked,
    gather::{self, Gathered},
    parts::sha256,
};
use crate::{
    args::IncidentExportArgs,
    bundle::{
        Name, archive,
        manifest::{FORMAT, Manifest, Missing, Part, Producer, VERSION, sums},
    },
    client::{Client, block_on},
    entry::Logged,
    exit::{Exit, Fail},
    incident::Incident,
    render::{bundle::Verdict, clean, count, json, print, table, time},
};
use failsafe_core::{decision::IncidentId, replay::ENGINE};
use failsafe_journal::storage::ReadAt;
use failsafe_tlog::Checkpoint;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    time::{Duration, Instant},
};

/// How long the parts are gathered again while one of them may be ahead of another.
const SETTLES: Duration = Duration::from_secs(3);
/// How long to wait before they are gathered again, or the checkpoint is read again.
const AGAIN: Duration = Duration::from_millis(100);

pub(in crate::commands) fn export(place: &Place<'_>, args: &IncidentExportArgs) -> Result<Exit, Fail> {
    free(&args.output, args.force)?;
    let known = keys::known(place, None).ok();
    let fresh = statement(place, args)?;
    let wait_until = Instant::now() + if args.offline { Duration::ZERO } else { args.wait };
    let mut until = Instant::now() + SETTLES;
    loop {
        if wait(place, args.incident, wait_until)? {
            until = Instant::now() + SETTLES;
        }
        let scratch = Scratch::create()?;
        let run = incident_of(args.incident, &gather::entries(place, args.incident)?.0)?.run_id;
        let found = recordings(place, args.offline, &run, &scratch);
        let checkpoint = gather::checkpoint(place);
        let (entries, left_out) = gather::entries(place, args.incident)?;
        let incident = incident_of(args.incident, &entries)?;
        let mut parts = Gathered::default();
        let sections: Vec<_> = found.iter().flat_map(|found| &found.sources).map(|one| one.bytes.clone()).collect();
        parts.recordings(found, &incident, &entries);
        parts.policy(place, incident.opened_by().decision.policy, &sections);
        parts.log(place, checkpoint, &entries)?;
        parts.left_out(&left_out);
        parts.keys(place);
        // A run that has ended is not attested any more; what the daemon stored of it is.
        let stored =
            |why: &String| gather::stored(place, &incident, &entries).map_err(|stored| format!("{why}; {stored}"));
        parts.statement(&fresh.clone().or_else(|why| stored(&why)));

        let mut file = NewFile::create(&args.output)?;
        let manifest = manifest(&incident, &parts, time::now())
            .and_then(|manifest| write(&mut file.file, &parts, &manifest).map(|()| manifest))
            .map_err(|error| Fail::because(format!("cannot write {}", file.path.display()), &error))?;
        let checked = super::read(&file.path, known.as_ref())?;
        if args.offline || checked.findings.verdict() == Verdict::Proved || Instant::now() >= until {
            file.finish(&args.output, args.force)?;
            return report(args, &manifest, &checked, known.as_ref());
        }
        std::thread::sleep(AGAIN);
    }
}

fn incident_of(id: IncidentId, entries: &[Logged]) -> Result<Incident<'_>, Fail> {
    Incident::gather(id, entries).ok_or_else(|| super::super::events::no_incident(&id.to_string()))
}

/// A new signed statement of the run as it is now, or why there is none.
fn statement(place: &Place<'_>, args: &IncidentExportArgs) -> Result<Result<Vec<u8>, String>, Fail> {
    if args.offline {
        return Ok(Err("the daemon was not asked (--offline)".to_owned()));
    }
    let (entries, _) = gather::entries(place, args.incident)?;
    let incident = incident_of(args.incident, &entries)?;
    block_on(async {
        let client = Client::connect(place.daemon).await;
        let client = client
            .map_err(|fail| fail.advise("start the daemon, or export from the state folder alone with --offline"))?;
        Ok(gather::attest(&client, &incident).await)
    })
}

/// The recordings of the run: those that the daemon has, or those in the state folder.
fn recordings(place: &Place<'_>, offline: bool, run: &str, scratch: &Scratch) -> Result<RunRecordings, Fail> {
    if offline {
        return RunRecordings::at(&place.state_dir.join("runs").join(run));
    }
    let to = scratch.0.join("run.fsrec");
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        gather::fetch(&client, run, &to).await
    })
}

/// Waits for a checkpoint that covers the entries that there are now. Returns whether it had to wait.
fn wait(place: &Place<'_>, id: IncidentId, until: Instant) -> Result<bool, Fail> {
    let last = gather::entries(place, id)?.0.last().map_or(0, |entry| entry.index);
    let mut waits = false;
    loop {
        let checkpoint = gather::checkpoint(place).and_then(|note| Checkpoint::unverified(&note).ok());
        if checkpoint.is_some_and(|checkpoint| gather::covered(&checkpoint) > last) || Instant::now() >= until {
            return Ok(waits);
        }
        if !waits {
            note!("failsafectl: waiting for a signed checkpoint that covers entry {last} (audit_log.checkpoint)");
            waits = true;
        }
        std::thread::sleep(AGAIN);
    }
}

/// The list of the parts. It reads all of them.
pub(super) fn manifest(incident: &Incident<'_>, gathered: &Gathered, now_ns: i64) -> io::Result<Manifest> {
    let parts = gathered.parts.iter().map(|(name, content)| {
        let bytes = content.len()?;
        Ok(Part {
            name: name.to_string(),
            media_type: name.media_type().to_owned(),
            bytes,
            sha256: sha256(content.as_ref(), bytes)?,
            proved_by: proved_by(*name, incident, gathered),
        })
    });
    let missing = gathered.missing.iter();
    Ok(Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        incident: incident.id.to_string(),
        run: incident.run_id.clone(),
        exported_ns: u64::try_from(now_ns).unwrap_or(0),
        producer: Producer {
            name: "failsafectl".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: ENGINE,
        },
        parts: parts.collect::<io::Result<_>>()?,
        missing: missing.map(|(what, why)| Missing { what: what.to_string(), why: why.clone() }).collect(),
    })
}

/// What shows that a part is the node's.
fn proved_by(name: Name, incident: &Incident<'_>, gathered: &Gathered) -> Option<String> {
    let there = |name: Name| gathered.parts.contains_key(&name).then(|| name.to_string());
    match name {
        Name::Checkpoint | Name::Statement => Some("signature".to_owned()),
        Name::Policy => there(Name::Entry(incident.opened_by().entry.index)),
        Name::Entry(index) => there(Name::Proof(index)),
        Name::Proof(_) => there(Name::Checkpoint),
        // The entry with its hash, if the run has ended, and the decisions.
        Name::Recording(_) => Some("entries".to_owned()),
        Name::Manifest | Name::Keys | Name::Sums => None,
    }
}

/// Writes the file.
pub(super) fn write(to: &mut impl Write, gathered: &Gathered, manifest: &Manifest) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    let text = manifest.encode();
    let mut digests: BTreeMap<Name, (u64, String)> = gathered
        .parts
        .keys()
        .zip(&manifest.parts)
        .map(|(name, part)| (*name, (part.bytes, part.sha256.clone())))
        .collect();
    let manifest = gather::Bytes(text);
    let len = manifest.len()?;
    digests.insert(Name::Manifest, (len, sha256(&manifest, len)?));
    archive::add(&mut to, Name::Manifest, &manifest)?;
    for (name, content) in &gathered.parts {
        archive::add(&mut to, *name, content.as_ref())?;
    }
    archive::add(&mut to, Name::Sums, &gather::Bytes(sums(&digests).into_bytes()))?;
    archive::finish(&mut to)?;
    to.flush()
}

fn report(
    args: &IncidentExportArgs,
    manifest: &Manifest,
    checked: &Checked,
    known: Option<&Known>,
) -> Result<Exit, Fail> {
    let bytes = args.output.metadata().map(|file| file.len()).unwrap_or(0);
    let number =
        |is: fn(&Name) -> bool| manifest.parts.iter().filter_map(|part| Name::parse(&part.name)).filter(is).count();
    let entries = number(|name| matches!(name, Name::Entry(_)));
    let recordings = number(|name| matches!(name, Name::Recording(_)));
    let findings = &checked.findings;
    let verdict = findings.verdict();
    if args.json {
        print(&json::text(&json!({
            "file": args.output,
            "bytes": bytes,
            "incident": manifest.incident,
            "entries": entries,
            "recordings": recordings,
            "missing": manifest.missing,
            "problems": findings.problems,
            "complete": verdict == Verdict::Proved,
        })))?;
    } else {
        let recordings = count(recordings, "recording", "recordings");
        let mut text = format!(
            "{} ({}, {} of the log, {recordings})\n",
            clean(&args.output.display().to_string()),
            table::bytes(bytes),
            count(entries, "entry", "entries")
        );
        for Missing { what, why } in &manifest.missing {
            text.push_str(&format!("  missing  {}: {}\n", clean(what), clean(why)));
        }
        print(&text)?;
    }
    for problem in &findings.problems {
        note!("failsafectl: the file contradicts itself: {}", clean(problem));
    }
    Ok(match verdict {
        Verdict::Proved => Exit::Done,
        Verdict::NotValid => Exit::Tampered,
        Verdict::InPart | Verdict::NotProved | Verdict::KeyNotChecked => {
            if known.is_none() {
                note!("failsafectl: the node's public keys cannot be read: the file was not checked");
            }
            for text in &findings.lacking {
                note!("failsafectl: not proved: {}", clean(text));
            }
            Exit::Partial
        }
    })
}
