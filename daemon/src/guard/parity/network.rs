//! What may leave: lists, what rules deny, classes of budgets.

use std::net::IpAddr;

use failsafe_ebpf::abi::{self, latch, net_flag, point, run_flag, verdict};
use ipnet::IpNet;
use proptest::prelude::*;

use super::{Asked, Kernel, RUN, Tables, answer, at, check, put, run_of};
use failsafe_matchers::egress::{EgressMode, EgressRule, TCP, UDP, canonical, fold, names};
use failsafe_matchers::hosts::BudgetRule;
use failsafe_matchers::rules::{Effect, Rules};
use failsafe_matchers::strategies::{any_addr, any_rule};
use failsafe_matchers::tables::beside;

/// What a run's policy says of destinations, apart from names.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub mode: EgressMode,
    pub allow: Vec<EgressRule>,
    pub denied: Vec<EgressRule>,
    pub stops: Vec<EgressRule>,
    /// A refusal by the list stops the run.
    pub stop: bool,
    pub latched: bool,
}

/// What comes of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub verdict: u8,
    pub latched: bool,
}

impl Bounds {
    /// An allow-list that is enforced, and nothing else.
    pub fn list(allow: Vec<EgressRule>) -> Bounds {
        let (denied, stops) = (Vec::new(), Vec::new());
        Bounds { mode: EgressMode::Enforce, allow, denied, stops, stop: false, latched: false }
    }

    pub fn tables(&self) -> Tables {
        Tables {
            egress: fold(&self.allow).unwrap(),
            beside: beside(&Rules {
                net_denied: self.denied.clone(),
                net_stops: self.stops.clone(),
                ..Rules::default()
            })
            .unwrap(),
            ..Tables::default()
        }
    }

    pub fn cfg(&self, root_id: u64, table: u32) -> abi::RunCfg {
        let bits = [
            (self.mode == EgressMode::Enforce, run_flag::ENFORCE),
            (self.mode == EgressMode::Observe, run_flag::OBSERVE),
            (!self.denied.is_empty(), run_flag::NET_DENIED),
            (!self.stops.is_empty(), run_flag::NET_STOPS),
        ];
        let flags = bits.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
        let stop = if self.stop { 1 << point::NET } else { 0 };
        abi::RunCfg { flags, table, stop, ..run_of(root_id) }
    }

    /// The twin of `judge` in `net.h`. `unclear`: the destination could not be told.
    pub fn judge(&self, to: IpAddr, port: u16, proto: u8, unclear: bool) -> Judged {
        let listed = |rules: &[EgressRule]| failsafe_matchers::egress::verdict(rules, to, port, proto);
        let judged = |verdict, latched| Judged { verdict, latched };
        if self.latched {
            return judged(verdict::DENIED, true);
        }
        if !self.denied.is_empty() && (unclear || listed(&self.denied)) {
            return judged(verdict::DENIED, listed(&self.stops));
        }
        match self.mode {
            EgressMode::Off => judged(verdict::ALLOWED, false),
            _ if !unclear && listed(&self.allow) => judged(verdict::ALLOWED, false),
            EgressMode::Observe => judged(verdict::OBSERVED, false),
            EgressMode::Enforce => judged(verdict::DENIED, self.stop),
        }
    }
}

prop_compose! {
    pub(super) fn any_bounds()(
        mode in prop_oneof![1 => Just(EgressMode::Off), 1 => Just(EgressMode::Observe), 3 => Just(EgressMode::Enforce)],
        allow in prop::collection::vec(any_rule(), 0..8),
        denied in prop::collection::vec((any_rule(), any::<bool>()), 0..4),
        stop in any::<bool>(),
        latched in prop::bool::weighted(0.1),
    ) -> Bounds {
        let stops = denied.iter().filter(|(_, stops)| *stops).map(|(rule, _)| rule.clone()).collect();
        Bounds { mode, allow, denied: denied.into_iter().map(|(rule, _)| rule).collect(), stops, stop, latched }
    }
}

pub(super) fn destination(to: IpAddr, port: u16, proto: u8) -> Asked {
    let mut asked: Asked = [0; at::END];
    put(&mut asked, at::RUN, &RUN.to_ne_bytes());
    put(&mut asked, at::PORT, &port.to_ne_bytes());
    put(&mut asked, at::PROTO, &[proto]);
    put(&mut asked, at::OP, &[1]);
    match to {
        IpAddr::V4(a) => put(&mut asked, at::ADDR, &a.octets()),
        IpAddr::V6(a) => put(&mut asked, at::ADDR, &a.octets()),
    }
    put(&mut asked, at::FAMILY, &[if to.is_ipv4() { 4 } else { 6 }]);
    asked
}

impl Kernel {
    pub(super) fn set_latch(&mut self, latched: bool) {
        let mut latches = self.object.array::<u32>("latches").unwrap();
        latches.set(0, if latched { latch::EGRESS } else { 0 }, 0).unwrap();
    }
}

#[test]
fn the_kernel_judges_a_destination_as_the_rules_do() {
    let Some(kernel) = Kernel::load(&["parity_judge"]) else { return };
    let protocol = prop_oneof![Just(1u8), Just(TCP), Just(UDP), any::<u8>()];
    let asked = prop::collection::vec((any_addr(), 0u16..18, protocol), 1..16);
    check(kernel, 1500, &(any_bounds(), asked), |kernel, (bounds, asked)| {
        kernel.under(&bounds.tables(), |kernel, table| {
            kernel.object.write_run(bounds.cfg(RUN, table)).unwrap();
            for (to, port, proto) in asked {
                kernel.set_latch(bounds.latched);
                let after = kernel.ask("parity_judge", &destination(to, port, proto));
                let got = Judged { verdict: after[at::ANSWER], latched: kernel.latch() != 0 };
                prop_assert_eq!(got, bounds.judge(to, port, proto, false), "{}:{} by {}", to, port, proto);
                let flags = u16::from_ne_bytes([after[at::FLAGS], after[at::FLAGS + 1]]);
                let mapped = matches!(to, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
                prop_assert_eq!(flags & net_flag::MAPPED != 0, mapped);
                prop_assert_eq!(flags & net_flag::LATCHED != 0, bounds.latched);
                // A latched run is refused everything: the event has whether its policy refuses it too.
                let free = Bounds { latched: false, ..bounds.clone() };
                let denied = free.judge(to, port, proto, false).verdict == verdict::DENIED;
                prop_assert_eq!(flags & net_flag::BOUNDS != 0, bounds.latched && denied, "{}:{}", to, port);
            }
            Ok(())
        })
    });
}

#[test]
fn the_kernel_finds_of_a_local_address_what_the_rules_say_of_it() {
    let Some(kernel) = Kernel::load(&["parity_local"]) else { return };
    let effects = || prop_oneof![Just(Effect::Observe), Just(Effect::Deny), Just(Effect::Stop)];
    let rules = || prop::collection::vec((any_rule(), effects()), 0..8);
    let asked = prop::collection::vec((any_addr(), 0u16..18, any::<bool>()), 1..16);
    check(kernel, 1000, &(rules(), rules(), asked), |kernel, (listen, bind, asked)| {
        let rules = Rules { listen, bind, ..Rules::default() };
        let tables = Tables { beside: beside(&rules).unwrap(), ..Tables::default() };
        kernel.under(&tables, |kernel, table| {
            kernel.object.write_run(abi::RunCfg { flags: run_flag::PORTS, table, ..run_of(RUN) }).unwrap();
            for (local, port, tcp) in asked {
                let proto = if tcp { TCP } else { UDP };
                let mut asked = destination(local, port, proto);
                let strictest = |rules: &[(EgressRule, Effect)], least: Effect| {
                    let named = rules.iter().filter(|(rule, _)| names(std::slice::from_ref(rule), local, port, proto));
                    named.map(|(_, effect)| *effect).filter(|effect| *effect >= least).max().unwrap_or(Effect::None)
                };
                // What is only observed of binds is told by a flag of the run.
                for (what, rules, least) in [(0u64, &rules.bind, Effect::Deny), (1, &rules.listen, Effect::Observe)] {
                    put(&mut asked, at::NUMBER, &what.to_ne_bytes());
                    let got = answer(&kernel.ask("parity_local", &asked));
                    prop_assert_eq!(got, strictest(rules, least) as u64, "{} {}:{}", what, local, port);
                }
            }
            Ok(())
        })
    });
}

#[test]
fn a_destination_counts_towards_the_budget_of_the_longest_prefix() {
    let Some(kernel) = Kernel::load(&["parity_class"]) else { return };
    // The parser refuses a network in two budgets.
    let nets = prop::collection::btree_set(any_rule().prop_map(|rule| rule.net.trunc()), 0..8);
    let strategy = (nets, prop::collection::vec(0usize..7, 8), prop::collection::vec(any_addr(), 1..16));
    check(kernel, 700, &strategy, |kernel, (nets, class_of, asked)| {
        let mut budgets = vec![BudgetRule { to: Vec::new(), bytes: 0, rate: 0, stop: false }; 7];
        for (net, class) in nets.iter().zip(&class_of) {
            budgets[*class].to.push(*net);
        }
        let tables = Tables { budgets: budgets.clone(), ..Tables::default() };
        kernel.under(&tables, |kernel, table| {
            for to in asked {
                let mut asked = destination(to, 1, UDP);
                put(&mut asked, at::TABLE, &table.to_ne_bytes());
                let got = answer(&kernel.ask("parity_class", &asked));
                prop_assert_eq!(got, class_of_longest(&budgets, to), "{}", to);
            }
            Ok(())
        })
    });
}

/// The budget, from 1, of the longest prefix that holds the address; 0: none does.
pub(super) fn class_of_longest(budgets: &[BudgetRule], to: IpAddr) -> u64 {
    let nets = (1..).zip(budgets).flat_map(|(class, budget)| budget.to.iter().map(move |net| (class, *net)));
    let holding = nets.filter_map(|(class, net)| Some((holds(net, canonical(to))?, class)));
    // Of one network, written in both ways, the kernel's table has room for one: the later.
    holding.enumerate().max_by_key(|(at, (length, _))| (*length, *at)).map_or(0, |(_, (_, class))| class)
}

/// How many bits of the address the network fixes, if it holds it.
fn holds(net: IpNet, to: IpAddr) -> Option<u8> {
    match (net, to) {
        (IpNet::V6(net), IpAddr::V4(to)) => {
            net.contains(&to.to_ipv6_mapped()).then(|| net.prefix_len().checked_sub(96)).flatten()
        }
        _ => net.contains(&to).then_some(net.prefix_len()),
    }
}
