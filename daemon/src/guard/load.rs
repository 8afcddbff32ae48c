//! Loading the programs: each by itself, and what is known about each afterwards.

use std::time::{Duration, Instant};

use aya::Btf;
use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};
use failsafe_ebpf::abi;

use super::error::{Error, chain};
use super::host::Host;
use super::object::Object;
use super::probe::{FENTRY_PROBE, Group, PROGRAMS, ProgramState, ProgramStatus, Spec, fentry_targets};

/// Loads every program, and attaches what watches process life and what refuses for all runs. A program that the kernel refuses is a
/// line in [`Object::programs`], not an error. The links hold what is attached.
pub(super) fn load_all(object: &mut Object, btf: &Btf, lsm: bool) -> Vec<FdLink> {
    let mut links = Vec::new();
    for spec in PROGRAMS {
        let status = load_one(object, spec, btf, lsm, false, &mut links);
        if status.state == ProgramState::Loaded {
            object.stands_in(spec);
        }
        object.add_status(status);
    }
    links
}

/// Loads what is not loaded at the start, if it is not loaded yet.
pub(super) fn load_group(object: &mut Object, group: Group) -> Result<(), Error> {
    let todo: Vec<&Spec> = PROGRAMS.iter().filter(|s| s.group == group && !object.is_loaded(s.name)).collect();
    if todo.is_empty() {
        return Ok(());
    }
    let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
    for spec in todo {
        let status = load_one(object, spec, &btf, true, true, &mut Vec::new());
        let refused = (status.state == ProgramState::Refused).then(|| status.detail.clone());
        object.replace_status(status);
        if let Some(why) = refused {
            return Err(Error::Refused { program: spec.name, why });
        }
    }
    drop(btf);
    crate::platform::heap::trim();
    Ok(())
}

fn load_one(
    object: &mut Object,
    spec: &Spec,
    btf: &Btf,
    lsm: bool,
    early: bool,
    links: &mut Vec<FdLink>,
) -> ProgramStatus {
    let status = |state, detail| ProgramStatus {
        name: spec.name,
        hook: spec.hook,
        group: spec.group,
        state,
        detail,
        verified_insns: None,
        load_time: Duration::ZERO,
    };
    if let Some(first) = spec.instead_of.iter().find(|first| object.is_loaded(first)) {
        return status(ProgramState::Unused, format!("{first} does it"));
    }
    if !early && spec.group == Group::Early {
        return status(ProgramState::Unused, String::from("loaded where the configuration has rules of discovery"));
    }
    if !lsm && matches!(spec.group, Group::Lsm | Group::LsmOnNeed) {
        return status(ProgramState::Refused, String::from("LSM hooks are not to be taken"));
    }
    let Some(program) = object.program_mut(spec.name) else {
        return status(ProgramState::Refused, String::from("not in the object"));
    };
    let begin = Instant::now();
    let mut done = if spec.name == FENTRY_PROBE {
        probe_fentry(program, btf)
    } else {
        load(program, spec, btf).map_err(|e| chain(&e))
    };
    let verified_insns = program.info().ok().and_then(|info| info.verified_instruction_count());
    if done.is_ok() && matches!(spec.group, Group::Life | Group::Lsm) {
        done =
            Host { object, guards_runs: false }.attach(spec.name).map(|link| links.push(link)).map_err(|e| chain(&e));
    }
    let status = match done {
        Ok(()) => status(ProgramState::Loaded, String::new()),
        Err(detail) => status(ProgramState::Refused, detail),
    };
    ProgramStatus { verified_insns, load_time: begin.elapsed(), ..status }
}

fn load(program: &mut Program, spec: &Spec, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(p) => p.load(spec.hook.strip_prefix("tp_btf/").unwrap_or(spec.hook), btf),
        Program::Lsm(p) => p.load(spec.hook.strip_prefix("lsm/").unwrap_or(spec.hook), btf),
        // Some kernels refuse these only when they are attached.
        Program::FExit(p) => {
            p.load(spec.hook.strip_prefix("fexit/").unwrap_or(spec.hook), btf)?;
            let link = p.attach()?;
            p.detach(link)
        }
        Program::FEntry(p) => {
            p.load(spec.hook.strip_prefix("fentry/").unwrap_or(spec.hook), btf)?;
            let link = p.attach()?;
            p.detach(link)
        }
        Program::CgroupDevice(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::SockOps(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches the rarest call's program for a moment: some kernels refuse fentry at load, others only then.
fn probe_fentry(program: &mut Program, btf: &Btf) -> Result<(), String> {
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
