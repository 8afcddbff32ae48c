//! `stats --would`: what would have been done where it was only observed, from the decisions of the audit log.

use super::{Place, events, offline::Offline};
use crate::{
    args::StatsArgs,
    client::{Client, block_on},
    entry::Logged,
    exit::{Exit, Fail},
    render::{json, print, table, time, users},
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
/// A run as people know it: name and owner.
type Runs = BTreeMap<String, (String, u32)>;

/// What one rule would have done.
#[derive(Debug, Default)]
struct Would {
    decisions: u64,
    /// Events that led to no decision of their own, because the rule's cooldown lasted.
    suppressed: u64,
    actions: BTreeSet<String>,
    /// The kernel would have denied the call.
    denies: bool,
    runs: BTreeMap<String, u64>,
    first_ns: i128,
    last_ns: i128,
}

pub(super) fn stats(place: &Place<'_>, args: &StatsArgs) -> Result<Exit, Fail> {
    let since = events::instant(place, "--since", args.since.as_deref())?;
    let log = args.source.offline().then(|| Offline::new(place, &args.source));
    let kind = |kind: &str| vec![kind.to_owned()];
    // Names and owners are those of the log, with and without the daemon.
    let (entries, of_runs) = match &log {
        Some(log) => {
            let of_runs = log.load(Filter { kinds: kind("run"), ..Filter::default() })?;
            (log.load(Filter { kinds: kind("decision"), since_ns: since, ..Filter::default() })?, of_runs)
        }
        None => block_on(async {
            let client = Client::connect(place.daemon).await?;
            let request = |kind| pb::WatchRequest { kinds: kind, ..Default::default() };
            let of_runs = events::collect(&client, request(kind("run"))).await?;
            let since_ns = events::bound(since);
            let decisions = pb::WatchRequest { since_ns, ..request(kind("decision")) };
            Ok((events::collect(&client, decisions).await?, of_runs))
        })?,
    };
    let runs = runs_of(&of_runs);
    let all = counted(&entries, &of_runs);
    if args.output.json() {
        print(&json::text(&value(&all, &runs)))?;
    } else if all.is_empty() {
        note!("nothing was only observed");
    } else {
        print(&page(&all, &runs, place))?;
    }
    Ok(log.map_or(Exit::Done, |log| log.done()))
}

/// The runs that these entries begin, each with the owner that is known last.
fn runs_of(entries: &[Logged]) -> Runs {
    let mut all = Runs::new();
    for entry in entries {
        match entry.record() {
            Some(Record::RunStarted { run, .. } | Record::RunAdopted { run, .. }) => {
                let earlier = all.get(&run.id.to_string()).map(|(_, uid)| *uid);
                let uid = users::known(run.owner_uid).or(earlier).unwrap_or(run.owner_uid);
                all.insert(run.id.to_string(), (run.name.clone(), uid));
            }
            Some(Record::RunOwner { run, owner_uid, .. }) => {
                if let Some((_, uid)) = all.get_mut(&run.to_string()) {
                    *uid = *owner_uid;
                }
            }
            _ => {}
        }
    }
    all
}

/// By policy and rule. A decision without a rule is failsafe's own upkeep.
fn counted(entries: &[Logged], of_runs: &[Logged]) -> BTreeMap<(String, String), Would> {
    let mut all: BTreeMap<(String, String), Would> = BTreeMap::new();
    // The mode and policy of each rule's last decision, by run and rule.
    let mut last: BTreeMap<(String, String), (Mode, String)> = BTreeMap::new();
    for entry in entries {
        let Some(Record::Decision { decision, rule: text, .. }) = entry.record() else { continue };
        let policy = text.as_ref().map(|text| text.policy.clone()).unwrap_or_default();
        if let Cause::Rule { rule, .. } = &decision.cause {
            last.insert((decision.id.run.to_string(), rule.clone()), (decision.mode, policy.clone()));
        }
        if decision.mode != Mode::Observe {
            continue;
        }
        let (rule, suppressed) = match &decision.cause {
            Cause::Rule { rule, suppressed, .. } => (rule.clone(), *suppressed),
            Cause::Upkeep { what } => (format!("({what})"), 0),
            Cause::Operator(_) => continue,
        };
        let wall = i128::from(entry.wall_ns);
        let would = all.entry((policy, rule)).or_insert_with(|| Would { first_ns: wall, ..Would::default() });
        would.decisions += 1;
        would.suppressed += suppressed;
        would.actions.extend(decision.actions.iter().map(ToString::to_string));
        would.denies |= text.as_ref().is_some_and(|text| !text.effect.is_observe());
        *would.runs.entry(decision.id.run.to_string()).or_default() += 1;
        would.last_ns = would.last_ns.max(wall);
    }
    for entry in of_runs {
        let Some(Record::RunEnded { run, suppressed, .. }) = entry.record() else { continue };
        for left in suppressed {
            let found = last.get(&(run.to_string(), left.rule.clone())).filter(|(mode, _)| *mode == Mode::Observe);
            let would = found.and_then(|(_, policy)| all.get_mut(&(policy.clone(), left.rule.clone())));
            if let Some(would) = would {
                would.suppressed += left.events;
            }
        }
    }
    all
}

fn page(all: &BTreeMap<(String, String), Would>, known: &Runs, place: &Place<'_>) -> String {
    let rows = all.iter().map(|((policy, rule), would)| {
        let name = |id: &String| known.get(id).map_or_else(|| id.clone(), |(name, _)| name.clone());
        let mut runs: Vec<String> = would.runs.keys().take(NAMED).map(name).collect();
        if would.runs.len() > NAMED {
            runs.push(format!("and {} more", would.runs.len() - NAMED));
        }
        let owners: BTreeSet<String> =
            would.runs.keys().filter_map(|id| known.get(id)).map(|(_, uid)| users::id(*uid)).collect();
        [
            policy.clone(),
            rule.clone(),
            format!(
                "{}{}",
                would.actions.iter().cloned().collect::<Vec<_>>().join(", "),
                if would.denies { "; call denied" } else { "" }
            ),
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
            let uid = of.and_then(|(_, uid)| users::known(*uid));
            json!({ "run": id, "name": of.map(|(name, _)| name), "owner_uid": uid, "decisions": times })
        });
        json!({
            "policy": policy,
            "rule": rule,
            "would": would.actions,
            "call_denied": would.denies,
            "times": would.decisions + would.suppressed,
            "decisions": would.decisions,
            "first_ns": would.first_ns.to_string(),
            "last_ns": would.last_ns.to_string(),
            "runs": runs.collect::<Vec<_>>(),
        })
    });
    json!({ "rules": rules.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, RUN, run_id, violation};
    use failsafe_core::{
        policy::Effect,
        record::{OwnerBy, Suppressed},
    };

    fn observed(mode: Mode) -> Record {
        let mut record = violation();
        if let Record::Decision { decision, rule, .. } = &mut record {
            decision.mode = mode;
            rule.as_mut().unwrap().effect = Effect::Stop;
        }
        record
    }

    fn ended() -> Record {
        let left = |rule: &str| Suppressed { rule: rule.into(), events: 9 };
        Record::RunEnded {
            run: run_id(),
            name: "trainer".into(),
            recording: None,
            suppressed: vec![left("no-exfiltration"), left("another")],
            unwatched: None,
            frozen_ns: None,
        }
    }

    #[test]
    fn events_in_the_cooldown_count_also_after_the_last_decision_and_stop_is_no_action() {
        let mut log = Log::started();
        log.add(5_000_000, observed(Mode::Observe)).add(6_000_000, ended());
        let all = counted(&log.entries, &log.entries);
        let runs = runs_of(&log.entries);
        let shown = value(&all, &runs);
        let rule = &shown["rules"][0];
        // One decision, 2 before it and 9 after it.
        assert_eq!((&rule["times"], &rule["decisions"]), (&json!(12), &json!(1)), "{shown}");
        assert_eq!(rule["would"], json!(["block", "freeze", "notify", "snapshot"]), "{shown}");
        assert_eq!(rule["call_denied"], json!(true), "{shown}");
        assert_eq!(rule["runs"][0], json!({ "run": RUN, "name": "trainer", "owner_uid": 1000, "decisions": 1 }));
        assert_eq!(all.len(), 1, "{shown}");
    }

    #[test]
    fn the_owner_of_a_run_is_the_one_that_became_known_after_its_start() {
        let mut log = Log::started_for(u32::MAX);
        assert_eq!(runs_of(&log.entries)[RUN].1, u32::MAX);
        log.add(1_000, Record::RunOwner { run: run_id(), owner_uid: 65_534, by: OwnerBy::Processes });
        assert_eq!(runs_of(&log.entries)[RUN], ("trainer".to_owned(), 65_534));
        // An entry of an earlier version has no owner.
        let Some(Record::RunStarted { run, .. }) = log.entries[0].record().cloned() else { panic!() };
        log.add(2_000, Record::RunAdopted { run, found: String::new(), part: 1, frozen_until_ns: None });
        assert_eq!(runs_of(&log.entries)[RUN].1, 65_534);
    }

    #[test]
    fn what_was_suppressed_after_an_enforced_decision_was_not_only_observed() {
        let mut log = Log::started();
        log.add(5_000_000, observed(Mode::Observe)).add(5_500_000, observed(Mode::Enforce)).add(6_000_000, ended());
        let all = counted(&log.entries, &log.entries);
        let times: Vec<u64> = all.values().map(|would| would.decisions + would.suppressed).collect();
        assert_eq!(times, [3]);
    }
}
