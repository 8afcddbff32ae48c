//! The kernel side of the runs: slots in the eBPF maps, and whose they are.
//!
//! Owns the loaded programs behind one lock, which whoever adds, removes or counts runs may hold for as long as that
//! takes: no thread that freezes takes it. What such a thread needs has a lock of its own, held for microseconds: the
//! latches, the heartbeat, which run a slot is, and how its policy calls things. Where eBPF could not be loaded the daemon
//! works on without it and says so: what needs it refuses to pin.

use super::compile;
use super::{
    ALL_CALLS, Ebpf, Error, Heartbeat, Holder, Latches, LeftEvents, Own, PreviousRun, ProgramStatus, QuotaError,
    RunCounters, RunSpec, Sights, Tables, Via, Watch, kernel_quota::Usage as TableUsage,
};
use crate::sensors::ebpf::Event;
use crate::{counted::Counted, redact::Redactor};
use failsafe_core::{Policy, RunId, event::Field, policy::Pattern, record::Totals};
use failsafe_ebpf::abi::point;
use failsafe_matchers::egress::EgressPolicy;
use failsafe_matchers::keys::{Devices, Inode, Names, device_keys};
use failsafe_matchers::rules::{Rules, Use};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicUsize, mpsc},
    time::Duration,
};

/// Runs that can live at once.
pub const MAX_RUNS: u32 = 1_024;

/// Looking at a policy's files may take this long; then whoever waits is told.
const COMPILE: Duration = Duration::from_secs(10);
/// Compilations that may hang (on a dead network file system, say) before no other is begun.
const MAX_COMPILING: usize = 16;

/// A slot and which of its occupants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    slot: u32,
    epoch: u32,
}

/// What a run needs of the programs that are attached on request.
#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    /// Watched calls.
    calls: u64,
    /// Calls that are refused, see [`Ebpf::require_refusals`].
    refused: u64,
    /// The entry of every call, see [`Ebpf::require_syscalls`].
    entries: bool,
    /// See [`Ebpf::require_sights`].
    sights: Sights,
}

/// Where a run lives, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// Root of the run.
    pub cgroup: &'a Path,
    /// Its cgroup id.
    pub cgroup_id: u64,
    /// Its depth below the root of the hierarchy.
    pub level: usize,
    /// In which share of the kernel's tables it is counted.
    pub holder: Holder,
}

/// Where a run was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its slot.
    pub slot: u32,
    /// Which occupant of the slot.
    pub epoch: u32,
}

/// Why the kernel does not take a run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// All slots are in use.
    #[error("{MAX_RUNS} runs live already, no more can be watched")]
    Full,
    /// The owner may not use that much of the kernel's tables.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The programs refused it.
    #[error("cannot attach the run's programs: {0}")]
    Ebpf(String),
    /// The policy's files could not be looked at.
    #[error("{0}")]
    Compile(String),
    /// The policy needs programs, and there are none.
    #[error("eBPF is not available: {0}")]
    Blind(String),
}

/// A policy in the form that the kernel takes, made before any lock is held.
pub struct Compiled {
    egress: EgressPolicy,
    rules: Rules,
    watch: Watch,
    budgets: Vec<String>,
    argv: Vec<Pattern>,
    tables: Tables,
}

/// How a run's policy calls a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeviceNames {
    /// This very device.
    pub own: Vec<String>,
    /// Patterns that all devices of its kind fit.
    pub kind: Vec<String>,
}

/// The loaded programs, or why there are none; and the slots.
pub struct Kernel {
    ebpf: Result<Mutex<Ebpf>, String>,
    latches: Option<Arc<Latches>>,
    heartbeat: Option<Arc<Heartbeat>>,
    slots: Mutex<BTreeMap<u32, Needs>>,
    runs: RwLock<BTreeMap<Place, RunId>>,
    names: RwLock<BTreeMap<RunId, Arc<Called>>>,
    compiling: Arc<AtomicUsize>,
    redactor: Redactor,
    /// Has every attachment fail.
    #[cfg(test)]
    pub(crate) refuses: std::sync::atomic::AtomicBool,
}

/// How a run's policy calls what the kernel knows by number.
#[derive(Debug, Default)]
struct Called {
    /// Budgets, in the order of their classes.
    budgets: Vec<String>,
    files: Names,
    devices: Devices,
    /// What rules say about command lines.
    argv: Vec<Pattern>,
}

/// What the rules of a policy say about command lines.
fn argv_patterns(policy: &Policy) -> Vec<Pattern> {
    let events = policy.rules.iter().filter_map(|rule| rule.when.event());
    events.filter_map(|event| event.given(Field::Argv)).flatten().cloned().collect()
}

impl Kernel {
    /// Takes the programs over.
    pub fn new(ebpf: Result<Ebpf, String>) -> Kernel {
        let latches = ebpf.as_ref().ok().map(Ebpf::latches);
        let heartbeat = ebpf.as_ref().ok().map(Ebpf::heartbeat);
        Kernel {
            ebpf: ebpf.map(Mutex::new),
            latches,
            heartbeat,
            slots: Mutex::default(),
            runs: RwLock::default(),
            names: RwLock::default(),
            compiling: Arc::default(),
            redactor: Redactor::default(),
            #[cfg(test)]
            refuses: std::sync::atomic::AtomicBool::default(),
        }
    }

    /// The same with another table of what is a secret.
    #[must_use]
    pub fn with_redactor(self, redactor: Redactor) -> Kernel {
        Kernel { redactor, ..self }
    }

    /// Replaces the secrets in a command line of the run, but for what a rule of its policy matches.
    pub fn redact(&self, run: RunId, argv: &mut Vec<String>) {
        let called = self.called(run);
        self.redactor.argv(argv, called.as_ref().map_or(&[], |called| &called.argv));
    }

    /// Why there is no eBPF; `None` when there is.
    pub fn blind(&self) -> Option<&str> {
        self.ebpf.as_ref().err().map(String::as_str)
    }

    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, Ebpf>> {
        self.ebpf.as_ref().ok().map(|e| e.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What of an event belongs to which run.
    pub fn run_of(&self, slot: u32, epoch: u32) -> Option<RunId> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner).get(&Place { slot, epoch }).copied()
    }

    fn called(&self, run: RunId) -> Option<Arc<Called>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()
    }

    /// The name of a budget by its class, which counts from 1.
    pub fn budget(&self, run: RunId, class: &str) -> String {
        let at = class.parse::<usize>().ok().and_then(|class| class.checked_sub(1));
        let name = at.and_then(|at| self.called(run)?.budgets.get(at).cloned());
        name.unwrap_or_else(|| class.to_owned())
    }

    /// How the run's rules call a file, or a folder around it.
    pub fn files(&self, run: RunId, inode: Inode) -> Vec<String> {
        self.called(run).and_then(|called| called.files.get(&inode).cloned()).into_iter().flatten().collect()
    }

    /// How the run's rules call a device.
    pub fn device(&self, run: RunId, block: bool, major: u32, minor: u32) -> DeviceNames {
        let Some(called) = self.called(run) else { return DeviceNames::default() };
        let [own, kind] = device_keys(block, major, minor)
            .map(|key| called.devices.get(&key).cloned().into_iter().flatten().collect());
        DeviceNames { own, kind }
    }

    /// Makes a policy's tables: looks at the files that it names, on a thread of its own and within limits, for a file
    /// system may hang.
    ///
    /// # Errors
    /// [`KernelError::Compile`], with the limit.
    pub fn compile(&self, policy: &Policy) -> Result<Compiled, KernelError> {
        let refusable = self.lock().map_or(0, |ebpf| ebpf.refusable_calls());
        let (egress, rules) = (compile::egress(policy), compile::rules(policy, refusable));
        let (watch, budgets) =
            (compile::watch(policy), policy.egress.iter().flat_map(|e| &e.budgets).map(|b| b.name.clone()).collect());
        let argv = argv_patterns(policy);
        if self.ebpf.is_err() {
            return Ok(Compiled { egress, rules, watch, budgets, argv, tables: Tables::default() });
        }
        let (hanging, compiling) = Counted::one_of(&self.compiling);
        if hanging >= MAX_COMPILING {
            return Err(KernelError::Compile(format!(
                "{hanging} policies are being compiled already (limit {MAX_COMPILING}): a file system that their rules name \
                 may hang"
            )));
        }
        let (done, wait) = mpsc::sync_channel(1);
        let work = move || {
            let _compiling = compiling;
            let made = Tables::of(&egress, &rules).map_err(|error| KernelError::Compile(chain(&error)));
            let _late = done.send(made.map(|tables| Compiled { egress, rules, watch, budgets, argv, tables }));
        };
        let thread = std::thread::Builder::new().name("compile".into()).spawn(work);
        thread.map_err(|error| KernelError::Compile(format!("no thread to compile the policy on: {error}")))?;
        wait.recv_timeout(COMPILE).unwrap_or_else(|_| {
            Err(KernelError::Compile(format!(
                "the files that the policy's rules name could not be looked at within {} s: a file system may hang",
                COMPILE.as_secs()
            )))
        })
    }

    /// Gives a run a slot and attaches its programs; from here on its cgroup is watched and bounded. `adopted` is the least
    /// latch of a run that earlier daemons had: what their programs hold and counted is taken over.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is then left behind.
    pub fn add(
        &self,
        run: RunId,
        compiled: Compiled,
        home: Home<'_>,
        adopted: Option<u32>,
    ) -> Result<Placed, KernelError> {
        #[cfg(test)]
        if self.refuses.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(KernelError::Ebpf("a test has it fail".into()));
        }
        let Compiled { egress, rules, watch, budgets, argv, tables } = compiled;
        let needs = Needs {
            calls: rules.watch & ALL_CALLS,
            refused: rules.deny & ALL_CALLS,
            entries: self.needs_entries(&rules),
            sights: Sights::of(&rules),
        };
        let slot = self.take_slot(needs)?;
        let Some(mut ebpf) = self.lock() else { return Ok(Placed { slot, epoch: 0 }) };
        let spec = RunSpec {
            slot,
            cgroup: home.cgroup,
            cgroup_id: home.cgroup_id,
            level: u32::try_from(home.level).unwrap_or(u32::MAX),
            holder: home.holder,
            egress: &egress,
            rules: &rules,
            watch,
            latch: adopted.unwrap_or(0),
            adopt: adopted.is_some(),
        };
        let all = self.union(None);
        // The last sign of life may be as old as the loading of the programs was long: a run does not begin orphaned.
        self.beat();
        let ready = ebpf.require_refusals(all.refused).and_then(|()| ebpf.require_sights(all.sights));
        let added = ready.and_then(|()| ebpf.add_compiled(&spec, tables)).and_then(|placed| {
            let watched = ebpf.require_syscalls(all.calls, all.entries).map(|_| placed);
            watched.inspect_err(|_| drop(ebpf.remove_run(slot)))
        });
        match added {
            Ok(placed) => {
                let place = Place { slot, epoch: placed.epoch };
                let called = Called { budgets, files: placed.names, devices: placed.devices, argv };
                self.names.write().unwrap_or_else(PoisonError::into_inner).insert(run, Arc::new(called));
                self.runs.write().unwrap_or_else(PoisonError::into_inner).insert(place, run);
                Ok(Placed { slot, epoch: placed.epoch })
            }
            Err(error) => {
                let _released = ebpf.require_refusals(self.union(Some(slot)).refused);
                drop(ebpf);
                self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
                match error {
                    Error::Quota(refused) => Err(KernelError::Quota(refused)),
                    error => Err(KernelError::Ebpf(chain(&error))),
                }
            }
        }
    }

    /// What of the kernel's tables is used, and by how much of it users are bounded.
    pub fn table_usage(&self) -> Vec<TableUsage> {
        self.lock().map(|ebpf| ebpf.table_usage()).unwrap_or_default()
    }

    /// Whether rules on files, memory, privileges or sockets must be seen at the entry of the calls, for want of the hooks that can refuse.
    fn needs_entries(&self, rules: &Rules) -> bool {
        let memory = 1 << point::MEM_ANONYMOUS | 1 << point::MEM_WRITE_EXEC;
        let files = rules.paths.iter().any(|rule| rule.usage != Use::Exec);
        let loaded = |name| self.lock().is_some_and(|ebpf| ebpf.is_loaded(name));
        let marked = rules.watch | rules.deny | rules.stop;
        (files && !loaded("fs_lsm_file_open"))
            || (marked & memory != 0 && !loaded("fs_lsm_mmap_file"))
            || (marked & 1 << point::PRIV_USERNS != 0 && !loaded("fs_lsm_userns_create"))
            || (marked & 1 << point::PRIV_SETUID != 0 && !loaded("fs_lsm_task_fix_setuid"))
            || (!rules.families.is_empty() && !loaded("fs_lsm_socket_create"))
    }

    fn take_slot(&self, mask: Needs) -> Result<u32, KernelError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..MAX_RUNS).find(|slot| !slots.contains_key(slot)).ok_or(KernelError::Full)?;
        slots.insert(free, mask);
        Ok(free)
    }

    /// What all runs need, but for the one that leaves.
    fn union(&self, leaves: Option<u32>) -> Needs {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let stay = slots.iter().filter(|(slot, _)| Some(**slot) != leaves);
        stay.fold(Needs::default(), |all, (_, needs)| Needs {
            calls: all.calls | needs.calls,
            refused: all.refused | needs.refused,
            entries: all.entries || needs.entries,
            sights: all.sights.and(needs.sights),
        })
    }

    /// Detaches a run; watched calls that no other run needs are no longer watched. The slot is free for another run only when
    /// nothing of this one is left in it.
    pub fn remove(&self, slot: u32) {
        if let Some(mut ebpf) = self.lock() {
            if let Err(error) = ebpf.remove_run(slot) {
                tracing::warn!(error = chain(&error), "a run's pins could not all be removed");
            }
            let all = self.union(Some(slot));
            let released = ebpf.require_syscalls(all.calls, all.entries).map(drop);
            if let Err(error) = released.and(ebpf.require_refusals(all.refused)).and(ebpf.require_sights(all.sights)) {
                tracing::warn!(error = chain(&error), "programs that no run needs could not be released");
            }
            drop(ebpf);
            let of_slot: Vec<RunId> = {
                let mut runs = self.runs.write().unwrap_or_else(PoisonError::into_inner);
                runs.extract_if(.., |place, _| place.slot == slot).map(|(_, run)| run).collect()
            };
            for run in of_slot {
                let gone = self.names.write().unwrap_or_else(PoisonError::into_inner).remove(&run);
                // Freed when no lock is held.
                drop(gone);
            }
        }
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// Turns the egress latch, and reads it back. Waits for nobody but others who do this.
    ///
    /// # Errors
    /// The kernel's reason, that the slot is another run's by now, or that there is no eBPF.
    pub fn set_block(&self, slot: u32, epoch: u32, blocked: bool) -> Result<(), KernelError> {
        match &self.latches {
            Some(latches) => latches.set_block(slot, epoch, blocked).map_err(|e| KernelError::Ebpf(chain(&e))),
            None => Err(KernelError::Blind(self.blind().unwrap_or_default().into())),
        }
    }

    /// Whether the run is latched, as the kernel has it; `None` where that cannot be read.
    pub fn is_blocked(&self, slot: u32) -> Option<bool> {
        self.latches.as_ref()?.read(slot).ok().map(|latch| latch != 0)
    }

    /// Counters of every live run, with the run they belong to.
    pub fn counters(&self) -> Result<Vec<(RunId, RunCounters)>, String> {
        let Some(mut ebpf) = self.lock() else { return Ok(Vec::new()) };
        let counters = ebpf.sample_counters().map_err(|e| chain(&e))?;
        drop(ebpf);
        Ok(counters.into_iter().filter_map(|c| Some((self.run_of(c.slot, c.epoch)?, c))).collect())
    }

    /// What was counted of one run in its life. `None`: there is no eBPF, another run has the slot, or the maps cannot be read.
    pub fn totals(&self, slot: u32, epoch: u32) -> Option<Totals> {
        let counters = self.lock()?.read_counters_of(slot).inspect_err(|error| {
            tracing::warn!(error = chain(error), "the counters of a run that has ended cannot be read");
        });
        counters.ok().filter(|counted| counted.epoch == epoch).map(|counted| counted.totals())
    }

    /// Who left a run while the ring was full.
    pub fn leavers(&self) -> Vec<Event> {
        let Some(mut ebpf) = self.lock() else { return Vec::new() };
        ebpf.take_leavers().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "who left while the ring was full cannot be read");
            Vec::new()
        })
    }

    /// How watched calls are seen now.
    pub fn syscalls_via(&self) -> Option<Via> {
        self.lock().and_then(|e| e.watching_via())
    }

    /// Why fentry is not used for them.
    pub fn fentry_refusal(&self) -> Option<String> {
        self.lock().and_then(|e| e.fentry_refusal().map(str::to_owned))
    }

    /// What became of each program.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        self.lock().map(|e| e.programs().to_vec()).unwrap_or_default()
    }

    /// Guards of egress that this kernel refused.
    pub fn missing_guards(&self) -> Vec<&'static str> {
        self.lock().map(|e| e.missing_guards()).unwrap_or_default()
    }

    /// Where links are pinned, or why they are not.
    pub fn pins(&self) -> Result<std::path::PathBuf, String> {
        match self.lock() {
            Some(ebpf) => ebpf.pin_dir().map(Path::to_owned).map_err(str::to_owned),
            None => Err(self.blind().unwrap_or_default().into()),
        }
    }

    /// Why the programs are not pinned, so that they end with the daemon. `None`: they are pinned, or there are none.
    pub fn unpinned(&self) -> Option<String> {
        self.lock()?.pin_dir().err().map(str::to_owned)
    }

    /// Lifts what a stop rule latched and wakes whom it stopped, for a run that is to go on.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn release(&self, slot: u32, epoch: u32, blocked: bool) -> Result<Vec<u32>, KernelError> {
        let Some(mut ebpf) = self.lock() else { return Ok(Vec::new()) };
        if !ebpf.is_occupant(slot, epoch) {
            return Err(KernelError::Ebpf("the run has ended".into()));
        }
        let released = ebpf.lift_stop(slot, blocked).and_then(|()| ebpf.take_stopped(slot));
        released.map_err(|e| KernelError::Ebpf(chain(&e)))
    }

    /// Whether the run's policy watches system calls, or what is seen at their entry only.
    pub fn watches_calls(&self, slot: u32) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&slot).is_some_and(|needs| needs.calls != 0 || needs.entries)
    }

    /// Puts failsafe's own files out of the reach of runs.
    pub fn guard_own(&self, own: &Own) {
        if let Some(mut ebpf) = self.lock()
            && let Err(error) = ebpf.guard_own(own)
        {
            tracing::error!(
                error = chain(&error),
                "not all of failsafe's own files are out of the reach of runs of root"
            );
        }
    }

    /// The daemon's sign of life to the programs. Waits for nobody.
    pub fn beat(&self) {
        if let Some(heartbeat) = &self.heartbeat
            && let Err(error) = heartbeat.beat()
        {
            tracing::error!(error = chain(&error), "the heartbeat cannot be written");
        }
    }

    /// Runs that earlier daemons left guarded, by the cgroup id of their root.
    ///
    /// # Errors
    /// Their pins cannot be read, in words.
    pub fn previous(&self) -> Result<Vec<PreviousRun>, String> {
        let Some(ebpf) = self.lock() else { return Ok(Vec::new()) };
        ebpf.previous_runs().map_err(|error| chain(&error))
    }

    /// Every adopted run is attached: the attachments of earlier daemons may go, but for those of runs with their root in `keep`.
    /// Returns the events that wait in their rings.
    pub fn release_previous(&self, keep: &BTreeSet<u64>) -> Vec<LeftEvents> {
        let Some(mut ebpf) = self.lock() else { return Vec::new() };
        let left = ebpf.left_events();
        if let Err(error) = ebpf.release_previous(keep) {
            tracing::warn!(error = chain(&error), "an earlier daemon's pins stay, which is safe");
        }
        left
    }

    /// On a stop with no runs left: removes everything from the kernel. With runs, their guards stay in force.
    pub fn close(self) {
        let idle = self.slots.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if let (true, Ok(ebpf)) = (idle, self.ebpf) {
            let ebpf = ebpf.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = ebpf.unload() {
                tracing::warn!(error = chain(&error), "pins could not be removed");
            }
        }
    }
}

/// An error with all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
