//! `describe`: one run and the last that the log says of it.

use super::{Place, events};
use crate::{
    args::RunRef,
    client::{Client, block_on},
    entry::Logged,
    exit::{Exit, Fail},
    render::{Paint, event, json, print, runs, time},
};
use failsafe_core::record::Record;
use failsafe_proto::v1 as pb;

/// How many entries of the log are shown.
const LAST: usize = 8;

pub(super) fn describe(place: &Place<'_>, args: &RunRef) -> Result<Exit, Fail> {
    let (run, entries) = block_on(async {
        let client = Client::connect(place.socket).await?;
        let run = client.runs().get(pb::GetRequest { run: args.run.clone() }).await?.into_inner();
        if args.output.json() {
            return Ok((run, Vec::new()));
        }
        // Evidence is left out below; there is at most one of it for each decision.
        let tail = Some(2 * LAST as u32 + 8);
        let request = pb::WatchRequest { run: run.id.clone(), tail, ..Default::default() };
        let entries = events::collect(&client, request).await?;
        Ok((run, entries))
    })?;
    if args.output.json() {
        print(&json::text(&json::run(&run)))?;
        return Ok(Exit::Done);
    }
    let mut page = runs::describe(&run, &place.zone, time::now());
    let telling: Vec<&Logged> =
        entries.iter().filter(|e| !matches!(e.record(), Some(Record::Evidence { .. }))).collect();
    let names = [(run.id.clone(), run.name.clone())].into();
    page.push_str("\nlast entries of the log\n");
    for entry in &telling[telling.len().saturating_sub(LAST)..] {
        page.push_str(&event::line(entry, &names, &place.zone, Paint::stdout()));
    }
    print(&page)?;
    Ok(Exit::Done)
}
