//! Writing the maps: the only place that knows their keys and the order of writes.
//!
//! Readers in the kernel take no lock, so every write here leaves the maps valid at each step: a new allow-list is
//! complete before the one write that puts it in force, and what is removed is out of use first.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use failsafe_ebpf::abi::{self, run_flag};

use super::counters::ZERO;
use super::runs::Tables;
use super::{Ebpf, Error, RunSpec};
use crate::platform::bpf::Pod;
use crate::platform::{ProcFs, users::credentials};
use failsafe_matchers::egress::Folded;
use failsafe_matchers::keys::NumberKey;

impl Ebpf {
    /// A slot's new occupant starts from nothing.
    pub(super) fn reset_slot(&mut self, slot: u32) -> Result<(), Error> {
        for map in ["seqs", "shares", "lives", "births"] {
            let mut numbers: Array<_, u64> = Array::try_from(self.map_mut(map)?).map_err(Error::map(map))?;
            numbers.set(slot, 0, 0).map_err(Error::map(map))?;
        }
        self.reset_budgets(slot)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Cgroup {
            path: PathBuf::from("/sys/devices/system/cpu/possible"),
            operation: "read",
            source,
        })?;
        let zeroes = |_| Error::Missing("values for every CPU");
        let mut drops: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.map_mut("drops")?).map_err(Error::map("drops"))?;
        let values = PerCpuValues::try_from(vec![0; cpus]).map_err(zeroes)?;
        drops.set(slot, values, 0).map_err(Error::map("drops"))?;
        let mut counters: PerCpuArray<_, Pod<abi::Counters>> =
            PerCpuArray::try_from(self.map_mut("counters")?).map_err(Error::map("counters"))?;
        let values = PerCpuValues::try_from(vec![ZERO; cpus]).map_err(zeroes)?;
        counters.set(slot, values, 0).map_err(Error::map("counters"))
    }

    pub(super) fn write_latch(&self, slot: u32, latch: u32) -> Result<(), Error> {
        self.latches.write(slot, latch)
    }

    pub(super) fn write_run(&mut self, cfg: abi::RunCfg) -> Result<(), Error> {
        let mut runs: HashMap<_, u64, Pod<abi::RunCfg>> =
            HashMap::try_from(self.map_mut("runs")?).map_err(Error::map("runs"))?;
        runs.insert(cfg.root_id, Pod(cfg), 0).map_err(Error::map("runs"))
    }

    pub(super) fn write_levels(&mut self) -> Result<(), Error> {
        let wanted: BTreeSet<u8> = self.runs.values().filter_map(|l| u8::try_from(l.level).ok()).collect();
        let mut control: Array<_, Pod<abi::Control>> =
            Array::try_from(self.map_mut("control")?).map_err(Error::map("control"))?;
        control.set(0, Pod(abi::Control { next: next_levels(&wanted) }), 0).map_err(Error::map("control"))
    }

    /// Builds the list beside the one in force, switches over, removes the old.
    pub(super) fn swap_table(&mut self, slot: u32, tables: Tables, flags: u32) -> Result<(), Error> {
        let table = self.new_table()?;
        if let Err(e) = self.write_table(table, &tables) {
            let _ = self.drop_table(table, &tables);
            return Err(e);
        }
        self.write_budgets(slot, &tables.budgets)?;
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        let mut cfg = live.cfg;
        let old = cfg.table;
        let heir_of = match &live.tables {
            None => live.heir_of.clone(),
            Some(before) if before.hosts == tables.hosts => vec![old],
            Some(_) => Vec::new(),
        };
        if !heir_of.is_empty() && flags & run_flag::DNS != 0 {
            self.carry_learnt(&heir_of, table)?;
        }
        cfg.table = table;
        cfg.flags = flags;
        self.write_run(cfg)?;
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg = cfg;
        match live.tables.replace(tables) {
            Some(gone) => {
                self.drop_table(old, &gone)?;
                if flags & run_flag::DNS != 0 {
                    // Answers that came while the next list was built.
                    self.carry_learnt(&heir_of, table)?;
                    self.forget_learnt(|table| table == old)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn write_table(&mut self, table: u32, tables: &Tables) -> Result<(), Error> {
        let Tables { rules, hosts, budgets, .. } = tables;
        self.write_hosts(table, hosts)?;
        self.write_classes(table, budgets)?;
        let mut paths: LpmTrie<_, PathBytes, Pod<abi::Effects>> =
            LpmTrie::try_from(self.map_mut("paths")?).map_err(Error::map("paths"))?;
        for (path, effects) in &rules.paths {
            paths.insert(&path_key(table, path), Pod(*effects), 0).map_err(Error::map("paths"))?;
        }
        let mut keys: HashMap<_, Pod<abi::Key>, Pod<abi::Effects>> =
            HashMap::try_from(self.map_mut("keys")?).map_err(Error::map("keys"))?;
        for (number, effects) in &rules.numbers {
            keys.insert(number_key(table, *number), Pod(*effects), 0).map_err(Error::map("keys"))?;
        }
        for (list, folded) in lists(table, tables) {
            self.write_list(list, folded)?;
        }
        Ok(())
    }

    fn write_list(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
        let mut v4: LpmTrie<_, [u8; 8], Pod<abi::Ports>> =
            LpmTrie::try_from(self.map_mut("egress4")?).map_err(Error::map("egress4"))?;
        for (net, ports) in &folded.v4 {
            v4.insert(&key4(table, *net), Pod(*ports), 0).map_err(Error::map("egress4"))?;
        }
        let mut v6: LpmTrie<_, [u8; 20], Pod<abi::Ports>> =
            LpmTrie::try_from(self.map_mut("egress6")?).map_err(Error::map("egress6"))?;
        for (net, ports) in &folded.v6 {
            v6.insert(&key6(table, *net), Pod(*ports), 0).map_err(Error::map("egress6"))?;
        }
        Ok(())
    }

    pub(super) fn drop_table(&mut self, table: u32, tables: &Tables) -> Result<(), Error> {
        let Tables { rules, hosts, budgets, .. } = tables;
        self.drop_hosts(table, hosts)?;
        self.drop_classes(table, budgets)?;
        let mut paths: LpmTrie<_, PathBytes, Pod<abi::Effects>> =
            LpmTrie::try_from(self.map_mut("paths")?).map_err(Error::map("paths"))?;
        for path in rules.paths.keys() {
            let _ = paths.remove(&path_key(table, path));
        }
        let mut keys: HashMap<_, Pod<abi::Key>, Pod<abi::Effects>> =
            HashMap::try_from(self.map_mut("keys")?).map_err(Error::map("keys"))?;
        for number in rules.numbers.keys() {
            let _ = keys.remove(&number_key(table, *number));
        }
        for (list, folded) in lists(table, tables) {
            self.drop_list(list, folded)?;
        }
        Ok(())
    }

    fn drop_list(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
        let mut v4: LpmTrie<_, [u8; 8], Pod<abi::Ports>> =
            LpmTrie::try_from(self.map_mut("egress4")?).map_err(Error::map("egress4"))?;
        for (net, _) in &folded.v4 {
            let _ = v4.remove(&key4(table, *net));
        }
        let mut v6: LpmTrie<_, [u8; 20], Pod<abi::Ports>> =
            LpmTrie::try_from(self.map_mut("egress6")?).map_err(Error::map("egress6"))?;
        for (net, _) in &folded.v6 {
            let _ = v6.remove(&key6(table, *net));
        }
        Ok(())
    }

    /// Notes the processes that are in the run already, so that their leaving is seen.
    pub(super) fn note_members(&mut self, run: &RunSpec<'_>) -> Result<(), Error> {
        let epoch = self.runs.get(&run.slot).map_or(0, |l| l.cfg.epoch);
        let mut members: HashMap<_, u32, Pod<abi::Member>> =
            HashMap::try_from(self.map_mut("members")?).map_err(Error::map("members"))?;
        let mut alive = 0;
        let mut todo = vec![run.cgroup.to_owned()];
        while let Some(dir) = todo.pop() {
            // A cgroup below the root may vanish while we walk, and its processes with it.
            let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else { continue };
            let cgroup_id = fs::metadata(&dir).map_or(run.cgroup_id, |m| m.ino());
            for pid in procs.lines().filter_map(|l| l.parse::<u32>().ok()) {
                let euid = credentials(&ProcFs::default(), pid).ok().flatten().map_or(0, |c| c.uid);
                let member = Pod(abi::Member { cgroup_id, slot: run.slot, epoch, euid, pad: 0 });
                let new = members.get(&pid, 0).is_err();
                members.insert(pid, member, 0).map_err(Error::map("members"))?;
                // Ended in between: its exit was too early to remove the note, and the id may come again.
                let gone = !Path::new("/proc").join(pid.to_string()).exists() && members.remove(&pid).is_ok();
                alive += u64::from(new && !gone);
            }
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        // What the kernel counted meanwhile is added to: a fork in between may be lost from the count, never from the run.
        let mut lives: Array<_, u64> = Array::try_from(self.map_mut("lives")?).map_err(Error::map("lives"))?;
        let counted = lives.get(&run.slot, 0).map_err(Error::map("lives"))?;
        lives.set(run.slot, counted.wrapping_add(alive), 0).map_err(Error::map("lives"))
    }

    /// For a run that is removed while processes live in it, or strayed from it.
    pub(super) fn forget_members(&mut self, slot: u32, epoch: u32) -> Result<(), Error> {
        self.take_processes("members", |m: &abi::Member| (m.slot, m.epoch) == (slot, epoch))?;
        self.take_processes("strays", |s: &abi::Occupant| (s.slot, s.epoch) == (slot, epoch)).map(drop)
    }

    /// The processes of a run that a map has; they are forgotten there.
    pub(super) fn take_processes<V: Copy>(
        &mut self,
        name: &'static str,
        of_run: impl Fn(&V) -> bool,
    ) -> Result<Vec<u32>, Error>
    where
        Pod<V>: aya::Pod,
    {
        let mut map: HashMap<_, u32, Pod<V>> = HashMap::try_from(self.map_mut(name)?).map_err(Error::map(name))?;
        let gone = processes(&map, of_run);
        for pid in &gone {
            let _ = map.remove(pid);
        }
        Ok(gone)
    }
}

/// After each level, the next deeper one that is wanted; 0 = none. A reader may meet any mixture of two such lists.
fn next_levels(wanted: &BTreeSet<u8>) -> [u8; abi::LEVELS] {
    std::array::from_fn(|level| wanted.iter().copied().find(|next| usize::from(*next) > level).unwrap_or(0))
}

/// The processes of a run that a map has.
pub(super) fn processes<M: std::borrow::Borrow<aya::maps::MapData>, V: Copy>(
    map: &HashMap<M, u32, Pod<V>>,
    of_run: impl Fn(&V) -> bool,
) -> Vec<u32>
where
    Pod<V>: aya::Pod,
{
    map.iter().filter_map(Result::ok).filter(|(_, Pod(value))| of_run(value)).map(|(pid, _)| pid).collect()
}

/// The lists of addresses, each under its own table's number.
fn lists(table: u32, tables: &Tables) -> impl Iterator<Item = (u32, &Folded)> {
    std::iter::once((table, &tables.egress))
        .chain(tables.beside.iter().map(move |(list, folded)| (table | list, folded)))
}

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
