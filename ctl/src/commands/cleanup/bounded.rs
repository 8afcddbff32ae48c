//! Which cgroups pins bound, and which of them have processes.
//!
//! The daemon is gone: the names of pinned links (`link_SLOT_CGROUPID_PROGRAM`) are what is left to know it by.
//! Invariant: what cannot be looked at is not taken for empty.

use crate::exit::{Exit, Fail};
use procfs::process::MountInfo;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

/// A cgroup with processes that pins bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounded {
    /// Its id, as in the names of its links.
    pub(super) root: u64,
    /// Its folder.
    pub(super) cgroup: PathBuf,
    /// The id of its run, where the state folder or the cgroup's name has it.
    pub(super) run_id: Option<String>,
    /// The name of its run, where the state folder has it.
    pub(super) name: Option<String>,
}

impl Bounded {
    /// Whether `named` is exactly this one: the id of its run, or its cgroup, absolute or below the mount.
    pub(super) fn is_named(&self, named: &str) -> bool {
        let below = named.trim_start_matches('/');
        self.run_id.as_deref() == Some(named)
            || self.cgroup == Path::new(named)
            || (!below.is_empty() && self.cgroup.ends_with(below) && below.contains('/'))
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        let run = match (&self.name, &self.run_id) {
            (Some(name), Some(id)) => format!("run {name} ({id})"),
            (None, Some(id)) => format!("run {id}"),
            _ => "a run".into(),
        };
        crate::render::clean(&format!("{run}, processes live in {}", self.cgroup.display()))
    }

    /// What to name it by.
    pub(super) fn reference(&self) -> String {
        self.run_id.clone().unwrap_or_else(|| self.cgroup.display().to_string())
    }
}

/// The cgroup that a pinned link is of; `None`: it is a map, or of the whole host.
pub(super) fn root_of(pin: &Path) -> Option<u64> {
    let mut words = pin.file_name()?.to_str()?.strip_prefix("link_")?.splitn(3, '_');
    let _slot: u32 = words.next()?.parse().ok()?;
    words.next()?.parse().ok()
}

/// Of the cgroups of these ids, those with processes.
pub(super) fn populated(roots: &BTreeSet<u64>, state_dir: &Path) -> Result<Vec<Bounded>, Fail> {
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let mount = hierarchy().map_err(|error| Fail::because("cannot read /proc/self/mountinfo", &error))?;
    let mount = mount.ok_or_else(|| {
        Fail::new(
            Exit::Error,
            format!(
                "cannot determine whether processes live in the {} cgroups that the pins bound: the root of the cgroup2 hierarchy is not \
                 mounted here",
                roots.len()
            ),
        )
        .advise("run this outside of containers; nothing was removed")
    })?;
    let runs = kept_runs(state_dir);
    let found = walk(&mount, roots).map_err(|(path, error)| {
        Fail::because(format!("cannot determine which runs live: {}", path.display()), &error)
            .advise("nothing was removed")
    })?;
    let bounded = found.into_iter().map(|(root, cgroup)| {
        let kept = runs.iter().find(|run| run.root == root);
        let by_cgroup = || Some(cgroup.file_name()?.to_str()?.strip_prefix("run-")?.to_owned());
        let run_id = kept.map(|kept| kept.id.clone()).or_else(by_cgroup);
        Bounded { root, run_id, name: kept.map(|kept| kept.name.clone()), cgroup }
    });
    Ok(bounded.collect())
}

/// Where the whole cgroup2 hierarchy is mounted: its root has the inode number 1.
pub(in crate::commands) fn hierarchy() -> io::Result<Option<PathBuf>> {
    let mounts = cgroup2_mounts(&fs::read("/proc/self/mountinfo")?);
    Ok(mounts.into_iter().find(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() == 1)))
}

/// Line by line: `procfs` refuses a whole file for one path that is not UTF-8, and any user can mount a FUSE file system there.
/// A path with a blank is escaped, and none of the usual ones.
pub(in crate::commands) fn cgroup2_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mounts = lines.filter_map(|line| MountInfo::from_line(line).ok());
    mounts.filter(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point).collect()
}

type At<T> = Result<T, (PathBuf, io::Error)>;

/// The populated ones, with their folders. What vanishes meanwhile has no process.
fn walk(mount: &Path, roots: &BTreeSet<u64>) -> At<Vec<(u64, PathBuf)>> {
    let (mut found, mut levels) = (Vec::new(), vec![mount.to_owned()]);
    while let Some(level) = levels.pop() {
        let entries = match fs::read_dir(&level) {
            Err(error) if is_gone(&error) => continue,
            entries => entries.map_err(|error| (level.clone(), error))?,
        };
        for entry in entries {
            let entry = match entry {
                Err(error) if is_gone(&error) => break,
                entry => entry.map_err(|error| (level.clone(), error))?,
            };
            if !entry.file_type().map_err(|error| (entry.path(), error))?.is_dir() {
                continue;
            }
            if roots.contains(&entry.ino()) && is_populated(&entry.path())? {
                found.push((entry.ino(), entry.path()));
            }
            levels.push(entry.path());
        }
    }
    Ok(found)
}

fn is_populated(cgroup: &Path) -> At<bool> {
    let path = cgroup.join("cgroup.events");
    match fs::read_to_string(&path) {
        Ok(events) => Ok(!events.lines().any(|line| line == "populated 0")),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err((path, error)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

struct KeptRun {
    root: u64,
    id: String,
    name: String,
}

/// What the state folder has of runs. What cannot be read has no name: its cgroup is shown.
fn kept_runs(state_dir: &Path) -> Vec<KeptRun> {
    let folders = fs::read_dir(state_dir.join("runs")).into_iter().flatten().flatten();
    let run = |folder: fs::DirEntry| {
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("run.json")).ok()?).ok()?;
        let run = &kept["run"];
        let text = |field: &str| run[field].as_str().map(str::to_owned);
        Some(KeptRun { root: run["cgroup_id"].as_u64()?, id: text("id")?, name: text("name")? })
    };
    folders.filter_map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_of_the_cgroup_in_its_name_and_others_are_of_none() {
        let root = |name: &str| root_of(&Path::new("/x/g1_v3").join(name));
        assert_eq!(root("link_0_77_fs_connect4"), Some(77));
        assert_eq!(root("link_12_18446744073709551615_fs_bind6"), Some(u64::MAX));
        assert_eq!(root("link_host_fs_exec"), None);
        assert_eq!(root("map_runs"), None);
    }

    #[test]
    fn a_run_is_named_by_its_id_or_its_whole_cgroup() {
        let run = Bounded {
            root: 7,
            cgroup: "/sys/fs/cgroup/failsafe/run-0190".into(),
            run_id: Some("0190".into()),
            name: Some("job".into()),
        };
        for named in ["0190", "/sys/fs/cgroup/failsafe/run-0190", "failsafe/run-0190", "/failsafe/run-0190"] {
            assert!(run.is_named(named), "{named}");
        }
        for other in ["job", "019", "run-0190", "", "/", "fs/cgroup/failsafe"] {
            assert!(!run.is_named(other), "{other}");
        }
    }

    #[test]
    fn only_cgroup2_mounts_count() {
        let text = b"35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
            36 25 0:31 / /sys/fs/bpf rw - bpf bpf rw\n37 25 0:32 / /home/u/\xff rw - fuse.sshfs u@h rw\n";
        assert_eq!(cgroup2_mounts(text), [Path::new("/sys/fs/cgroup")]);
    }
}
