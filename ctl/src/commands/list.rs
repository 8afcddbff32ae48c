//! `list`, `get runs`.

use super::Place;
use crate::{
    args::ListArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{json, print, runs, time},
};
use failsafe_proto::v1 as pb;

pub(super) fn list(place: &Place<'_>, args: &ListArgs) -> Result<Exit, Fail> {
    let runs = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::ListRequest { all: args.all, selector: args.selector.clone(), ..Default::default() };
        Ok(client.runs().list(request).await?.into_inner().runs)
    })?;
    if args.output.json() {
        print(&json::text(&runs.iter().map(json::run).collect()))?;
    } else if runs.is_empty() {
        let with = if args.selector.is_empty() { "" } else { " with these labels" };
        eprintln!("no {}runs{with}", if args.all { "" } else { "live " });
    } else {
        print(&runs::list(&runs, args.output.wide(), time::now()))?;
    }
    Ok(Exit::Done)
}
