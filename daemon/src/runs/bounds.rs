//! Where the run of a process that asks for one is made: a process is never moved out of bounds that somebody else has set.
//!
//! ```text
//! cgroup of the caller ─► in the root, or in one of `start_from`        ─► below `cgroup_parent`
//!                      ─► in user.slice, in no container, no limit      ─► below `cgroup_parent`
//!                      ─► all others (service, container, job, limits)  ─► below the caller's own cgroup
//!                                            ... where that cannot be   ─► refused, with the word `register`
//! ```
//!
//! Only the v2 hierarchy counts: a move in it does not change the cgroup of a v1 controller. ADR 17 has the reasons.

use crate::platform::{CgroupRoot, bpf};
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Files of a cgroup that limit, with the value that limits nothing. `pids.max` is not among them: systemd sets it for each
/// unit of a user, so that it shows nobody's intent.
const LIMITS: [(&str, &str); 7] = [
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.swap.max", "max"),
    ("cpu.max", "max"),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("io.max", ""),
];

/// BPF programs of a cgroup that limit: devices, packets, addresses, sockets.
const PROGRAMS: [(u32, &str); 6] = [
    (bpf::CGROUP_DEVICE, "device"),
    (0, "ingress"),
    (1, "egress"),
    (2, "socket"),
    (8, "IPv4 bind"),
    (10, "IPv4 connect"),
];

/// What parts of cgroup paths begin with that container engines and schedulers make.
const MAKERS: [(&str, &str); 14] = [
    ("slurmstepd.scope", "Slurm"),
    ("slurm", "Slurm"),
    ("job_", "a batch scheduler"),
    ("kubepods", "Kubernetes"),
    ("docker", "Docker"),
    ("libpod", "Podman"),
    ("crio-", "CRI-O"),
    ("cri-containerd", "containerd"),
    ("buildkit", "BuildKit"),
    ("lxc", "LXC"),
    ("machine.slice", "systemd-machined"),
    ("htcondor", "HTCondor"),
    ("pbs", "PBS"),
    ("lsf", "LSF"),
];

/// A run cannot be made for this caller.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process is in cgroup {cgroup}, which {owner}: moving it out would lift these bounds, and a run cannot be made below that \
     cgroup: {why}. Register the cgroup as a run instead (`failsafectl register --cgroup {cgroup}`), or have the administrator \
     name the cgroup in `start_from` of failsafed.toml"
)]
pub struct Bounded {
    cgroup: String,
    owner: String,
    why: String,
}

/// Below which cgroup, relative to the mount, the run of a caller is made.
///
/// # Errors
/// [`Bounded`].
pub fn parent_for(
    root: &CgroupRoot,
    caller: &Path,
    run_owner: u32,
    parent: &Path,
    start_from: &[PathBuf],
) -> Result<PathBuf, Bounded> {
    let relative = caller.strip_prefix("/").unwrap_or(caller);
    let named = |place: &PathBuf| relative.starts_with(place.strip_prefix("/").unwrap_or(place));
    if relative.as_os_str().is_empty() || relative.starts_with(parent) || start_from.iter().any(named) {
        return Ok(parent.to_owned());
    }
    let Some(owner) = whose(relative).or_else(|| limited(root.mount(), relative)) else {
        return Ok(parent.to_owned());
    };
    match obstacle(root, caller, run_owner) {
        None => Ok(relative.to_owned()),
        Some(why) => Err(Bounded { cgroup: caller.display().to_string(), owner, why }),
    }
}

/// Who has made the cgroup, by its path; `None`: a login session, or what a user runs in it.
fn whose(relative: &Path) -> Option<String> {
    let parts = || relative.components().filter_map(|part| part.as_os_str().to_str());
    for part in parts() {
        if let Some((_, maker)) = MAKERS.iter().find(|(begin, _)| part.starts_with(begin)) {
            return Some(format!("{maker} made ({part})"));
        }
    }
    match parts().next() {
        Some("user.slice") => None,
        _ => Some("is that of a service or of another program".into()),
    }
}

/// A limit that holds for the cgroup, of its own or of one above it.
fn limited(mount: &Path, relative: &Path) -> Option<String> {
    levels(relative).find_map(|level| {
        let folder = mount.join(level);
        let file = LIMITS.iter().find_map(|(file, unlimited)| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            let value = text.trim();
            let first = value.split(' ').next().unwrap_or_default();
            (first != *unlimited && !value.is_empty()).then(|| format!("{file} {value}"))
        });
        let program = || {
            let cgroup = File::open(&folder).ok()?;
            let (_, what) =
                PROGRAMS.iter().find(|(kind, _)| bpf::attached(cgroup.as_fd(), *kind).is_ok_and(|n| n > 0))?;
            Some(format!("a BPF program ({what})"))
        };
        file.or_else(program).map(|limit| format!("has a limit ({limit} of /{})", level.display()))
    })
}

/// Why no run can be made below the caller's cgroup; `None`: it can.
fn obstacle(root: &CgroupRoot, caller: &Path, run_owner: u32) -> Option<String> {
    if root.is_threaded(caller) {
        return Some("it is threaded".into());
    }
    let relative = caller.strip_prefix("/").unwrap_or(caller);
    let given = fs::read_to_string(root.mount().join(relative).join("cgroup.subtree_control"));
    match given {
        Ok(given) if given.trim().is_empty() => {}
        Ok(given) => return Some(format!("it gives controllers on to those below ({})", given.trim())),
        Err(error) => return Some(format!("its cgroup.subtree_control cannot be read ({error})")),
    }
    if run_owner == 0 {
        return None;
    }
    // Whoever may write there moves processes from a cgroup below to one outside.
    levels(relative).find_map(|level| match writable(&root.mount().join(level).join("cgroup.procs")) {
        Ok(None) => None,
        Ok(Some(who)) => {
            Some(format!("/{} is delegated to {who}, who could move the run's processes out", level.display()))
        }
        Err(error) => Some(format!("the owner of /{} cannot be read ({error})", level.display())),
    })
}

fn writable(procs: &Path) -> io::Result<Option<String>> {
    let file = fs::metadata(procs)?;
    Ok(match (file.uid(), file.mode() & 0o022) {
        (0, 0) => None,
        (0, _) => Some("others by its mode".into()),
        (uid, _) => Some(format!("user {uid}")),
    })
}

/// The cgroup and those above it, without the root.
fn levels(relative: &Path) -> impl Iterator<Item = &Path> {
    relative.ancestors().filter(|level| !level.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_users_are_plain_and_all_that_others_made_is_not() {
        for plain in
            ["user.slice/user-1000.slice/session-3.scope", "user.slice/user-0.slice/user@0.service/app.slice/vte.scope"]
        {
            assert_eq!(whose(Path::new(plain)), None, "{plain}");
        }
        for (made, by) in [
            ("system.slice/slurmstepd.scope/job_12/step_0/user/task_0", "Slurm"),
            ("slurm/uid_1000/job_12", "Slurm"),
            ("kubepods.slice/kubepods-burstable.slice/cri-containerd-0a.scope", "Kubernetes"),
            ("system.slice/docker-0a.scope", "Docker"),
            ("docker/0a", "Docker"),
            ("user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0a.scope/container", "Podman"),
            ("machine.slice/machine-x.scope", "machined"),
            ("system.slice/cron.service", "service"),
            ("mine", "service"),
        ] {
            assert!(whose(Path::new(made)).is_some_and(|who| who.contains(by)), "{made}: {:?}", whose(Path::new(made)));
        }
    }

    #[test]
    fn a_limit_counts_at_every_level_and_pids_do_not() {
        let mount = tempfile::tempdir().unwrap();
        let cgroup = Path::new("user.slice/user-1000.slice/session-3.scope");
        let write = |level: &str, file: &str, text: &str| {
            fs::create_dir_all(mount.path().join(level)).unwrap();
            fs::write(mount.path().join(level).join(file), text).unwrap();
        };
        write("user.slice/user-1000.slice/session-3.scope", "memory.max", "max\n");
        write("user.slice/user-1000.slice/session-3.scope", "cpu.max", "max 100000\n");
        write("user.slice/user-1000.slice", "pids.max", "9830\n");
        write("user.slice/user-1000.slice", "cpuset.cpus", "\n");
        write("user.slice", "io.max", "");
        assert_eq!(limited(mount.path(), cgroup), None);
        write("user.slice/user-1000.slice", "memory.max", "1073741824\n");
        let found = limited(mount.path(), cgroup).unwrap();
        assert_eq!(found, "has a limit (memory.max 1073741824 of /user.slice/user-1000.slice)");
        write("user.slice/user-1000.slice/session-3.scope", "cpu.max", "50000 100000\n");
        assert!(limited(mount.path(), cgroup).unwrap().contains("cpu.max 50000 100000"));
    }
}
