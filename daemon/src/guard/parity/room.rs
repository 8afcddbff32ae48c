//! The room that a run is counted with is the room that it takes in the maps.

use std::net::IpAddr;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map};
use failsafe_ebpf::abi;
use proptest::prelude::*;

use super::super::kernel_quota::{Resource, need};
use super::super::maps::PathBytes;
use super::super::tables::tables_of;
use super::{Kernel, Tables, check};
use crate::platform::bpf::Pod;
use failsafe_matchers::egress::{EgressPolicy, EgressRule};
use failsafe_matchers::hosts::{BudgetRule, HostRule, WatchedName};
use failsafe_matchers::rules::{Effect, Rules};
use failsafe_matchers::strategies::any_path_rule as any_path;
use failsafe_matchers::strategies::any_rule as any_destination;

impl Kernel {
    fn entries(&self, map: &'static str) -> usize {
        match self.object.map(map).unwrap() {
            map @ Map::LpmTrie(data) => match data.info().unwrap().key_size() {
                12 => LpmTrie::<_, [u8; 8], Pod<abi::Ports>>::try_from(map)
                    .map(|m| m.keys().count())
                    .or_else(|_| LpmTrie::<_, [u8; 8], u32>::try_from(map).map(|m| m.keys().count()))
                    .unwrap(),
                24 => LpmTrie::<_, [u8; 20], Pod<abi::Ports>>::try_from(map)
                    .map(|m| m.keys().count())
                    .or_else(|_| LpmTrie::<_, [u8; 20], u32>::try_from(map).map(|m| m.keys().count()))
                    .unwrap(),
                _ => LpmTrie::<_, PathBytes, Pod<abi::Effects>>::try_from(map).unwrap().keys().count(),
            },
            map => HashMap::<_, Pod<abi::Key>, Pod<abi::Effects>>::try_from(map)
                .map(|m| m.keys().count())
                .or_else(|_| HashMap::<_, Pod<abi::Key>, Pod<abi::Ports>>::try_from(map).map(|m| m.keys().count()))
                .unwrap(),
        }
    }
}

prop_compose! {
    fn any_tables()(
        allow in prop::collection::vec(any_destination(), 0..6),
        denied in prop::collection::vec(any_destination(), 0..4),
        paths in prop::collection::vec(any_path(), 0..6),
        families in prop::collection::vec(0_u16..8, 0..4),
        hosts in prop::collection::vec("[ab]{1,2}", 0..4),
        names in prop::collection::vec("[ab]{1,2}", 0..4),
        budgets in prop::collection::vec(any_destination(), 0..4),
    ) -> Tables {
        let host = |name| HostRule { name, below: false, ports: Vec::new(), protocol: None };
        let budget = |rule: EgressRule| BudgetRule { to: vec![rule.net], bytes: 1, rate: 0, stop: false };
        let rules = Rules {
            paths,
            families: families.into_iter().map(|family| (family, Effect::Deny)).collect(),
            net_stops: denied.clone(),
            net_denied: denied,
            hosts: hosts.into_iter().map(host).collect(),
            names: names.into_iter().map(WatchedName::Exact).collect(),
            dns_servers: vec![IpAddr::from([127, 0, 0, 53])],
            budgets: budgets.into_iter().map(budget).collect(),
            ..Rules::default()
        };
        tables_of(&EgressPolicy { rules: allow, ..EgressPolicy::default() }, &rules).unwrap()
    }
}

#[test]
fn a_run_takes_no_more_room_than_it_is_counted_with() {
    let Some(kernel) = Kernel::load(&[]) else { return };
    check(kernel, 300, &any_tables(), |kernel, tables| {
        let need = need(&tables);
        let taken = kernel.under(&tables, |kernel, _| {
            let maps = Resource::ALL.into_iter().filter(|(resource, _)| *resource != Resource::Runs);
            maps.map(|(resource, map)| (resource, kernel.entries(map) as u64)).collect::<Vec<_>>()
        });
        for (resource, entries) in taken {
            // A network that is named twice is counted twice, and a file that does not exist as if it did.
            let more = matches!(resource, Resource::BudgetNets4 | Resource::BudgetNets6 | Resource::Numbers);
            prop_assert!(need[&resource] == entries || (more && need[&resource] > entries), "{resource}: {entries}");
        }
        Ok(())
    });
}
