//! Who a process runs as, and the host's groups.
//!
//! Owns nothing. A process's credentials come from `/proc/PID/status`, which `procfs` parses, never from what it says; they
//! can change after they were read, so a decision about authority uses the peer credentials of the socket first and comes
//! here only for the supplementary groups, which those lack.

use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};
use procfs::{FromBufRead, process::Status};

use super::proc::ProcFs;

/// The credentials of a process at one moment (effective ids, as the kernel checks them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary group ids, in the kernel's order.
    pub groups: Vec<u32>,
}

/// Why credentials or a group could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// `/proc/PID/status` could not be read.
    #[error("reading credentials from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// `/proc/PID/status` lacks a line, or a line is not as the kernel writes it.
    #[error("parsing {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: procfs::ProcError,
    },
    /// The user or group database failed.
    #[error("looking up {what}")]
    Lookup {
        /// What was looked for.
        what: String,
        /// What the C library said.
        #[source]
        source: nix::errno::Errno,
    },
}

/// Reads a process's effective ids and supplementary groups; `None` when the process is gone.
///
/// # Errors
/// When its status file cannot be read or parsed.
pub fn credentials(proc: &ProcFs, pid: u32) -> Result<Option<Credentials>, UsersError> {
    let path = proc.path(pid, "status");
    let Some(bytes) = proc.read(pid, "status").map_err(|e| UsersError::Read { path: e.path, source: e.source })? else {
        return Ok(None);
    };
    // The process chooses its name, and `procfs` reads nothing from a file that is not UTF-8.
    let text = String::from_utf8_lossy(&bytes);
    let status = Status::from_buf_read(text.as_bytes()).map_err(|source| UsersError::Parse { path, source })?;
    Ok(Some(Credentials { uid: status.euid, gid: status.egid, groups: status.groups }))
}

/// The supplementary groups of a process; `None` when it is gone.
///
/// # Errors
/// As [`credentials`].
pub fn supplementary_groups(proc: &ProcFs, pid: u32) -> Result<Option<Vec<u32>>, UsersError> {
    Ok(credentials(proc, pid)?.map(|c| c.groups))
}

/// The id of a group by name; `None` when the host has no such group.
///
/// # Errors
/// When the group database fails.
pub fn group_id(name: &str) -> Result<Option<u32>, UsersError> {
    Group::from_name(name)
        .map(|g| g.map(|g| g.gid.as_raw()))
        .map_err(|source| UsersError::Lookup { what: format!("group {name}"), source })
}

/// The id of a user by name; `None` when the host has no such user.
///
/// # Errors
/// When the user database fails.
pub fn user_id(name: &str) -> Result<Option<u32>, UsersError> {
    User::from_name(name)
        .map(|u| u.map(|u| u.uid.as_raw()))
        .map_err(|source| UsersError::Lookup { what: format!("user {name}"), source })
}

/// Whether a user is in a group, by the databases of the host. A group or a user that does not exist: no.
///
/// # Errors
/// When one of the databases fails.
pub fn is_member(uid: u32, group: &str) -> Result<bool, UsersError> {
    let failed = |source| UsersError::Lookup { what: format!("the groups of uid {uid}"), source };
    let (Some(gid), Some(user)) = (group_id(group)?, User::from_uid(Uid::from_raw(uid)).map_err(failed)?) else {
        return Ok(false);
    };
    let name = std::ffi::CString::new(user.name).map_err(|_| failed(nix::errno::Errno::EINVAL))?;
    let groups = nix::unistd::getgrouplist(&name, user.gid).map_err(failed)?;
    Ok(groups.contains(&Gid::from_raw(gid)))
}

/// The name of a group by id; `None` when it has none.
///
/// # Errors
/// When the group database fails.
pub fn group_name(gid: u32) -> Result<Option<String>, UsersError> {
    Group::from_gid(Gid::from_raw(gid))
        .map(|g| g.map(|g| g.name))
        .map_err(|source| UsersError::Lookup { what: format!("group {gid}"), source })
}

/// The name of a user by id; `None` when it has none.
///
/// # Errors
/// When the user database fails.
pub fn user_name(uid: u32) -> Result<Option<String>, UsersError> {
    User::from_uid(Uid::from_raw(uid))
        .map(|u| u.map(|u| u.name))
        .map_err(|source| UsersError::Lookup { what: format!("user {uid}"), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    fn fixture(status: &[u8]) -> (tempfile::TempDir, ProcFs) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("7")).unwrap();
        std::fs::write(dir.path().join("7/status"), status).unwrap();
        let proc = ProcFs::new(dir.path());
        (dir, proc)
    }

    const STATUS: &str = include_str!("../../../tests/fixtures/proc/status-6.18");

    #[test]
    fn takes_the_effective_ids_and_all_groups() {
        let (_dir, proc) = fixture(STATUS.as_bytes());
        let c = credentials(&proc, 7).unwrap().unwrap();
        assert_eq!(c, Credentials { uid: 0, gid: 50, groups: vec![4, 27, 1000] });
        assert_eq!(credentials(&proc, 8).unwrap(), None);
        // Kernel 6.1 has neither of these lines.
        let of_6_1: String = STATUS
            .lines()
            .filter(|l| !l.starts_with("Kthread") && !l.starts_with("untag_mask"))
            .map(|l| format!("{l}\n"))
            .collect();
        let (_dir, proc) = fixture(of_6_1.as_bytes());
        assert_eq!(credentials(&proc, 7).unwrap().unwrap(), c);
        let large = STATUS.replace("Groups:\t4 27", "Groups:\t4294967294");
        let (_dir, proc) = fixture(large.as_bytes());
        assert_eq!(supplementary_groups(&proc, 7).unwrap().unwrap(), [4_294_967_294, 1000]);
    }

    #[test]
    fn a_name_that_is_not_utf8_does_not_hide_the_credentials() {
        let [before, after] = STATUS.split("NAME").collect::<Vec<_>>()[..] else { panic!("one NAME in {STATUS}") };
        let bytes = [before.as_bytes(), b"\xff:\xfe Uid:", after.as_bytes()].concat();
        let (_dir, proc) = fixture(&bytes);
        assert_eq!(credentials(&proc, 7).unwrap().unwrap().uid, 0);
        assert!(Status::from_buf_read(&bytes[..]).is_err(), "procfs can read it now: see ADR 0029");
    }

    #[test]
    fn a_status_without_groups_is_an_error_never_an_empty_list() {
        for bad in [STATUS.replace("Groups:", "Groups2:"), STATUS.replace("Groups:\t4", "Groups:\tx")] {
            let (_dir, proc) = fixture(bad.as_bytes());
            let error = supplementary_groups(&proc, 7).unwrap_err();
            assert!(matches!(&error, UsersError::Parse { .. }), "{error}");
            assert!(error.to_string().ends_with("7/status"), "{error}");
        }
        let (_dir, proc) = fixture(STATUS.replace("Groups:\t4 27 1000 ", "Groups:\t ").as_bytes());
        assert!(supplementary_groups(&proc, 7).unwrap().unwrap().is_empty(), "a process without groups");
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        // The kernel escapes a newline in Name, but a prefix match must not take `Groups2:` either.
        let (_dir, proc) = fixture(STATUS.replace("Umask:\t", "Groups2:\t0\nUmask:\t").as_bytes());
        assert_eq!(supplementary_groups(&proc, 7).unwrap().unwrap(), [4, 27, 1000]);
    }

    /// A process can give itself any name of 15 bytes.
    #[test]
    fn a_real_process_with_a_hostile_name_is_read_like_any_other() {
        let script = "printf '\\377) Z 1 (\\nUid:0' > /proc/self/comm; echo; read x";
        let (input, output) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("sh").args(["-c", script]).stdin(input).stdout(output).spawn().unwrap();
        // The name is set when the line comes.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let (proc, pid) = (ProcFs::default(), child.id());
        let stat = proc.stat(pid).unwrap().unwrap();
        assert_eq!((stat.comm.as_str(), stat.ppid), ("\u{fffd}) Z 1 (\nUid:0", std::process::id()));
        assert_ne!(stat.state, 'Z');
        assert_eq!(proc.thread_stat(pid, pid).unwrap().unwrap().id, stat.id);
        assert_eq!(credentials(&proc, pid).unwrap(), credentials(&proc, std::process::id()).unwrap());
        assert!(proc.shared_memory(pid).unwrap().is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(credentials(&proc, pid).unwrap(), None);
    }

    #[test]
    fn looks_up_the_hosts_groups() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("failsafe-no-such-group").unwrap(), None);
        assert!(is_member(0, "root").unwrap());
        assert!(!is_member(0, "failsafe-no-such-group").unwrap() && !is_member(65_534, "root").unwrap());
        assert!(!is_member(4_000_000_000, "root").unwrap(), "a user without an entry");
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(group_name(0).unwrap().as_deref(), Some("root"));
    }
}
