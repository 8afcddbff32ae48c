//! Between bounded and only watched: how live runs follow the mode that holds for them, in the engine and in the kernel.
//!
//! ```text
//! observe: engine ─► tables without refusals      enforce: the enforcing tables, which were kept ─► engine
//! ```
//! Owns, for each live run, which mode the kernel is in and the tables that bound the run. Invariants: what bounds a run is ready for as
//! long as it is watched, so nothing of its policy is looked at when it is to be bounded again; a run is said to be enforced only if the
//! kernel took those tables; what the kernel did not take is tried again.

use super::{LiveRun, Registry, modes::Temporary};
use crate::guard::kernel::{Compiled, KernelError};
use failsafe_core::{Mode, Policy};
use failsafe_ebpf::abi::mode;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Runs that a text names one by one.
const NAMED: usize = 3;

/// A policy's tables for a run of one mode.
pub(super) struct Prepared {
    /// The mode.
    pub mode: Mode,
    /// What the kernel gets.
    pub now: Compiled,
    /// What bounds the run; none: it could not be made, and the run is watched.
    pub enforcing: Option<Compiled>,
}

/// The mode of a live run.
#[derive(Default)]
pub(super) struct Switch {
    /// Whether the engine only watches.
    observed: AtomicBool,
    /// Held while the run follows a change: over the making of tables.
    turn: Mutex<()>,
    kernel: Mutex<KernelSide>,
}

/// In which modes the kernel has had a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenModes {
    /// It was bounded.
    pub enforced: bool,
    /// It was only watched.
    pub observed: bool,
    /// An earlier daemon had it, and its modes then are not known.
    pub unknown: bool,
}

impl SeenModes {
    /// As the kernel's map has them.
    pub(super) fn of_kernel(modes: u32) -> SeenModes {
        let has = |bit| modes & bit != 0;
        SeenModes { enforced: has(mode::ENFORCED), observed: has(mode::OBSERVED), unknown: has(mode::UNKNOWN) }
    }

    fn add(&mut self, mode: Mode) {
        match mode {
            Mode::Enforce => self.enforced = true,
            Mode::Observe => self.observed = true,
        }
    }
}

#[derive(Default)]
struct KernelSide {
    mode: Mode,
    /// The modes that it has had since this daemon has the run.
    seen: SeenModes,
    enforcing: Option<Compiled>,
    refused: Option<String>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("observed", &self.observed).field("kernel", &self.kernel().mode).finish()
    }
}

impl Switch {
    /// That of a run that was attached like this.
    pub fn new(mode: Mode, enforcing: Option<Compiled>) -> Switch {
        let mut seen = SeenModes::default();
        seen.add(mode);
        let kernel = Mutex::new(KernelSide { mode, seen, enforcing, refused: None });
        Switch { observed: AtomicBool::new(mode == Mode::Observe), turn: Mutex::default(), kernel }
    }

    fn kernel(&self) -> MutexGuard<'_, KernelSide> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel does not do with a run what the engine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// What the kernel does.
    pub kernel: Mode,
    /// Why it does not follow.
    pub why: String,
}

impl Behind {
    /// The same in words.
    pub fn text(&self) -> String {
        let what = match self.kernel {
            Mode::Observe => "enforce is wanted, the kernel observes: it refuses nothing",
            Mode::Enforce => "observe is wanted, the kernel enforces",
        };
        format!("{what} ({}); tried again", self.why)
    }
}

impl LiveRun {
    /// Whether what is decided about it is carried out. See [`LiveRun::behind`] for what the kernel does.
    pub fn mode(&self) -> Mode {
        if self.switch.observed.load(Ordering::Acquire) { Mode::Observe } else { Mode::Enforce }
    }

    /// The modes in which the kernel has had it since this daemon has it.
    fn modes_since_taken_up(&self) -> SeenModes {
        SeenModes { unknown: self.part > 0, ..self.switch.kernel().seen }
    }

    /// Whether the kernel lags behind [`LiveRun::mode`].
    pub fn behind(&self) -> Option<Behind> {
        let (kernel, wanted) = (self.switch.kernel(), self.mode());
        let why = || kernel.refused.clone().unwrap_or_else(|| "it is being changed".into());
        (kernel.mode != wanted).then(|| Behind { kernel: kernel.mode, why: why() })
    }
}

impl Registry {
    /// Has the kernel bind the cgroups of a rule of discovery when they are made, by this policy; `None`, or a mode in which nothing is
    /// refused: it does not.
    ///
    /// # Errors
    /// The policy's tables cannot be made, or the kernel does not take them: it does not bind them then.
    pub fn bind_early(&self, rule: u32, policy: Option<&Policy>) -> Result<(), KernelError> {
        let compiled = policy.map(|policy| self.kernel.compile(policy)).transpose();
        match compiled {
            Ok(compiled) => self.kernel.set_early(rule, compiled),
            Err(error) => self.kernel.set_early(rule, None).and(Err(error)),
        }
    }

    /// The modes in which the kernel has had a run, under earlier daemons too. Takes the kernel's lock.
    pub(super) fn seen_modes(&self, live: &LiveRun) -> SeenModes {
        let modes = self.kernel.modes(live.slot, live.epoch);
        modes.map_or_else(|| live.modes_since_taken_up(), SeenModes::of_kernel)
    }

    /// The mode that runs with these labels have.
    pub fn mode_of(&self, labels: &std::collections::BTreeMap<String, String>) -> Mode {
        self.modes.of(labels)
    }

    /// Makes a policy's tables for a run of this mode. `strict`: the tables that bound it must be there too.
    pub(super) fn prepare(&self, policy: &Policy, mode: Mode, strict: bool) -> Result<Prepared, KernelError> {
        let enforcing = self.kernel.compile(policy);
        match mode {
            Mode::Enforce => enforcing.map(|made| Prepared { mode, now: made.clone(), enforcing: Some(made) }),
            Mode::Observe => {
                let enforcing = if strict { Some(enforcing?) } else { enforcing.ok() };
                let mut now = self.kernel.compile(&policy.observing())?.observing();
                if let Some(enforcing) = &enforcing {
                    now.reserve_for(enforcing);
                }
                Ok(Prepared { mode, now, enforcing })
            }
        }
    }

    /// Gives or ends an order to observe, and has every live run follow. `tell`: has the engine follow for a run, and returns when it did.
    /// The answer is how many runs changed, and what could not be changed. Where a run is to be bounded again the kernel comes first,
    /// where it is to be watched the engine: in between it is never more bounded than both say.
    ///
    /// # Errors
    /// The order to observe could not be stored: nothing is changed then. The end of one always takes effect.
    pub fn change_mode(
        &self,
        order: Option<Temporary>,
        mut tell: impl FnMut(&Arc<LiveRun>, Mode),
    ) -> Result<(u64, Vec<String>), String> {
        order.as_ref().map_or(Ok(()), |order| self.modes.store(order))?;
        {
            // Whoever makes a run after this sees the new mode; whoever made one before has listed it.
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            self.modes.set(order);
        }
        let live = self.live();
        let wanted = |run: &Arc<LiveRun>| self.modes.of(&run.run.labels);
        let changing: Vec<_> = live.iter().filter(|run| run.mode() != wanted(run)).collect();
        let mut busy = Vec::new();
        let mut failed = Vec::new();
        // All of them before the first table is made: what is decided from here on freezes nobody.
        for run in &changing {
            // Whoever has its turn now looks at the mode anew, and so does the second pass.
            let Ok(_turn) = run.switch.turn.try_lock() else { continue };
            if wanted(run) == Mode::Observe {
                run.switch.observed.store(true, Ordering::Release);
                tell(run, Mode::Observe);
            }
        }
        let mut follow = |run: &Arc<LiveRun>, _turn: MutexGuard<'_, ()>| {
            if let Err(behind) = self.follow(run, &mut tell) {
                failed.push(format!("{} ({}): {}", run.run.name, run.run.id, behind.text()));
            }
        };
        // A run whose tables another change makes at this moment holds up no other run.
        for run in &live {
            match run.switch.turn.try_lock() {
                Ok(turn) => follow(run, turn),
                Err(TryLockError::Poisoned(poisoned)) => follow(run, poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => busy.push(run),
            }
        }
        for run in busy {
            follow(run, run.switch.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let guarded = self.guarded().len();
        if guarded > 0 {
            failed.push(format!("{guarded} guarded runs: they stay bounded as an earlier daemon left them"));
        }
        Ok((changing.len() as u64, failed))
    }

    /// Tries again what the kernel did not take, until there is nothing or `stop` says so. The answer is the runs that follow now.
    pub fn catch_up(&self, mut tell: impl FnMut(&Arc<LiveRun>, Mode), stop: impl Fn() -> bool) -> Vec<Arc<LiveRun>> {
        let mut caught_up = Vec::new();
        // Those that are to be bounded first: that makes no tables.
        let (bounded, watched): (Vec<_>, Vec<_>) =
            self.behind().into_iter().partition(|run| run.mode() == Mode::Enforce);
        for run in bounded.into_iter().chain(watched) {
            if stop() {
                break;
            }
            let Ok(_turn) = run.switch.turn.try_lock() else { continue };
            if self.follow(&run, &mut tell).is_ok() {
                caught_up.push(run.clone());
            }
        }
        caught_up
    }

    /// The live runs with which the kernel does not do what the engine does.
    pub fn behind(&self) -> Vec<Arc<LiveRun>> {
        self.live().into_iter().filter(|run| run.behind().is_some()).collect()
    }

    /// Those that the kernel only observes though they are to be bounded, in one line for the health of the node.
    pub fn unbounded_note(&self) -> Option<String> {
        let of = |run: Arc<LiveRun>| match run.behind() {
            Some(Behind { kernel: Mode::Observe, why }) => Some(format!("{} ({why})", run.run.name)),
            _ => None,
        };
        let all: Vec<String> = self.live().into_iter().filter_map(of).collect();
        let first = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        (!all.is_empty()).then(|| {
            format!(
                "runs to be enforced of which the kernel refuses nothing: {} ({first}); see `failsafectl list`",
                all.len()
            )
        })
    }

    /// Has a run follow the mode that holds for it now. Whoever calls holds its turn.
    fn follow(&self, run: &Arc<LiveRun>, tell: &mut impl FnMut(&Arc<LiveRun>, Mode)) -> Result<(), Behind> {
        let to = self.modes.of(&run.run.labels);
        let changes = run.mode() != to;
        if changes && to == Mode::Observe {
            run.switch.observed.store(true, Ordering::Release);
            tell(run, to);
        }
        let before = run.switch.kernel().mode;
        let put = if before == to { Ok(()) } else { self.put(run, to).map_err(|error| error.to_string()) };
        {
            let mut kernel = run.switch.kernel();
            match &put {
                Ok(()) => {
                    (kernel.mode, kernel.refused) = (to, None);
                    kernel.seen.add(to);
                }
                Err(why) => kernel.refused = Some(why.clone()),
            }
        }
        if changes && to == Mode::Enforce {
            run.switch.observed.store(false, Ordering::Release);
            tell(run, to);
        }
        self.touched.note(run.run.id);
        put.map_err(|why| Behind { kernel: before, why })
    }

    /// Gives the kernel a run's tables of this mode. What bounds it is what it was started with: its files, which may hang or be gone,
    /// are not looked at again.
    fn put(&self, run: &LiveRun, to: Mode) -> Result<(), KernelError> {
        let kept = run.switch.kernel().enforcing.clone();
        let made = match (to, kept) {
            (Mode::Enforce, Some(kept)) => kept,
            (Mode::Enforce, None) => {
                let made = self.kernel.compile(&run.policy)?;
                run.switch.kernel().enforcing = Some(made.clone());
                made
            }
            (Mode::Observe, kept) => {
                let mut made = self.kernel.compile(&run.policy.observing())?.observing();
                if let Some(kept) = &kept {
                    made.reserve_for(kept);
                }
                made
            }
        };
        self.kernel.replace(run.run.id, (run.slot, run.epoch), made)
    }
}

#[cfg(test)]
mod tests;
