//! `explain`: the page of one incident.

use super::{Place, events, missing::Missing, offline::Offline};
use crate::{
    args::ExplainArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    incident::Incident,
    incidents::{KINDS, briefs, first_cause},
    render::{
        Paint, clean, count,
        explain::{self, May},
        json, print,
    },
};
use failsafe_core::decision::IncidentId;
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;

/// What the page needs beside the incident's own entries: beginning and end of the run, and commands on it.
const AROUND: [&str; 2] = ["run", "control"];
/// Entries of the run that are read at most to find its incidents, the last ones.
const MOST: u32 = 4_000;

/// What was read.
#[derive(Default)]
struct IncidentEntries {
    /// Decisions of all incidents of the run.
    decisions: Vec<Logged>,
    /// The incident's own entries and those around it; empty where there is no incident.
    entries: Vec<Logged>,
    incident: Option<IncidentId>,
    may: May,
    /// The kernel denies what leaves the run now; false where no daemon was asked.
    blocked: bool,
    /// What of the log is missing.
    missing: Missing,
    /// Decisions about the run as the daemon counted them, whether or not the log has them.
    counted: u32,
}

pub(super) fn explain(place: &Place<'_>, args: &ExplainArgs) -> Result<Exit, Fail> {
    let wanted = args.what.parse::<IncidentId>().ok();
    let log = args.source.offline().then(|| Offline::new(place, &args.source));
    let found = match &log {
        Some(log) => from_file(log, args, wanted)?,
        None => block_on(from_daemon(place, &args.what, wanted))?,
    };
    let done = || log.as_ref().map_or(Exit::Done, Offline::done);
    let Some(id) = found.incident else {
        done();
        return Err(nothing_found(&clean(&args.what), &found));
    };
    found.missing.warn();
    let incident = Incident::gather(id, &found.entries).ok_or_else(|| events::no_incident(&args.what))?;
    let others = briefs(&found.decisions);
    if args.output.json() {
        let mut value = json::incident(&incident);
        let others = others.iter().filter(|other| other.id != id);
        value["other_incidents"] = others.map(|other| other.id.to_string()).collect();
        print(&json::text(&value))?;
        return Ok(done());
    }
    let page = explain::Page {
        incident: &incident,
        others: &others,
        may: found.may,
        blocked: found.blocked,
        zone: &place.zone,
        paint: Paint::stdout(),
    };
    print(&if args.full { page.full() } else { page.screen() })?;
    Ok(done())
}

/// The log has no decision about the run: because there was none, or because entries are missing.
fn nothing_found(run: &str, found: &IncidentEntries) -> Fail {
    let fail = |message: String| Fail::new(Exit::NotFound, message);
    if found.counted == 0 && found.missing.is_empty() {
        return fail(format!("run `{run}` has no incident: nothing was decided about it"));
    }
    // Nobody but an administrator sees that all there is was read.
    if found.counted > 0 && found.missing.is_empty() && !found.may.kill {
        let what = count(found.counted as usize, "decision", "decisions");
        return fail(format!("{what} about run `{run}`: no entry about that is among those that you may read"))
            .advise(format!("root and the administrators' group may read all entries: `failsafectl explain {run}`"));
    }
    let lost = match found.counted {
        0 => format!("the audit log has no decision about run `{run}`, and entries of the log are missing"),
        1 => format!("the audit log has no record of the decision that was made about run `{run}`"),
        n => format!("the audit log has no record of the {n} decisions that were made about run `{run}`"),
    };
    let mut message = lost;
    found.missing.lines().iter().for_each(|line| message.push_str(&format!("\n  {line}")));
    fail(message).advise(match found.missing.earlier_log() {
        Some(file) => format!("`failsafectl explain {run} --file {file}` reads the earlier log as far as it is valid"),
        None => "`failsafectl log verify` says what is missing; look for the entries in copies made earlier".to_owned(),
    })
}

/// Entries of the incident, and those of its run that belong on the page, in the order of the log. Nothing else is read.
async fn from_daemon(place: &Place<'_>, what: &str, wanted: Option<IncidentId>) -> Result<IncidentEntries, Fail> {
    let client = Client::connect(place.daemon).await?;
    let missing = Missing::of_daemon(&client).await;
    let (run, counted, mut entries) = match wanted {
        Some(id) => {
            let request = pb::WatchRequest { incident: id.to_string(), ..Default::default() };
            let entries = events::collect(&client, request).await?;
            let run = entries.iter().find_map(|entry| entry.run.clone());
            (
                run.ok_or_else(|| {
                    missing.warn();
                    events::no_incident(what)
                })?,
                0,
                entries,
            )
        }
        None => {
            let run = events::get(&client, what).await?;
            (run.id, run.decisions, Vec::new())
        }
    };
    let of_run = |kinds: [&str; 2], tail| pb::WatchRequest {
        run: run.clone(),
        kinds: kinds.map(str::to_owned).to_vec(),
        tail,
        ..Default::default()
    };
    let decisions = events::collect(&client, of_run(KINDS, Some(MOST))).await?;
    let incident = wanted.or_else(|| first_cause(&briefs(&decisions)));
    let Some(id) = incident else {
        let may = may(&client, &run).await;
        return Ok(IncidentEntries { missing, counted, may, ..IncidentEntries::default() });
    };
    if wanted.is_none() {
        let request = pb::WatchRequest { incident: id.to_string(), ..Default::default() };
        entries = events::collect(&client, request).await?;
    }
    let around = events::collect(&client, of_run(AROUND, None)).await?;
    let may = may(&client, &run).await;
    let known = client.runs().get(pb::GetRequest { run, ..Default::default() }).await;
    let blocked = known.is_ok_and(|known| known.get_ref().blocked);
    let entries = entry::in_order(entries.into_iter().chain(around));
    Ok(IncidentEntries { decisions, entries, incident, may, blocked, missing, counted })
}

/// What the reader may do about the run: asked by rehearsals, which change nothing.
async fn may(client: &Client, run: &str) -> May {
    let allowed = async |command: pb::Command| {
        let (run, command) = (run.to_owned(), command.into());
        let rehearsal = pb::ControlRequest { run, command, dry_run: true, ..Default::default() };
        let answer = client.runs().control(rehearsal).await;
        !answer.is_err_and(|status| status.code() == tonic::Code::PermissionDenied)
    };
    let kill = allowed(pb::Command::Kill).await;
    // Whoever may kill may thaw.
    May { thaw: kill || allowed(pb::Command::Thaw).await, kill }
}

fn from_file(log: &Offline, args: &ExplainArgs, wanted: Option<IncidentId>) -> Result<IncidentEntries, Fail> {
    let what = &args.what;
    let missing = log.missing()?;
    let not_found = |fail: Fail| {
        missing.warn();
        log.done();
        fail
    };
    let of_incident = |id: IncidentId| log.load(Filter { incident: Some(id.to_string()), ..Filter::default() });
    let (run, mut entries) = match wanted {
        Some(id) => {
            let entries = of_incident(id)?;
            let run = entries.iter().find_map(|entry| entry.run.clone());
            (run.ok_or_else(|| not_found(events::no_incident(what)))?, entries)
        }
        None => {
            let runs = log.load(Filter { kinds: vec!["run".to_owned()], ..Filter::default() })?;
            (entry::find_run(&runs, what)?.ok_or_else(|| not_found(events::no_run(what)))?, Vec::new())
        }
    };
    let of_run = |kinds: [&str; 2]| Filter {
        run: Some(run.clone()),
        kinds: kinds.map(str::to_owned).to_vec(),
        ..Filter::default()
    };
    let decisions = log.last(of_run(KINDS), MOST as usize)?;
    let incident = wanted.or_else(|| first_cause(&briefs(&decisions)));
    let Some(id) = incident else { return Ok(IncidentEntries { missing, ..IncidentEntries::default() }) };
    if wanted.is_none() {
        entries = of_incident(id)?;
    }
    let around = log.load(of_run(AROUND))?;
    let root = nix::unistd::geteuid().is_root();
    let may = May { thaw: root, kill: root };
    let entries = entry::in_order(entries.into_iter().chain(around));
    Ok(IncidentEntries { decisions, entries, incident, may, missing, ..IncidentEntries::default() })
}
