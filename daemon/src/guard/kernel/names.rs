//! How a run's policy calls what the kernel knows by number, and what of a command line stays readable.

use super::Kernel;
use failsafe_core::{Policy, RunId, event::Field, policy::Pattern};
use failsafe_matchers::keys::{Devices, Inode, Names, device_keys};
use std::sync::{Arc, PoisonError};

/// How a run's policy calls a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeviceNames {
    /// This very device.
    pub own: Vec<String>,
    /// Patterns that all devices of its kind fit.
    pub kind: Vec<String>,
}

/// How a run's policy calls what the kernel knows by number.
#[derive(Debug, Default)]
pub(super) struct Called {
    /// Budgets, in the order of their classes.
    pub budgets: Vec<String>,
    pub files: Names,
    pub devices: Devices,
    /// What rules say about command lines.
    pub argv: Vec<Pattern>,
}

/// What the rules of a policy say about command lines.
pub(super) fn argv_patterns(policy: &Policy) -> Vec<Pattern> {
    let events = policy.rules.iter().flat_map(|rule| rule.when.events());
    events.filter_map(|event| event.given(Field::Argv)).flatten().cloned().collect()
}

impl Kernel {
    /// Replaces the secrets in a command line of the run, but for what a rule of its policy matches.
    pub fn redact(&self, run: RunId, argv: &mut Vec<String>) {
        let called = self.called(run);
        self.redactor.argv(argv, called.as_ref().map_or(&[], |called| &called.argv));
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
}
