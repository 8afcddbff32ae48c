//! Which processes belong to a run, as the maps note them: its members, those that strayed from it, and those that were stopped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use failsafe_ebpf::abi;

use super::error::Error;
use super::maps::processes;
use super::object::Object;
use crate::causes::chain;
use crate::platform::bpf::Pod;
use crate::platform::{ProcFs, users::credentials};

/// The effective user of a process that is noted. `0` for one that cannot be read would be a false statement: the kernel
/// would not notice that it becomes root.
fn effective_user(proc: &ProcFs, pid: u32) -> u32 {
    match credentials(proc, pid) {
        Ok(Some(credentials)) => credentials.uid,
        // It has ended: its note is removed again.
        Ok(None) => abi::UID_UNKNOWN,
        Err(error) => {
            let why = chain(&error);
            tracing::warn!(
                pid,
                why,
                "the user of a process in a run cannot be read: it is known from its next exec on"
            );
            abi::UID_UNKNOWN
        }
    }
}

impl Object {
    /// Notes the processes that are in the run already, so that their leaving is seen.
    pub(super) fn note_members(&mut self, (slot, epoch): (u32, u32), root: &Path, root_id: u64) -> Result<(), Error> {
        let mut members = self.hash::<u32, Pod<abi::Member>>("members")?;
        let mut alive = 0;
        let mut todo = vec![root.to_owned()];
        while let Some(dir) = todo.pop() {
            // A cgroup below the root may vanish while we walk, and its processes with it.
            let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else { continue };
            let cgroup_id = fs::metadata(&dir).map_or(root_id, |m| m.ino());
            for pid in procs.lines().filter_map(|l| l.parse::<u32>().ok()) {
                let euid = effective_user(&ProcFs::default(), pid);
                let member = Pod(abi::Member { cgroup_id, slot, epoch, euid, pad: 0 });
                let new = members.get(&pid, 0).is_err();
                members.insert(pid, member, 0).map_err(Error::map("members"))?;
                // Ended in between: its exit was too early to remove the note, and the id may come again.
                let gone = !Path::new("/proc").join(pid.to_string()).exists() && members.remove(&pid).is_ok();
                alive += u64::from(new && !gone);
            }
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        // What the kernel counted meanwhile is added to: a fork in between may be lost from the count, never from the run.
        let mut lives = self.array::<u64>("lives")?;
        let counted = lives.get(&slot, 0).map_err(Error::map("lives"))?;
        lives.set(slot, counted.wrapping_add(alive), 0).map_err(Error::map("lives"))
    }

    /// For a run that is removed while processes live in it, or strayed from it.
    pub(super) fn forget_members(&mut self, slot: u32, epoch: u32) -> Result<(), Error> {
        self.take_processes("members", |m: &abi::Member| (m.slot, m.epoch) == (slot, epoch))?;
        self.take_processes("strays", |s: &abi::Occupant| (s.slot, s.epoch) == (slot, epoch)).map(drop)
    }

    /// The processes of a run that a map has; they are forgotten there.
    pub(super) fn take_processes<V: Copy>(
        &mut self,
        name: &'static str,
        of_run: impl Fn(&V) -> bool,
    ) -> Result<Vec<u32>, Error>
    where
        Pod<V>: aya::Pod,
    {
        let mut map = self.hash::<u32, Pod<V>>(name)?;
        let gone = processes(&map, of_run);
        for pid in &gone {
            let _ = map.remove(pid);
        }
        Ok(gone)
    }

    /// The exit of one that is gone by now was too early to remove its note, and its number may be another's next.
    pub(super) fn note_strays(&mut self, (slot, epoch): (u32, u32), pids: &[u32]) -> Result<(), Error> {
        let mut strays = self.hash::<u32, Pod<abi::Occupant>>("strays")?;
        for pid in pids {
            strays.insert(pid, Pod(abi::Occupant { slot, epoch }), 0).map_err(Error::map("strays"))?;
            if !Path::new("/proc").join(pid.to_string()).exists() {
                let _ = strays.remove(pid);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_process_that_cannot_be_read_is_unknown_and_not_root() {
        let folder = tempfile::tempdir().unwrap();
        let proc = ProcFs::new(folder.path());
        fs::create_dir(folder.path().join("7")).unwrap();
        fs::write(folder.path().join("7/status"), "Name:\tx\n").unwrap();
        assert_eq!(effective_user(&proc, 7), abi::UID_UNKNOWN, "its status has no user");
        assert_eq!(effective_user(&proc, 8), abi::UID_UNKNOWN, "it has ended");
        let own = effective_user(&ProcFs::default(), std::process::id());
        assert_eq!(own, nix::unistd::geteuid().as_raw());
    }
}
