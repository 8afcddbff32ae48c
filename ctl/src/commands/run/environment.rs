//! The environment and the descriptors that a command of another user gets: as with sudo and run0, nothing of the caller's that is
//! not on a list. Root's environment holds keys of cloud services, and a descriptor gives what it was opened with.

use crate::exit::Fail;
use std::{ffi::OsStr, os::fd::RawFd, process::Command};

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

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || KEPT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Adds the variables of `--env`.
///
/// # Errors
/// One has no name, or names a variable that the caller does not have.
pub(super) fn add(command: &mut Command, wanted: &[String]) -> Result<(), Fail> {
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

/// Closes every descriptor above standard error.
///
/// # Errors
/// `/proc/self/fd` cannot be read.
pub(super) fn close_descriptors() -> Result<(), Fail> {
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
}
