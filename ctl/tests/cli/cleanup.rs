//! `doctor --cleanup` on a BPF file system of the test's own.

use crate::{
    skip::skip,
    support::{bare, err, out},
};
use failsafe_journal::{StateLock, instance};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
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
        for name in ["map_runs", "link_0_18446744073709551615_fs_connect4"] {
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

/// A cgroup with a process in it.
struct Job {
    cgroup: PathBuf,
    process: Child,
}

impl Job {
    fn new(name: &str) -> Option<Job> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).find_map(|line| line.split(' ').nth(4));
        let Some(mount) = mount else {
            skip("no cgroup2 here");
            return None;
        };
        let cgroup = Path::new(mount).join(format!("failsafe-cleanup-{}-{name}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        Some(Job { cgroup, process })
    }

    /// A generation of pins that bounds it, as well as `other`, with a program of the whole host.
    fn pinned(&self, bench: &Bench, generation: &str, other: u64) -> PathBuf {
        let pins = bench.bpffs().join("failsafe").join(instance::name(&bench.state())).join(generation);
        std::fs::create_dir_all(&pins).unwrap();
        let own = format!("link_3_{}_fs_connect4", std::fs::metadata(&self.cgroup).unwrap().ino());
        for name in ["map_runs", "link_host_fs_exec", &own, &format!("link_4_{other}_fs_connect4")] {
            std::os::unix::fs::symlink(bench.dir.path().join("other"), pins.join(name)).unwrap();
        }
        pins
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

#[test]
fn the_bounds_of_a_run_with_processes_stay_until_it_is_named_or_over() {
    let Some(bench) = Bench::new() else { return };
    let (Some(mut job), Some(second)) = (Job::new("a"), Job::new("b")) else { return };
    let pins = job.pinned(&bench, "g2_v3", u64::MAX);
    let old = bench.pinned(&bench.state());
    let also = second.pinned(&bench, "g3_v3", u64::MAX);
    std::fs::create_dir_all(bench.state().join("runs/0190-a")).unwrap();
    let id = std::fs::metadata(&job.cgroup).unwrap().ino();
    let kept = format!(r#"{{"run":{{"id":"0190-a","name":"train","cgroup_id":{id}}}}}"#);
    std::fs::write(bench.state().join("runs/0190-a/run.json"), kept).unwrap();

    let done = bench.cleanup(&[]);
    assert_eq!(done.status.code(), Some(3), "{}", err(&done));
    assert!(out(&done).contains("kept the enforcement of run train (0190-a), processes live in "), "{}", out(&done));
    assert!(out(&done).contains("--release 0190-a\n"), "{}", out(&done));
    assert!(!old.exists(), "a generation that bounds nobody goes");
    for stays in ["map_runs", "link_host_fs_exec", &format!("link_3_{id}_fs_connect4")] {
        assert!(pins.join(stays).is_symlink(), "{stays}");
    }
    assert!(!pins.join(format!("link_4_{}_fs_connect4", u64::MAX)).is_symlink(), "of a cgroup that is gone");

    let unknown = bench.cleanup(&["--release", "train"]);
    assert_eq!(unknown.status.code(), Some(6), "a name may be another run's: {}", err(&unknown));
    assert!(err(&unknown).contains("0190-a"), "{}", err(&unknown));
    assert!(pins.join("map_runs").is_symlink());

    let rehearsed = bench.cleanup(&["--release", "0190-a", "--dry-run"]);
    assert!(out(&rehearsed).contains(&format!("would remove {}\n", pins.display())), "{}", out(&rehearsed));
    let released = bench.cleanup(&["--release", "0190-a", "-o", "json"]);
    assert_eq!(released.status.code(), Some(3), "the other one stays: {}", err(&released));
    let answer: serde_json::Value = serde_json::from_str(&out(&released)).unwrap();
    assert_eq!(answer["kept"][0]["cgroup"], second.cgroup.display().to_string());
    assert!(!pins.exists() && also.join("map_runs").is_symlink());

    // Over, nobody need be named.
    let pins = job.pinned(&bench, "g2_v3", u64::MAX);
    job.kill();
    drop(second);
    let done = bench.cleanup(&[]);
    assert_eq!(done.status.code(), Some(0), "{} {}", out(&done), err(&done));
    assert!(!pins.exists() && !also.exists());
}
