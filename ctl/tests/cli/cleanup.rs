//! `doctor --cleanup` on a BPF file system of the test's own.

use crate::{
    skip::skip,
    support::{bare, err, out},
};
use failsafe_journal::{StateLock, instance};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    path::{Path, PathBuf},
    process::Output,
};

struct Bench {
    dir: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.bpffs(), MntFlags::MNT_DETACH) {
            eprintln!("left mounted: {}: {error}", self.bpffs().display());
        }
    }
}

impl Bench {
    fn new() -> Option<Bench> {
        if !nix::unistd::geteuid().is_root() {
            skip("only root mounts a BPF file system");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["bpf", "state", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        if let Err(error) = mount(Some("bpf"), &dir.path().join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>) {
            skip(&format!("no BPF file system here: {error}"));
            return None;
        }
        Some(Bench { dir })
    }

    fn bpffs(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Files of bpffs are made by pinning only; a link stands in for one, and shows that it is not followed.
    fn pinned(&self, state: &Path) -> PathBuf {
        let pins = self.bpffs().join("failsafe").join(instance::name(state)).join("g1_v3");
        std::fs::create_dir_all(&pins).unwrap();
        for name in ["map_runs", "link_0_77_fs_connect4"] {
            std::os::unix::fs::symlink(self.dir.path().join("other"), pins.join(name)).unwrap();
        }
        pins
    }

    fn cleanup(&self, more: &[&str]) -> Output {
        let mut command = bare(Path::new("/nowhere"));
        command.arg("--state-dir").arg(self.state()).args(["doctor", "--cleanup", "--bpffs"]).arg(self.bpffs());
        command.args(more).output().unwrap()
    }
}

#[test]
fn only_what_this_state_folder_pinned_is_removed() {
    let Some(bench) = Bench::new() else { return };
    let (own, others) = (bench.pinned(&bench.state()), bench.pinned(&bench.dir.path().join("other")));

    let rehearsed = bench.cleanup(&["--dry-run"]);
    assert_eq!(rehearsed.status.code(), Some(0), "{}", err(&rehearsed));
    assert!(out(&rehearsed).contains(&format!("would remove {}/map_runs\n", own.display())), "{}", out(&rehearsed));
    assert!(own.join("map_runs").is_symlink(), "a rehearsal removes nothing");

    let done = bench.cleanup(&["-o", "json"]);
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let answer: serde_json::Value = serde_json::from_str(&out(&done)).unwrap();
    assert_eq!(answer["removed"].as_array().unwrap().len(), 4, "two pins and two folders: {answer}");
    assert!(!own.parent().unwrap().exists());
    assert!(others.join("map_runs").is_symlink(), "another instance's");
    assert!(bench.dir.path().join("other").is_dir(), "what a link points to");

    let again = bench.cleanup(&[]);
    assert!(out(&again).starts_with("nothing is pinned in "), "{}", out(&again));
}

#[test]
fn nothing_is_removed_below_a_living_daemon() {
    let Some(bench) = Bench::new() else { return };
    let own = bench.pinned(&bench.state());
    let lock = StateLock::acquire(&bench.state()).unwrap();
    let refused = bench.cleanup(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("a daemon runs") && err(&refused).contains("stop it first"), "{}", err(&refused));
    assert!(own.join("map_runs").is_symlink());
    drop(lock);
    assert_eq!(bench.cleanup(&[]).status.code(), Some(0));
    assert!(!own.exists());
}

#[test]
fn a_folder_that_is_no_bpf_file_system_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let elsewhere = bench.dir.path().join("other");
    let mut command = bare(Path::new("/nowhere"));
    command.arg("--state-dir").arg(bench.state()).args(["doctor", "--cleanup", "--bpffs"]).arg(&elsewhere);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("is not a BPF file system"), "{}", err(&refused));
}
