//! `doctor`: every probe, mount, library and permission.

use super::Place;
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, clean, json, print, table},
};
use failsafe_proto::v1 as pb;
use std::fmt::Write;

pub(super) fn doctor(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.socket).await?;
        Ok(client.node().doctor(pb::DoctorRequest {}).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&json::doctor(&answer)) } else { page(&answer, Paint::stdout()) })?;
    Ok(exit_of(&answer))
}

fn exit_of(answer: &pb::DoctorResponse) -> Exit {
    let bad = |c: &pb::DoctorCheck| matches!(c.state(), pb::CheckState::Missing | pb::CheckState::Unspecified);
    if answer.checks.iter().any(bad) { Exit::Error } else { Exit::Done }
}

fn page(answer: &pb::DoctorResponse, paint: Paint) -> String {
    let count = |state| answer.checks.iter().filter(|c| c.state() == state).count();
    let rows = answer
        .checks
        .iter()
        .map(|c| [c.area.clone(), c.name.clone(), json::check(c.state()).to_owned(), c.detail.clone()]);
    let mut out = table::table(["AREA", "CHECK", "STATE", "DETAIL"], rows);
    out.push('\n');
    for c in answer.checks.iter().filter(|c| c.state() != pb::CheckState::Works && !c.advice.is_empty()) {
        let state = json::check(c.state());
        let state = if c.state() == pb::CheckState::Degraded { paint.warn(state) } else { paint.bad(state) };
        let _ = writeln!(out, "{state} {} {}: {}", clean(&c.area), clean(&c.name), clean(&c.advice));
    }
    let _ = writeln!(
        out,
        "{} work, {} degraded, {} missing",
        count(pb::CheckState::Works),
        count(pb::CheckState::Degraded),
        count(pb::CheckState::Missing)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(states: &[pb::CheckState]) -> pb::DoctorResponse {
        let check = |state: &pb::CheckState| pb::DoctorCheck {
            area: "ebpf".into(),
            name: format!("{state:?}"),
            state: (*state).into(),
            detail: "what".into(),
            advice: "do this".into(),
        };
        pb::DoctorResponse { checks: states.iter().map(check).collect() }
    }

    #[test]
    fn only_what_is_missing_is_an_error() {
        use pb::CheckState::{Degraded, Missing, Unspecified, Works};
        assert_eq!(exit_of(&checks(&[Works, Degraded])), Exit::Done);
        assert_eq!(exit_of(&checks(&[Works, Missing])), Exit::Error);
        assert_eq!(exit_of(&checks(&[Unspecified])), Exit::Error);
        insta::assert_snapshot!(page(&checks(&[Works, Degraded, Missing]), Paint::plain()));
    }
}
