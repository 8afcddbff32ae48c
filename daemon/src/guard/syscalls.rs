//! Watched system calls: attached only while a pinned policy asks for them.
//!
//! fentry on the calls' own functions costs nothing to anybody else. Where the kernel refuses it, one `sys_enter`
//! program sees all, at the price that every system call of every process of the host takes the slow path: [`Via`]
//! says which it is, for `doctor` and `node status` to pass on. Either is pinned: calls are seen, and stops take hold, while no daemon
//! runs.

use std::collections::BTreeMap;

use aya::Btf;
use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};
use failsafe_ebpf::abi;

use super::load::chain;
use super::probe::{FENTRY_PROBE, FentryTarget, SYS_ENTER, fentry_targets};
use super::{Ebpf, Error};

/// The bits of all calls in a mask.
pub const ALL_CALLS: u64 = (1 << abi::SYSCALLS.len()) - 1;

const ENTRIES: &str = "rules on files, memory, sockets or user namespaces need sys_enter where LSM is refused";

/// How watched system calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// At the calls' own functions: free for others.
    Fentry,
    /// At the entry of every system call of the host.
    SysEnter,
}

#[derive(Default)]
pub(super) struct Watching {
    mask: u64,
    fentry: BTreeMap<String, FdLink>,
    sys_enter: Option<FdLink>,
    /// Why fentry is not used, once that is known.
    no_fentry: Option<String>,
}

impl Ebpf {
    /// Makes exactly the calls of `mask` (the union of all runs' masks) visible, attaching and detaching as needed; with
    /// `entries`, opens, mappings, sockets and user namespaces too, which only `sys_enter` sees where LSM is refused. `None` when nothing is watched.
    ///
    /// # Errors
    /// The kernel offers neither way; nothing is watched then.
    pub fn require_syscalls(&mut self, mask: u64, entries: bool) -> Result<Option<Via>, Error> {
        let mask = mask & ALL_CALLS;
        if mask == 0 && !entries {
            self.detach_fentry(0);
            self.detach_sys_enter();
            self.watching.mask = 0;
            return Ok(None);
        }
        let fentry = if entries { Err(String::from(ENTRIES)) } else { self.attach_fentry(mask) };
        let via = match fentry {
            Ok(()) => {
                self.detach_fentry(mask);
                self.detach_sys_enter();
                Via::Fentry
            }
            Err(why) => {
                let result = self.attach_sys_enter();
                self.detach_fentry(0);
                if !entries {
                    self.watching.no_fentry = Some(why.clone());
                }
                if let Err(e) = result {
                    self.watching.mask = 0;
                    return Err(Error::NoSyscalls { fentry: why, sys_enter: e });
                }
                Via::SysEnter
            }
        };
        self.watching.mask = mask;
        Ok(Some(via))
    }

    /// How calls are seen now.
    #[must_use]
    pub fn watching_via(&self) -> Option<Via> {
        if self.watching.sys_enter.is_some() {
            Some(Via::SysEnter)
        } else if self.watching.mask == 0 {
            None
        } else {
            Some(Via::Fentry)
        }
    }

    /// Why fentry is not used, if a try has failed.
    #[must_use]
    pub fn fentry_refusal(&self) -> Option<&str> {
        let probed = self.programs.iter().find(|p| p.name == FENTRY_PROBE);
        self.watching.no_fentry.as_deref().or_else(|| probed.map(|p| p.detail.as_str()).filter(|d| !d.is_empty()))
    }

    fn attach_fentry(&mut self, mask: u64) -> Result<(), String> {
        if !self.is_loaded(FENTRY_PROBE) {
            return Err(self.fentry_refusal().unwrap_or("refused").to_owned());
        }
        let wanted: Vec<FentryTarget> =
            targets(mask).filter(|t| !self.watching.fentry.contains_key(&t.program)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // Parsed again, as keeping it would cost more than the daemon itself.
        let btf = Btf::from_sys_fs().map_err(|e| chain(&e))?;
        for target in wanted {
            if let Some(link) = self.attach_target(&target, &btf)? {
                self.watching.fentry.insert(target.program, link);
            }
        }
        Ok(())
    }

    /// `None`: this kernel has no such call.
    fn attach_target(&mut self, target: &FentryTarget, btf: &Btf) -> Result<Option<FdLink>, String> {
        let Some(Program::FEntry(program)) = self.object.program_mut(&target.program) else {
            return Err(format!("{} is not in the object", target.program));
        };
        let mut loaded = program.fd().is_ok();
        for function in &target.functions {
            if loaded {
                break;
            }
            match program.load(function, btf) {
                Ok(()) => loaded = true,
                Err(ProgramError::Btf(_)) => {}
                Err(e) => return Err(format!("{function}: {}", chain(&e))),
            }
        }
        loaded.then(|| self.attach_host(&target.program)).transpose().map_err(|e| chain(&e))
    }

    /// Detaches all but those of `keep`.
    fn detach_fentry(&mut self, keep: u64) {
        let keep: Vec<String> = targets(keep).map(|t| t.program).collect();
        let links = std::mem::take(&mut self.watching.fentry);
        for (name, link) in links {
            if keep.contains(&name) {
                self.watching.fentry.insert(name, link);
            } else {
                self.detach_host(&name, link);
            }
        }
    }

    fn attach_sys_enter(&mut self) -> Result<(), String> {
        if self.watching.sys_enter.is_some() {
            return Ok(());
        }
        self.watching.sys_enter = Some(self.attach_host(SYS_ENTER).map_err(|e| chain(&e))?);
        Ok(())
    }

    fn detach_sys_enter(&mut self) {
        if let Some(link) = self.watching.sys_enter.take() {
            self.detach_host(SYS_ENTER, link);
        }
    }
}

fn targets(mask: u64) -> impl Iterator<Item = FentryTarget> {
    (0..abi::SYSCALLS.len()).filter(move |bit| mask >> bit & 1 == 1).flat_map(fentry_targets)
}

/// Attaches the rarest call's program for a moment: some kernels refuse fentry at load, others only then.
pub(super) fn probe_fentry(program: &mut Program, btf: &Btf) -> Result<(), String> {
    let Program::FEntry(program) = program else {
        return Err(String::from("not an fentry program"));
    };
    let bit = abi::SYSCALLS.iter().position(|n| FENTRY_PROBE.ends_with(n));
    let function = bit
        .and_then(|b| fentry_targets(b).into_iter().next())
        .and_then(|t| t.functions.into_iter().next())
        .unwrap_or_default();
    program.load(&function, btf).map_err(|e| format!("load: {}", chain(&e)))?;
    let link = program.attach().map_err(|e| format!("attach: {}", chain(&e)))?;
    program.detach(link).map_err(|e| chain(&e))
}
