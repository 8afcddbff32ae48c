//! `policy shadow`: policies that are judged live beside those in force, without effect.

use super::{Place, named::Asked};
use crate::{
    args::{Output, ShadowCommand},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, shadow},
};
use failsafe_proto::v1 as pb;
use std::path::Path;

pub(super) fn shadow(place: &Place<'_>, what: ShadowCommand) -> Result<Exit, Fail> {
    match what {
        ShadowCommand::Add { run, policy, output } => add(place, run, &policy, output),
        ShadowCommand::Remove { run, policy, output } => remove(place, run, policy, output),
        ShadowCommand::List(output) => list(place, output),
        ShadowCommand::Report { run, output } => report(place, run.unwrap_or_default(), output),
    }
}

fn add(place: &Place<'_>, run: String, policy: &Path, output: Output) -> Result<Exit, Fail> {
    let Asked { toml: policy_toml, file: policy_file, name: policy_name, .. } = Asked::of(policy)?;
    let request = pb::AddShadowRequest { run, policy_toml, policy_file, policy_name };
    let added = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.shadows().add(request).await?.into_inner())
    })?;
    print(&if output.json() {
        json::text(&shadow::one(&added))
    } else {
        let (name, run) = (shadow::named(added.policy.as_ref()), &added.run_name);
        clean(&format!(
            "{name} is judged beside the policy of {run} from now on; see `failsafectl policy shadow report`"
        )) + "\n"
    })?;
    Ok(Exit::Done)
}

fn remove(place: &Place<'_>, run: String, policy: String, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.shadows().remove(pb::RemoveShadowRequest { run, policy }).await?.into_inner())
    })?;
    let removed = answer.shadow.unwrap_or_default();
    print(&match (answer.found, output.json()) {
        (Some(found), true) => json::text(&shadow::group(&found)),
        (Some(found), false) => shadow::page(&found, &place.zone),
        (None, true) => json::text(&shadow::one(&removed)),
        (None, false) => shadow::given_up(&removed),
    })?;
    Ok(Exit::Done)
}

fn list(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.shadows().list(pb::ListShadowsRequest {}).await?.into_inner())
    })?;
    let all = &answer.shadows;
    print(&if output.json() {
        json::text(&all.iter().map(shadow::one).collect())
    } else {
        shadow::list(all, &place.zone)
    })?;
    Ok(Exit::Done)
}

fn report(place: &Place<'_>, run: String, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.shadows().report(pb::ShadowReportRequest { run }).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&shadow::groups(&answer)) } else { shadow::report(&answer, &place.zone) })?;
    Ok(if answer.groups.iter().any(shadow::differs) {
        Exit::Error
    } else if !answer.left_out.is_empty() || answer.groups.iter().any(|group| !shadow::is_whole(group)) {
        Exit::Partial
    } else {
        Exit::Done
    })
}
