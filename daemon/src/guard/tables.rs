//! Writing the maps: the only place that knows their keys and the order of writes.
//!
//! Readers in the kernel take no lock, so every write here leaves the maps valid at each step: a new allow-list is
//! complete before the one write that puts it in force, and what is removed is out of use first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::PerCpuValues;
use failsafe_ebpf::abi;
use failsafe_matchers::egress::{EgressPolicy, Folded};
use failsafe_matchers::fold::fold;
use failsafe_matchers::rules::Rules;
use failsafe_matchers::tables::Tables;

use super::error::Error;
use super::files::{Limits, NodeFiles};
use super::maps::{PathBytes, key4, key6, number_key, path_key};
use super::object::Object;
use super::totals::ZERO;
use crate::platform::bpf::Pod;

/// A policy's tables, with the files and devices that its rules name on this node.
///
/// # Errors
/// A list that does not fit, or more files than may be looked at.
pub fn tables_of(egress: &EgressPolicy, rules: &Rules) -> Result<Tables, Error> {
    let folded = fold(rules, &mut NodeFiles::new(Path::new("/"), Limits::default()))?;
    Ok(Tables::new(egress, rules, folded)?)
}

impl Object {
    /// A slot's new occupant starts from nothing.
    pub(super) fn reset_slot(&mut self, slot: u32) -> Result<(), Error> {
        for map in ["seqs", "shares", "lives", "births"] {
            let mut numbers = self.array::<u64>(map)?;
            numbers.set(slot, 0, 0).map_err(Error::map(map))?;
        }
        self.reset_budgets(slot)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Cgroup {
            path: PathBuf::from("/sys/devices/system/cpu/possible"),
            operation: "read",
            source,
        })?;
        let zeroes = |_| Error::Missing("values for every CPU");
        let mut drops = self.per_cpu::<u64>("drops")?;
        let values = PerCpuValues::try_from(vec![0; cpus]).map_err(zeroes)?;
        drops.set(slot, values, 0).map_err(Error::map("drops"))?;
        let mut counters = self.per_cpu::<Pod<abi::Counters>>("counters")?;
        let values = PerCpuValues::try_from(vec![ZERO; cpus]).map_err(zeroes)?;
        counters.set(slot, values, 0).map_err(Error::map("counters"))
    }

    pub(super) fn write_run(&mut self, cfg: abi::RunCfg) -> Result<(), Error> {
        let mut runs = self.hash::<u64, Pod<abi::RunCfg>>("runs")?;
        runs.insert(cfg.root_id, Pod(cfg), 0).map_err(Error::map("runs"))
    }

    /// The levels of the hierarchy at which there are runs.
    pub(super) fn write_levels(&mut self, wanted: &BTreeSet<u8>) -> Result<(), Error> {
        let mut control = self.array::<Pod<abi::Control>>("control")?;
        control.set(0, Pod(abi::Control { next: next_levels(wanted) }), 0).map_err(Error::map("control"))
    }

    pub(super) fn write_table(&mut self, table: u32, tables: &Tables) -> Result<(), Error> {
        let Tables { rules, hosts, budgets, .. } = tables;
        self.write_hosts(table, hosts)?;
        self.write_classes(table, budgets)?;
        let mut paths = self.trie::<PathBytes, Pod<abi::Effects>>("paths")?;
        for (path, effects) in &rules.paths {
            paths.insert(&path_key(table, path), Pod(*effects), 0).map_err(Error::map("paths"))?;
        }
        let mut keys = self.hash::<Pod<abi::Key>, Pod<abi::Effects>>("keys")?;
        for (number, effects) in &rules.numbers {
            keys.insert(number_key(table, *number), Pod(*effects), 0).map_err(Error::map("keys"))?;
        }
        for (list, folded) in lists(table, tables) {
            self.write_list(list, folded)?;
        }
        Ok(())
    }

    fn write_list(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
        let mut v4 = self.trie::<[u8; 8], Pod<abi::Ports>>("egress4")?;
        for (net, ports) in &folded.v4 {
            v4.insert(&key4(table, *net), Pod(*ports), 0).map_err(Error::map("egress4"))?;
        }
        let mut v6 = self.trie::<[u8; 20], Pod<abi::Ports>>("egress6")?;
        for (net, ports) in &folded.v6 {
            v6.insert(&key6(table, *net), Pod(*ports), 0).map_err(Error::map("egress6"))?;
        }
        Ok(())
    }

    pub(super) fn drop_table(&mut self, table: u32, tables: &Tables) -> Result<(), Error> {
        let Tables { rules, hosts, budgets, .. } = tables;
        self.drop_hosts(table, hosts)?;
        self.drop_classes(table, budgets)?;
        let mut paths = self.trie::<PathBytes, Pod<abi::Effects>>("paths")?;
        for path in rules.paths.keys() {
            let _ = paths.remove(&path_key(table, path));
        }
        let mut keys = self.hash::<Pod<abi::Key>, Pod<abi::Effects>>("keys")?;
        for number in rules.numbers.keys() {
            let _ = keys.remove(&number_key(table, *number));
        }
        for (list, folded) in lists(table, tables) {
            self.drop_list(list, folded)?;
        }
        Ok(())
    }

    fn drop_list(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
        let mut v4 = self.trie::<[u8; 8], Pod<abi::Ports>>("egress4")?;
        for (net, _) in &folded.v4 {
            let _ = v4.remove(&key4(table, *net));
        }
        let mut v6 = self.trie::<[u8; 20], Pod<abi::Ports>>("egress6")?;
        for (net, _) in &folded.v6 {
            let _ = v6.remove(&key6(table, *net));
        }
        Ok(())
    }
}

/// After each level, the next deeper one that is wanted; 0 = none. A reader may meet any mixture of two such lists.
fn next_levels(wanted: &BTreeSet<u8>) -> [u8; abi::LEVELS] {
    std::array::from_fn(|level| wanted.iter().copied().find(|next| usize::from(*next) > level).unwrap_or(0))
}

/// The lists of addresses, each under its own table's number.
fn lists(table: u32, tables: &Tables) -> impl Iterator<Item = (u32, &Folded)> {
    std::iter::once((table, &tables.egress))
        .chain(tables.beside.iter().map(move |(list, folded)| (table | list, folded)))
}
