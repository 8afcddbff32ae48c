//! The account of what a run sent, as text and as JSON.
//!
//! Invariant: what was not counted is shown as not counted, never as 0.

use super::{clean, table};
use failsafe_core::{
    egress::{Account, Attempts, BudgetUse, Connections, Destination, Line},
    record::Totals,
};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The account of an answer. `None`: an address in it is none.
pub fn of_message(account: &pb::EgressAccount) -> Option<Account> {
    let attempts =
        |it: &pb::EgressDestination| Attempts { connected: it.connected, refused: it.refused, observed: it.observed };
    let line = |it: &pb::EgressDestination| {
        let (port, protocol) = (u16::try_from(it.port).ok()?, u8::try_from(it.protocol).ok()?);
        let destination = Destination { address: it.address.parse().ok()?, port, protocol };
        Some(Line { destination, attempts: attempts(it) })
    };
    let totals = |it: pb::EgressTotals| Totals {
        egress_bytes: it.sent_bytes,
        ingress_bytes: it.received_bytes,
        denied_calls: it.denied_calls,
        dropped_packets: it.dropped_packets,
        budget_drops: it.budget_drops,
        dns_queries: it.dns_queries,
        dns_bytes: it.dns_bytes,
        events_lost: it.events_lost,
        ..Totals::default()
    };
    let budget = |it: &pb::EgressBudget| BudgetUse {
        name: it.name.clone(),
        to: it.to.clone(),
        limit: it.limit_bytes,
        rate: it.bytes_per_s,
        bytes: it.bytes,
        dropped: it.dropped_packets,
    };
    Some(Account {
        mode: account.mode.clone(),
        totals: account.totals.map(totals),
        budgets: account.budgets.iter().map(budget).collect(),
        connections: if account.connections_counted { Connections::Counted } else { Connections::NotCounted },
        destinations: account.destinations.iter().map(line).collect::<Option<_>>()?,
        others: account.others.as_ref().map(attempts).unwrap_or_default(),
        gaps: account.gaps.clone(),
    })
}

/// One line, for pages that show more than the account.
pub fn brief(account: &Account) -> String {
    let Some(totals) = account.totals else { return "not known: the kernel's counters were not read".to_owned() };
    let refused: u64 =
        account.destinations.iter().map(|line| line.attempts.refused).sum::<u64>() + account.others.refused;
    let more = if account.others.is_none() { "" } else { " and others" };
    format!(
        "{} sent, {} received; {} with attempts{more}, {refused} refused (`failsafectl egress`)",
        table::bytes(totals.egress_bytes),
        table::bytes(totals.ingress_bytes),
        super::count(account.destinations.len(), "destination", "destinations"),
    )
}

/// All of it.
pub fn page(account: &Account) -> String {
    let totals = account.totals;
    let of = |value: fn(Totals) -> u64| totals.map(value);
    let bytes = |value: Option<u64>| value.map_or_else(|| "not known".to_owned(), table::bytes);
    let number = |value: Option<u64>| value.map_or_else(|| "not known".to_owned(), |n| n.to_string());
    let mode = match account.mode.as_str() {
        "enforce" => "enforced",
        "observe" => "only observed",
        "changed" => "enforced for a part of its life, only observed for another",
        "none" => "none: the policy has no [egress]",
        other => other,
    };
    let mut out = table::pairs(
        "",
        [
            ("allow-list", mode.to_owned()),
            ("sent", bytes(of(|it| it.egress_bytes))),
            ("received", bytes(of(|it| it.ingress_bytes))),
            ("refused calls", number(of(|it| it.denied_calls))),
            ("dropped packets", number(of(|it| it.dropped_packets))),
            ("DNS queries", number(of(|it| it.dns_queries))),
        ],
    );
    if !account.budgets.is_empty() {
        out.push('\n');
        out += &table::table(
            ["BUDGET", "SENT", "LIMIT", "RATE", "DROPPED", "NETWORKS"],
            account.budgets.iter().map(|it| {
                let per_s = |rate: u64| format!("{}/s", table::bytes(rate));
                [
                    it.name.clone(),
                    table::bytes(it.bytes),
                    it.limit.map(table::bytes).unwrap_or_default(),
                    it.rate.map(per_s).unwrap_or_default(),
                    it.dropped.to_string(),
                    it.to.join(", "),
                ]
            }),
        );
        let _text = writeln!(out, "outside of budgets: {}", bytes(account.unbudgeted()));
    }
    let counted = account.connections == Connections::Counted;
    if !account.destinations.is_empty() {
        let rows = account.destinations.iter().map(|line| {
            let Destination { address, port, protocol } = line.destination;
            row(format!("{} {}", socket(address, port), named(protocol)), line.attempts, counted)
        });
        let others = (!account.others.is_none()).then(|| row("all others".to_owned(), account.others, counted));
        out.push('\n');
        out += &table::table(["DESTINATION", "CONNECTED", "REFUSED", "OBSERVED"], rows.chain(others));
    }
    if !account.gaps.is_empty() {
        out.push_str("\nnot in this account\n");
    }
    for gap in &account.gaps {
        let _text = writeln!(out, "  {}", clean(gap));
    }
    out
}

fn row(name: String, attempts: Attempts, counted: bool) -> [String; 4] {
    let connected = if counted { attempts.connected.to_string() } else { "not counted".to_owned() };
    [name, connected, attempts.refused.to_string(), attempts.observed.to_string()]
}

fn socket(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn named(protocol: u8) -> String {
    match protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The same for programs.
pub fn json(account: &Account) -> Value {
    let counted = account.connections == Connections::Counted;
    let attempts = |it: Attempts| {
        let connected = counted.then_some(it.connected);
        json!({ "connected": connected, "refused": it.refused, "observed": it.observed })
    };
    let line = |line: &Line| {
        let mut value = attempts(line.attempts);
        value["address"] = line.destination.address.to_string().into();
        value["port"] = line.destination.port.into();
        value["protocol"] = line.destination.protocol.into();
        value
    };
    json!({
        "mode": account.mode,
        "totals": account.totals.map(|it| json!({
            "sent_bytes": it.egress_bytes,
            "received_bytes": it.ingress_bytes,
            "denied_calls": it.denied_calls,
            "dropped_packets": it.dropped_packets,
            "budget_drops": it.budget_drops,
            "dns_queries": it.dns_queries,
            "dns_bytes": it.dns_bytes,
            "events_lost": it.events_lost,
        })),
        "budgets": account.budgets.iter().map(|it| json!({
            "name": it.name, "to": it.to, "limit_bytes": it.limit, "bytes_per_s": it.rate, "bytes": it.bytes,
            "dropped_packets": it.dropped,
        })).collect::<Vec<_>>(),
        "unbudgeted_bytes": account.unbudgeted(),
        "connections_counted": counted,
        "destinations": account.destinations.iter().map(line).collect::<Vec<_>>(),
        "others": attempts(account.others),
        "gaps": account.gaps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let destination = Destination { address: "192.0.2.1".parse().unwrap(), port: 443, protocol: 6 };
        Account {
            mode: "enforce".into(),
            totals: Some(Totals { egress_bytes: 3 << 20, denied_calls: 4, ..Totals::default() }),
            budgets: vec![BudgetUse {
                name: "store".into(),
                to: vec!["10.0.0.0/8".into()],
                limit: Some(1 << 30),
                rate: None,
                bytes: 1 << 20,
                dropped: 0,
            }],
            connections: Connections::NotCounted,
            destinations: vec![Line { destination, attempts: Attempts { refused: 4, ..Attempts::default() } }],
            others: Attempts { refused: 1, ..Attempts::default() },
            gaps: vec!["one\u{1b}[1m".into()],
        }
    }

    #[test]
    fn the_page_names_what_is_not_counted() {
        insta::assert_snapshot!(page(&account()));
        assert_eq!(
            brief(&account()),
            "3.0 MiB sent, 0 B received; 1 destination with attempts and others, 5 refused (`failsafectl egress`)"
        );
        let unread = Account { totals: None, ..account() };
        assert!(page(&unread).contains("sent             not known") && brief(&unread).starts_with("not known"));
        assert_eq!(json(&account())["destinations"][0]["connected"], Value::Null);
        assert_eq!(json(&account())["unbudgeted_bytes"], 2 << 20);
    }

    #[test]
    fn an_answer_with_an_address_that_is_none_is_refused() {
        let destinations = vec![pb::EgressDestination { address: "x".into(), ..Default::default() }];
        assert!(of_message(&pb::EgressAccount { destinations, ..Default::default() }).is_none());
        assert!(of_message(&pb::EgressAccount::default()).is_some());
    }
}
