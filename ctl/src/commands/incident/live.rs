//! `incident list`, `show` and `watch`: incidents as the daemon has them in memory.

use super::super::{Place, events};
use crate::{
    args::{IncidentListArgs, IncidentShowArgs, IncidentState, IncidentWatchArgs},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, incident as page, json, print, stream},
    text::clean,
};
use failsafe_proto::v1 as pb;
use std::collections::BTreeSet;

pub(in super::super) fn list(place: &Place<'_>, args: &IncidentListArgs) -> Result<Exit, Fail> {
    let since = events::instant(place, "--since", args.since.as_deref())?;
    let until = events::instant(place, "--until", args.until.as_deref())?;
    let state = match args.state {
        None => pb::IncidentState::Unspecified,
        Some(IncidentState::Open) => pb::IncidentState::Open,
        Some(IncidentState::Closed) => pb::IncidentState::Closed,
    };
    let asked = &args.asked;
    let mut request = pb::ListIncidentsRequest {
        run: asked.run.clone().unwrap_or_default(),
        state: state as i32,
        since_ns: events::bound(since),
        until_ns: events::bound(until),
        rule: asked.rule.clone().unwrap_or_default(),
        selector: asked.selector.clone(),
        page_size: 1_000,
        page_token: String::new(),
    };
    let (incidents, revision, incomplete) = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let (mut incidents, mut revision, mut incomplete) = (Vec::new(), None, BTreeSet::new());
        loop {
            let page = client.incidents().list_incidents(request.clone()).await?.into_inner();
            incidents.extend(page.incidents);
            incomplete.extend(page.incomplete);
            // What changes while the pages are read is in a watch from the first one.
            let revision = *revision.get_or_insert(page.revision);
            if page.next_page_token.is_empty() {
                return Ok((incidents, revision, incomplete));
            }
            request.page_token = page.next_page_token;
        }
    })?;
    if args.output.json() {
        print(&json::text(&page::list_json(&incidents, revision, &incomplete)))?;
    } else if incidents.is_empty() {
        note!("no such incidents");
    } else {
        print(&page::list(&incidents, &place.zone))?;
    }
    for why in &incomplete {
        note!("failsafectl: incidents may be missing: {}; `failsafectl incidents` reads the audit log", clean(why));
    }
    Ok(Exit::Done)
}

pub(in super::super) fn show(place: &Place<'_>, args: &IncidentShowArgs) -> Result<Exit, Fail> {
    let incident = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::GetIncidentRequest { incident: args.incident.to_string() };
        Ok(client.incidents().get_incident(request).await?.into_inner())
    })?;
    print(&match args.output.json() {
        true => json::text(&page::json(&incident)),
        false => page::page(&incident, &place.zone, Paint::stdout()),
    })?;
    Ok(Exit::Done)
}

pub(in super::super) fn watch(place: &Place<'_>, args: &IncidentWatchArgs) -> Result<Exit, Fail> {
    let asked = &args.asked;
    let request = pb::WatchIncidentsRequest {
        revision: args.since,
        follow: !args.once,
        run: asked.run.clone().unwrap_or_default(),
        rule: asked.rule.clone().unwrap_or_default(),
        selector: asked.selector.clone(),
    };
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        let mut changes = client.incidents().watch_incidents(request).await?.into_inner();
        let mut about = About::default();
        while let Some(change) = changes.message().await? {
            let is_mark = about.takes(&change);
            // One line each, so that a program can read them as they come.
            stream(&match args.output.json() {
                true => format!("{}\n", page::change_json(&change)),
                // For people, silence goes on without them.
                false if is_mark && !args.once => String::new(),
                false => page::change(&change, !args.once, (&place.zone, Paint::stdout())),
            })?;
        }
        Ok(Exit::Done)
    })
}

/// What a watch says about itself, once each.
#[derive(Default)]
struct About {
    begun: bool,
    incomplete: BTreeSet<String>,
    log_problem: String,
}

impl About {
    /// Whether it is only a revision to go on from, after the state.
    fn takes(&mut self, change: &pb::WatchIncidentsResponse) -> bool {
        if change.incident.is_some() {
            return false;
        }
        for why in &change.incomplete {
            // It has a line of its own.
            if *why != change.log_problem && self.incomplete.insert(why.clone()) {
                note!("failsafectl: incidents may be missing: {}", clean(why));
            }
        }
        if self.log_problem.is_empty() != change.log_problem.is_empty() {
            match change.log_problem.as_str() {
                "" => note!("failsafectl: the audit log is written again"),
                why => note!("failsafectl: {}; what happens now is missing here until it is", clean(why)),
            }
        }
        self.log_problem.clone_from(&change.log_problem);
        std::mem::replace(&mut self.begun, true) && !change.missed
    }
}
