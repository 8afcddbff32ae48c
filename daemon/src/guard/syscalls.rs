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
use failsafe_matchers::calls::ALL_CALLS;

use super::error::{Error, chain};
use super::host::Host;
use super::object::Object;
use super::probe::{FENTRY_PROBE, FentryTarget, SYS_ENTER, fentry_targets};

const ENTRIES: &str = "rules on files, memory, sockets or user namespaces need sys_enter where LSM is refused";

/// How watched system calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// At the calls' own functions: free for others.
    Fentry,
    /// At the entry of every system call of the host.
    SysEnter,
}

/// The programs that see watched calls, as far as they are attached.
#[derive(Default)]
pub(super) struct Watching {
    mask: u64,
    fentry: BTreeMap<String, FdLink>,
    sys_enter: Option<FdLink>,
    /// Why fentry is not used, once that is known.
    no_fentry: Option<String>,
}

impl Watching {
    /// Makes exactly the calls of `mask` (the union of all runs' masks) visible, attaching and detaching as needed; with
    /// `entries`, opens, mappings, sockets and user namespaces too, which only `sys_enter` sees where LSM is refused. `None` when nothing is watched.
    ///
    /// # Errors
    /// The kernel offers neither way; nothing is watched then.
    pub fn require(&mut self, host: &mut Host<'_>, mask: u64, entries: bool) -> Result<Option<Via>, Error> {
        let mask = mask & ALL_CALLS;
        if mask == 0 && !entries {
            self.detach_fentry(host, 0);
            self.detach_sys_enter(host);
            self.mask = 0;
            return Ok(None);
        }
        let fentry = if entries { Err(String::from(ENTRIES)) } else { self.attach_fentry(host, mask) };
        let via = match fentry {
            Ok(()) => {
                self.detach_fentry(host, mask);
                self.detach_sys_enter(host);
                Via::Fentry
            }
            Err(why) => {
                let result = self.attach_sys_enter(host);
                self.detach_fentry(host, 0);
                if !entries {
                    self.no_fentry = Some(why.clone());
                }
                if let Err(e) = result {
                    self.mask = 0;
                    return Err(Error::NoSyscalls { fentry: why, sys_enter: e });
                }
                Via::SysEnter
            }
        };
        self.mask = mask;
        Ok(Some(via))
    }

    /// How calls are seen now.
    pub fn via(&self) -> Option<Via> {
        if self.sys_enter.is_some() {
            Some(Via::SysEnter)
        } else if self.mask == 0 {
            None
        } else {
            Some(Via::Fentry)
        }
    }

    /// Why fentry is not used, if a try has failed.
    pub fn fentry_refusal<'a>(&'a self, object: &'a Object) -> Option<&'a str> {
        let probed = object.programs().iter().find(|p| p.name == FENTRY_PROBE);
        self.no_fentry.as_deref().or_else(|| probed.map(|p| p.detail.as_str()).filter(|d| !d.is_empty()))
    }

    fn attach_fentry(&mut self, host: &mut Host<'_>, mask: u64) -> Result<(), String> {
        if !host.object.is_loaded(FENTRY_PROBE) {
            return Err(self.fentry_refusal(host.object).unwrap_or("refused").to_owned());
        }
        let wanted: Vec<FentryTarget> = targets(mask).filter(|t| !self.fentry.contains_key(&t.program)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // Parsed again, as keeping it would cost more than the daemon itself.
        let btf = Btf::from_sys_fs().map_err(|e| chain(&e))?;
        for target in wanted {
            if let Some(link) = attach_target(host, &target, &btf)? {
                self.fentry.insert(target.program, link);
            }
        }
        Ok(())
    }

    /// Detaches all but those of `keep`.
    fn detach_fentry(&mut self, host: &mut Host<'_>, keep: u64) {
        let keep: Vec<String> = targets(keep).map(|t| t.program).collect();
        let links = std::mem::take(&mut self.fentry);
        for (name, link) in links {
            if keep.contains(&name) {
                self.fentry.insert(name, link);
            } else {
                host.detach(&name, link);
            }
        }
    }

    fn attach_sys_enter(&mut self, host: &mut Host<'_>) -> Result<(), String> {
        if self.sys_enter.is_some() {
            return Ok(());
        }
        self.sys_enter = Some(host.attach(SYS_ENTER).map_err(|e| chain(&e))?);
        Ok(())
    }

    fn detach_sys_enter(&mut self, host: &mut Host<'_>) {
        if let Some(link) = self.sys_enter.take() {
            host.detach(SYS_ENTER, link);
        }
    }
}

/// `None`: this kernel has no such call.
fn attach_target(host: &mut Host<'_>, target: &FentryTarget, btf: &Btf) -> Result<Option<FdLink>, String> {
    let Some(Program::FEntry(program)) = host.object.program_mut(&target.program) else {
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
    loaded.then(|| host.attach(&target.program)).transpose().map_err(|e| chain(&e))
}

fn targets(mask: u64) -> impl Iterator<Item = FentryTarget> {
    (0..abi::SYSCALLS.len()).filter(move |bit| mask >> bit & 1 == 1).flat_map(fentry_targets)
}
