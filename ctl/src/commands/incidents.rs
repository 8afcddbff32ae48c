//! `incidents`: those of all runs or of one, from the audit log.

use super::{Place, events, missing::Missing, offline::Offline};
use crate::{
    args::IncidentsArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    incidents::{KINDS, briefs},
    render::{event::Names, incidents, json, print},
};
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;
use std::collections::BTreeSet;

pub(super) fn incidents(place: &Place<'_>, args: &IncidentsArgs) -> Result<Exit, Fail> {
    let since = events::instant(place, "--since", args.since.as_deref())?;
    let log = args.source.offline().then(|| Offline::new(place, &args.source));
    let (entries, names, missing) = match &log {
        Some(log) => from_file(log, args, since)?,
        None => block_on(from_daemon(place, args, since))?,
    };
    let all = briefs(&entries);
    if args.output.json() {
        print(&json::text(&incidents::json(&all, &names)))?;
    } else if all.is_empty() {
        note!("no incidents in the audit log");
    } else {
        print(&incidents::table(&all, &names, &place.zone))?;
    }
    missing.warn();
    Ok(log.map_or(Exit::Done, |log| log.done()))
}

async fn from_daemon(
    place: &Place<'_>,
    args: &IncidentsArgs,
    since: Option<u64>,
) -> Result<(Vec<Logged>, Names, Missing), Fail> {
    let client = Client::connect(place.daemon).await?;
    let known = client.runs().list(pb::ListRequest { all: true, ..Default::default() }).await;
    let known = known.map(|answer| answer.into_inner().runs).unwrap_or_default();
    let names = known.into_iter().map(|run| (run.id, run.name)).collect();
    let run = match &args.run {
        Some(run) => {
            client.runs().get(pb::GetRequest { run: run.clone(), ..Default::default() }).await?.into_inner().id
        }
        None => String::new(),
    };
    let request = pb::WatchRequest {
        run,
        kinds: KINDS.map(str::to_owned).to_vec(),
        since_ns: events::bound(since),
        ..Default::default()
    };
    let mut entries = events::collect(&client, request).await?;
    if since.is_some() {
        // One that has gone on since then may have begun before.
        let mut whole = Vec::new();
        for incident in ids(&entries) {
            let kinds = KINDS.map(str::to_owned).to_vec();
            whole.extend(events::collect(&client, pb::WatchRequest { incident, kinds, ..Default::default() }).await?);
        }
        entries = whole;
    }
    Ok((entry::in_order(entries), names, Missing::of_daemon(&client).await))
}

fn from_file(
    log: &Offline,
    args: &IncidentsArgs,
    since_ns: Option<u64>,
) -> Result<(Vec<Logged>, Names, Missing), Fail> {
    let runs = log.load(Filter { kinds: vec!["run".to_owned()], ..Filter::default() })?;
    let run = match &args.run {
        Some(reference) => Some(entry::find_run(&runs, reference)?.ok_or_else(|| events::no_run(reference))?),
        None => None,
    };
    let names = runs.iter().filter_map(events::name_of).collect();
    let kinds = || KINDS.map(str::to_owned).to_vec();
    let mut entries = log.load(Filter { run, kinds: kinds(), since_ns, ..Filter::default() })?;
    if since_ns.is_some() {
        let mut whole = Vec::new();
        for incident in ids(&entries) {
            whole.extend(log.load(Filter { incident: Some(incident), kinds: kinds(), ..Filter::default() })?);
        }
        entries = whole;
    }
    Ok((entry::in_order(entries), names, log.missing()?))
}

fn ids(entries: &[Logged]) -> BTreeSet<String> {
    entries.iter().filter_map(|entry| entry.incident.clone()).collect()
}
