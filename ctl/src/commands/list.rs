//! `list`, `get runs`.

use super::Place;
use crate::{
    args::ListArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, json, print, runs, time},
};
use failsafe_proto::v1 as pb;

pub(super) fn list(place: &Place<'_>, args: &ListArgs) -> Result<Exit, Fail> {
    if args.watch {
        return watch(place, args);
    }
    let runs = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::ListRequest { all: args.all, selector: args.selector.clone(), ..Default::default() };
        Ok(client.runs().list(request).await?.into_inner().runs)
    })?;
    if args.output.json() {
        print(&json::text(&runs.iter().map(json::run).collect()))?;
    } else if runs.is_empty() {
        let with = if args.selector.is_empty() { "" } else { " with these labels" };
        note!("no {}runs{with}", if args.all { "" } else { "live " });
    } else {
        print(&runs::list(&runs, args.output.wide(), time::now()))?;
    }
    Ok(Exit::Done)
}

fn watch(place: &Place<'_>, args: &ListArgs) -> Result<Exit, Fail> {
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::WatchRunsRequest { revision: args.since, follow: true, selector: args.selector.clone() };
        let mut changes = client.runs().watch_runs(request).await?.into_inner();
        let mut begun = false;
        while let Some(change) = changes.message().await? {
            // For people, silence goes on without revisions to go on from.
            let is_mark = change.run.is_none() && std::mem::replace(&mut begun, true) && !change.missed;
            if is_mark && !args.output.json() {
                continue;
            }
            // One line each, so that a program can read them as they come.
            print(&match args.output.json() {
                true => format!("{}\n", json::run_change(&change)),
                false => runs::change(&change, Paint::stdout()),
            })?;
        }
        Ok(Exit::Done)
    })
}
