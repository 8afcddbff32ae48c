//! Attaching programs to a run's cgroup, and what keeps them there.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupDevice, CgroupSkbAttachType, Program, ProgramError};

use crate::platform::bpf;

/// What keeps a link attached. A pinned one needs no descriptor of ours.
#[derive(Debug)]
pub(super) enum Held {
    Pinned(PathBuf),
    Open(#[expect(dead_code, reason = "detaches when dropped")] FdLink),
    Device(#[expect(dead_code, reason = "detaches when dropped")] OwnedFd),
}

/// Links of cgroup programs always allow others beside them; the kernel takes no flag for it.
pub(super) fn attach_to_cgroup(program: &mut Program, dir: &File) -> Result<FdLink, ProgramError> {
    let mode = CgroupAttachMode::Single;
    let not_a_link = |_: LinkError| ProgramError::UnexpectedProgramType;
    match program {
        Program::CgroupSockAddr(p) => {
            let id = p.attach(dir, mode)?;
            p.take_link(id)?.try_into().map_err(not_a_link)
        }
        Program::CgroupSock(p) => {
            let id = p.attach(dir, mode)?;
            p.take_link(id)?.try_into().map_err(not_a_link)
        }
        Program::SockOps(p) => {
            let id = p.attach(dir, mode)?;
            p.take_link(id)?.try_into().map_err(not_a_link)
        }
        Program::CgroupSkb(p) => {
            let kind = (*p.expected_attach_type()).unwrap_or(CgroupSkbAttachType::Egress);
            let id = p.attach(dir, kind, mode)?;
            p.take_link(id)?.try_into().map_err(not_a_link)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

pub(super) fn attach_device(device: &CgroupDevice, pin: Option<PathBuf>, dir: &File) -> Result<Held, ProgramError> {
    let link = bpf::link_device(device.fd()?.as_fd(), dir.as_fd())?;
    let Some(path) = pin else { return Ok(Held::Device(link)) };
    bpf::pin(link.as_fd(), &path)?;
    Ok(Held::Pinned(path))
}
