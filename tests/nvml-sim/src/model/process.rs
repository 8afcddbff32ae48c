//! The processes on a simulated GPU: listed by the scenario, but real ones where a
//! pid file names them, so that killing or freezing one shows in NVML as it would on
//! a GPU. The one part of the model that looks at the machine (`/proc`, cgroup v2).

use crate::scenario::{Process, ProcessKind, ProcessPid};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A process as NVML lists it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Listed {
    pub(crate) pid: u32,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) kind: ProcessKind,
    /// The MIG device that it is on.
    pub(crate) mig: Option<usize>,
    /// Its part of the work, beside the others'.
    pub(crate) weight: f64,
}

/// Those of `processes` that are on the GPU at `t`.
pub(crate) fn listed(processes: &[Process], t: f64) -> Vec<Listed> {
    let present = processes.iter().filter(|it| it.from <= t && t < it.until);
    present
        .filter_map(|process| {
            let pid = pid_of(&process.pid)?;
            let gone = process.alive_only && !exists(pid);
            let Process { kind, mig, weight, .. } = *process;
            (!gone).then_some(Listed { pid, memory: process.memory as u64, kind, mig, weight })
        })
        .collect()
}

fn pid_of(pid: &ProcessPid) -> Option<u32> {
    match pid {
        ProcessPid::Number(pid) => Some(*pid),
        ProcessPid::File(path) => fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0),
    }
}

/// Whether the process can give the GPU work: it exists, is not stopped, and its
/// cgroup is not frozen.
pub(crate) fn runs(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X' | 'T' | 't')) && !frozen(pid)
}

/// A zombie has given its GPU memory back.
fn exists(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// What the kernel has of a process.
fn of_kernel(pid: u32) -> Option<procfs::process::Process> {
    procfs::process::Process::new(i32::try_from(pid).ok()?).ok()
}

/// The state letter of `/proc/PID/stat`.
fn state(pid: u32) -> Option<char> {
    Some(of_kernel(pid)?.stat().ok()?.state)
}

fn frozen(pid: u32) -> bool {
    let inside = || {
        let cgroups = of_kernel(pid)?.cgroups().ok()?;
        let cgroup = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0)?;
        let folder = cgroup2_mount()?.join(cgroup.pathname.strip_prefix('/')?);
        let events = fs::read_to_string(folder.join("cgroup.events")).ok()?;
        Some(events.lines().any(|line| line == "frozen 1"))
    };
    inside().unwrap_or(false)
}

/// Where cgroup v2 is mounted, found once: it does not move while a machine runs.
fn cgroup2_mount() -> Option<&'static Path> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let mounts = procfs::mounts().ok()?;
        mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2").map(|mount| PathBuf::from(mount.fs_file))
    };
    MOUNT.get_or_init(find).as_deref()
}

#[cfg(test)]
#[path = "../../../skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patience::poll;
    use std::convert::Infallible;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// Kills and reaps on drop, so that a failing test leaves nothing.
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn process(pid: ProcessPid, alive_only: bool) -> Process {
        Process {
            pid,
            memory: 1024.0,
            kind: ProcessKind::Compute,
            from: 1.0,
            until: 5.0,
            alive_only,
            mig: None,
            weight: 1.0,
        }
    }

    #[test]
    fn listed_within_its_window() {
        let processes = [process(ProcessPid::Number(4242), false)];
        assert!(listed(&processes, 0.9).is_empty());
        assert_eq!(listed(&processes, 1.0)[0].pid, 4242);
        assert!(listed(&processes, 5.0).is_empty());
    }

    #[test]
    fn a_process_from_a_file_leaves_when_it_dies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let processes = [process(ProcessPid::File(path.clone()), true)];
        assert!(listed(&processes, 2.0).is_empty(), "no file yet");

        let mut child = sleeper();
        let pid = child.0.id();
        fs::write(&path, format!("{pid}\n")).unwrap();
        assert_eq!(listed(&processes, 2.0).len(), 1);
        assert!(runs(pid));
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert!(listed(&processes, 2.0).is_empty());
        assert!(!runs(pid));
    }

    fn sleeper() -> Killed {
        Killed(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap())
    }

    /// Whether it comes true within 10 s.
    fn soon(mut holds: impl FnMut() -> bool) -> bool {
        poll(Duration::from_secs(10), || Ok::<_, Infallible>(holds().then_some(()))).is_ok_and(|held| held.is_some())
    }

    fn await_runs(pid: u32, expected: bool) {
        assert!(soon(|| runs(pid) == expected), "runs is still {}", !expected);
    }

    #[test]
    fn a_stopped_process_does_not_run() {
        let child = sleeper();
        let pid = child.0.id();
        for (signal, expected) in [("-STOP", false), ("-CONT", true)] {
            assert!(Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap().success());
            await_runs(pid, expected);
        }
    }

    /// Removes its cgroup, once the processes in it are gone.
    struct Cgroup(PathBuf);
    impl Drop for Cgroup {
        fn drop(&mut self) {
            let _ = fs::write(self.0.join("cgroup.freeze"), "0");
            let _ = soon(|| fs::remove_dir(&self.0).is_ok());
        }
    }

    #[test]
    fn a_frozen_process_does_not_run() {
        let Some(root) = cgroup2_mount() else {
            super::skip::skip("no cgroup v2 is mounted");
            return;
        };
        let path = root.join(format!("nvml-sim-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            super::skip::skip(&format!("cannot make the cgroup {}: {error}", path.display()));
            return;
        }
        let cgroup = Cgroup(path);
        let child = sleeper();
        let pid = child.0.id();
        fs::write(cgroup.0.join("cgroup.procs"), pid.to_string()).unwrap();
        assert!(runs(pid));
        fs::write(cgroup.0.join("cgroup.freeze"), "1").unwrap();
        await_runs(pid, false);
        fs::write(cgroup.0.join("cgroup.freeze"), "0").unwrap();
        await_runs(pid, true);
        drop(child);
    }
}
