//! What a run sent, for who may see it.

use super::{Context, authorize::Principal, limits::Share};
use crate::runs::FoundRun;
use failsafe_core::{
    RunId,
    egress::{Account, Attempts, BudgetUse, Connections, Line},
    record::{Record, Totals},
};
use failsafe_journal::{Filter, Query, Search};
use failsafe_proto::{ErrorReason, v1};
use std::path::Path;
use tonic::Status;

pub(super) async fn get(
    context: &Context,
    who: &Principal,
    share: Share,
    request: v1::GetEgressRequest,
) -> Result<v1::GetEgressResponse, Status> {
    let (found, _) = context.find(who, &request.run)?;
    let (id, name) = (found.run().id, found.run().name.clone());
    let (registry, log) = (context.registry.clone(), context.log.path().to_owned());
    let read = context.work(share).read(share, move || match found {
        FoundRun::Live(live) => Ok((registry.account(&live), false)),
        FoundRun::Guarded(_) => {
            Err(ErrorReason::RunNotJudged.status("the run is guarded: nobody counts what it sends"))
        }
        FoundRun::Ended(_) => of_log(&log, id).map(|account| (account, true)),
    });
    let (account, ended) = read.await??;
    Ok(v1::GetEgressResponse { run_id: id.to_string(), run_name: name, ended, account: Some(shown(account)) })
}

fn of_log(log: &Path, run: RunId) -> Result<Account, Status> {
    let unreadable = |error: &dyn std::fmt::Display| {
        ErrorReason::StorageUnavailable.status(format!("the audit log cannot be read: {error}"))
    };
    let filter = Filter { run: Some(run.to_string()), kinds: vec!["run".to_owned()], ..Filter::default() };
    let mut account = None;
    for entry in Search::open(log, Query { filter, ..Query::default() }).map_err(|error| unreadable(&error))? {
        let entry = entry.map_err(|error| unreadable(&error))?;
        if let Ok(Record::Egress { account: found, .. }) = serde_json::from_value(entry.body) {
            account = Some(found);
        }
    }
    account.ok_or_else(|| {
        ErrorReason::NotStored.status(format!(
            "the audit log has no account of what run {run} sent: no daemon watched its end, or it is being read"
        ))
    })
}

fn shown(account: Account) -> v1::EgressAccount {
    let unbudgeted_bytes = account.unbudgeted();
    let Account { mode, totals, budgets, connections, destinations, others, gaps } = account;
    v1::EgressAccount {
        mode,
        totals: totals.map(of_totals),
        budgets: budgets.into_iter().map(budget).collect(),
        unbudgeted_bytes,
        connections_counted: connections == Connections::Counted,
        destinations: destinations.into_iter().map(line).collect(),
        others: Some(attempts(others)),
        gaps,
    }
}

fn of_totals(totals: Totals) -> v1::EgressTotals {
    v1::EgressTotals {
        sent_bytes: totals.egress_bytes,
        received_bytes: totals.ingress_bytes,
        denied_calls: totals.denied_calls,
        dropped_packets: totals.dropped_packets,
        budget_drops: totals.budget_drops,
        dns_queries: totals.dns_queries,
        dns_bytes: totals.dns_bytes,
        events_lost: totals.events_lost,
    }
}

fn budget(used: BudgetUse) -> v1::EgressBudget {
    let BudgetUse { name, to, limit, rate, bytes, dropped } = used;
    v1::EgressBudget { name, to, limit_bytes: limit, bytes_per_s: rate, bytes, dropped_packets: dropped }
}

fn line(line: Line) -> v1::EgressDestination {
    v1::EgressDestination {
        address: line.destination.address.to_string(),
        port: line.destination.port.into(),
        protocol: line.destination.protocol.into(),
        ..attempts(line.attempts)
    }
}

fn attempts(attempts: Attempts) -> v1::EgressDestination {
    let Attempts { connected, refused, observed } = attempts;
    v1::EgressDestination { connected, refused, observed, ..v1::EgressDestination::default() }
}
