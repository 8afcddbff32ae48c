//! `doctor`: every probe, mount, library and permission.

use super::Place;
use crate::{
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, clean, json, print, table},
};
use failsafe_proto::v1 as pb;
use std::{collections::BTreeMap, fmt::Write};

pub(super) fn doctor(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().doctor(pb::DoctorRequest {}).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&json::doctor(&answer)) } else { page(&answer, Paint::stdout()) })?;
    Ok(exit_of(&answer))
}

fn exit_of(answer: &pb::DoctorResponse) -> Exit {
    let bad = |c: &pb::DoctorCheck| matches!(c.state(), pb::CheckState::Missing | pb::CheckState::Unspecified);
    if answer.checks.iter().any(bad) { Exit::Error } else { Exit::Done }
}

/// Names of checks that one group lists; `-o json` has all.
const NAMES: usize = 8;

/// Checks that have one cause: they are in the same state, and the same is to be done about them.
struct Group<'a> {
    state: pb::CheckState,
    advice: &'a str,
    checks: Vec<&'a pb::DoctorCheck>,
}

/// The checks that do not work, by cause. Those without advice stay alone.
fn groups(answer: &pb::DoctorResponse) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for check in answer.checks.iter().filter(|c| c.state() != pb::CheckState::Works) {
        let same =
            |g: &&mut Group<'_>| g.state == check.state() && g.advice == check.advice && !check.advice.is_empty();
        match groups.iter_mut().find(same) {
            Some(group) => group.checks.push(check),
            None => groups.push(Group { state: check.state(), advice: &check.advice, checks: vec![check] }),
        }
    }
    groups
}

fn page(answer: &pb::DoctorResponse, paint: Paint) -> String {
    let count = |state| answer.checks.iter().filter(|c| c.state() == state).count();
    let groups = groups(answer);
    let (alone, together): (Vec<&Group<'_>>, Vec<&Group<'_>>) = groups.iter().partition(|g| g.checks.len() == 1);
    let grouped = |c: &pb::DoctorCheck| together.iter().any(|g| g.state == c.state() && g.advice == c.advice);
    let rows = answer
        .checks
        .iter()
        .filter(|c| !grouped(c))
        .map(|c| [c.area.clone(), c.name.clone(), json::check(c.state()).to_owned(), c.detail.clone()]);
    let mut out = table::table(["AREA", "CHECK", "STATE", "DETAIL"], rows);
    out.push('\n');
    let painted = |state: pb::CheckState| {
        let word = json::check(state);
        if matches!(state, pb::CheckState::Degraded | pb::CheckState::NotProved) {
            paint.warn(word)
        } else {
            paint.bad(word)
        }
    };
    for group in alone.iter().filter(|g| !g.advice.is_empty()) {
        for c in &group.checks {
            let (area, name, advice) = (clean(&c.area), clean(&c.name), clean(&c.advice));
            let _ = writeln!(out, "{} {area} {name}: {advice}", painted(group.state));
        }
    }
    for group in together {
        let _ = write!(out, "{}", of_one_cause(group, &painted(group.state)));
    }
    let unproved = match count(pb::CheckState::NotProved) {
        0 => String::new(),
        unproved => format!(", {unproved} not proved"),
    };
    let _ = writeln!(
        out,
        "{} work, {} degraded, {} missing{unproved}",
        count(pb::CheckState::Works),
        count(pb::CheckState::Degraded),
        count(pb::CheckState::Missing)
    );
    out
}

fn of_one_cause(group: &Group<'_>, state: &str) -> String {
    let mut out = format!("{state}, {} checks of one cause: {}\n", group.checks.len(), clean(group.advice));
    let mut areas: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut details: Vec<&str> = Vec::new();
    for check in &group.checks {
        areas.entry(&check.area).or_default().push(&check.name);
        if !details.contains(&check.detail.as_str()) {
            details.push(&check.detail);
        }
    }
    for (area, names) in areas {
        let more = names.len().saturating_sub(NAMES);
        let more = if more > 0 { format!(" and {more} more (-o json lists them)") } else { String::new() };
        let first: Vec<String> = names.iter().take(NAMES).map(|name| clean(name)).collect();
        let _ = writeln!(out, "  {}: {}{more}", clean(area), first.join(", "));
    }
    if let Some(first) = details.first().filter(|detail| !detail.is_empty()) {
        let more = if details.len() > 1 { format!(" (and {} other texts)", details.len() - 1) } else { String::new() };
        let _ = writeln!(out, "  reason: {}{more}", clean(first));
    }
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
            advice: format!("do this about {state:?}"),
        };
        pb::DoctorResponse { checks: states.iter().map(check).collect() }
    }

    #[test]
    fn only_what_is_missing_is_an_error() {
        use pb::CheckState::{Degraded, Missing, NotProved, Unspecified, Works};
        assert_eq!(exit_of(&checks(&[Works, Degraded, NotProved])), Exit::Done);
        assert_eq!(exit_of(&checks(&[Works, Missing])), Exit::Error);
        assert_eq!(exit_of(&checks(&[Unspecified])), Exit::Error);
        insta::assert_snapshot!(page(&checks(&[Works, Degraded, Missing]), Paint::plain()));
    }

    #[test]
    fn what_is_not_proved_does_not_count_as_working() {
        let page = page(&checks(&[pb::CheckState::Works, pb::CheckState::NotProved]), Paint::plain());
        assert!(page.contains("not-proved ebpf NotProved: do this about NotProved"), "{page}");
        assert!(page.ends_with("1 work, 0 degraded, 0 missing, 1 not proved\n"), "{page}");
    }

    #[test]
    fn what_has_one_cause_is_one_entry() {
        let check = |name: String, detail: &str, advice: &str| pb::DoctorCheck {
            area: "ebpf".into(),
            name,
            state: pb::CheckState::Degraded.into(),
            detail: detail.into(),
            advice: advice.into(),
        };
        let mut checks: Vec<pb::DoctorCheck> =
            (0..60).map(|n| check(format!("lsm/{n}\u{1b}[2J"), "refused: EPERM", "boot with `bpf` in lsm=")).collect();
        checks.push(check("pins".into(), "no bpffs", "mount bpffs"));
        checks.extend(["a", "b"].map(|name| check(name.into(), "no advice", "")));
        let page = page(&pb::DoctorResponse { checks }, Paint::plain());
        insta::assert_snapshot!(page);
    }
}
