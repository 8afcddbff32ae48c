//! Processes that a rule stopped by a signal, of a cgroup that nothing bounds any more: nobody else would have them continue.

use crate::platform::{ProcFs, pidfd::PidFd};
use nix::sys::signal::Signal;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

/// Has those of the processes continue that are in the cgroup. An id that is no longer in it has ended, or belongs to somebody else by now.
/// The answer is how many continue.
pub fn continue_stopped(mount: &Path, cgroup_id: u64, stopped: &[u32]) -> usize {
    let continues = |pid: u32| {
        // Held before its cgroup is read: the signal reaches the process that was looked at, or none.
        let process = PidFd::open(pid).ok()?;
        let path = ProcFs::default().cgroup(pid).ok().flatten()?;
        is_within(mount, &path, cgroup_id).then(|| process.signal(Signal::SIGCONT).ok())?
    };
    stopped.iter().filter_map(|pid| continues(*pid)).count()
}

/// Whether the path, from the root of the hierarchy, lies in the cgroup. What is outside of the mount is none: a number of an inode means a
/// cgroup only in the cgroup file system.
fn is_within(mount: &Path, path: &Path, cgroup_id: u64) -> bool {
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let path = mount.join(path.strip_prefix("/").unwrap_or(path));
    let mut levels = path.ancestors().take_while(|level| level.starts_with(mount));
    is_plain && levels.any(|level| fs::metadata(level).is_ok_and(|level| level.ino() == cgroup_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{platform::CgroupRoot, skip::skip, testing::until};
    use nix::{sys::signal::kill, unistd::Pid};
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
    fn a_folder_outside_of_the_mount_is_no_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        fs::create_dir_all(mount.join("job/child")).unwrap();
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let is_within = |path: &str, of: &Path| is_within(&mount, path.as_ref(), number(of));
        assert!(is_within("/job/child", &mount.join("job")) && is_within("/job/child", &mount));
        assert!(!is_within("/job", &mount.join("job/child")));
        assert!(!is_within("/job", folder.path()), "the folder that the mount is in");
        assert!(!is_within("/..", folder.path()) && !is_within("/../mount/job", &mount.join("job")));
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
