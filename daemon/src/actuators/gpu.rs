//! GPUs as a target: a reset, only ever at an operator's explicit word.
//!
//! NVML has no call that resets a GPU, so the vendor's tool does it. Invariants: nothing is claimed that the tool did not say;
//! it is not run while a process has the device open.

use crate::platform::ProcFs;
use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A reset takes seconds; a tool that hangs on a sick GPU is given up.
const DEADLINE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes kept of what the tool says.
const SAID: u64 = 4_096;

/// NVIDIA's persistence daemon, as far as the kernel keeps a name.
const PERSISTENCE: &str = "nvidia-persiste";

/// Why a GPU was not reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The tool is not there.
    #[error("NVML has no call that resets a GPU, and there is no {0}: reset it by hand")]
    NoTool(String),
    /// It cannot be run.
    #[error("cannot run {tool}")]
    Run {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time, and was killed.
    #[error("{tool} has not ended within {within:?} and was killed")]
    Hangs {
        /// The tool.
        tool: String,
        /// The deadline.
        within: Duration,
    },
    /// It said no.
    #[error("{tool} ended with {status}: {output}")]
    Refused {
        /// The tool.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
}

/// The device is in use, or that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum InUse {
    /// These have it open.
    #[error("pid(s) {pids} have {device} open")]
    Open {
        /// The device file.
        device: String,
        /// Who.
        pids: String,
    },
    /// `/proc` cannot be read.
    #[error("cannot determine which processes have {device} open")]
    Unknown {
        /// The device file.
        device: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Whether no process has `/dev/nvidiaMINOR` open, by the links below `/proc/PID/fd`. NVIDIA's persistence daemon, which is there
/// without using the GPU and which the vendor's tool deals with, is not counted.
///
/// # Errors
/// [`InUse`].
pub fn nobody_has(proc: &ProcFs, minor: u32) -> Result<(), InUse> {
    let device = format!("/dev/nvidia{minor}");
    let unknown = |source| InUse::Unknown { device: device.clone(), source };
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(proc.root()).map_err(unknown)? {
        let Some(pid) = entry.map_err(unknown)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has ended has nothing open.
        let open = std::fs::read_dir(proc.path(pid, "fd")).into_iter().flatten().flatten();
        let has = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to == Path::new(&device));
        if has && !proc.stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.comm.starts_with(PERSISTENCE))) {
            pids.push(pid.to_string());
        }
    }
    if pids.is_empty() { Ok(()) } else { Err(InUse::Open { device, pids: pids.join(", ") }) }
}

/// Resets a GPU; what the tool said.
///
/// # Errors
/// [`ResetError`].
pub fn reset(tool: &Path, uuid: &str) -> Result<String, ResetError> {
    reset_within(tool, uuid, DEADLINE)
}

fn reset_within(tool: &Path, uuid: &str, within: Duration) -> Result<String, ResetError> {
    let name = tool.display().to_string();
    if !tool.exists() {
        return Err(ResetError::NoTool(name));
    }
    let failed = |source| ResetError::Run { tool: name.clone(), source };
    let mut child = Command::new(tool)
        .args(["--gpu-reset", "-i", uuid])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let status = wait(&mut child, within).map_err(failed)?;
    let Some(status) = status else { return Err(ResetError::Hangs { tool: name, within }) };
    let mut output = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(SAID).read_to_end(&mut output).map_err(failed)?;
    }
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    if status.success() { Ok(output) } else { Err(ResetError::Refused { tool: name, status, output }) }
}

/// Waits for the child; kills it after the deadline. One that cannot be killed is left to init with a reaper's thread.
fn wait(child: &mut Child, within: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.kill()?;
    let reaped = Instant::now() + Duration::from_secs(1);
    while child.try_wait()?.is_none() && Instant::now() < reaped {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tool(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nvidia-smi");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (dir, path)
    }

    #[test]
    fn the_tools_word_is_what_is_reported() {
        let (_dir, path) = tool("echo \"GPU $3 was successfully reset.\"");
        assert_eq!(reset(&path, "GPU-1").unwrap(), "GPU GPU-1 was successfully reset.");
        let (_dir, path) = tool("echo 'In use by another client'; exit 19");
        let error = reset(&path, "GPU-1").unwrap_err().to_string();
        assert!(error.contains("exit status: 19") && error.contains("In use"), "{error}");
        assert!(matches!(reset(Path::new("/nonexistent/smi"), "GPU-1"), Err(ResetError::NoTool(_))));
    }

    #[test]
    fn who_has_the_device_open_is_found_and_the_persistence_daemon_is_not_counted() {
        let root = tempfile::tempdir().unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (open, close) = (stat.find('(').unwrap(), stat.rfind(')').unwrap());
        let process = |pid: u32, comm: &str, to: &str| {
            let folder = root.path().join(pid.to_string());
            std::fs::create_dir_all(folder.join("fd")).unwrap();
            std::os::unix::fs::symlink(to, folder.join("fd/3")).unwrap();
            std::fs::write(folder.join("stat"), format!("{}({comm}{}", &stat[..open], &stat[close..])).unwrap();
        };
        let proc = ProcFs::new(root.path());
        process(7, "python", "/dev/nvidia1");
        process(8, "python", "/dev/nvidiactl");
        process(9, "nvidia-persiste", "/dev/nvidia0");
        nobody_has(&proc, 0).unwrap();
        let error = nobody_has(&proc, 1).unwrap_err().to_string();
        assert_eq!(error, "pid(s) 7 have /dev/nvidia1 open");
        assert!(matches!(nobody_has(&ProcFs::new("/nonexistent"), 0), Err(InUse::Unknown { .. })));
    }

    #[test]
    fn a_tool_that_hangs_is_given_up() {
        let (_dir, path) = tool("exec sleep 600");
        let error = reset_within(&path, "GPU-1", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ResetError::Hangs { .. }), "{error}");
    }
}
