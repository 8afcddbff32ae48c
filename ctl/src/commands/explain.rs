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

/// The entries of the run, since its registration and its end belong on the page too.
async fn from_daemon(place: &Place<'_>, what: &str, wanted: Option<IncidentId>) -> Result<Vec<Logged>, Fail> {
    let client = Client::connect(place.socket).await?;
    let run = match wanted {
        Some(id) => {
            let request = pb::WatchRequest { incident: id.to_string(), ..Default::default() };
            let found = events::collect(&client, request).await?;
            found.iter().find_map(|entry| entry.run.clone()).ok_or_else(|| no_incident(what))?
        }
        None => client.runs().get(pb::GetRequest { run: what.to_owned() }).await?.into_inner().id,
    };
    events::collect(&client, pb::WatchRequest { run, ..Default::default() }).await
}

fn from_file(place: &Place<'_>, what: &str, wanted: Option<IncidentId>) -> Result<Vec<Logged>, Fail> {
    let run = match wanted {
        Some(id) => {
            let of_incident = Filter { incident: Some(id.to_string()), ..Filter::default() };
            let found = events::load(place, &of_incident)?;
            found.iter().find_map(|entry| entry.run.clone()).ok_or_else(|| no_incident(what))?
        }
        None => {
            let runs = events::load(place, &Filter { kinds: vec!["run".to_owned()], ..Filter::default() })?;
            entry::find_run(&runs, what)?.ok_or_else(|| events::no_run(what))?
        }
    };
    events::load(place, &Filter { run: Some(run), ..Filter::default() })
}

fn no_incident(what: &str) -> Fail {
    Fail::new(Exit::NotFound, format!("the log knows no incident `{}`", clean(what)))
        .advise("`failsafectl events` shows the incidents of every decision")
}
