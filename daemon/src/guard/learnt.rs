//! Addresses that name servers gave for the hosts of an allow-list, and the numbers of the lists.

use aya::maps::{HashMap, MapData};
use failsafe_ebpf::abi;
use std::net::IpAddr;

use super::error::Error;
use super::object::Object;
use crate::platform::bpf::Pod;

type Learnt<'a> = HashMap<&'a mut MapData, Pod<abi::LearntKey>, u64>;

impl Object {
    /// The number of a new table: one that no list of this or an earlier daemon ever had.
    pub(super) fn new_table(&mut self) -> Result<u32, Error> {
        let mut map = self.array::<u32>("last_table")?;
        let table = map.get(&0, 0).map_err(Error::map("last_table"))? + 1;
        map.set(0, table, 0).map_err(Error::map("last_table"))?;
        Ok(table)
    }

    /// Notes addresses as those of hosts of a list, by the hosts' bits.
    pub(super) fn learn(&mut self, table: u32, addresses: &[(IpAddr, u64)]) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        let mut learnt = self.learnt()?;
        for (address, hosts) in addresses {
            let (family, mut addr) = (if address.is_ipv4() { 4 } else { 6 }, [0; 16]);
            match address {
                IpAddr::V4(v4) => addr[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => addr = v6.octets(),
            }
            let key = Pod(abi::LearntKey { table, family, addr });
            let now = learnt.get(&key, 0).unwrap_or(0);
            learnt.insert(key, now | hosts, 0).map_err(Error::map("learnt"))?;
        }
        Ok(())
    }

    /// What was learnt under one list holds under the next, whose hosts have the same numbers.
    pub(super) fn carry_learnt(&mut self, from: &[u32], to: u32) -> Result<(), Error> {
        let mut learnt = self.learnt()?;
        let known: Vec<_> =
            learnt.iter().filter_map(Result::ok).filter(|(Pod(key), _)| from.contains(&key.table)).collect();
        for (Pod(key), hosts) in known {
            let key = Pod(abi::LearntKey { table: to, ..key });
            let now = learnt.get(&key, 0).unwrap_or(0);
            if now | hosts != now {
                learnt.insert(key, now | hosts, 0).map_err(Error::map("learnt"))?;
            }
        }
        Ok(())
    }

    /// For lists that are no longer in force.
    pub(super) fn forget_learnt(&mut self, gone: impl Fn(u32) -> bool) -> Result<(), Error> {
        let mut learnt = self.learnt()?;
        let keys: Vec<_> = learnt.keys().filter_map(Result::ok).filter(|Pod(key)| gone(key.table)).collect();
        for key in keys {
            let _ = learnt.remove(&key);
        }
        Ok(())
    }

    fn learnt(&mut self) -> Result<Learnt<'_>, Error> {
        HashMap::try_from(self.map_mut("learnt")?).map_err(Error::map("learnt"))
    }
}
