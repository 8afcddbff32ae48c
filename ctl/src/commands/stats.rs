//! `stats --would`: what would have been done where it was only observed, from the decisions of the audit log.

use super::{Place, events, offline::Offline};
use crate::{
    args::StatsArgs,
    client::{Client, block_on},
    entry::Logged,
    exit::{Exit, Fail},
    render::{json, print, table, time},
};
use failsafe_core::{
    decision::{Cause, Mode},
    record::Record,
};
use failsafe_journal::Filter;
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Runs that a line of the table names.
const NAMED: usize = 4;
/// The owner of a run of which it is not known.
const NO_UID: u32 = u32::MAX;

/// A run as people know it: name and owner.
type Runs = BTreeMap<String, (String, u32)>;

/// What one rule would have done.
#[derive(Debug, Default)]
struct Would {
    decisions: u64,
    /// Events that led to no decision of their own, because the rule's cooldown lasted.
    suppressed: u64,
    actions: BTreeSet<String>,
    runs: BTreeMap<String, u64>,
    first_ns: i128,
    last_ns: i128,
}

pub(super) fn stats(place: &Place<'_>, args: &StatsArgs) -> Result<Exit, Fail> {
    let since = events::instant(place, "--since", args.since.as_deref())?;
    let log = args.source.offline().then(|| Offline::new(place, &args.source));
    let (entries, runs) = match &log {
        Some(log) => {
            let kind = |kind: &str| vec![kind.to_owned()];
            let runs = log.load(Filter { kinds: kind("run"), ..Filter::default() })?;
            let decisions = log.load(Filter { kinds: kind("decision"), since_ns: since, ..Filter::default() })?;
            (decisions, runs.iter().filter_map(run_of).collect())
        }
        None => block_on(async {
            let client = Client::connect(place.socket).await?;
            let known = client.runs().list(pb::ListRequest { all: true }).await?.into_inner().runs;
            let kinds = vec!["decision".to_owned()];
            let request = pb::WatchRequest { kinds, since_ns: events::bound(since), ..Default::default() };
            let entries = events::collect(&client, request).await?;
            let runs: Runs = known.into_iter().map(|run| (run.id, (run.name, run.owner_uid))).collect();
            Ok((entries, runs))
        })?,
    };
    let all = counted(&entries);
    if args.output.json() {
        print(&json::text(&value(&all, &runs)))?;
    } else if all.is_empty() {
        eprintln!("nothing was only observed");
    } else {
        print(&page(&all, &runs, place))?;
    }
    Ok(log.map_or(Exit::Done, |log| log.done()))
}

fn run_of(entry: &Logged) -> Option<(String, (String, u32))> {
    match entry.record()? {
        Record::RunStarted { run, .. } | Record::RunAdopted { run, .. } => {
            Some((run.id.to_string(), (run.name.clone(), run.owner_uid)))
        }
        _ => None,
    }
}

/// By policy and rule. A decision without a rule is failsafe's own upkeep.
fn counted(entries: &[Logged]) -> BTreeMap<(String, String), Would> {
    let mut all: BTreeMap<(String, String), Would> = BTreeMap::new();
    for entry in entries {
        let Some(Record::Decision { decision, rule: text, .. }) = entry.record() else { continue };
        if decision.mode != Mode::Observe {
            continue;
        }
        let (rule, suppressed) = match &decision.cause {
            Cause::Rule { rule, suppressed, .. } => (rule.clone(), *suppressed),
            Cause::Upkeep { what } => (format!("({what})"), 0),
            Cause::Operator(_) => continue,
        };
        let policy = text.as_ref().map(|text| text.policy.clone()).unwrap_or_default();
        let wall = i128::from(entry.wall_ns);
        let would = all.entry((policy, rule)).or_insert_with(|| Would { first_ns: wall, ..Would::default() });
        would.decisions += 1;
        would.suppressed += suppressed;
        would.actions.extend(decision.actions.iter().map(ToString::to_string));
        would
            .actions
            .extend(text.iter().filter(|text| !text.effect.is_observe()).map(|text| text.effect.name().to_owned()));
        *would.runs.entry(decision.id.run.to_string()).or_default() += 1;
        would.last_ns = would.last_ns.max(wall);
    }
    all
}

fn owner(uid: u32) -> String {
    if uid == NO_UID { "unknown".to_owned() } else { uid.to_string() }
}

fn page(all: &BTreeMap<(String, String), Would>, known: &Runs, place: &Place<'_>) -> String {
    let rows = all.iter().map(|((policy, rule), would)| {
        let name = |id: &String| known.get(id).map_or_else(|| id.clone(), |(name, _)| name.clone());
        let mut runs: Vec<String> = would.runs.keys().take(NAMED).map(name).collect();
        if would.runs.len() > NAMED {
            runs.push(format!("and {} more", would.runs.len() - NAMED));
        }
        let owners: BTreeSet<String> =
            would.runs.keys().filter_map(|id| known.get(id)).map(|(_, uid)| owner(*uid)).collect();
        [
            policy.clone(),
            rule.clone(),
            would.actions.iter().cloned().collect::<Vec<_>>().join(", "),
            (would.decisions + would.suppressed).to_string(),
            runs.join(", "),
            owners.into_iter().collect::<Vec<_>>().join(", "),
            time::wall(would.last_ns, &place.zone),
        ]
    });
    table::table(["POLICY", "RULE", "WOULD", "TIMES", "RUNS", "OWNERS", "LAST"], rows)
}

fn value(all: &BTreeMap<(String, String), Would>, known: &Runs) -> Value {
    let rules = all.iter().map(|((policy, rule), would)| {
        let runs = would.runs.iter().map(|(id, times)| {
            let of = known.get(id);
            let uid = of.map(|(_, uid)| *uid).filter(|uid| *uid != NO_UID);
            json!({ "run": id, "name": of.map(|(name, _)| name), "owner_uid": uid, "decisions": times })
        });
        json!({
            "policy": policy,
            "rule": rule,
            "would": would.actions,
            "times": would.decisions + would.suppressed,
            "decisions": would.decisions,
            "first_ns": would.first_ns.to_string(),
            "last_ns": would.last_ns.to_string(),
            "runs": runs.collect::<Vec<_>>(),
        })
    });
    json!({ "rules": rules.collect::<Vec<_>>() })
}
