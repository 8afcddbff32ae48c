//! `policy canary`: a candidate on a share of the new runs of a named policy.

use super::{Place, named::Asked};
use crate::{
    args::{CanaryCommand, CanaryDecideArgs, CanaryStartArgs, Output},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{canary, clean, json, print},
};
use failsafe_proto::v1 as pb;

pub(super) fn canary(place: &Place<'_>, what: CanaryCommand) -> Result<Exit, Fail> {
    match what {
        CanaryCommand::Start(args) => start(place, args),
        CanaryCommand::List(output) => list(place, output),
        CanaryCommand::Show { name, output } => show(place, &name, output),
        CanaryCommand::Promote { decide, force } => self::decide(place, decide, Some(force)),
        CanaryCommand::Withdraw(decide) => self::decide(place, decide, None),
    }
}

fn start(place: &Place<'_>, args: CanaryStartArgs) -> Result<Exit, Fail> {
    let CanaryStartArgs { name, policy, share, hold, runs_at_least, promote_if, withdraw_if, reason, output } = args;
    let Asked { toml: policy_toml, file: policy_file, name: policy_name, .. } = Asked::of(&policy)?;
    let request = pb::StartCanaryRequest {
        name,
        policy_toml,
        policy_file,
        policy_name,
        share_ppm: share,
        runs_at_least,
        hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX),
        promote_if: promote_if.iter().map(ToString::to_string).collect(),
        withdraw_if: withdraw_if.iter().map(ToString::to_string).collect(),
        reason,
    };
    let started = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.canaries().start(request).await?.into_inner())
    })?;
    one(place, &started, output)
}

fn all(place: &Place<'_>) -> Result<pb::ListCanariesResponse, Fail> {
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.canaries().list(pb::ListCanariesRequest {}).await?.into_inner())
    })
}

fn list(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = all(place)?;
    print(&if output.json() { json::text(&canary::values(&answer)) } else { canary::list(&answer) })?;
    Ok(if answer.problem.is_empty() { Exit::Done } else { Exit::Partial })
}

fn show(place: &Place<'_>, name: &str, output: Output) -> Result<Exit, Fail> {
    let answer = all(place)?;
    let found = answer.canaries.iter().find(|one| one.name == name);
    let found = found.ok_or_else(|| Fail::new(Exit::NotFound, format!("policy `{}` has no canary", clean(name))))?;
    one(place, found, output)
}

/// `promote`: with or without force; none: withdraw.
fn decide(place: &Place<'_>, args: CanaryDecideArgs, promote: Option<bool>) -> Result<Exit, Fail> {
    let CanaryDecideArgs { name, reason, output } = args;
    let request = pb::DecideCanaryRequest { name, reason, force: promote.unwrap_or_default() };
    let decided = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let mut canaries = client.canaries();
        let answer = match promote {
            Some(_) => canaries.promote(request).await?,
            None => canaries.withdraw(request).await?,
        };
        Ok(answer.into_inner())
    })?;
    one(place, &decided, output)?;
    Ok(if decided.unstored.is_empty() { Exit::Done } else { Exit::Partial })
}

fn one(place: &Place<'_>, one: &pb::Canary, output: Output) -> Result<Exit, Fail> {
    print(&if output.json() { json::text(&canary::value(one)) } else { canary::page(one, &place.zone) })?;
    Ok(Exit::Done)
}
