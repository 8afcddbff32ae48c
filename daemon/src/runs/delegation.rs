//! Delegated subtrees of the cgroup hierarchy, in which somebody other than root may move processes.
//!
//! The kernel lets a process be moved by whoever may write `cgroup.procs` of where it goes and of the lowest cgroup around both
//! places (Documentation/admin-guide/cgroup-v2.rst, "Delegation Containment"); `clone3` with `CLONE_INTO_CGROUP` asks for the same.
//! A run that lies below such a cgroup can therefore be left by its own processes: what they do until they are brought back, no
//! program on the run's cgroup sees. Runs that the daemon makes lie below a cgroup of root.

use crate::platform::clock;
use failsafe_core::{Input, MonoTime, RunId, input::Gap, signal::Source};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Permission of the group and of others to write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// A run's cgroup that lies in a delegated subtree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated {
    /// The run's cgroup.
    cgroup: PathBuf,
    /// The top of the subtree.
    top: PathBuf,
    /// Who may move processes within it.
    by: String,
}

/// The owner of a cgroup around the run cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot determine who may move processes around the run: {}", path.display())]
pub struct DelegationError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Delegated {
    /// The delegated subtree that `cgroup` lies in, if any; `mount` is where cgroup v2 is mounted. What lies below the run's own
    /// cgroup is inside the run and of no matter.
    ///
    /// # Errors
    /// [`DelegationError`].
    pub fn around(cgroup: &Path, mount: &Path) -> Result<Option<Delegated>, DelegationError> {
        let mut found = None;
        for above in cgroup.ancestors().skip(1).take_while(|above| above.starts_with(mount)) {
            let path = above.join("cgroup.procs");
            let meta = fs::metadata(&path).map_err(|source| DelegationError { path, source })?;
            if let Some(by) = who_writes(meta.uid(), meta.gid(), meta.mode()) {
                found = Some(Delegated { cgroup: cgroup.to_owned(), top: above.to_owned(), by });
            }
        }
        Ok(found)
    }

    /// Who beside root may make cgroups in one of those around `cgroup`: what is made there has the name that this user chose.
    ///
    /// # Errors
    /// [`DelegationError`].
    pub fn named_by_others(cgroup: &Path, mount: &Path) -> Result<Option<String>, DelegationError> {
        for above in cgroup.ancestors().skip(1).take_while(|above| above.starts_with(mount)) {
            let path = above.to_owned();
            let meta = fs::metadata(&path).map_err(|source| DelegationError { path, source })?;
            if let Some(by) = who_writes(meta.uid(), meta.gid(), meta.mode()) {
                return Ok(Some(format!("{by} may make cgroups in {}", above.display())));
            }
        }
        Ok(None)
    }

    /// Why it is not registered without being accepted, and what to do.
    pub fn refusal(&self) -> String {
        format!(
            "{}: let the processes be started by `failsafectl run`, register a cgroup that only root may change, such as that of a \
             scheduler's job, or accept this with --accept-delegated",
            self.leak()
        )
    }

    /// The same, for the record of a run that was registered all the same.
    pub fn gap(&self, run: RunId) -> Input {
        Input::Gap(Gap {
            seq: 0,
            at: MonoTime(clock::monotonic_ns()),
            source: Source::Cgroup,
            run: Some(run),
            gpu: None,
            what: self.leak(),
            lost: 0,
            blind: false,
        })
    }

    fn leak(&self) -> String {
        format!(
            "cgroup {} lies in {}, which is delegated: {} may move processes there, so a process of the run can leave the run and \
             use the network unbounded until it is moved back",
            self.cgroup.display(),
            self.top.display(),
            self.by
        )
    }
}

/// Who beside root may write a file.
fn who_writes(uid: u32, gid: u32, mode: u32) -> Option<String> {
    if uid != 0 {
        Some(format!("uid {uid}"))
    } else if mode & OTHERS_WRITE != 0 {
        Some("everybody".into())
    } else {
        (gid != 0 && mode & GROUP_WRITES != 0).then(|| format!("gid {gid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_beside_root_may_write_is_named() {
        assert_eq!(who_writes(1_000, 0, 0o644).as_deref(), Some("uid 1000"));
        assert_eq!(who_writes(1_000, 0, 0o444).as_deref(), Some("uid 1000"), "an owner can change the mode");
        assert_eq!(who_writes(0, 0, 0o646).as_deref(), Some("everybody"));
        assert_eq!(who_writes(0, 50, 0o664).as_deref(), Some("gid 50"));
        assert_eq!(who_writes(0, 0, 0o664), None);
        assert_eq!(who_writes(0, 50, 0o644), None);
    }

    #[test]
    fn the_top_of_a_delegation_is_found_and_the_runs_own_cgroup_is_not_one() {
        if !nix::unistd::geteuid().is_root() {
            return crate::skip::skip("needs root");
        }
        let mount = tempfile::tempdir().unwrap();
        let [user, app, run, inner] =
            ["user", "user/app", "user/app/run", "user/app/run/inner"].map(|p| mount.path().join(p));
        fs::write(mount.path().join("cgroup.procs"), "").unwrap();
        for dir in [&user, &app, &run, &inner] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("cgroup.procs"), "").unwrap();
        }
        let give = |dir: &Path| std::os::unix::fs::chown(dir.join("cgroup.procs"), Some(1_000), None).unwrap();
        let top = |cgroup: &Path| Delegated::around(cgroup, mount.path()).unwrap().map(|found| found.top);
        assert_eq!(top(&run), None);
        give(&run);
        assert_eq!(top(&run), None, "moves within the run are no matter");
        assert_eq!(top(&inner), Some(run.clone()));
        give(&app);
        give(&user);
        assert_eq!(top(&run), Some(user.clone()));
        let refusal = Delegated::around(&run, mount.path()).unwrap().unwrap().refusal();
        for part in ["user/app/run lies in", "uid 1000 may move", "--accept-delegated", "failsafectl run"] {
            assert!(refusal.contains(part), "{part}: {refusal}");
        }
        fs::remove_file(app.join("cgroup.procs")).unwrap();
        assert!(Delegated::around(&run, mount.path()).is_err(), "what cannot be looked at is no proof of its safety");
    }
}
