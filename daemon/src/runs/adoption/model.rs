//! A model of a run's life, driven through [`decide`]: start, adoption, hold and end, with the daemon's death and errors at any point.
//!
//! The model has the order of steps that `start.rs`, `adopt.rs`, `removal.rs` and the pipeline have. [`World`] holds the records, the
//! kernel's pins and the cgroup. No sequence leads to a populated cgroup that was bounded and that nobody bounds, or that a living daemon
//! neither judges nor lists as guarded.

use super::{Facts, Kept, Logged, Pins, Place, Plan, decide};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The registry of a living daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    Nowhere,
    Live,
    Guarded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunJson {
    Missing,
    Damaged,
    Swapped,
    Kept { ended: bool },
}

#[derive(Debug, Clone)]
struct World {
    /// The cgroup is there, and whether somebody lives in it.
    cgroup: Option<bool>,
    /// The daemon made it.
    made: bool,
    /// Generations of pins that bound it.
    pins: BTreeSet<u32>,
    generation: u32,
    /// A daemon lives, and what it has of the run.
    daemon: Option<Listed>,
    run_json: RunJson,
    started: bool,
    ended: bool,
    /// Its first process was let in: from then on an empty cgroup is its end.
    entered: bool,
    /// It was bounded, and its end is not proved since.
    bound: bool,
    /// As before: pins were removed before the cgroup.
    pins_first: bool,
}

/// Errors that hold while a step is done.
#[derive(Debug, Clone, Copy)]
struct Faults {
    disk: bool,
    kernel: bool,
    cgroup: bool,
    policy: bool,
    pins: bool,
    /// A process enters the cgroup after it was found empty.
    enters: bool,
    /// The daemon dies after so many of the step's effects.
    dies_after: u8,
}

impl Faults {
    /// To be asked after each effect of a step: whether the daemon dies there.
    fn deaths(self) -> impl FnMut(&mut World) -> bool {
        let mut left = self.dies_after;
        move |world| {
            left = left.saturating_sub(1);
            if left == 0 {
                world.daemon = None;
            }
            left == 0
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start {
        made: bool,
    },
    Exit,
    /// Somebody puts a process into a cgroup that is there.
    Enter,
    Sampled,
    Die,
    Stop,
    Boot,
    Retry,
    RunJson(RunJson),
    LogLost,
}

impl World {
    fn new() -> World {
        World {
            cgroup: None,
            made: true,
            pins: BTreeSet::new(),
            generation: 0,
            daemon: None,
            run_json: RunJson::Missing,
            started: false,
            ended: false,
            entered: false,
            bound: false,
            pins_first: false,
        }
    }

    fn step(&mut self, step: Step, faults: Faults) {
        match step {
            Step::Start { made } => self.start(made, faults),
            Step::Exit => self.cgroup = self.cgroup.map(|_| false),
            Step::Enter => self.cgroup = self.cgroup.map(|_| true),
            Step::Sampled => self.sampled(faults),
            Step::Die => self.daemon = None,
            Step::Stop => {
                self.sampled(faults);
                // `Registry::drop_unentered`.
                let unentered = self.daemon == Some(Listed::Live) && self.made && !self.entered;
                if unentered && !faults.cgroup && self.remove_cgroup(faults) {
                    self.pins.clear();
                }
                self.daemon = None;
            }
            Step::Boot => {
                if self.daemon.is_none() {
                    self.generation += 1;
                    self.daemon = Some(Listed::Nowhere);
                    self.adopt(faults);
                }
            }
            Step::Retry => {
                if self.daemon == Some(Listed::Guarded) {
                    self.adopt(faults);
                }
            }
            Step::RunJson(changed) => {
                if self.daemon.is_none() && self.run_json != RunJson::Missing {
                    self.run_json = changed;
                }
            }
            Step::LogLost => {
                if self.daemon.is_none() {
                    (self.started, self.ended) = (false, false);
                }
            }
        }
    }

    /// cgroup, run.json, attachment, record, first process.
    fn start(&mut self, made: bool, faults: Faults) {
        // One run is modelled: another start is another run.
        let used = self.started || !self.pins.is_empty() || self.run_json != RunJson::Missing;
        if self.daemon != Some(Listed::Nowhere) || self.cgroup.is_some() || used {
            return;
        }
        self.made = made;
        // A registered cgroup has somebody in it already, who was bound by nothing.
        self.cgroup = Some(!made);
        let mut dies = faults.deaths();
        if dies(self) {
            return;
        }
        if faults.disk {
            return self.undo_start();
        }
        self.run_json = RunJson::Kept { ended: false };
        if dies(self) {
            return;
        }
        if faults.kernel {
            return self.undo_start();
        }
        self.pins.insert(self.generation);
        (self.entered, self.bound) = (!made, true);
        self.daemon = Some(Listed::Live);
        if dies(self) {
            return;
        }
        self.started = true;
        if dies(self) {
            return;
        }
        (self.cgroup, self.entered) = (Some(true), true);
    }

    fn undo_start(&mut self) {
        self.run_json = RunJson::Missing;
        if self.made {
            self.cgroup = None;
        }
    }

    /// The sampler sees the cgroup, and the pipeline ends the run where that is proved: cgroup, record, pins, run.json.
    fn sampled(&mut self, faults: Faults) {
        if self.daemon != Some(Listed::Live) || faults.cgroup || self.cgroup == Some(true) || !self.entered {
            return;
        }
        let mut dies = faults.deaths();
        if self.pins_first {
            self.pins.clear();
        }
        if !self.remove_cgroup(faults) || dies(self) {
            return;
        }
        self.ended = true;
        if dies(self) {
            return;
        }
        self.pins.clear();
        self.daemon = Some(Listed::Nowhere);
        if dies(self) || faults.disk {
            return;
        }
        self.run_json = RunJson::Kept { ended: true };
    }

    /// The proof of the end of a run with an empty cgroup. The kernel refuses to remove one with a process in it; who enters a registered
    /// one later enters a cgroup of no run.
    fn remove_cgroup(&mut self, faults: Faults) -> bool {
        if self.made {
            self.cgroup = self.cgroup.map(|populated| populated || faults.enters).filter(|populated| *populated);
        }
        let proved = self.cgroup != Some(true);
        self.bound &= !proved;
        proved
    }

    fn facts(&self, faults: Faults) -> Facts {
        let why = || "an error".to_owned();
        let kept = match self.run_json {
            _ if faults.disk => Kept::Unreadable(why()),
            RunJson::Missing => Kept::Missing,
            RunJson::Damaged => Kept::Unreadable(why()),
            RunJson::Swapped | RunJson::Kept { .. } => Kept::Read,
        };
        let logged = match (self.started, self.run_json) {
            (false, _) => Logged::Absent,
            (true, RunJson::Swapped) => Logged::Differs(why()),
            (true, _) => Logged::Present,
        };
        let pins = match (faults.pins, self.pins.is_empty()) {
            (true, _) => Pins::Unreadable(why()),
            (false, true) => Pins::None,
            (false, false) => Pins::Held,
        };
        let named = kept == Kept::Read || self.started || !self.pins.is_empty();
        let place = match self.cgroup {
            _ if !named => Place::Unknown,
            _ if faults.cgroup => Place::Unreadable(why()),
            None => Place::Gone,
            Some(true) => Place::Populated,
            Some(false) => Place::Empty,
        };
        let policy = if faults.policy { Err(why()) } else { Ok(()) };
        Facts { kept, logged, ended: self.ended, earlier_boot: false, pins, place, policy }
    }

    /// `Registry::candidates`, `take_up` and `pass`, for this run.
    fn adopt(&mut self, faults: Faults) {
        // Known gap: a run that the pins alone name, while they cannot be read, stays bounded and is listed by the next start only.
        let named = self.started || self.run_json != RunJson::Missing;
        let faults = Faults { pins: faults.pins && named, ..faults };
        let by_folder = match self.run_json {
            RunJson::Missing | RunJson::Kept { ended: true } => false,
            RunJson::Damaged => !self.ended,
            RunJson::Swapped | RunJson::Kept { ended: false } => true,
        };
        let by_log = self.started && !self.ended;
        let by_pins = !faults.pins && !self.pins.is_empty();
        let again = self.daemon == Some(Listed::Guarded);
        if !(by_folder || by_log || by_pins || again) {
            return;
        }
        match decide(&self.facts(faults)) {
            Plan::End(_) => {
                if self.cgroup == Some(false) && !self.remove_cgroup(faults) {
                    self.daemon = Some(Listed::Guarded);
                    return;
                }
                self.daemon = Some(Listed::Nowhere);
                self.ended = true;
                if !faults.disk && self.run_json != RunJson::Missing {
                    self.run_json = RunJson::Kept { ended: true };
                }
                // `Registry::pass` removes what it can read.
                if !faults.pins {
                    self.pins.clear();
                }
            }
            Plan::Guard(_) => self.daemon = Some(Listed::Guarded),
            Plan::Judge { .. } => {
                if faults.disk {
                    self.daemon = Some(Listed::Guarded);
                    return;
                }
                self.run_json = RunJson::Kept { ended: false };
                if faults.dies_after == 1 {
                    self.daemon = None;
                    return;
                }
                if faults.kernel {
                    self.daemon = Some(Listed::Guarded);
                    return;
                }
                self.pins.insert(self.generation);
                if faults.dies_after == 2 {
                    self.daemon = None;
                    return;
                }
                (self.daemon, self.entered, self.bound) = (Some(Listed::Live), true, true);
                let own = self.generation;
                self.pins.retain(|generation| *generation == own);
            }
        }
    }

    /// What must hold after each step.
    fn check(&self) -> Result<(), TestCaseError> {
        if self.cgroup == Some(true) && self.bound {
            prop_assert!(!self.pins.is_empty(), "nothing bounds it: {self:?}");
            if let Some(listed) = self.daemon {
                prop_assert!(listed != Listed::Nowhere, "a living daemon does not know it: {self:?}");
            }
        }
        Ok(())
    }
}

fn faults() -> impl Strategy<Value = Faults> {
    let rare = || proptest::bool::weighted(0.2);
    (rare(), rare(), rare(), rare(), proptest::bool::weighted(0.1), rare(), 1u8..12).prop_map(
        |(disk, kernel, cgroup, policy, pins, enters, dies_after)| Faults {
            disk,
            kernel,
            cgroup,
            policy,
            pins,
            enters,
            dies_after,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(|made| Step::Start { made }),
        1 => Just(Step::Exit),
        2 => Just(Step::Enter),
        2 => Just(Step::Sampled),
        2 => Just(Step::Die),
        1 => Just(Step::Stop),
        3 => Just(Step::Boot),
        2 => Just(Step::Retry),
        1 => Just(Step::RunJson(RunJson::Missing)),
        1 => Just(Step::RunJson(RunJson::Damaged)),
        1 => Just(Step::RunJson(RunJson::Swapped)),
        1 => Just(Step::LogLost),
    ]
}

proptest! {
    // More with PROPTEST_CASES.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2_000)))]
    #[test]
    fn no_sequence_leads_to_a_populated_cgroup_that_nobody_holds(steps in proptest::collection::vec((step(), faults()), 1..40)) {
        let mut world = World::new();
        for (step, faults) in steps {
            world.step(step, faults);
            world.check()?;
        }
    }
}

const CALM: Faults =
    Faults { disk: false, kernel: false, cgroup: false, policy: false, pins: false, enters: false, dies_after: 12 };

fn started(pins_first: bool) -> World {
    let mut world = World { pins_first, ..World::new() };
    world.step(Step::Boot, CALM);
    world.step(Step::Start { made: true }, CALM);
    world.check().unwrap();
    world
}

/// The model can fail: it finds the order that the daemon had before.
#[test]
fn a_process_that_enters_while_a_run_ends_is_bounded_only_if_pins_are_removed_after_the_cgroup() {
    for pins_first in [false, true] {
        let mut world = started(pins_first);
        world.step(Step::Exit, CALM);
        world.step(Step::Sampled, Faults { enters: true, ..CALM });
        assert_eq!(world.cgroup, Some(true));
        assert_eq!(world.check().is_err(), pins_first, "{world:?}");
    }
}

/// It finds the rule that the daemon had before: an error is an end.
#[test]
fn the_model_finds_a_daemon_that_takes_an_error_for_an_end() {
    let mut world = started(false);
    world.step(Step::Die, CALM);
    world.check().unwrap();
    let mut lets_go = world.clone();
    lets_go.generation += 1;
    lets_go.daemon = Some(Listed::Nowhere);
    lets_go.pins.clear();
    assert!(lets_go.check().is_err());
    world.step(Step::Boot, Faults { disk: true, ..CALM });
    world.check().unwrap();
    assert_eq!(world.daemon, Some(Listed::Guarded));
    world.step(Step::Retry, CALM);
    assert_eq!((world.daemon, world.pins.len()), (Some(Listed::Live), 1));
}
