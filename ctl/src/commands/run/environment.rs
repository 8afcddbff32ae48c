//! The environment and the descriptors that a command of another user gets: as with sudo and run0, nothing of the caller's that is
//! not on a list. Root's environment holds keys of cloud services, and a descriptor gives what it was opened with.

use crate::{exit::Fail, text::clean};
use failsafe_proto::v1::Run;
use std::{
    ffi::{OsStr, OsString},
    os::fd::RawFd,
    process::Command,
};

/// Variables that pass to another user.
const KEPT: &[&str] = &["PATH", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ"];
/// Beginnings of variables that pass to another user.
const KEPT_BEGINNINGS: &[&str] = &["LC_", "FAILSAFE_"];

/// Leaves only the variables of the list.
pub(super) fn reset(command: &mut Command) {
    let set: Vec<_> = command.get_envs().map(|(key, value)| (key.to_owned(), value.map(OsStr::to_owned))).collect();
    command.env_clear();
    command.envs(std::env::vars_os().filter(|(key, _)| key.to_str().is_some_and(is_kept)));
    for (key, value) in set {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
}

pub(super) fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || KEPT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Adds the variables of `--env`.
///
/// # Errors
/// One has no name, or names a variable that the caller does not have.
pub(in crate::commands) fn add(command: &mut Command, wanted: &[String]) -> Result<(), Fail> {
    for text in wanted {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.into())),
            None => (text.as_str(), std::env::var_os(text)),
        };
        match value {
            _ if name.is_empty() => return Err(Fail::usage(format!("--env {text}: expected NAME or NAME=VALUE"))),
            Some(value) => drop(command.env(name, value)),
            None => {
                let message = format!("--env {text}: the environment has no variable `{text}`");
                return Err(Fail::usage(message).advise("give its value: --env NAME=VALUE"));
            }
        }
    }
    Ok(())
}

/// Adds what the command needs to know of its run: where it reports metrics, and which GPUs it has. A variable that is set already
/// (`inherited`, or by `--env`) is kept. The answer has a warning for each kept list of GPUs that is not the run's.
pub(super) fn of_run(command: &mut Command, run: &Run, inherited: impl Fn(&str) -> Option<OsString>) -> Vec<String> {
    let devices = if run.mig_devices.is_empty() { &run.gpus } else { &run.mig_devices };
    let devices: Vec<&str> = devices
        .iter()
        .map(String::as_str)
        .filter(|uuid| uuid.starts_with("GPU-") || uuid.starts_with("MIG-"))
        .collect();
    let mut warnings = Vec::new();
    for (name, value) in
        [("FAILSAFE_METRICS_SOCKET", run.metrics_socket.clone()), ("CUDA_VISIBLE_DEVICES", devices.join(","))]
    {
        if value.is_empty() {
            continue;
        }
        let given = command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value.map(OsStr::to_owned));
        match given.or_else(|| inherited(name)) {
            None => drop(command.env(name, value)),
            Some(kept) if name == "CUDA_VISIBLE_DEVICES" && kept.to_str() != Some(&value) => warnings.push(format!(
                "{name}={} is set and stays as it is, but the GPUs of the run are {value}",
                clean(&kept.to_string_lossy())
            )),
            Some(_) => {}
        }
    }
    warnings
}

/// Closes every descriptor above standard error.
///
/// # Errors
/// `/proc/self/fd` cannot be read.
pub(in crate::commands) fn close_descriptors() -> Result<(), Fail> {
    let failed = |error| Fail::because("cannot list the open descriptors in /proc/self/fd", &error);
    // Collected first: reading the folder needs a descriptor that must not be closed below.
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .map_err(failed)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // One of them was the folder's own, which is closed already.
        let _closed = nix::unistd::close(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_cloud_service_do_not_pass() {
        for kept in ["PATH", "TERM", "LC_ALL", "FAILSAFE_SOCKET"] {
            assert!(is_kept(kept), "{kept}");
        }
        for dropped in ["AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "SSH_AUTH_SOCK", "SUDO_UID", "PYTHONPATH", "HOME"] {
            assert!(!is_kept(dropped), "{dropped}");
        }
    }

    #[test]
    fn a_variable_that_the_caller_lacks_is_an_error() {
        let mut command = Command::new("true");
        assert!(add(&mut command, &["A=b=c".into()]).is_ok());
        assert_eq!(command.get_envs().next(), Some((OsStr::new("A"), Some(OsStr::new("b=c")))));
        for wrong in ["=x", "", "FAILSAFE_NO_SUCH_VARIABLE"] {
            assert!(add(&mut command, &[wrong.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_gets_the_gpus_and_the_metrics_socket_of_its_run_unless_they_are_set_already() {
        let run = Run {
            gpus: vec!["GPU-a".into(), "GPU-b".into()],
            metrics_socket: "/run/x/metrics.sock".into(),
            ..Run::default()
        };
        let value = |command: &Command, name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, v)| Some(v?.to_str()?.to_owned()))
        };
        let mut command = Command::new("true");
        assert_eq!(of_run(&mut command, &run, |_| None), Vec::<String>::new());
        assert_eq!(value(&command, "CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-a,GPU-b"));
        assert_eq!(value(&command, "FAILSAFE_METRICS_SOCKET").as_deref(), Some("/run/x/metrics.sock"));

        let mut command = Command::new("true");
        let warnings = of_run(&mut command, &run, |name| (name == "CUDA_VISIBLE_DEVICES").then(|| "7".into()));
        assert!(warnings.len() == 1 && warnings[0].contains("=7 is set"), "{warnings:?}");
        assert_eq!(value(&command, "CUDA_VISIBLE_DEVICES"), None, "the inherited value stays");

        let mut command = Command::new("true");
        command.env("CUDA_VISIBLE_DEVICES", "MIG-c");
        let on_slice = Run { mig_devices: vec!["MIG-c".into()], ..run };
        assert_eq!(of_run(&mut command, &on_slice, |_| None), Vec::<String>::new());

        let mut command = Command::new("true");
        of_run(&mut command, &Run { gpus: vec!["0000:c1:00.0".into()], ..Run::default() }, |_| None);
        assert_eq!(command.get_envs().count(), 0, "no list that CUDA cannot read");
    }
}
