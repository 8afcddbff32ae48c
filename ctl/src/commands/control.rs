//! `freeze`, `thaw`, `kill`: act on a run and say what was proved.

use super::{Place, events};
use crate::{
    args::ControlArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, clean, explain::notes, json, print, runs},
};
use failsafe_core::{decision::Mode, record::Record};
use failsafe_proto::v1 as pb;
use std::time::Duration;
use tonic::Code;

/// How much longer than its own timeout the daemon may take to answer.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn control(place: &Place<'_>, command: pb::Command, args: &ControlArgs) -> Result<Exit, Fail> {
    let (answer, after) = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let answer = ask(&client, command, args).await?;
        let after = if command == pb::Command::Thaw { after_thaw(&client, &answer).await } else { None };
        Ok((answer, after))
    })?;
    if args.output.json() {
        print(&json::text(&json::control(&answer)))?;
    } else {
        let done = match command {
            pb::Command::Freeze => "frozen",
            pb::Command::Thaw => "thawed",
            pb::Command::Kill => "killed",
            pb::Command::Unspecified => "acted on",
        };
        print(&runs::control(&answer, &acted_on(&answer, &args.run), done, (Paint::stdout(), &place.zone)))?;
    }
    if let Some(after) = after {
        note!("failsafectl: warning: {}", after.text());
    }
    Ok(exit_of(answer.verdict()))
}

/// What the thaw leads to, where a rule of the incident makes that unexpected.
async fn after_thaw(client: &Client, answer: &pb::ControlResponse) -> Option<notes::AfterThaw> {
    let incident = match answer.incident.as_str() {
        "" => {
            client
                .runs()
                .get(pb::GetRequest { run: answer.run_id.clone(), ..Default::default() })
                .await
                .ok()?
                .into_inner()
                .incident
        }
        incident => incident.to_owned(),
    };
    if incident.is_empty() {
        return None;
    }
    let request = pb::WatchRequest { incident, kinds: vec!["decision".to_owned()], ..Default::default() };
    let decisions = tokio::time::timeout(GRACE, events::collect(client, request)).await.ok()?.ok()?;
    decisions.iter().find_map(|entry| match entry.record()? {
        Record::Decision { decision, .. } if decision.mode == Mode::Enforce => notes::after_thaw(decision),
        _ => None,
    })
}

pub(super) async fn ask(
    client: &Client,
    command: pb::Command,
    args: &ControlArgs,
) -> Result<pb::ControlResponse, Fail> {
    let request = pb::ControlRequest {
        run: args.run.clone(),
        command: command.into(),
        reason: args.reason.clone().unwrap_or_else(|| "dry run".to_owned()),
        dry_run: args.dry_run,
        timeout_ms: u32::try_from(args.timeout.as_millis()).unwrap_or(u32::MAX),
        request_id: args.request_id.clone().unwrap_or_default(),
    };
    // The daemon withdraws a command that has not begun when this passes.
    let mut request = tonic::Request::new(request);
    request.set_timeout(args.timeout + GRACE);
    let mut runs = client.runs();
    match tokio::time::timeout(args.timeout + GRACE, runs.control(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // The gRPC library has a timer of the same length, and may be first: it answers `cancelled`.
        Ok(Err(status)) if status.code() != Code::Cancelled => Err(status.into()),
        Ok(Err(_)) | Err(_) => Err(Fail::new(Exit::Timeout, "the daemon did not answer in time")
            .advise("the command may still be carried out; `failsafectl describe RUN` shows how it stands")),
    }
}

/// The run that the daemon acted on, as the daemon names it.
fn acted_on(answer: &pb::ControlResponse, asked: &str) -> String {
    if answer.run_name.is_empty() { clean(asked) } else { format!("{} {}", clean(&answer.run_name), answer.run_id) }
}

pub(super) fn exit_of(verdict: pb::Verdict) -> Exit {
    match verdict {
        pb::Verdict::Proved | pb::Verdict::DryRun => Exit::Done,
        pb::Verdict::Partial => Exit::Partial,
        pb::Verdict::Pending => Exit::Timeout,
        pb::Verdict::Failed | pb::Verdict::Unspecified => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_its_exit_code() {
        let code = |verdict| exit_of(verdict) as u8;
        assert_eq!(code(pb::Verdict::Proved), 0);
        assert_eq!(code(pb::Verdict::DryRun), 0);
        assert_eq!(code(pb::Verdict::Partial), 3);
        assert_eq!(code(pb::Verdict::Pending), 5);
        assert_eq!(code(pb::Verdict::Failed), 1);
        assert_eq!(code(pb::Verdict::Unspecified), 1, "no verdict is not success");
    }
}
