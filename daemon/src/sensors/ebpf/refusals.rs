//! Which watched calls LSM programs refuse, and the programs that are attached on need.
//!
//! Some calls have no hook of their own, or one that every process of the host comes by. Their programs are loaded at the
//! start, so that it is known whether the kernel takes them, and attached only while a run has a rule that needs them: others
//! pay nothing else.

use failsafe_core::policy::assurance::refusing_hooks;
use failsafe_ebpf::abi;

use super::probe::{Group, LISTEN, PROGRAMS, Spec};
use super::{Ebpf, Error};

impl Ebpf {
    /// Calls that loaded LSM programs refuse where a rule says so, as bits of a mask.
    #[must_use]
    pub fn refusable_calls(&self) -> u64 {
        mask_of(|hooks| !hooks.is_empty() && hooks.iter().all(|hook| self.is_loaded(&format!("fs_lsm_{hook}"))))
    }

    /// Attaches what it takes to refuse the calls of `mask` (the union of all runs' masks), and detaches what that does not
    /// need. Programs that the kernel refused are left out: see [`Ebpf::refusable_calls`].
    ///
    /// # Errors
    /// The kernel refuses to attach a program that it took at the start.
    pub fn require_refusals(&mut self, mask: u64) -> Result<(), Error> {
        let mut failed = Ok(());
        for spec in PROGRAMS.iter().filter(|spec| spec.group == Group::LsmOnNeed) {
            let needed = mask & calls_of(spec) != 0 && self.is_loaded(spec.name);
            if !needed {
                self.detach_refusal(spec.name);
            } else if !self.on_need.contains_key(spec.name) {
                failed = failed.and(self.attach_refusal(spec.name));
            }
        }
        failed
    }

    /// Attaches what sees sockets that begin to listen, where no LSM program does, or detaches it.
    ///
    /// # Errors
    /// The kernel refuses to attach a program that it took at the start.
    pub fn require_listens(&mut self, needed: bool) -> Result<(), Error> {
        match (needed && self.is_loaded(LISTEN), self.on_need.contains_key(LISTEN)) {
            (true, false) => self.attach_refusal(LISTEN),
            (false, true) => {
                self.detach_refusal(LISTEN);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn attach_refusal(&mut self, name: &'static str) -> Result<(), Error> {
        let fail = |source| Error::Attach { program: name, target: "the host".into(), source: Box::new(source) };
        let link = self.attach_host(name).map_err(fail)?;
        self.on_need.insert(name, link);
        Ok(())
    }

    fn detach_refusal(&mut self, name: &str) {
        if let Some(link) = self.on_need.remove(name) {
            self.detach_host(name, link);
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
