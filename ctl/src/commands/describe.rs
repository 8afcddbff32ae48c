//! `describe`: one run and the last that the log says of it; of an ended run also what ended it.

use super::{Place, egress, events, missing::Missing};
use crate::{
    args::RunRef,
    client::{Client, block_on},
    entry::Logged,
    exit::{Exit, Fail},
    incidents::{End, KINDS, briefs, end_of},
    render::{Paint, event, explain, json, print, runs, time},
};
use failsafe_core::record::Record;
use failsafe_proto::v1 as pb;

/// How many entries of the log are shown.
const LAST: usize = 8;
/// Decisions and outcomes in which the end of a run is looked for, the last ones.
const DECISIONS: u32 = 400;

pub(super) fn describe(place: &Place<'_>, args: &RunRef) -> Result<Exit, Fail> {
    let (run, entries, decisions, missing, sent) = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::GetRequest { metrics: true, ..Default::default() };
        let run = events::get_with(&client, &args.run, request).await?;
        let decisions = if run.state() == pb::RunState::Ended {
            let kinds = [&KINDS[..], &["gap"]].concat().into_iter().map(str::to_owned).collect();
            let request = pb::WatchRequest { run: run.id.clone(), kinds, tail: Some(DECISIONS), ..Default::default() };
            events::collect(&client, request).await?
        } else {
            Vec::new()
        };
        let missing = Missing::of_daemon(&client).await;
        if args.output.json() {
            return Ok((run, Vec::new(), decisions, missing, String::new()));
        }
        // Evidence is left out below; there is at most one of it for each decision.
        let tail = Some(2 * LAST as u32 + 8);
        let request = pb::WatchRequest { run: run.id.clone(), tail, ..Default::default() };
        let entries = events::collect(&client, request).await?;
        let sent = egress::brief(&client, &run.id).await?;
        Ok((run, entries, decisions, missing, sent))
    })?;
    let known = briefs(&decisions);
    let end = (run.state() == pb::RunState::Ended).then(|| end_of(&known));
    // A decision that is missing may be the one that killed it.
    let unknown = matches!(end, Some(End::Itself)) && lacks(&run, &decisions);
    if args.output.json() {
        let mut value = json::run(&run);
        if let Some(end) = &end {
            value["ended_by_failsafe"] = (!unknown).then(|| end.by_failsafe()).into();
            value["ended_incident"] = end.incident().map(|id| id.to_string()).into();
        }
        print(&json::text(&value))?;
        return Ok(Exit::Done);
    }
    let ended_by = match &end {
        Some(_) if unknown => "not known: the audit log does not have all that was decided about the run".to_owned(),
        Some(_) if rebooted(&entries) => "the end of the boot: the machine was restarted or lost power".to_owned(),
        Some(end) => ended_by(end),
        None => String::new(),
    };
    let mut page = runs::describe(&run, ended_by, &place.zone, time::now());
    if !sent.is_empty() {
        page.push_str(&format!("egress: {sent}\n"));
    }
    let telling: Vec<&Logged> =
        entries.iter().filter(|e| !matches!(e.record(), Some(Record::Evidence { .. }))).collect();
    let names = [(run.id.clone(), run.name.clone())].into();
    page.push_str("\nlast entries of the log\n");
    for entry in &telling[telling.len().saturating_sub(LAST)..] {
        page.push_str(&event::line(entry, &names, &place.zone, Paint::stdout()));
    }
    if telling.is_empty() {
        page.push_str("none: the audit log has no entry about the run\n");
    }
    print(&page)?;
    if unknown || telling.is_empty() {
        missing.warn();
    }
    Ok(Exit::Done)
}

/// Whether the log lacks decisions about an ended run, the last ones that the daemon counted, or what it has of the run is not verified.
fn lacks(run: &pb::Run, of_log: &[Logged]) -> bool {
    let number = |entry: &Logged| match entry.record()? {
        Record::Decision { decision, .. } => Some(decision.id.n),
        Record::Limited(limited) => Some(limited.last_decision),
        _ => None,
    };
    !run.unverified.is_empty() || of_log.iter().filter_map(number).max().unwrap_or(0) < run.decisions
}

/// Whether the log says that the run ended with its boot.
fn rebooted(entries: &[Logged]) -> bool {
    let reboot = |entry: &Logged| match entry.record() {
        Some(Record::RunEnded { unwatched: Some(unwatched), .. }) => unwatched.is_reboot(),
        _ => false,
    };
    entries.iter().any(reboot)
}

/// What ended the run, in words.
fn ended_by(end: &End<'_>) -> String {
    match end {
        End::Killed(decision) => format!("failsafe: {} ({})", explain::in_few_words(decision), decision.incident),
        End::WhileContained(brief) => format!(
            "not failsafe: it ended while it was contained ({}; {}), so somebody else ended it",
            explain::in_brief(brief),
            brief.id
        ),
        End::Itself => "not failsafe: its processes ended by themselves, or somebody else ended them".to_owned(),
    }
}
