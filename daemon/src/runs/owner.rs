//! Whom a cgroup that was discovered belongs to.
//!
//! ```text
//! the path names a user  ─► that one            (the pattern lies below folders of root)
//! folder owned by a user ─► that one            (the kernel lets this user freeze what is in it)
//! all processes of one   ─► that one            (each held by pidfd while it is looked at; not of a container)
//! else                   ─► not known, which is nobody: not root
//! ```

use super::NO_UID;
use crate::platform::{Cgroup, ProcFs, pidfd::PidFd, users};
use failsafe_core::record::OwnerBy;

/// Processes that are looked at.
const MOST: usize = 64;

/// The owner of a cgroup that becomes a run, [`NO_UID`] where that is not known. `named`: the user that the path names.
pub fn owner_of(cgroup: &Cgroup, named: Option<u32>, settled: bool, container: bool) -> u32 {
    let named = named.filter(|uid| *uid != NO_UID);
    named.or_else(|| Some(found(cgroup, settled, container)?.0)).unwrap_or(NO_UID)
}

/// The owner as the cgroup shows it now, and by what. `settled`: it is a while ago that it was made. Who makes a job's first process is
/// often root, which then becomes the user. `container`: its image says who its processes are, and a number there is nobody of this host.
pub fn found(cgroup: &Cgroup, settled: bool, container: bool) -> Option<(u32, OwnerBy)> {
    match cgroup.owner() {
        Ok(0) | Err(_) => {}
        Ok(uid) => return Some((uid, OwnerBy::Folder)),
    }
    if container {
        return None;
    }
    let uid = of_processes(cgroup).filter(|uid| *uid != 0 || settled)?;
    Some((uid, OwnerBy::Processes))
}

/// The one user of all processes; none where there are several users, no processes, or too many.
fn of_processes(cgroup: &Cgroup) -> Option<u32> {
    let pids = cgroup.all_procs().ok().filter(|pids| pids.len() <= MOST)?;
    let proc = ProcFs::default();
    let mut owner = None;
    for pid in pids {
        let Ok(held) = PidFd::open(pid) else { continue };
        let inside = proc.cgroup(pid).ok().flatten().is_some_and(|path| cgroup.contains(&path));
        let found = users::credentials(&proc, pid).ok()?;
        // It was that process all the while, or it is not counted.
        if !inside || held.has_ended().unwrap_or(true) {
            continue;
        }
        match (found, owner) {
            (Some(found), None) => owner = Some(found.uid),
            (Some(found), Some(uid)) if found.uid != uid => return None,
            _ => {}
        }
    }
    owner
}
