//! Runs in the kernel: adding, changing, blocking and removing them. Only maps and attachments change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::maps::HashMap;
use aya::programs::Program;
use failsafe_ebpf::abi::{self, run_flag};

use super::attach::{Held, attach_device, attach_to_cgroup};
use super::fold::{self, FoldedRules};
use super::kernel_quota::{Holder, Need, Resource};
use super::netns::NetNs;
use super::probe::{Group, PROGRAMS, Spec};
use super::tally::{Outage, Total};
use super::{Ebpf, Error};
use crate::platform::bpf::Pod;
use failsafe_matchers::egress::{EgressError, EgressMode, EgressPolicy, EgressRule, Folded, fold};
use failsafe_matchers::hosts::{BudgetRule, FoldedHosts, fold_hosts};
use failsafe_matchers::keys::{Devices, Names};
use failsafe_matchers::rules::{Effect, Rules};

/// Whether an ordinary event is reported, and how fast it has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not at all.
    Never,
    /// With the next event that has to be known at once, or within [`crate::sensors::ebpf::LOOKS_EVERY`]: it wakes nobody.
    Later,
    /// As soon as it happens.
    AtOnce,
}

/// Which ordinary events a run reports. Refusals, OOM, moves and watched system calls are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Programs started.
    pub exec: Told,
    /// Processes made and ended.
    pub life: Told,
    /// Connects that were allowed.
    pub connect: bool,
    /// Connects of datagram sockets to what the list does not name.
    pub probe: bool,
    /// Sends to an address that were allowed.
    pub send: bool,
    /// Binds that were allowed.
    pub bind: bool,
}

impl Watch {
    /// None of them.
    pub const NOTHING: Watch =
        Watch { exec: Told::Never, life: Told::Never, connect: false, probe: false, send: false, bind: false };
}

impl Default for Watch {
    fn default() -> Self {
        Self { exec: Told::AtOnce, life: Told::AtOnce, connect: true, probe: true, send: true, bind: true }
    }
}

/// A run to be watched.
#[derive(Clone, Debug)]
pub struct RunSpec<'a> {
    /// Index into the per-run maps, chosen by the caller; free to use again after [`Ebpf::remove_run`].
    pub slot: u32,
    /// Root of the run: a directory of the cgroup v2 file system.
    pub cgroup: &'a Path,
    /// Its cgroup id (the inode number of the directory).
    pub cgroup_id: u64,
    /// Its depth below the root of the hierarchy, which has level 0.
    pub level: u32,
    /// What may leave it.
    pub egress: &'a EgressPolicy,
    /// What else it may do, and what of it is watched; see [`Ebpf::require_syscalls`] for the host's side of calls.
    pub rules: &'a Rules,
    /// Which events are wanted.
    pub watch: Watch,
    /// In which share of the kernel's tables it is counted.
    pub holder: Holder,
    /// Its latch from the first instant ([`abi::latch`]), for a run that was so under an earlier daemon.
    pub latch: u32,
    /// Whether an earlier daemon's programs may guard it: what they hold and counted is taken over, see [`super::carry`].
    pub adopt: bool,
}

/// A run that is being watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAttachment {
    /// Its slot.
    pub slot: u32,
    /// Occupant of the slot, as in [`crate::sensors::ebpf::Event::epoch`].
    pub epoch: u32,
    /// Programs that are not attached to it because the kernel refused them.
    pub missing: Vec<&'static str>,
    /// Guards stay in force when the daemon dies.
    pub pinned: bool,
    /// How its rules call the files and folders that the kernel knows by inode.
    pub names: Names,
    /// ... and the devices.
    pub devices: Devices,
}

/// A run in the maps.
#[derive(Debug)]
pub(super) struct Live {
    pub cfg: abi::RunCfg,
    pub level: u32,
    path: PathBuf,
    links: Vec<Held>,
    pub tables: Option<Tables>,
    /// Numbers of the lists it had under earlier daemons, until their programs are removed.
    pub heir_of: Vec<u32>,
    /// What was counted of it before.
    pub earlier: Total,
    pub outage: Option<Outage>,
    /// Keeps the number in `cfg` that namespace's own.
    _netns: NetNs,
}

/// What is in the maps under the run's table.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(super) egress: Folded,
    pub(super) rules: FoldedRules,
    pub(super) hosts: FoldedHosts,
    /// What rules say of addresses, by [`abi::table`].
    pub(super) beside: BTreeMap<u32, Folded>,
    pub(super) budgets: Vec<BudgetRule>,
}

impl Tables {
    /// From a policy's allow-list and rules. Looks at the files that the rules name, within [`fold::Limits`].
    ///
    /// # Errors
    /// A list that does not fit, or more files than may be looked at.
    pub fn of(egress: &EgressPolicy, rules: &Rules) -> Result<Tables, Error> {
        Ok(Tables {
            egress: fold(&egress.rules).map_err(EgressError::of(ALLOW))?,
            rules: fold::fold(rules, Path::new("/"), fold::Limits::default())?,
            beside: beside(rules)?,
            hosts: fold_hosts(&rules.hosts, &rules.names, &rules.dns_servers).map_err(EgressError::of(ALLOW))?,
            budgets: rules.budgets.clone(),
        })
    }

    /// The entries that they take up, by map.
    pub(super) fn need(&self) -> Need {
        let lists = || std::iter::once(&self.egress).chain(self.beside.values());
        let budget_nets =
            |v4: bool| super::quotas::classes(&self.budgets).filter(|(_, net)| net.addr().is_ipv4() == v4).count();
        let entries = [
            (Resource::Runs, 1),
            (Resource::Destinations4, lists().map(|list| list.v4.len()).sum()),
            (Resource::Destinations6, lists().map(|list| list.v6.len()).sum()),
            (Resource::BudgetNets4, budget_nets(true)),
            (Resource::BudgetNets6, budget_nets(false)),
            (Resource::Paths, self.rules.paths.len() + self.hosts.names.len()),
            (Resource::Numbers, self.rules.numbers.len() + self.hosts.servers.len()),
            (Resource::HostPorts, self.hosts.ports.len()),
        ];
        entries.into_iter().map(|(resource, n)| (resource, n as u64)).collect()
    }
}

impl Ebpf {
    /// Watches a run: its cgroup and all below it, also those made later. Processes that are in it already are noted,
    /// so that their leaving is seen.
    ///
    /// # Errors
    /// Slot or level out of range, a run around or inside this one, a list that does not fit, guards that cannot be
    /// attached (with [`EgressMode::Enforce`] also: that the kernel refused). Nothing is left behind.
    pub fn add_run(&mut self, run: &RunSpec<'_>) -> Result<RunAttachment, Error> {
        let tables = Tables::of(run.egress, run.rules)?;
        self.add_compiled(run, tables)
    }

    /// The same, with the tables made before: making them looks at files, and nobody may wait for that behind a lock.
    ///
    /// # Errors
    /// As [`Ebpf::add_run`].
    pub fn add_compiled(&mut self, run: &RunSpec<'_>, tables: Tables) -> Result<RunAttachment, Error> {
        self.check(run)?;
        let (names, devices) = (tables.rules.names.clone(), tables.rules.devices.clone());
        let dir = File::open(run.cgroup).map_err(|source| Error::Cgroup {
            path: run.cgroup.to_owned(),
            operation: "open",
            source,
        })?;
        let before = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten();
        let netns = match before.map_or(0, |before| before.netns) {
            0 => NetNs::of_cgroup(run.cgroup),
            number => NetNs::numbered(number, run.cgroup),
        };
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let cfg = abi::RunCfg {
            slot: run.slot,
            epoch,
            flags: self.flags(run.egress, run.watch) | rule_flags(run.rules, &tables) | self.seen_exec(&tables),
            table: 0,
            watch: run.rules.watch,
            deny: run.rules.deny | run.rules.stop,
            stop: run.rules.stop,
            root_id: run.cgroup_id,
            dead_after_ns: run.rules.dead.map_or(0, |d| d.after_ns),
            max_procs: run.rules.max_procs,
            max_forks: run.rules.max_forks,
            netns: netns.number,
            pad: 0,
        };
        let live = Live {
            cfg,
            level: run.level,
            path: run.cgroup.to_owned(),
            links: Vec::new(),
            tables: None,
            heir_of: Vec::new(),
            earlier: Total::NONE,
            outage: None,
            _netns: netns,
        };
        self.quota.take(run.slot, run.holder, tables.need())?;
        self.runs.insert(run.slot, live);
        self.latches.occupy(run.slot, epoch);
        match self.install(run, tables, &dir) {
            Ok(missing) => {
                Ok(RunAttachment { slot: run.slot, epoch, missing, pinned: self.pins.is_ok(), names, devices })
            }
            Err(e) => {
                let _ = self.remove_run(run.slot);
                Err(e)
            }
        }
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
        let mut runs: HashMap<_, u64, Pod<abi::RunCfg>> =
            HashMap::try_from(self.map_mut("runs")?).map_err(Error::map("runs"))?;
        let _ = runs.remove(&live.cfg.root_id);
        self.write_levels()?;
        self.forget_members(live.cfg.slot, live.cfg.epoch)?;
        if let Some(tables) = live.tables {
            self.drop_table(live.cfg.table, &tables)?;
        }
        self.drop_tally(slot)?;
        if live.cfg.flags & run_flag::DNS != 0 {
            self.forget_learnt(|table| table == live.cfg.table)?;
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
        self.quota.take(slot, holder, tables.need())?;
        // What it had before fits, whoever has it.
        self.swap_table(slot, tables, flags).inspect_err(|_| drop(self.quota.take(slot, holder, before)))
    }

    /// Replaces the set of watched system calls of a run; see [`Ebpf::require_syscalls`] for the host's side.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn set_syscalls(&mut self, slot: u32, mask: u64) -> Result<(), Error> {
        let live = self.runs.get_mut(&slot).ok_or(Error::Slot(slot))?;
        live.cfg.watch = mask;
        let cfg = live.cfg;
        self.write_run(cfg)
    }

    fn check(&self, run: &RunSpec<'_>) -> Result<(), Error> {
        if run.slot >= self.max_runs || self.runs.contains_key(&run.slot) {
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
        let missing = self.missing_guards();
        if mode == EgressMode::Enforce && !missing.is_empty() {
            return Err(Error::CannotEnforce { missing });
        }
        Ok(())
    }

    fn seen_exec(&self, tables: &Tables) -> u32 {
        let judged = !tables.rules.paths.is_empty() && !self.is_loaded("fs_lsm_bprm_check_security");
        if judged { run_flag::SEEN_EXEC } else { 0 }
    }

    fn flags(&self, policy: &EgressPolicy, watch: Watch) -> u32 {
        let mode = match policy.mode {
            EgressMode::Off => 0,
            EgressMode::Observe => run_flag::OBSERVE,
            EgressMode::Enforce => run_flag::ENFORCE,
        };
        let bits = [
            (policy.judge_replies, run_flag::NO_REPLIES),
            (!self.is_loaded("fs_sock_ops"), run_flag::SYN_ONLY),
            (watch.exec != Told::Never, run_flag::WATCH_EXEC),
            (watch.exec == Told::Later, run_flag::EXEC_WAITS),
            (watch.life != Told::Never, run_flag::WATCH_LIFE),
            (watch.life == Told::Later, run_flag::LIFE_WAITS),
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
        self.reset_slot(run.slot)?;
        let before = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten();
        self.write_latch(run.slot, run.latch | before.as_ref().map_or(0, |b| b.latch))?;
        if let (Some(before), Some(live)) = (before, self.runs.get_mut(&run.slot)) {
            live.heir_of = before.tables;
        }
        self.write_levels()?;
        let flags = self.runs.get(&run.slot).map_or(0, |l| l.cfg.flags);
        let devices = tables.rules.has_devices();
        self.swap_table(run.slot, tables, flags)?;
        let mut missing = Vec::new();
        let wanted = |group| matches!(group, Group::Guard | Group::Meter) || (devices && group == Group::Device);
        for spec in PROGRAMS.iter().filter(|s| wanted(s.group)) {
            if !self.is_loaded(spec.name) {
                missing.push(spec.name);
                continue;
            }
            let held = self.attach(spec, run, dir)?;
            if let Some(live) = self.runs.get_mut(&run.slot) {
                live.links.push(held);
            }
        }
        self.note_members(run)?;
        if let Some(before) = run.adopt.then(|| self.previous_of(run.cgroup_id)).flatten() {
            self.take_over(run.slot, &before)?;
        }
        Ok(missing)
    }

    fn attach(&mut self, spec: &Spec, run: &RunSpec<'_>, dir: &File) -> Result<Held, Error> {
        let program = self.object.program_mut(spec.name).ok_or(Error::Missing(spec.name))?;
        if let Program::CgroupDevice(device) = program {
            return attach_device(
                device,
                self.pins.as_ref().ok().map(|p| p.link(run.slot, run.cgroup_id, spec.name)),
                dir,
            )
            .map_err(|e| Error::Attach {
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
        let Ok(pins) = &self.pins else {
            return Ok(Held::Open(link));
        };
        let path = pins.link(run.slot, run.cgroup_id, spec.name);
        match link.pin(&path) {
            Ok(_) => Ok(Held::Pinned(path)),
            Err(e) => Err(Error::Pin { path, operation: "pin a link at", source: std::io::Error::other(e) }),
        }
    }
}

/// What the run may reach, as errors call it.
const ALLOW: &str = "egress allow-list";
/// Lists of local addresses.
const LOCAL: [u32; 5] = [
    abi::table::BIND_DENIED,
    abi::table::BIND_STOPS,
    abi::table::LISTEN_TOLD,
    abi::table::LISTEN_DENIED,
    abi::table::LISTEN_STOPS,
];

/// The lists of what rules say of addresses; an empty one is left out.
pub(super) fn beside(rules: &Rules) -> Result<BTreeMap<u32, Folded>, EgressError> {
    let from = |all: &[(EgressRule, Effect)], least| -> Vec<EgressRule> {
        all.iter().filter(|(_, effect)| *effect >= least).map(|(rule, _)| rule.clone()).collect()
    };
    let lists = [
        (abi::table::NET_DENIED, "rules on connect and send", rules.net_denied.clone()),
        (abi::table::NET_STOPS, "rules on connect and send", rules.net_stops.clone()),
        (abi::table::BIND_DENIED, "rules on bind", from(&rules.bind, Effect::Deny)),
        (abi::table::BIND_STOPS, "rules on bind", from(&rules.bind, Effect::Stop)),
        (abi::table::LISTEN_TOLD, "rules on listen", from(&rules.listen, Effect::Observe)),
        (abi::table::LISTEN_DENIED, "rules on listen", from(&rules.listen, Effect::Deny)),
        (abi::table::LISTEN_STOPS, "rules on listen", from(&rules.listen, Effect::Stop)),
    ];
    let given = lists.into_iter().filter(|(_, _, list)| !list.is_empty());
    given.map(|(table, of, list)| Ok((table, fold(&list).map_err(EgressError::of(of))?))).collect()
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
