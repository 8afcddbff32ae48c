//! Cgroups that the kernel binds when they are made, before their first process: see `ebpf/src/early.h`.
//!
//! ```text
//! arm: programs at the root of discovery, automaton ─► set_early: tables of a rule ─► offer_early: free slots
//! kernel: a provisional run in a slot ─► add_compiled takes it over, with its slot and its epoch ─► offer_early: another slot
//!                                    └─► release_early: nothing bounds the cgroup any more
//! ```
//! Invariants: a rule's tables are in the maps for as long as a provisional run may be judged by them; a slot that was taken is offered
//! again only when nothing of its run is left, or with another number.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use aya::programs::Program;
use failsafe_core::discover::Automaton;
use failsafe_ebpf::abi::{self, early_state, mode, run_flag};
use failsafe_matchers::egress::EgressPolicy;
use failsafe_matchers::rules::Rules;
use failsafe_matchers::tables::Tables;
use failsafe_matchers::watch::Watch;

use super::attach::{Held, attach_to_cgroup};
use super::ebpf::Ebpf;
use super::error::Error;
use super::host::Host;
use super::kernel_quota::{Holder, Resource, need};
use super::load::load_group;
use super::netns::NetNs;
use super::object::Object;
use super::probe::{Group, PROGRAMS};
use super::provisional::{Early, Provisional};
use crate::platform::bpf::Pod;

/// The program that binds.
const MADE: &str = "fs_early_made";

impl Ebpf {
    /// Loads and attaches what binds cgroups below `root`, a cgroup at this level. `levels`: those of cgroups that may match. Nothing is
    /// bound before a rule has tables and a slot is free.
    ///
    /// # Errors
    /// The kernel refused a program, or a map could not be written: nothing is attached then.
    pub fn arm_early(&mut self, automaton: &Automaton, root: &Path, levels: BTreeSet<u8>) -> Result<(), Error> {
        if self.early.armed {
            return Ok(());
        }
        let done = self.try_to_arm(automaton, root, levels);
        if done.is_err() {
            self.disarm_early();
        }
        done
    }

    fn try_to_arm(&mut self, automaton: &Automaton, root: &Path, levels: BTreeSet<u8>) -> Result<(), Error> {
        load_group(&mut self.object, Group::Early)?;
        self.object.write_automaton(automaton)?;
        self.early.levels = levels;
        self.write_levels()?;
        let dir =
            File::open(root).map_err(|source| Error::Cgroup { path: root.to_owned(), operation: "open", source })?;
        for spec in PROGRAMS.iter().filter(|spec| spec.group == Group::Early && spec.name != MADE) {
            let held = attach_early(&mut self.object, spec.name, root, &dir)?;
            self.early.links.push(held);
        }
        let fail = |source| Error::Attach { program: MADE, target: "the host".into(), source: Box::new(source) };
        let link = Host { object: &mut self.object, guards_runs: true }.attach(MADE).map_err(fail)?;
        self.early.links.push(Held::Open(link));
        self.early.armed = true;
        self.object.write_early(automaton, 0, true)
    }

    fn disarm_early(&mut self) {
        for held in std::mem::take(&mut self.early.links) {
            if let Held::Pinned(path) = held {
                let _ = std::fs::remove_file(path);
            }
        }
        if let Ok(pins) = self.object.pins() {
            let _ = std::fs::remove_file(pins.host_link(MADE));
        }
        self.early = Early { settled: self.early.settled, ..Early::default() };
        let _ = self.write_levels();
    }

    /// Gives a rule the tables that its cgroups begin with, in place of those it had; `None`: its cgroups are not bound by the kernel.
    ///
    /// # Errors
    /// There is no room in the kernel's tables; the rule's cgroups are not bound then.
    pub fn set_early(
        &mut self,
        rule: u32,
        holder_slot: u32,
        policy: Option<(&EgressPolicy, &Rules, Watch, Tables)>,
    ) -> Result<(), Error> {
        self.object.write_early_cfg(rule, None)?;
        if let Some((table, tables)) = self.early.tables.remove(&rule) {
            // A provisional run may still be judged by them; no other run has this table.
            if self.provisional_with(table)? {
                self.early.tables.insert(rule, (table, tables));
                return Err(Error::Slot(holder_slot));
            }
            self.object.drop_table(table, &tables)?;
            self.object.forget_learnt(|learnt| learnt == table)?;
            self.quota.give(holder_slot);
        }
        let Some((egress, rules, watch, tables)) = policy else { return Ok(()) };
        let mut entries = need(&tables);
        // It is no run, and needs no place in the map of runs.
        entries.remove(&Resource::Runs);
        self.quota.take(holder_slot, Holder::Administrator, entries)?;
        let table = self.object.new_table()?;
        if let Err(error) = self.object.write_table(table, &tables) {
            let _ = self.object.drop_table(table, &tables);
            self.quota.give(holder_slot);
            return Err(error);
        }
        // What is counted by slot begins when the run is registered.
        let flags = self.cfg_flags(egress, rules, watch, &tables) & !run_flag::BUDGETS;
        let cfg = abi::RunCfg {
            slot: 0,
            epoch: 0,
            flags,
            table,
            watch: rules.watch,
            deny: rules.deny | rules.stop,
            stop: rules.stop,
            // Anything but 0: it is in use.
            root_id: 1,
            dead_after_ns: rules.dead.map_or(0, |d| d.after_ns),
            max_procs: rules.max_procs,
            max_forks: rules.max_forks,
            netns: self.early.netns.get_or_insert_with(NetNs::of_host).number,
            modes: mode::ENFORCED,
        };
        self.early.tables.insert(rule, (table, tables));
        self.object.write_early_cfg(rule, Some(cfg))
    }

    /// The places in the map of slots, below `most`, that need another slot.
    pub fn wanting_early(&self, most: u32) -> Vec<u32> {
        let wants = |at: &u32| !self.early.offered.contains_key(at);
        if self.early.armed { (0..most.min(abi::EARLY_SLOTS)).filter(wants).collect() } else { Vec::new() }
    }

    /// Offers a slot at a place. `known` is called with its epoch before it can be taken.
    ///
    /// # Errors
    /// A map could not be written; the slot is not offered then.
    pub fn offer_early(&mut self, at: u32, slot: u32, known: impl FnOnce(u32)) -> Result<(), Error> {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        self.object.reset_slot(slot)?;
        self.latches.write(slot, 0)?;
        known(epoch);
        self.object.write_early_slot(at, slot, epoch)?;
        self.early.offered.insert(at, (slot, epoch));
        Ok(())
    }

    /// The provisional run of a cgroup.
    #[must_use]
    pub fn provisional(&mut self, cgroup_id: u64) -> Option<abi::RunCfg> {
        let runs = self.object.hash::<u64, Pod<abi::RunCfg>>("runs").ok()?;
        let Pod(cfg) = runs.get(&cgroup_id, 0).ok()?;
        (cfg.flags & run_flag::PROVISIONAL != 0 && !self.runs.contains_key(&cfg.slot)).then_some(cfg)
    }

    /// All provisional runs.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn all_provisional(&mut self) -> Result<Vec<Provisional>, Error> {
        let offered: Vec<(u32, (u32, u32))> = self.early.offered.iter().map(|(at, place)| (*at, *place)).collect();
        let slots = self.object.array::<Pod<abi::EarlySlot>>("early_slots")?;
        let mut found = Vec::new();
        for (at, place) in offered {
            let Pod(slot) = slots.get(&at, 0).map_err(Error::map("early_slots"))?;
            if slot.state == early_state::TAKEN && (slot.slot, slot.epoch) == place {
                found.push(Provisional {
                    slot: slot.slot,
                    epoch: slot.epoch,
                    root_id: slot.root_id,
                    rule: slot.rule.saturating_sub(1),
                    at_ns: slot.at_ns,
                });
            }
        }
        found.retain(|run| !self.runs.contains_key(&run.slot));
        Ok(found)
    }

    /// Lets a provisional run go: nothing bounds its cgroup any more. The answer is its slot, which is free then, and the processes that a
    /// rule has stopped by a signal.
    ///
    /// # Errors
    /// A map could not be written.
    pub fn release_early(&mut self, cgroup_id: u64) -> Result<Option<(Provisional, Vec<u32>)>, Error> {
        let Some(found) = self.all_provisional()?.into_iter().find(|run| run.root_id == cgroup_id) else {
            return Ok(None);
        };
        let mut runs = self.object.hash::<u64, Pod<abi::RunCfg>>("runs")?;
        let _ = runs.remove(&cgroup_id);
        self.object.forget_members(found.slot, found.epoch)?;
        let of_run = |s: &abi::Occupant| (s.slot, s.epoch) == (found.slot, found.epoch);
        let stopped = self.object.take_processes("stopped", of_run)?;
        self.latches.write(found.slot, 0)?;
        // Last: until then it is found again, and a release that failed is tried again.
        self.settle_early(found.slot, found.epoch)?;
        Ok(Some((found, stopped)))
    }

    /// A run is no longer provisional. Counted once for each: what judges provisional runs rests while this number is that of those that
    /// were bound.
    pub(super) fn settle_early(&mut self, slot: u32, epoch: u32) -> Result<(), Error> {
        let before = self.early.offered.len();
        self.early.offered.retain(|_, place| *place != (slot, epoch));
        if self.early.offered.len() == before {
            return Ok(());
        }
        self.early.settled += 1;
        self.object.write_settled(self.early.settled)
    }

    /// Earlier daemons' programs bind no more cgroups.
    ///
    /// # Errors
    /// bpffs could not be changed: they go on.
    pub fn retire_early(&self) -> Result<(), Error> {
        self.object.pins().map_or(Ok(()), |pins| pins.remove_host_link_of_others(MADE))
    }

    /// Loads the programs, and attaches none: for who asks what a kernel takes. What it refuses is a line in [`Ebpf::programs`].
    pub fn load_early(&mut self) {
        let _refused = load_group(&mut self.object, Group::Early);
    }

    /// The levels at which the kernel may bind cgroups.
    pub(super) fn early_levels(&self) -> &BTreeSet<u8> {
        &self.early.levels
    }

    /// What the kernel counted.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn early_seen(&mut self) -> Result<abi::EarlySeen, Error> {
        let seen = self.object.array::<Pod<abi::EarlySeen>>("early_seen")?;
        seen.get(&0, 0).map(|Pod(seen)| seen).map_err(Error::map("early_seen"))
    }

    fn provisional_with(&mut self, table: u32) -> Result<bool, Error> {
        let runs = self.object.hash::<u64, Pod<abi::RunCfg>>("runs")?;
        Ok(runs.iter().filter_map(Result::ok).any(|(_, Pod(cfg))| cfg.table == table))
    }
}

fn attach_early(object: &mut Object, name: &'static str, root: &Path, dir: &File) -> Result<Held, Error> {
    let pin = object.pins().ok().map(|pins| pins.host_link(name));
    let program: &mut Program = object.program_mut(name).ok_or(Error::Missing(name))?;
    let link = attach_to_cgroup(program, dir).map_err(|source| Error::Attach {
        program: name,
        target: root.display().to_string(),
        source: Box::new(source),
    })?;
    let Some(path) = pin else { return Ok(Held::Open(link)) };
    match link.pin(&path) {
        Ok(_) => Ok(Held::Pinned(path)),
        Err(e) => Err(Error::Pin { path, operation: "pin a link at", source: std::io::Error::other(e) }),
    }
}

impl Object {
    fn write_automaton(&mut self, automaton: &Automaton) -> Result<(), Error> {
        let mut rows = self.array::<Pod<abi::EarlyRow>>("early_rows")?;
        for (number, state) in (0..).zip(&automaton.states) {
            let mut next = [0; abi::EARLY_CLASSES];
            next[..state.next.len()].copy_from_slice(&state.next);
            let rule = state.rule.map_or(0, |rule| u32::try_from(rule).unwrap_or(0) + 1);
            rows.set(number, Pod(abi::EarlyRow { next, rule }), 0).map_err(Error::map("early_rows"))?;
        }
        Ok(())
    }

    fn write_early(&mut self, automaton: &Automaton, settled: u64, on: bool) -> Result<(), Error> {
        let mut early = self.array::<Pod<abi::Early>>("early")?;
        let value = abi::Early { settled, start: u32::from(on), pad: 0, class_of: automaton.class_of };
        early.set(0, Pod(value), 0).map_err(Error::map("early"))
    }

    fn write_settled(&mut self, settled: u64) -> Result<(), Error> {
        let mut early = self.array::<Pod<abi::Early>>("early")?;
        let Pod(value) = early.get(&0, 0).map_err(Error::map("early"))?;
        early.set(0, Pod(abi::Early { settled, ..value }), 0).map_err(Error::map("early"))
    }

    fn write_early_cfg(&mut self, rule: u32, cfg: Option<abi::RunCfg>) -> Result<(), Error> {
        const UNUSED: abi::RunCfg = abi::RunCfg {
            slot: 0,
            epoch: 0,
            flags: 0,
            table: 0,
            watch: 0,
            deny: 0,
            stop: 0,
            root_id: 0,
            dead_after_ns: 0,
            max_procs: 0,
            max_forks: 0,
            netns: 0,
            modes: 0,
        };
        let mut cfgs = self.array::<Pod<abi::RunCfg>>("early_cfgs")?;
        cfgs.set(rule, Pod(cfg.unwrap_or(UNUSED)), 0).map_err(Error::map("early_cfgs"))
    }

    fn write_early_slot(&mut self, at: u32, slot: u32, epoch: u32) -> Result<(), Error> {
        let mut slots = self.array::<Pod<abi::EarlySlot>>("early_slots")?;
        let free = abi::EarlySlot { slot, epoch, state: early_state::FREE, rule: 0, root_id: 0, at_ns: 0 };
        slots.set(at, Pod(free), 0).map_err(Error::map("early_slots"))
    }
}
