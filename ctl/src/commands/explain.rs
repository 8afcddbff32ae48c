//! `explain`: the page of one incident.

use super::{Place, events};
use crate::{
    args::ExplainArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    incident::Incident,
    render::{Paint, clean, explain, json, print},
};
use failsafe_core::decision::IncidentId;
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;

pub(super) fn explain(place: &Place<'_>, args: &ExplainArgs) -> Result<Exit, Fail> {
    let wanted = args.what.parse::<IncidentId>().ok();
    let entries = if args.offline {
        from_file(place, &args.what, wanted)?
    } else {
        block_on(from_daemon(place, &args.what, wanted))?
    };
    let Some(id) = wanted.or_else(|| Incident::latest(&entries)) else {
        return Err(Fail::new(Exit::NotFound, format!("run `{}` has had no incident", clean(&args.what))));
    };
    let incident = Incident::gather(id, &entries).ok_or_else(|| no_incident(&args.what))?;
    if args.output.json() {
        print(&json::text(&json::incident(&incident)))?;
    } else {
        print(&explain::page(&incident, &place.zone, Paint::stdout()))?;
    }
    Ok(Exit::Done)
}

/// What the page needs beside the incident's own entries: beginning and end of the run, and commands on it.
const AROUND: [&str; 2] = ["run", "control"];

/// Entries of the incident, and those of its run that belong on the page, in the order of the log. Nothing else is read.
async fn from_daemon(place: &Place<'_>, what: &str, wanted: Option<IncidentId>) -> Result<Vec<Logged>, Fail> {
    let client = Client::connect(place.socket).await?;
    let run = match wanted {
        Some(_) => None,
        None => Some(client.runs().get(pb::GetRequest { run: what.to_owned() }).await?.into_inner().id),
    };
    let id = match (wanted, &run) {
        (Some(id), _) => id,
        (None, Some(run)) => {
            let kinds = vec!["decision".to_owned()];
            let last = pb::WatchRequest { run: run.clone(), kinds, tail: Some(1), ..Default::default() };
            match Incident::latest(&events::collect(&client, last).await?) {
                Some(id) => id,
                None => return Ok(Vec::new()),
            }
        }
        (None, None) => return Ok(Vec::new()),
    };
    let request = pb::WatchRequest { incident: id.to_string(), ..Default::default() };
    let found = events::collect(&client, request).await?;
    let run = found.iter().find_map(|entry| entry.run.clone()).or(run).ok_or_else(|| no_incident(what))?;
    let kinds = AROUND.map(str::to_owned).to_vec();
    let around = events::collect(&client, pb::WatchRequest { run, kinds, ..Default::default() }).await?;
    Ok(merged(found, around))
}

fn from_file(place: &Place<'_>, what: &str, wanted: Option<IncidentId>) -> Result<Vec<Logged>, Fail> {
    let id = match wanted {
        Some(id) => id,
        None => {
            let runs = events::load(place, &Filter { kinds: vec!["run".to_owned()], ..Filter::default() })?;
            let run = entry::find_run(&runs, what)?.ok_or_else(|| events::no_run(what))?;
            let filter = Filter { run: Some(run), kinds: vec!["decision".to_owned()], ..Filter::default() };
            match Incident::latest(&events::last(place, filter, 1)?) {
                Some(id) => id,
                None => return Ok(Vec::new()),
            }
        }
    };
    let found = events::load(place, &Filter { incident: Some(id.to_string()), ..Filter::default() })?;
    let run = found.iter().find_map(|entry| entry.run.clone()).ok_or_else(|| no_incident(what))?;
    let around = Filter { run: Some(run), kinds: AROUND.map(str::to_owned).to_vec(), ..Filter::default() };
    Ok(merged(found, events::load(place, &around)?))
}

fn merged(mut entries: Vec<Logged>, others: Vec<Logged>) -> Vec<Logged> {
    entries.extend(others);
    entries.sort_by_key(|entry| entry.index);
    entries.dedup_by_key(|entry| entry.index);
    entries
}

fn no_incident(what: &str) -> Fail {
    Fail::new(Exit::NotFound, format!("the log knows no incident `{}`", clean(what)))
        .advise("`failsafectl events` shows the incidents of every decision")
}
