//! `mode`: whether failsafe acts on the runs of this node.

use super::Place;
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, time},
};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn show(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let state = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().status(pb::StatusRequest {}).await?.into_inner().mode.unwrap_or_default())
    })?;
    print(&if output.json() { json::text(&value(&state)) } else { line(&state, &place.zone) })?;
    Ok(Exit::Done)
}

/// Gives an order to observe for this time; none ends the order that holds.
pub(super) fn set(place: &Place<'_>, length: Option<Duration>, reason: &str, output: Output) -> Result<Exit, Fail> {
    let mode = if length.is_some() { pb::NodeMode::Observe } else { pb::NodeMode::Enforce };
    let for_ms = length.map_or(0, |length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    let request = pb::SetModeRequest { mode: mode.into(), for_ms, reason: reason.to_owned() };
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().set_mode(request).await?.into_inner())
    })?;
    let state = answer.mode.clone().unwrap_or_default();
    if output.json() {
        let mut out = value(&state);
        out["runs"] = json!(answer.runs);
        out["failed"] = json!(answer.failed);
        print(&json::text(&out))?;
    } else {
        let mut out = line(&state, &place.zone);
        out.push_str(&format!("{} live runs changed\n", answer.runs));
        for why in &answer.failed {
            out.push_str(&format!("NOT CHANGED: {}\n", clean(why)));
        }
        if mode == pb::NodeMode::Enforce && state.mode() == pb::NodeMode::Observe {
            out.push_str(
                "the configuration says `mode = \"observe\"`: change it in failsafed.toml and restart failsafed\n",
            );
        }
        print(&out)?;
    }
    let as_asked = state.mode() == mode && answer.failed.is_empty();
    Ok(if as_asked { Exit::Done } else { Exit::Partial })
}

/// The mode, in one line and one for each run that the kernel has otherwise.
pub(super) fn line(state: &pb::ModeState, zone: &TimeZone) -> String {
    let of = |mode| if mode == pb::NodeMode::Observe { "observe" } else { "enforce" };
    let why = match state.until_ns {
        0 => "as the configuration says".to_owned(),
        until => format!("until {}: {}", time::wall(i128::from(until), zone), clean(&state.reason)),
    };
    let mut out = format!("{}, {why}\n", of(state.mode()));
    for run in &state.behind {
        out.push_str(&format!("KERNEL NOT THERE YET: {}\n", clean(run)));
    }
    out
}

fn value(state: &pb::ModeState) -> Value {
    let of = |mode| if mode == pb::NodeMode::Observe { "observe" } else { "enforce" };
    json!({
        "mode": of(state.mode()),
        "configured": of(state.configured()),
        "until_ns": state.until_ns,
        "reason": state.reason,
        "behind": state.behind,
    })
}
