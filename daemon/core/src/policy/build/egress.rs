//! The egress section: networks, ports, budgets and DNS servers.

use super::Builder;
use crate::{
    policy::{
        Budget, Egress, EgressAllow, MAX_BUDGETS, MAX_HOST, MAX_PORTS,
        diagnostic::quote,
        raw::{Literal, RawAllow, RawBudget, RawEgress},
    },
    unit::{self, Unit},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, ops::Range};
use toml::Spanned;

impl Builder<'_> {
    pub(super) fn egress(&mut self, raw: &RawEgress) -> Egress {
        let allow = raw.allow.iter().filter_map(|entry| self.allow(entry)).collect();
        let mut budgets: Vec<Budget> = Vec::new();
        let mut held: BTreeMap<IpNet, String> = BTreeMap::new();
        for entry in &raw.budget {
            let budget = self.budget(entry, &budgets, &mut held);
            budgets.push(budget);
        }
        if let Some(extra) = raw.budget.get(MAX_BUDGETS) {
            let message = format!("{} budgets, expected at most {MAX_BUDGETS} a policy", raw.budget.len());
            self.error(extra.span.clone(), message, None);
        }
        let dns_servers = raw.dns_servers.iter().filter_map(|server| self.address(server)).collect();
        Egress { mode: raw.mode, allow, budgets, dns_servers }
    }

    fn allow(&mut self, raw: &RawAllow) -> Option<EgressAllow> {
        let RawAllow { cidr, host, ports: list, protocol, span, unreadable } = raw;
        let mut ports = Vec::new();
        if let Some(list) = list {
            for literal in &list.get_ref().0 {
                ports.extend(self.ports(literal));
            }
            self.room_for(ports.clone(), 1, list.span());
        }
        let (cidr, host) = match (cidr, host) {
            (Some(cidr), None) => (Some(self.net(cidr.get_ref(), cidr.span())?.trunc()), None),
            (None, Some(host)) => (None, Some(self.host(host)?)),
            (Some(_), Some(_)) => {
                self.error(span.clone(), "expected exactly one of `cidr` and `host`, found both", None);
                return None;
            }
            (None, None) => {
                if !unreadable {
                    self.error(span.clone(), "expected exactly one of `cidr` and `host`, found neither", None);
                }
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
            self.error(text.span(), format!("{} {wrong}", quote(&host)), None);
            return None;
        }
        Some(host)
    }

    /// A network as it is written; bits behind its prefix count for nothing, which is a warning.
    pub(super) fn net(&mut self, text: &str, span: Range<usize>) -> Option<IpNet> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match net {
            Some(net) if net.trunc() != net => {
                let normal = net.trunc();
                let message = format!("{} has bits behind its prefix and is read as {normal}", quote(text));
                let help = format!("write \"{normal}\" for the network, or \"{}\" for the address", net.addr());
                self.wrong.warning(span, message, Some(help));
            }
            Some(_) => {}
            None => {
                let message = format!("{} is not a network, expected CIDR such as 10.0.0.0/8 or fd00::/8", quote(text));
                self.error(span, message, None);
            }
        }
        net
    }

    fn ports(&mut self, literal: &Spanned<Literal>) -> Option<(u16, u16)> {
        let range = match literal.get_ref() {
            Literal::Integer(n) => u16::try_from(*n).ok().map(|p| (p, p)),
            Literal::Text(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                low.trim().parse().ok().zip(high.trim().parse().ok())
            }
            Literal::Float(_) => None,
        };
        let range = range.filter(|(low, high)| low <= high && *high > 0);
        if range.is_none() {
            self.error(
                literal.span(),
                "expected a port or a range from 0 to 65535, such as 443 or \"8000-8999\"",
                None,
            );
        }
        range
    }

    /// Whether the kernel's entry of a destination holds these ports, once for each protocol.
    pub(super) fn room_for(&mut self, ports: Vec<(u16, u16)>, protocols: usize, span: Range<usize>) {
        let got = distinct(ports) * protocols.max(1);
        if got > MAX_PORTS {
            let message = format!("{got} port ranges of one destination, expected at most {MAX_PORTS}");
            self.error(span, message, Some("write neighbouring ports as a range, such as \"8000-8999\"".into()));
        }
    }

    fn address(&mut self, text: &Spanned<String>) -> Option<IpAddr> {
        let address = text.get_ref().parse().ok();
        if address.is_none() {
            let message = format!("{} is not an address, expected for example 10.0.0.53", quote(text.get_ref()));
            self.error(text.span(), message, None);
        }
        address
    }

    fn budget(&mut self, raw: &RawBudget, others: &[Budget], held: &mut BTreeMap<IpNet, String>) -> Budget {
        let name = raw.name.as_ref().map(|name| self.name(name)).unwrap_or_default();
        if let Some(written) = raw.name.as_ref().filter(|_| others.iter().any(|other| other.name == name)) {
            self.error(written.span(), format!("another budget has the name {} already", quote(&name)), None);
        }
        if let Some(to) = raw.to.as_ref().filter(|to| to.get_ref().is_empty()) {
            self.error(to.span(), "no networks, expected at least one", None);
        }
        let mut to: Vec<IpNet> = Vec::new();
        for text in raw.to.iter().flat_map(|to| to.get_ref()) {
            let Some(net) = self.net(text.get_ref(), text.span()).map(|net| net.trunc()) else { continue };
            if let Some(holder) = held.insert(net, name.clone()) {
                let message = format!("{net} is in budget {} already: a packet has one budget", quote(&holder));
                self.error(text.span(), message, None);
            }
            to.push(net);
        }
        if raw.bytes.is_none() && raw.rate.is_none() && !raw.unreadable {
            self.error(raw.span.clone(), "expected `bytes`, `rate` or both", None);
        }
        let bytes = raw.bytes.as_ref().and_then(|literal| self.amount(literal, false));
        let rate = raw.rate.as_ref().and_then(|literal| self.amount(literal, true));
        Budget { name, to, bytes, rate }
    }

    fn amount(&mut self, literal: &Spanned<Literal>, want_rate: bool) -> Option<u64> {
        let read = match literal.get_ref() {
            Literal::Text(text) => unit::parse(text, Unit::Bytes).ok().filter(|(_, rate)| *rate == want_rate),
            Literal::Integer(_) | Literal::Float(_) => None,
        };
        let amount = read.and_then(|(value, _)| u64::try_from(value).ok()).filter(|value| *value > 0);
        if amount.is_none() {
            let example = if want_rate { "\"100 MiB/s\"" } else { "\"10 GiB\"" };
            self.error(literal.span(), format!("expected a text such as {example}, above 0"), None);
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
