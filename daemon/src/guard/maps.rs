//! How the maps are keyed, and what is read of any generation's maps alike.

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, MapData};
use failsafe_ebpf::abi::{self, MAX_BUDGETS};
use failsafe_matchers::keys::NumberKey;
use std::borrow::Borrow;

use crate::platform::bpf::Pod;

/// The key's table and path.
pub(super) type PathBytes = [u8; 4 + abi::RULE_PATH];

pub(super) fn path_key(table: u32, path: &[u8]) -> Key<PathBytes> {
    let mut data = [0; 4 + abi::RULE_PATH];
    data[..4].copy_from_slice(&table.to_ne_bytes());
    let len = path.len().min(abi::RULE_PATH);
    data[4..4 + len].copy_from_slice(&path[..len]);
    Key::new(32 + 8 * u32::try_from(len).unwrap_or(0), data)
}

pub(super) fn number_key(table: u32, (what, a, b): NumberKey) -> Pod<abi::Key> {
    Pod(abi::Key { table, what, a, b })
}

pub(super) fn key4(table: u32, net: ipnet::Ipv4Net) -> Key<[u8; 8]> {
    let mut data = [0; 8];
    data[..4].copy_from_slice(&table.to_ne_bytes());
    data[4..].copy_from_slice(&net.network().octets());
    Key::new(32 + u32::from(net.prefix_len()), data)
}

pub(super) fn key6(table: u32, net: ipnet::Ipv6Net) -> Key<[u8; 20]> {
    let mut data = [0; 20];
    data[..4].copy_from_slice(&table.to_ne_bytes());
    data[4..].copy_from_slice(&net.network().octets());
    Key::new(32 + u32::from(net.prefix_len()), data)
}

/// Where a class of a slot lies in the map `budgets`.
pub(super) fn place(slot: u32, class: u32) -> u32 {
    slot * u32::try_from(MAX_BUDGETS).unwrap_or(0) + class
}

/// The processes of a run that a map has.
pub(super) fn processes<M: Borrow<MapData>, V: Copy>(
    map: &HashMap<M, u32, Pod<V>>,
    of_run: impl Fn(&V) -> bool,
) -> Vec<u32>
where
    Pod<V>: aya::Pod,
{
    map.iter().filter_map(Result::ok).filter(|(_, Pod(value))| of_run(value)).map(|(pid, _)| pid).collect()
}
