//! Which watched calls LSM programs refuse, and the programs that are attached on need.
//!
//! Some calls have no hook of their own, or one that every process of the host comes by. Their programs are loaded at the
//! start, so that it is known whether the kernel takes them, and attached only while a run has a rule that needs them: others
//! pay nothing else.

use failsafe_core::policy::assurance::refusing_hooks;
use failsafe_ebpf::abi::{self, point};

use std::collections::BTreeMap;

use super::error::{Error, chain};
use super::host::Host;
use super::object::Object;
use super::probe::{GAIN_CREDS, GAIN_EXEC, Group, LISTEN, PROGRAMS, RING, RING_SQE, STOP_ADDRESS, STOP_DEVICE, Spec};
use aya::programs::links::FdLink;
use failsafe_matchers::rules::{Effect, PathRule, Rules, Use};

/// What rules of runs need of programs that are attached on need, beside those of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sights {
    /// Sockets that begin to listen, where no LSM program sees them.
    pub listens: bool,
    /// Gains of privilege, where no LSM program sees them.
    pub gains: bool,
    /// Files that io_uring opens and sockets that it makes, where no LSM program sees them.
    pub rings: bool,
    /// Callers that connect, send or bind are stopped when that has stopped their run.
    pub stop_address: bool,
    /// ... that open or make a device.
    pub stop_device: bool,
}

/// Points of rules on gains of privilege by exec.
const GAINS: u64 = 1 << point::PRIV_SETUID | 1 << point::PRIV_CAPABILITY;

impl Sights {
    /// What `rules` need.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        let by_list = rules.stop & 1 << point::NET != 0 || !rules.net_stops.is_empty();
        let device = |rule: &PathRule| rule.usage != Use::Exec && rule.pattern.path.starts_with("/dev");
        Self {
            listens: !rules.listen.is_empty(),
            rings: !rules.families.is_empty() || rules.paths.iter().any(|rule| rule.usage != Use::Exec),
            gains: (rules.watch | rules.deny | rules.stop) & GAINS != 0,
            stop_address: by_list || rules.bind.iter().any(|(_, effect)| *effect == Effect::Stop),
            stop_device: rules.paths.iter().any(|rule| rule.effect == Effect::Stop && device(rule)),
        }
    }

    /// What either needs.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            listens: self.listens || other.listens,
            gains: self.gains || other.gains,
            rings: self.rings || other.rings,
            stop_address: self.stop_address || other.stop_address,
            stop_device: self.stop_device || other.stop_device,
        }
    }
}

/// Calls that loaded LSM programs refuse where a rule says so, as bits of a mask.
pub(super) fn refusable_calls(object: &Object) -> u64 {
    mask_of(|hooks| !hooks.is_empty() && hooks.iter().all(|hook| object.is_loaded(&format!("fs_lsm_{hook}"))))
}

/// The programs that are attached on need, by name, as far as they are attached.
#[derive(Default)]
pub(super) struct OnNeed(BTreeMap<&'static str, FdLink>);

impl OnNeed {
    /// Attaches what it takes to refuse the calls of `mask` (the union of all runs' masks), and detaches what that does not
    /// need. Programs that the kernel refused are left out: see [`refusable_calls`].
    ///
    /// # Errors
    /// The kernel refuses to attach a program that it took at the start.
    pub fn require_refusals(&mut self, host: &mut Host<'_>, mask: u64) -> Result<(), Error> {
        let mut failed = Ok(());
        for spec in PROGRAMS.iter().filter(|spec| spec.group == Group::LsmOnNeed) {
            let needed = mask & calls_of(spec) != 0 && host.object.is_loaded(spec.name);
            if !needed {
                self.detach(host, spec.name);
            } else if !self.0.contains_key(spec.name) {
                failed = failed.and(self.attach(host, spec.name));
            }
        }
        failed
    }

    /// Attaches what sees and stops callers where rules need it, and detaches the rest.
    ///
    /// # Errors
    /// The kernel refuses to attach what sees sockets that begin to listen, io_uring or gains of privilege, which it took at
    /// the start. What stops callers is done without: the daemon freezes them.
    pub fn require_sights(&mut self, host: &mut Host<'_>, needed: Sights) -> Result<(), Error> {
        let all = [
            (LISTEN, needed.listens),
            (RING, needed.rings),
            (RING_SQE, needed.rings),
            (GAIN_EXEC, needed.gains),
            (GAIN_CREDS, needed.gains),
            (STOP_ADDRESS, needed.stop_address),
            (STOP_DEVICE, needed.stop_device),
        ];
        let mut failed = Ok(());
        for (name, needed) in all {
            let needed = needed && host.object.is_loaded(name);
            if !needed {
                self.detach(host, name);
            } else if !self.0.contains_key(name)
                && let Err(error) = self.attach(host, name)
            {
                if [STOP_ADDRESS, STOP_DEVICE].contains(&name) {
                    tracing::warn!(error = chain(&error), "who stops its run runs on until the daemon freezes it");
                } else {
                    failed = Err(error);
                }
            }
        }
        failed
    }

    fn attach(&mut self, host: &mut Host<'_>, name: &'static str) -> Result<(), Error> {
        let fail = |source| Error::Attach { program: name, target: "the host".into(), source: Box::new(source) };
        let link = host.attach(name).map_err(fail)?;
        self.0.insert(name, link);
        Ok(())
    }

    fn detach(&mut self, host: &mut Host<'_>, name: &str) {
        if let Some(link) = self.0.remove(name) {
            host.detach(name, link);
        }
    }
}

fn calls_of(spec: &Spec) -> u64 {
    mask_of(|hooks| hooks.iter().any(|hook| spec.hook.strip_prefix("lsm/") == Some(hook)))
}

fn mask_of(wanted: impl Fn(&[&str]) -> bool) -> u64 {
    let calls = abi::SYSCALLS.iter().enumerate();
    calls.filter(|(_, call)| wanted(refusing_hooks(call))).fold(0, |mask, (bit, _)| mask | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_matchers::rules::PathPattern;

    #[test]
    fn callers_are_stopped_where_a_rule_stops_by_a_program_on_the_cgroup() {
        let on = |path: &str, usage, effect| Rules {
            paths: vec![PathRule { pattern: PathPattern { path: path.into(), prefix: false }, usage, effect }],
            ..Rules::default()
        };
        let device = |rules: &Rules| Sights::of(rules).stop_device;
        assert!(device(&on("/dev/mem", Use::Write, Effect::Stop)));
        assert!(!device(&on("/dev/mem", Use::Write, Effect::Deny)) && !device(&on("/etc/x", Use::Read, Effect::Stop)));
        let by_list = Rules { stop: 1 << point::NET, ..Rules::default() };
        assert_eq!(Sights::of(&by_list), Sights { stop_address: true, ..Sights::default() });
        let both = Sights::of(&by_list).and(Sights { listens: true, ..Sights::default() });
        assert_eq!(both, Sights { listens: true, stop_address: true, ..Sights::default() });
    }

    #[test]
    fn gains_are_looked_for_whatever_a_rule_does_about_them() {
        let gains = |rules: &Rules| Sights::of(rules).gains;
        assert!(gains(&Rules { watch: 1 << point::PRIV_CAPABILITY, ..Rules::default() }));
        assert!(gains(&Rules { stop: 1 << point::PRIV_SETUID, ..Rules::default() }));
        assert!(!gains(&Rules { deny: 1 << point::PRIV_USERNS, ..Rules::default() }));
    }
}
