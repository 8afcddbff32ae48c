//! `egress`: what a run sent, and where.

use super::Place;
use crate::{
    args::RunRef,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, egress as render, json, print},
};
use failsafe_core::egress::Account;
use failsafe_proto::v1 as pb;
use tonic::Code;

pub(super) fn egress(place: &Place<'_>, args: &RunRef) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let run = super::events::get(&client, &args.run).await?;
        let request = pb::GetEgressRequest { run: run.id };
        Ok(client.attestation().get_egress(request).await?.into_inner())
    })?;
    let account = of_answer(&answer)?;
    print(&if args.output.json() {
        let mut value = render::json(&account);
        value["run_id"] = answer.run_id.clone().into();
        value["run_name"] = answer.run_name.clone().into();
        value["ended"] = answer.ended.into();
        json::text(&value)
    } else {
        let when = if answer.ended { "in its whole life" } else { "up to now" };
        format!("run {} {}, {when}\n{}", clean(&answer.run_name), answer.run_id, render::page(&account))
    })?;
    Ok(Exit::Done)
}

/// The account of a run in one line; empty where there is none.
pub(super) async fn brief(client: &Client, run: &str) -> Result<String, Fail> {
    match client.attestation().get_egress(pb::GetEgressRequest { run: run.to_owned() }).await {
        Ok(answer) => Ok(render::brief(&of_answer(&answer.into_inner())?)),
        // An older daemon, a guarded run, or a run without an account.
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::FailedPrecondition | Code::NotFound) => {
            Ok(String::new())
        }
        // A remote caller of an older daemon. The rest of the page is shown.
        Err(status) if status.code() == Code::PermissionDenied => Ok("not shown to you by this node".into()),
        Err(status) => Err(status.into()),
    }
}

fn of_answer(answer: &pb::GetEgressResponse) -> Result<Account, Fail> {
    let account = answer.account.as_ref().and_then(render::of_message);
    account.ok_or_else(|| Fail::new(Exit::Error, "the daemon sent a broken account"))
}
