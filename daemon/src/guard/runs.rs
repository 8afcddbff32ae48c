//! Runs in the kernel: adding, changing and removing them. Only maps and attachments change.

use std::fs::{self, File};

use aya::programs::Program;
use failsafe_ebpf::abi::{self, mode, run_flag};
use failsafe_matchers::egress::{EgressError, EgressMode, EgressPolicy, fold};
use failsafe_matchers::rules::Rules;
use failsafe_matchers::tables::{ALLOW, Tables};
use failsafe_matchers::watch::{Delivery, Watch};

use super::attach::{Held, attach_device, attach_to_cgroup};
use super::ebpf::Ebpf;
use super::error::Error;
use super::kernel_quota::{Need, most, need};
use super::live::{Live, RunAttachment, RunSpec};
use super::netns::NetNs;
use super::pins::Pins;
use super::probe::{Group, PROGRAMS, Spec};
use super::tables::tables_of;
use super::totals::Total;
use crate::platform::bpf::Pod;

impl Ebpf {
    /// Watches a run: its cgroup and all below it, also those made later. Processes that are in it already are noted,
    /// so that their leaving is seen.
    ///
    /// # Errors
    /// Slot or level out of range, a run around or inside this one, a list that does not fit, guards that cannot be
    /// attached (with [`EgressMode::Enforce`] also: that the kernel refused). Nothing is left behind.
    pub fn add_run(&mut self, run: &RunSpec<'_>) -> Result<RunAttachment, Error> {
        let tables = tables_of(run.egress, run.rules)?;
        self.add_compiled(run, tables, &Need::new())
    }

    /// The same, with the tables made before: making them looks at files, and nobody may wait for that behind a lock. `reserve`: room
    /// that the run gets besides, for tables that are to replace these.
    ///
    /// # Errors
    /// As [`Ebpf::add_run`].
    pub fn add_compiled(&mut self, run: &RunSpec<'_>, tables: Tables, reserve: &Need) -> Result<RunAttachment, Error> {
        self.check(run)?;
        let (names, devices) = (tables.rules.names.clone(), tables.rules.devices.clone());
        let dir = File::open(run.cgroup).map_err(|source| Error::Cgroup {
            path: run.cgroup.to_owned(),
            operation: "open",
            source,
        })?;
        let early = self.provisional(run.cgroup_id).filter(|early| early.slot == run.slot);
        let before = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten();
        let had = match &before {
            Some(before) => before.modes,
            None if run.adopt => mode::UNKNOWN,
            // Bound since its cgroup was made.
            None => early.map_or(0, |_| mode::ENFORCED),
        };
        // A provisional entry has the namespace of the host, whatever that of the cgroup's processes is.
        let known = before.filter(|before| !before.provisional);
        let netns = match known.map_or(0, |before| before.netns) {
            0 => NetNs::of_cgroup(run.cgroup),
            number => NetNs::numbered(number, run.cgroup),
        };
        let epoch = early.map_or(self.next_epoch, |early| early.epoch);
        self.next_epoch += u32::from(early.is_none());
        let cfg = abi::RunCfg {
            slot: run.slot,
            epoch,
            flags: self.cfg_flags(run.egress, run.rules, run.watch, &tables)
                | early.map_or(0, |_| run_flag::PROVISIONAL),
            table: 0,
            watch: run.rules.watch,
            deny: run.rules.deny | run.rules.stop,
            stop: run.rules.stop,
            root_id: run.cgroup_id,
            dead_after_ns: run.rules.dead.map_or(0, |d| d.after_ns),
            max_procs: run.rules.max_procs,
            max_forks: run.rules.max_forks,
            netns: netns.number,
            modes: modes(run.rules, had),
        };
        let live = Live {
            cfg,
            level: run.level,
            path: run.cgroup.to_owned(),
            links: Vec::new(),
            tables: None,
            heir_of: early.iter().map(|early| early.table).collect(),
            earlier: Total::NONE,
            outage: None,
            _netns: netns,
        };
        self.quota.take(run.slot, run.holder, most(need(&tables), reserve))?;
        self.runs.insert(run.slot, live);
        self.latches.occupy(run.slot, epoch);
        match self.install(run, tables, &dir) {
            Ok(missing) => {
                Ok(RunAttachment { slot: run.slot, epoch, missing, pinned: self.object.pins().is_ok(), names, devices })
            }
            Err(e) => {
                let _ = self.remove_run(run.slot);
                Err(e)
            }
        }
    }

    /// In which modes the kernel has had the run ([`mode`]); `None`: it is no occupant of the slot.
    #[must_use]
    pub fn modes(&self, slot: u32, epoch: u32) -> Option<u32> {
        self.runs.get(&slot).filter(|live| live.cfg.epoch == epoch).map(|live| live.cfg.modes)
    }

    /// Whether a run has this root.
    #[must_use]
    pub fn bounds(&self, root_id: u64) -> bool {
        self.runs.values().any(|live| live.cfg.root_id == root_id)
    }

    /// Stops watching and guarding a run. Unknown slots are ignored.
    ///
    /// # Errors
    /// A pin could not be removed; the rest has been done.
    pub fn remove_run(&mut self, slot: u32) -> Result<(), Error> {
        let Some(live) = self.runs.remove(&slot) else {
            return Ok(());
        };
        self.latches.vacate(slot);
        self.quota.give(slot);
        let mut result = Ok(());
        for link in live.links {
            if let Held::Pinned(path) = link
                && let Err(source) = fs::remove_file(&path)
            {
                result = Err(Error::Pin { path, operation: "remove", source });
            }
        }
        let mut runs = self.object.hash::<u64, Pod<abi::RunCfg>>("runs")?;
        let _ = runs.remove(&live.cfg.root_id);
        self.write_levels()?;
        self.object.forget_members(live.cfg.slot, live.cfg.epoch)?;
        if let Some(tables) = live.tables {
            self.object.drop_table(live.cfg.table, &tables)?;
        }
        self.object.drop_tally(slot)?;
        if live.cfg.flags & run_flag::DNS != 0 {
            self.object.forget_learnt(|table| table == live.cfg.table)?;
        }
        result
    }

    /// Replaces a run's egress policy in one step: every call is judged by the old one or by the new one whole. TCP
    /// connections that stand are judged anew.
    ///
    /// # Errors
    /// As for [`Ebpf::add_run`]; the old policy stays in force.
    pub fn set_egress(&mut self, slot: u32, policy: &EgressPolicy) -> Result<(), Error> {
        self.check_mode(policy.mode)?;
        let egress = fold(&policy.rules).map_err(EgressError::of(ALLOW))?;
        let flags = self.flags(policy, Watch::NOTHING);
        let Some(live) = self.runs.get(&slot) else {
            return Err(Error::Slot(slot));
        };
        let of_egress = run_flag::ENFORCE | run_flag::OBSERVE | run_flag::NO_REPLIES | run_flag::SYN_ONLY;
        let flags = flags | (live.cfg.flags & !of_egress);
        let kept = live.tables.clone().unwrap_or_default();
        let tables = Tables { egress, ..kept };
        let (holder, before) = self.quota.held(slot).cloned().ok_or(Error::Slot(slot))?;
        self.quota.take(slot, holder, need(&tables))?;
        // What it had before fits, whoever has it.
        self.swap_table(slot, tables, flags).inspect_err(|_| drop(self.quota.take(slot, holder, before)))
    }

    /// Replaces all that is refused and watched of a run, in one step. The device program stays attached where it is, and is attached
    /// where the new rules need it.
    ///
    /// # Errors
    /// As for [`Ebpf::add_run`]; what was in force stays so.
    pub fn replace(
        &mut self,
        slot: u32,
        (egress, rules, watch): (&EgressPolicy, &Rules, Watch),
        tables: Tables,
        reserve: &Need,
    ) -> Result<(), Error> {
        self.check_mode(egress.mode)?;
        let flags = self.cfg_flags(egress, rules, watch, &tables);
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        let old = live.cfg;
        let (holder, before) = self.quota.held(slot).cloned().ok_or(Error::Slot(slot))?;
        self.quota.take(slot, holder, most(need(&tables), reserve))?;
        live.cfg = abi::RunCfg {
            watch: rules.watch,
            deny: rules.deny | rules.stop,
            stop: rules.stop,
            dead_after_ns: rules.dead.map_or(0, |d| d.after_ns),
            max_procs: rules.max_procs,
            max_forks: rules.max_forks,
            modes: modes(rules, old.modes),
            ..old
        };
        // The map gets all of it in one write.
        self.swap_table(slot, tables, flags).inspect_err(|_| {
            if let Some(live) = self.runs.get_mut(&slot) {
                live.cfg = old;
            }
            drop(self.quota.take(slot, holder, before));
        })
    }

    /// Replaces the set of watched system calls of a run; see [`Ebpf::require_syscalls`] for the host's side.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn set_syscalls(&mut self, slot: u32, mask: u64) -> Result<(), Error> {
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg.watch = mask;
        let cfg = live.cfg;
        self.object.write_run(cfg)
    }

    fn check(&self, run: &RunSpec<'_>) -> Result<(), Error> {
        if run.slot >= self.object.max_runs() || self.runs.contains_key(&run.slot) {
            return Err(Error::Slot(run.slot));
        }
        let around = |l: &&Live| l.path.starts_with(run.cgroup) || run.cgroup.starts_with(&l.path);
        if let Some(other) = self.runs.values().find(around) {
            return Err(Error::Nested { path: run.cgroup.to_owned(), other: other.path.clone() });
        }
        if !(1..abi::LEVELS).contains(&usize::try_from(run.level).unwrap_or(usize::MAX)) {
            return Err(Error::Level { path: run.cgroup.to_owned(), level: run.level });
        }
        self.check_mode(run.egress.mode)
    }

    fn check_mode(&self, mode: EgressMode) -> Result<(), Error> {
        let missing = self.object.missing_guards();
        if mode == EgressMode::Enforce && !missing.is_empty() {
            return Err(Error::CannotEnforce { missing });
        }
        Ok(())
    }

    fn seen_exec(&self, tables: &Tables) -> u32 {
        let judged = !tables.rules.paths.is_empty() && !self.object.is_loaded("fs_lsm_bprm_check_security");
        if judged { run_flag::SEEN_EXEC } else { 0 }
    }

    pub(super) fn cfg_flags(&self, egress: &EgressPolicy, rules: &Rules, watch: Watch, tables: &Tables) -> u32 {
        // Only where an event of the exec itself follows.
        let once = rules.exec_once && watch.exec != Delivery::Never && self.object.is_loaded("fs_exec");
        let once = if once { run_flag::EXEC_ONCE } else { 0 };
        self.flags(egress, watch) | rule_flags(rules, tables) | self.seen_exec(tables) | once
    }

    fn flags(&self, policy: &EgressPolicy, watch: Watch) -> u32 {
        let mode = match policy.mode {
            EgressMode::Off => 0,
            EgressMode::Observe => run_flag::OBSERVE,
            EgressMode::Enforce => run_flag::ENFORCE,
        };
        let bits = [
            (policy.judge_replies, run_flag::NO_REPLIES),
            (!self.object.is_loaded("fs_sock_ops"), run_flag::SYN_ONLY),
            (watch.exec != Delivery::Never, run_flag::WATCH_EXEC),
            (watch.exec == Delivery::Later, run_flag::EXEC_WAITS),
            (watch.life != Delivery::Never, run_flag::WATCH_LIFE),
            (watch.life == Delivery::Later, run_flag::LIFE_WAITS),
            (watch.connect, run_flag::WATCH_CONNECT),
            (watch.probe, run_flag::WATCH_PROBE),
            (watch.send, run_flag::WATCH_SEND),
            (watch.bind, run_flag::WATCH_BIND),
        ];
        bits.iter().filter(|(on, _)| *on).fold(mode, |acc, (_, bit)| acc | bit)
    }

    /// Everything about the run is in the maps before its first program is attached, and the run itself before its
    /// processes are noted: what they do meanwhile is seen by the hooks.
    fn install(&mut self, run: &RunSpec<'_>, tables: Tables, dir: &File) -> Result<Vec<&'static str>, Error> {
        let flags = self.runs.get(&run.slot).map_or(0, |l| l.cfg.flags);
        let early = flags & run_flag::PROVISIONAL != 0;
        // What the kernel counted and latched since the cgroup was made is the run's.
        if !early {
            self.object.reset_slot(run.slot)?;
        }
        let before = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten();
        let latch = run.latch | before.as_ref().map_or(0, |b| b.latch);
        self.latches.change(run.slot, |now| if early { now | latch } else { latch })?;
        if let (Some(before), Some(live)) = (before, self.runs.get_mut(&run.slot)) {
            live.heir_of = before.tables;
        }
        self.write_levels()?;
        let devices = tables.rules.has_devices();
        // While the programs at the root of discovery judge it, too, each packet would be taken from a budget twice.
        let later = if early { flags & run_flag::BUDGETS } else { 0 };
        self.swap_table(run.slot, tables, flags & !later)?;
        let table = self.runs.get(&run.slot).ok_or(Error::Slot(run.slot))?.cfg.table;
        self.object.learn(table, run.learnt)?;
        let mut missing = Vec::new();
        let wanted = |group| matches!(group, Group::Guard | Group::Meter) || (devices && group == Group::Device);
        for spec in PROGRAMS.iter().filter(|s| wanted(s.group)) {
            if !self.object.is_loaded(spec.name) {
                missing.push(spec.name);
                continue;
            }
            let held = self.attach(spec, run, dir)?;
            if let Some(live) = self.runs.get_mut(&run.slot) {
                live.links.push(held);
            }
        }
        if early {
            self.own_programs_judge(run.slot, later)?;
        }
        let epoch = self.runs.get(&run.slot).map_or(0, |live| live.cfg.epoch);
        self.object.note_members((run.slot, epoch), run.cgroup, run.cgroup_id)?;
        if let Some(before) = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten() {
            self.take_over(run.slot, &before)?;
        }
        Ok(missing)
    }

    /// The run's own programs are attached: those at the root of discovery no longer judge it, and the flags `later` hold.
    fn own_programs_judge(&mut self, slot: u32, later: u32) -> Result<(), Error> {
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg.flags = (live.cfg.flags & !run_flag::PROVISIONAL) | later;
        let cfg = live.cfg;
        self.object.write_run(cfg)?;
        self.settle_early(slot, cfg.epoch)
    }

    pub(super) fn write_levels(&mut self) -> Result<(), Error> {
        let live = self.runs.values().filter_map(|live| u8::try_from(live.level).ok());
        let wanted = live.chain(self.early_levels().iter().copied()).collect();
        self.object.write_levels(&wanted)
    }

    fn attach(&mut self, spec: &Spec, run: &RunSpec<'_>, dir: &File) -> Result<Held, Error> {
        let pin = self.object.pins().ok().map(|pins| pins.link(run.slot, run.cgroup_id, spec.name));
        let program = self.object.program_mut(spec.name).ok_or(Error::Missing(spec.name))?;
        if let Program::CgroupDevice(device) = program {
            return attach_device(device, pin, dir).map_err(|e| Error::Attach {
                program: spec.name,
                target: run.cgroup.display().to_string(),
                source: Box::new(e),
            });
        }
        let link = attach_to_cgroup(program, dir).map_err(|source| Error::Attach {
            program: spec.name,
            target: run.cgroup.display().to_string(),
            source: Box::new(source),
        })?;
        let Some(path) = pin else {
            return Ok(Held::Open(link));
        };
        match link.pin(&path) {
            Ok(_) => Ok(Held::Pinned(path)),
            Err(e) => Err(Error::Pin { path, operation: "pin a link at", source: std::io::Error::other(e) }),
        }
    }

    /// Builds the list beside the one in force, switches over, removes the old.
    fn swap_table(&mut self, slot: u32, tables: Tables, flags: u32) -> Result<(), Error> {
        let table = self.object.new_table()?;
        if let Err(e) = self.object.write_table(table, &tables) {
            let _ = self.object.drop_table(table, &tables);
            return Err(e);
        }
        self.object.write_budgets(slot, &tables.budgets)?;
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        let mut cfg = live.cfg;
        let old = cfg.table;
        let heir_of = match &live.tables {
            None => live.heir_of.clone(),
            Some(before) if before.hosts == tables.hosts => vec![old],
            Some(_) => Vec::new(),
        };
        if !heir_of.is_empty() && flags & run_flag::DNS != 0 {
            self.object.carry_learnt(&heir_of, table)?;
        }
        cfg.table = table;
        cfg.flags = flags;
        self.object.write_run(cfg)?;
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg = cfg;
        match live.tables.replace(tables) {
            Some(gone) => {
                self.object.drop_table(old, &gone)?;
                if flags & run_flag::DNS != 0 {
                    // Answers that came while the next list was built.
                    self.object.carry_learnt(&heir_of, table)?;
                    self.object.forget_learnt(|table| table == old)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Unloads everything, pins included: for a daemon that stops on purpose with no runs left. Merely dropping the
    /// value leaves pinned guards in force.
    ///
    /// # Errors
    /// bpffs could not be changed.
    pub fn unload(mut self) -> Result<(), Error> {
        let slots: Vec<u32> = self.runs.keys().copied().collect();
        for slot in slots {
            self.remove_run(slot)?;
        }
        self.object.pins().map_or(Ok(()), Pins::remove_own)
    }
}

/// Lists of local addresses.
const LOCAL: [u32; 5] = [
    abi::table::BIND_DENIED,
    abi::table::BIND_STOPS,
    abi::table::LISTEN_TOLD,
    abi::table::LISTEN_DENIED,
    abi::table::LISTEN_STOPS,
];

/// The mode of these rules, and those that the run has `had`.
fn modes(rules: &Rules, had: u32) -> u32 {
    let now = if rules.observing { mode::OBSERVED | mode::OBSERVES } else { mode::ENFORCED };
    (had & !mode::OBSERVES) | now
}

fn rule_flags(rules: &Rules, tables: &Tables) -> u32 {
    let dead = match rules.dead {
        Some(dead) if dead.all => run_flag::DEAD_ALL,
        Some(_) => run_flag::DEAD_EGRESS,
        None => 0,
    };
    let bits = [
        (rules.protect, run_flag::PROTECT),
        (!tables.hosts.names.is_empty(), run_flag::DNS),
        (!tables.budgets.is_empty(), run_flag::BUDGETS),
        (tables.beside.contains_key(&abi::table::NET_DENIED), run_flag::NET_DENIED),
        (tables.beside.contains_key(&abi::table::NET_STOPS), run_flag::NET_STOPS),
        (tables.beside.keys().any(|table| LOCAL.contains(table)), run_flag::PORTS),
    ];
    bits.iter().filter(|(on, _)| *on).fold(tables.rules.flags() | dead, |all, (_, bit)| all | bit)
}
