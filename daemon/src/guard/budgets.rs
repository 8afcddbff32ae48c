//! Writing the maps of names and budgets; [`super::tables`] says in which order.

use aya::maps::Array;
use failsafe_ebpf::abi::{self, MAX_BUDGETS, key_what};
use ipnet::IpNet;

use super::error::Error;
use super::maps::{PathBytes, key4, key6, number_key, path_key, place};
use super::object::Object;
use crate::platform::bpf::Pod;
use failsafe_matchers::hosts::{BudgetRule, FoldedHosts, classes};

/// Names lie in the map of paths, under a table of their own.
const NAMES: u32 = 1 << 31;

impl Object {
    pub(super) fn write_hosts(&mut self, table: u32, hosts: &FoldedHosts) -> Result<(), Error> {
        let mut names = self.trie::<PathBytes, Pod<abi::Effects>>("paths")?;
        for (name, said) in &hosts.names {
            // Hosts count from 1 there: 0 is none.
            let host = said.host.map_or(0, |number| number + 1);
            let entry = abi::Effects { exec: 0, map: 0, read: host, write: u8::from(said.watched) };
            names.insert(&path_key(table | NAMES, name), Pod(entry), 0).map_err(Error::map("paths"))?;
        }
        let mut ports = self.hash::<Pod<abi::Key>, Pod<abi::Ports>>("host_ports")?;
        for (number, of) in (0..).zip(&hosts.ports) {
            let key = number_key(table, (key_what::HOST, number, 0));
            ports.insert(key, Pod(*of), 0).map_err(Error::map("host_ports"))?;
        }
        let mut keys = self.hash::<Pod<abi::Key>, Pod<abi::Effects>>("keys")?;
        let there = Pod(abi::Effects { exec: 0, map: 0, read: 1, write: 0 });
        for (a, b) in &hosts.servers {
            keys.insert(number_key(table, (key_what::DNS, *a, *b)), there, 0).map_err(Error::map("keys"))?;
        }
        Ok(())
    }

    pub(super) fn drop_hosts(&mut self, table: u32, hosts: &FoldedHosts) -> Result<(), Error> {
        let mut names = self.trie::<PathBytes, Pod<abi::Effects>>("paths")?;
        for name in hosts.names.keys() {
            let _ = names.remove(&path_key(table | NAMES, name));
        }
        let mut ports = self.hash::<Pod<abi::Key>, Pod<abi::Ports>>("host_ports")?;
        for (number, _) in (0..).zip(&hosts.ports) {
            let _ = ports.remove(&number_key(table, (key_what::HOST, number, 0)));
        }
        let mut keys = self.hash::<Pod<abi::Key>, Pod<abi::Effects>>("keys")?;
        for (a, b) in &hosts.servers {
            let _ = keys.remove(&number_key(table, (key_what::DNS, *a, *b)));
        }
        Ok(())
    }

    pub(super) fn write_classes(&mut self, table: u32, budgets: &[BudgetRule]) -> Result<(), Error> {
        let mut v4 = self.trie::<[u8; 8], u32>("classes4")?;
        for (class, net) in classes(budgets) {
            if let IpNet::V4(net) = net {
                v4.insert(&key4(table, net), class, 0).map_err(Error::map("classes4"))?;
            }
        }
        let mut v6 = self.trie::<[u8; 20], u32>("classes6")?;
        for (class, net) in classes(budgets) {
            if let IpNet::V6(net) = net {
                v6.insert(&key6(table, net), class, 0).map_err(Error::map("classes6"))?;
            }
        }
        Ok(())
    }

    pub(super) fn drop_classes(&mut self, table: u32, budgets: &[BudgetRule]) -> Result<(), Error> {
        let mut v4 = self.trie::<[u8; 8], u32>("classes4")?;
        for (_, net) in classes(budgets) {
            if let IpNet::V4(net) = net {
                let _ = v4.remove(&key4(table, net));
            }
        }
        let mut v6 = self.trie::<[u8; 20], u32>("classes6")?;
        for (_, net) in classes(budgets) {
            if let IpNet::V6(net) = net {
                let _ = v6.remove(&key6(table, net));
            }
        }
        Ok(())
    }

    /// What was spent stays spent; a slot's new occupant starts at nothing, see [`Object::reset_slot`].
    pub(super) fn write_budgets(&mut self, slot: u32, budgets: &[BudgetRule]) -> Result<(), Error> {
        let mut map = self.array::<Pod<abi::Budget>>("budgets")?;
        for (class, rule) in (1..).zip(budgets) {
            let at = place(slot, class);
            let Pod(now) = map.get(&at, 0).map_err(Error::map("budgets"))?;
            let budget = abi::Budget { bytes: rule.bytes, rate: rule.rate, stop: rule.stop.into(), ..now };
            map.set(at, Pod(budget), 0).map_err(Error::map("budgets"))?;
        }
        Ok(())
    }

    pub(super) fn reset_budgets(&mut self, slot: u32) -> Result<(), Error> {
        let mut map = self.array::<Pod<abi::Budget>>("budgets")?;
        let none = Pod(abi::Budget { bytes: 0, rate: 0, spent: 0, due_ns: 0, dropped: 0, stop: 0 });
        for class in 0..MAX_BUDGETS {
            map.set(place(slot, u32::try_from(class).unwrap_or(0)), none, 0).map_err(Error::map("budgets"))?;
        }
        Ok(())
    }

    /// Adds what an earlier daemon's programs saw spent, by class from 0.
    pub(super) fn add_spent(&mut self, slot: u32, spent: &[u64]) -> Result<(), Error> {
        let mut map = self.array::<Pod<abi::Budget>>("budgets")?;
        for (class, spent) in (0..).zip(spent).filter(|(_, spent)| **spent > 0) {
            let at = place(slot, class);
            let Pod(now) = map.get(&at, 0).map_err(Error::map("budgets"))?;
            let budget = abi::Budget { spent: now.spent.saturating_add(*spent), ..now };
            map.set(at, Pod(budget), 0).map_err(Error::map("budgets"))?;
        }
        Ok(())
    }

    /// What was sent within each budget, and how many packets beyond it were dropped, by class from 1.
    pub(super) fn budgets_used(&self, slot: u32, classes: usize) -> Result<Vec<(u64, u64)>, Error> {
        let map: Array<_, Pod<abi::Budget>> = Array::try_from(self.map("budgets")?).map_err(Error::map("budgets"))?;
        let used = |class: usize| {
            let class = u32::try_from(class).unwrap_or(0);
            let Pod(budget) = map.get(&place(slot, class), 0).map_err(Error::map("budgets"))?;
            Ok((budget.spent, budget.dropped))
        };
        (1..=classes.min(MAX_BUDGETS - 1)).map(used).collect()
    }
}
