//! The egress section: networks, ports, budgets and DNS servers.

use super::Builder;
use crate::{
    policy::{
        Budget, Egress, EgressAllow, MAX_BUDGETS, MAX_HOST, MAX_PORTS,
        raw::{Literal, RawAllow, RawBudget, RawEgress},
    },
    unit::{self, Unit},
};
use ipnet::IpNet;
use std::{net::IpAddr, ops::Range};
use toml::Spanned;

impl Builder<'_> {
    pub(super) fn egress(&mut self, raw: &RawEgress) -> Egress {
        let allow = raw.allow.iter().filter_map(|entry| self.allow(entry)).collect();
        let mut budgets: Vec<Budget> = Vec::new();
        for entry in &raw.budget {
            let budget = self.budget(entry, &budgets);
            budgets.push(budget);
        }
        if let Some(extra) = raw.budget.get(MAX_BUDGETS) {
            let message = format!("{} budgets, expected at most {MAX_BUDGETS} a policy", raw.budget.len());
            self.error(extra.name.span(), message, None);
        }
        let dns_servers = raw.dns_servers.iter().filter_map(|server| self.address(server)).collect();
        Egress { mode: raw.mode, allow, budgets, dns_servers }
    }

    fn allow(&mut self, raw: &Spanned<RawAllow>) -> Option<EgressAllow> {
        let RawAllow { cidr, host, ports: list, protocol } = raw.get_ref();
        let mut ports = Vec::new();
        if let Some(list) = list {
            for literal in list.get_ref().as_slice() {
                ports.extend(self.ports(literal, list.span()));
            }
            self.room_for("ports", ports.clone(), 1, list.span());
        }
        let (cidr, host) = match (cidr, host) {
            (Some(cidr), None) => (Some(self.net(cidr.get_ref(), cidr.span())?.trunc()), None),
            (None, Some(host)) => (None, Some(self.host(host)?)),
            _ => {
                self.error(raw.span(), "expected exactly one of `cidr` and `host`", None);
                return None;
            }
        };
        Some(EgressAllow { cidr, host, ports, protocol: *protocol })
    }

    fn host(&mut self, text: &Spanned<String>) -> Option<String> {
        let host = text.get_ref().to_ascii_lowercase();
        let wrong = if host.parse::<IpNet>().is_ok() || host.parse::<IpAddr>().is_ok() {
            Some("is a network: write it as `cidr`".to_owned())
        } else if host.len() > MAX_HOST {
            Some(format!("has {} bytes, expected at most {MAX_HOST}", host.len()))
        } else {
            let name = host.strip_prefix("*.").unwrap_or(&host);
            let good = name.split('.').all(label);
            (!good).then(|| "is not a host name, expected e.g. storage.example.org or *.example.org".to_owned())
        };
        if let Some(wrong) = wrong {
            self.error(text.span(), format!("`{host}` {wrong}"), None);
            return None;
        }
        Some(host)
    }

    pub(super) fn net(&mut self, text: &str, span: Range<usize>) -> Option<IpNet> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if net.is_none() {
            self.error(span, format!("`{text}` is not a network, expected CIDR such as 10.0.0.0/8 or fd00::/8"), None);
        }
        net
    }

    fn ports(&mut self, literal: &Literal, span: Range<usize>) -> Option<(u16, u16)> {
        let range = match literal {
            Literal::Integer(n) => u16::try_from(*n).ok().map(|p| (p, p)),
            Literal::Text(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                low.trim().parse().ok().zip(high.trim().parse().ok())
            }
            Literal::Float(_) => None,
        };
        let range = range.filter(|(low, high)| low <= high && *high > 0);
        if range.is_none() {
            self.error(span, "ports: expected a port or a range such as 443 or \"8000-8999\"", None);
        }
        range
    }

    /// Whether the kernel's entry of a destination holds these ports, once for each protocol.
    pub(super) fn room_for(&mut self, what: &str, ports: Vec<(u16, u16)>, protocols: usize, span: Range<usize>) {
        let got = distinct(ports) * protocols.max(1);
        if got > MAX_PORTS {
            let message = format!("{what}: {got} port ranges of one destination, expected at most {MAX_PORTS}");
            self.error(span, message, Some("write neighbouring ports as a range, such as \"8000-8999\"".into()));
        }
    }

    fn address(&mut self, text: &Spanned<String>) -> Option<IpAddr> {
        let address = text.get_ref().parse().ok();
        if address.is_none() {
            self.error(text.span(), format!("`{}` is not an address, expected e.g. 10.0.0.53", text.get_ref()), None);
        }
        address
    }

    fn budget(&mut self, raw: &RawBudget, others: &[Budget]) -> Budget {
        let name = self.name(&raw.name, "budget name");
        if others.iter().any(|other| other.name == name) {
            self.error(raw.name.span(), format!("budget `{name}` is there already"), None);
        }
        if raw.to.get_ref().is_empty() {
            self.error(raw.to.span(), format!("budget `{name}`: no networks, expected at least one"), None);
        }
        let mut to: Vec<IpNet> = Vec::new();
        for text in raw.to.get_ref() {
            let Some(net) = self.net(text.get_ref(), text.span()).map(|net| net.trunc()) else { continue };
            let holder = if to.contains(&net) {
                Some(name.clone())
            } else {
                others.iter().find(|other| other.to.contains(&net)).map(|other| other.name.clone())
            };
            if let Some(holder) = holder {
                self.error(
                    text.span(),
                    format!("{net} is in budget `{holder}` already: a packet has one budget"),
                    None,
                );
            }
            to.push(net);
        }
        if raw.bytes.is_none() && raw.rate.is_none() {
            self.error(raw.name.span(), format!("budget `{name}`: expected `bytes`, `rate` or both"), None);
        }
        let bytes = raw.bytes.as_ref().and_then(|literal| self.amount("bytes", literal, false));
        let rate = raw.rate.as_ref().and_then(|literal| self.amount("rate", literal, true));
        Budget { name, to, bytes, rate }
    }

    fn amount(&mut self, field: &str, literal: &Spanned<Literal>, want_rate: bool) -> Option<u64> {
        let read = match literal.get_ref() {
            Literal::Text(text) => unit::parse(text, Unit::Bytes).ok().filter(|(_, rate)| *rate == want_rate),
            _ => None,
        };
        let amount = read.and_then(|(value, _)| u64::try_from(value).ok()).filter(|value| *value > 0);
        if amount.is_none() {
            let example = if want_rate { "\"100 MiB/s\"" } else { "\"10 GiB\"" };
            self.error(literal.span(), format!("{field}: expected a text such as {example}, above 0"), None);
        }
        amount
    }
}

/// Whether it may stand between two dots of a host's name.
fn label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// How many ranges there are once those that meet are one.
fn distinct(mut ports: Vec<(u16, u16)>) -> usize {
    ports.sort_unstable();
    let mut ends: Option<u16> = None;
    let mut count = 0;
    for (low, high) in ports {
        if ends.is_none_or(|end| low > end.saturating_add(1)) {
            count += 1;
        }
        ends = ends.max(Some(high));
    }
    count
}
