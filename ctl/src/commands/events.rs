//! `events`: the audit log, from the daemon or from its file.

use super::{Place, offline::Offline};
use crate::{
    args::EventsArgs,
    client::{Client, block_on},
    entry::{self, Logged},
    exit::{Exit, Fail},
    render::{Paint, clean, event, stream, time},
};
use failsafe_core::{decision::IncidentId, record::Record};
use failsafe_journal::{Filter, Query};
use failsafe_proto::{ErrorReason, v1 as pb};

pub(super) fn events(place: &Place<'_>, args: &EventsArgs) -> Result<Exit, Fail> {
    if args.source.offline() { offline(place, args) } else { block_on(online(place, args)) }
}

async fn online(place: &Place<'_>, args: &EventsArgs) -> Result<Exit, Fail> {
    let (since, until) = times(place, args)?;
    let client = Client::connect(place.daemon).await?;
    if let Some(incident) = args.incident() {
        is_known(incident, &collect(&client, of_incident(incident)).await?)?;
    }
    let mut printer = Printer::new(place, args);
    if !printer.json {
        // Names are a comfort: whoever may not list runs still sees ids.
        let known = client.runs().list(pb::ListRequest { all: true, ..Default::default() }).await;
        let known = known.map(|answer| answer.into_inner().runs).unwrap_or_default();
        printer.names.extend(known.into_iter().map(|run| (run.id, run.name)));
    }
    let request = pb::WatchRequest {
        from: args.from,
        follow: args.follow,
        run: args.run().map(str::to_owned).unwrap_or_default(),
        incident: args.incident().map(str::to_owned).unwrap_or_default(),
        since_ns: bound(since),
        until_ns: bound(until),
        tail: args.tail,
        kinds: args.kind.clone(),
    };
    let mut stream = client.events().watch(request).await?.into_inner();
    while let Some(record) = stream.message().await? {
        if printer.json {
            printer.raw(&record.entry)?;
        } else {
            printer.show(&Logged::parse(&record.entry)?)?;
        }
    }
    if args.follow {
        let gone = Fail::new(Exit::Error, "the daemon ended the stream: it is stopping");
        return Err(gone.advise("`systemctl status failsafed`; go on with --from and the last index seen"));
    }
    Ok(Exit::Done)
}

fn offline(place: &Place<'_>, args: &EventsArgs) -> Result<Exit, Fail> {
    let mut printer = Printer::new(place, args);
    let log = Offline::new(place, &args.source);
    let (since_ns, until_ns) = times(place, args)?;
    if let Some(incident) = args.incident() {
        let filter = Filter { incident: Some(incident.to_owned()), ..Filter::default() };
        is_known(incident, &log.last(filter, 1)?).inspect_err(|_| {
            log.done();
        })?;
    }
    let (incident, kinds) = (args.incident().map(str::to_owned), args.kind.clone());
    let mut filter = Filter { incident, kinds, since_ns, until_ns, ..Filter::default() };
    if !printer.json || args.run().is_some() {
        let all = log.load(Filter { kinds: vec!["run".to_owned()], ..Filter::default() })?;
        printer.names.extend(all.iter().filter_map(name_of));
        if let Some(reference) = args.run() {
            filter.run = Some(entry::find_run(&all, reference)?.ok_or_else(|| no_run(reference))?);
        }
    }
    let query = Query { from: args.from, filter, tail: args.tail.map(|n| n as usize), tail_of: None };
    log.each(query, |entry| if printer.json { printer.raw(&entry.bytes) } else { printer.show(&Logged::from(entry)) })?;
    Ok(log.done())
}

/// Asks for one entry of an incident.
fn of_incident(id: &str) -> pb::WatchRequest {
    pb::WatchRequest { incident: id.to_owned(), tail: Some(1), ..Default::default() }
}

/// Whether the log has the incident. If it does not, no output would read as "nothing happened". `found`: entries about it.
fn is_known(incident: &str, found: &[Logged]) -> Result<(), Fail> {
    match found.is_empty() {
        true => Err(no_such(incident, no_incident(incident))),
        false => Ok(()),
    }
}

fn times(place: &Place<'_>, args: &EventsArgs) -> Result<(Option<u64>, Option<u64>), Fail> {
    let since = instant(place, "--since", args.since.as_deref())?;
    let until = instant(place, "--until", args.until.as_deref())?;
    match (since, until) {
        (Some(since), Some(until)) if since >= until => {
            let at = |ns: u64| time::wall(i128::from(ns), &place.zone);
            Err(Fail::usage(format!(
                "--since {} is not before --until {}: no entry can be between",
                at(since),
                at(until)
            )))
        }
        times => Ok(times),
    }
}

/// The time that the option `name` has, nanoseconds since the epoch.
pub(super) fn instant(place: &Place<'_>, name: &str, text: Option<&str>) -> Result<Option<u64>, Fail> {
    let Some(text) = text else { return Ok(None) };
    let at = time::instant(text, time::now(), &place.zone).ok_or_else(|| {
        Fail::usage(format!("{name}: `{}` is not a time such as 10m, 2h, 2026-11-28T14:00 or 2026-11-28", clean(text)))
    })?;
    Ok(Some(u64::try_from(at).unwrap_or(0)))
}

/// A time as requests have it; 0 is none.
pub(super) fn bound(at: Option<u64>) -> i64 {
    at.map_or(0, |at| i64::try_from(at).unwrap_or(i64::MAX))
}

/// The run of an incident, or what names a run already.
pub(super) async fn run_of(client: &Client, what: &str) -> Result<String, Fail> {
    if what.parse::<IncidentId>().is_err() {
        return Ok(what.to_owned());
    }
    let kinds = vec!["decision".to_owned()];
    let request = pb::WatchRequest { incident: what.to_owned(), kinds, tail: Some(1), ..Default::default() };
    let run = collect(client, request).await?.into_iter().find_map(|entry| entry.run);
    run.ok_or_else(|| no_incident(what))
}

/// The run that `what` names, or the run of the incident that it names.
pub(super) async fn get(client: &Client, what: &str) -> Result<pb::Run, Fail> {
    get_with(client, what, pb::GetRequest::default()).await
}

/// The same by this request, which has everything but the run.
pub(super) async fn get_with(client: &Client, what: &str, request: pb::GetRequest) -> Result<pb::Run, Fail> {
    let run = run_of(client, what).await?;
    let found = client.runs().get(pb::GetRequest { run, ..request }).await.map_err(Fail::from);
    found.map(tonic::Response::into_inner).map_err(|fail| no_such(what, fail))
}

/// `fail`, unless `what` is more likely an incident that is spelled wrong.
fn no_such(what: &str, fail: Fail) -> Fail {
    if fail.exit != Exit::NotFound || !what.starts_with("inc-") || what.parse::<IncidentId>().is_ok() {
        return fail;
    }
    let message = format!("`{}` is no incident id such as inc-5f0c9a1b2c3d-1, and no run has this name", clean(what));
    Fail::new(Exit::NotFound, message).advise("`failsafectl incidents` lists the incidents")
}

/// All entries that the daemon streams for `request`, which must not follow; none about an incident that it does not know.
pub(super) async fn collect(client: &Client, request: pb::WatchRequest) -> Result<Vec<Logged>, Fail> {
    let mut stream = match client.events().watch(request).await {
        // The caller says what is missing, and where else to look.
        Err(status) if ErrorReason::of(&status) == Some(ErrorReason::IncidentNotFound) => return Ok(Vec::new()),
        answer => answer?.into_inner(),
    };
    let mut entries = Vec::new();
    while let Some(record) = stream.message().await? {
        entries.push(Logged::parse(&record.entry)?);
    }
    Ok(entries)
}

/// No run in the log answers to `reference`.
pub(super) fn no_run(reference: &str) -> Fail {
    let fail = Fail::new(Exit::NotFound, format!("no run `{}` in the audit log", clean(reference)))
        .advise("`failsafectl events --offline` shows what it knows");
    no_such(reference, fail)
}

/// The log has no incident of this id.
pub(super) fn no_incident(what: &str) -> Fail {
    Fail::new(Exit::NotFound, format!("no incident `{}` in the audit log", clean(what)))
        .advise("`failsafectl incidents` lists them")
}

pub(super) fn name_of(entry: &Logged) -> Option<(String, String)> {
    match entry.record()? {
        Record::RunStarted { run, .. } | Record::RunAdopted { run, .. } => Some((run.id.to_string(), run.name.clone())),
        _ => None,
    }
}

struct Printer<'a> {
    place: &'a Place<'a>,
    json: bool,
    names: event::Names,
    paint: Paint,
}

impl<'a> Printer<'a> {
    fn new(place: &'a Place<'a>, args: &EventsArgs) -> Printer<'a> {
        Printer { place, json: args.output.json(), names: event::Names::new(), paint: Paint::stdout() }
    }

    /// The exact bytes and a line end: the text of an entry has none of its own.
    fn raw(&self, bytes: &[u8]) -> Result<(), Fail> {
        Ok(stream(&format!("{}\n", String::from_utf8_lossy(bytes)))?)
    }

    fn show(&mut self, entry: &Logged) -> Result<(), Fail> {
        self.names.extend(name_of(entry));
        Ok(stream(&event::line(entry, &self.names, &self.place.zone, self.paint))?)
    }
}
