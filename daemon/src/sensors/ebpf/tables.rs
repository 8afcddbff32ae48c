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
use failsafe_ebpf::abi;

use super::counters::ZERO;
use super::egress::Folded;
use super::load::Pod;
use super::{Ebpf, Error, RunSpec};

impl Ebpf {
    /// A slot's new occupant starts from nothing.
    pub(super) fn reset_slot(&mut self, slot: u32) -> Result<(), Error> {
        let mut seqs: Array<_, u64> = Array::try_from(self.map_mut("seqs")?).map_err(Error::map("seqs"))?;
        seqs.set(slot, 0, 0).map_err(Error::map("seqs"))?;
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

    pub(super) fn write_latch(&mut self, slot: u32, blocked: bool) -> Result<(), Error> {
        let mut latches: Array<_, u32> = Array::try_from(self.map_mut("latches")?).map_err(Error::map("latches"))?;
        latches.set(slot, u32::from(blocked), 0).map_err(Error::map("latches"))
    }

    pub(super) fn write_run(&mut self, cfg: abi::RunCfg) -> Result<(), Error> {
        let mut runs: HashMap<_, u64, Pod<abi::RunCfg>> =
            HashMap::try_from(self.map_mut("runs")?).map_err(Error::map("runs"))?;
        runs.insert(cfg.root_id, Pod(cfg), 0).map_err(Error::map("runs"))
    }

    /// Bytes in use stay where they are, so that a reader never misses a level that did not change.
    pub(super) fn write_levels(&mut self) -> Result<(), Error> {
        let wanted: BTreeSet<u8> = self.runs.values().filter_map(|l| u8::try_from(l.level).ok()).collect();
        let mut control: Array<_, u64> = Array::try_from(self.map_mut("control")?).map_err(Error::map("control"))?;
        let mut bytes = control.get(&0, 0).map_err(Error::map("control"))?.to_ne_bytes();
        for b in &mut bytes {
            if !wanted.contains(b) {
                *b = 0;
            }
        }
        for level in wanted {
            if !bytes.contains(&level)
                && let Some(free) = bytes.iter_mut().find(|b| **b == 0)
            {
                *free = level;
            }
        }
        control.set(0, u64::from_ne_bytes(bytes), 0).map_err(Error::map("control"))
    }

    /// Builds the list beside the one in force, switches over, removes the old.
    pub(super) fn swap_table(&mut self, slot: u32, folded: Folded, flags: u32) -> Result<(), Error> {
        let table = self.next_table;
        self.next_table += 1;
        if let Err(e) = self.write_table(table, &folded) {
            let _ = self.drop_table(table, &folded);
            return Err(e);
        }
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        let mut cfg = live.cfg;
        let old = cfg.table;
        cfg.table = table;
        cfg.flags = flags;
        self.write_run(cfg)?;
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg = cfg;
        match live.table.replace(folded) {
            Some(gone) => self.drop_table(old, &gone),
            None => Ok(()),
        }
    }

    fn write_table(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
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

    pub(super) fn drop_table(&mut self, table: u32, folded: &Folded) -> Result<(), Error> {
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
        let mut todo = vec![run.cgroup.to_owned()];
        while let Some(dir) = todo.pop() {
            // A cgroup below the root may vanish while we walk, and its processes with it.
            let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else { continue };
            let cgroup_id = fs::metadata(&dir).map_or(run.cgroup_id, |m| m.ino());
            for pid in procs.lines().filter_map(|l| l.parse::<u32>().ok()) {
                let member = Pod(abi::Member { cgroup_id, slot: run.slot, epoch });
                members.insert(pid, member, 0).map_err(Error::map("members"))?;
                // Ended in between: its exit was too early to remove the note, and the id may come again.
                if !Path::new("/proc").join(pid.to_string()).exists() {
                    let _ = members.remove(&pid);
                }
            }
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        Ok(())
    }

    /// For a run that is removed while processes live in it.
    pub(super) fn forget_members(&mut self, slot: u32, epoch: u32) -> Result<(), Error> {
        let mut members: HashMap<_, u32, Pod<abi::Member>> =
            HashMap::try_from(self.map_mut("members")?).map_err(Error::map("members"))?;
        let gone: Vec<u32> = members
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, Pod(m))| m.slot == slot && m.epoch == epoch)
            .map(|(pid, _)| pid)
            .collect();
        for pid in gone {
            let _ = members.remove(&pid);
        }
        Ok(())
    }
}
fn key4(table: u32, net: ipnet::Ipv4Net) -> Key<[u8; 8]> {
    let mut data = [0; 8];
    data[..4].copy_from_slice(&table.to_ne_bytes());
    data[4..].copy_from_slice(&net.network().octets());
    Key::new(32 + u32::from(net.prefix_len()), data)
}

fn key6(table: u32, net: ipnet::Ipv6Net) -> Key<[u8; 20]> {
    let mut data = [0; 20];
    data[..4].copy_from_slice(&table.to_ne_bytes());
    data[4..].copy_from_slice(&net.network().octets());
    Key::new(32 + u32::from(net.prefix_len()), data)
}
