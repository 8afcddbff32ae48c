//! `drill`: the node stops a run of its own, as a proof that it can.

use super::Place;
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{drill, json, print, time},
};
use failsafe_proto::v1 as pb;

pub(super) fn now(place: &Place<'_>, reason: &str, output: Output) -> Result<Exit, Fail> {
    let request = pb::RunDrillRequest { reason: reason.to_owned() };
    let result = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.drills().run(request).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&drill::value(&result)) } else { drill::page(&result, &place.zone) })?;
    Ok(match result.proof() {
        pb::DrillProof::Proved => Exit::Done,
        pb::DrillProof::Unproved | pb::DrillProof::NotDone => Exit::Partial,
        pb::DrillProof::Failed | pb::DrillProof::Unspecified => Exit::Error,
    })
}

pub(super) fn status(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let state = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.drills().get(pb::GetDrillsRequest {}).await?.into_inner())
    })?;
    print(&if output.json() {
        json::text(&drill::state(&state))
    } else {
        drill::status(&state, time::now(), &place.zone)
    })?;
    Ok(Exit::Done)
}
