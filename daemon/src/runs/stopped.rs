//! Processes that a rule stopped by a signal, of a cgroup that nothing bounds any more: nobody else would have them continue.

use crate::platform::ProcFs;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Has those of the processes continue that are in the cgroup. An id that is no longer in it has ended, or belongs to somebody else by now.
/// The answer is how many continue.
pub fn continue_stopped(mount: &Path, cgroup_id: u64, stopped: &[u32]) -> usize {
    let is_in = |pid: u32| {
        let path = ProcFs::default().cgroup(pid).ok().flatten()?;
        let path = mount.join(path.strip_prefix("/").unwrap_or(&path));
        path.ancestors().any(|level| fs::metadata(level).is_ok_and(|level| level.ino() == cgroup_id)).then_some(pid)
    };
    let pids = stopped.iter().filter_map(|pid| is_in(*pid)).filter_map(|pid| i32::try_from(pid).ok());
    pids.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGCONT).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{platform::CgroupRoot, skip::skip, testing::until};
    use std::process::{Child, Command};

    fn state(pid: u32) -> String {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1[..1].to_owned()
    }

    fn stopped() -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGSTOP).unwrap();
        until("the process to stop", || state(child.id()) == "T");
        child
    }

    #[test]
    fn processes_of_the_cgroup_continue_and_others_stay_as_they_are() {
        let path = format!("failsafe-stopped-{}", std::process::id());
        let Ok((root, cgroup)) = CgroupRoot::find().and_then(|root| Ok((root.clone(), root.create(path.as_ref())?)))
        else {
            return skip("cgroups cannot be made here");
        };
        let mut children = [stopped(), stopped()];
        let [inside, outside] = [children[0].id(), children[1].id()];
        cgroup.attach(inside).unwrap();
        assert_eq!(continue_stopped(root.mount(), cgroup.id(), &[inside, outside]), 1);
        until("the process to continue", || state(inside) != "T");
        assert_eq!(state(outside), "T");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        cgroup.remove_tree().unwrap();
    }
}
