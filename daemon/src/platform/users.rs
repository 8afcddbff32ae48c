//! Who a process runs as, and the host's groups.
//!
//! Owns nothing. A process's credentials come from `/proc/PID/status`, never from what it says; they can change
//! after they were read, so a decision about authority uses the peer credentials of the socket first and comes
//! here only for the supplementary groups, which those lack.

use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};

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
    /// `/proc/PID/status` has no such line, or not as the kernel writes it.
    #[error("parsing {line} in {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line's name.
        line: &'static str,
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
    let text = String::from_utf8_lossy(&bytes);
    let ids = |line: &'static str| -> Result<Vec<u32>, UsersError> {
        text.lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))
            .and_then(|l| l.split_whitespace().map(|id| id.parse().ok()).collect())
            .ok_or_else(|| UsersError::Parse { path: path.clone(), line })
    };
    // Uid and Gid list real, effective, saved and file system ids.
    let effective =
        |line: &'static str| ids(line)?.get(1).copied().ok_or_else(|| UsersError::Parse { path: path.clone(), line });
    Ok(Some(Credentials { uid: effective("Uid")?, gid: effective("Gid")?, groups: ids("Groups")? }))
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

    fn fixture(status: &[u8]) -> (tempfile::TempDir, ProcFs) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("7")).unwrap();
        std::fs::write(dir.path().join("7/status"), status).unwrap();
        let proc = ProcFs::new(dir.path());
        (dir, proc)
    }

    #[test]
    fn takes_the_effective_ids_and_all_groups() {
        let (_dir, proc) =
            fixture(b"Name:\t\xff\xfe\nUid:\t1000\t0\t1000\t1000\nGid:\t100\t50\t100\t100\nGroups:\t4 27 1000 \n");
        let c = credentials(&proc, 7).unwrap().unwrap();
        assert_eq!(c, Credentials { uid: 0, gid: 50, groups: vec![4, 27, 1000] });
        assert_eq!(credentials(&proc, 8).unwrap(), None);
    }

    #[test]
    fn a_status_without_groups_is_an_error_never_an_empty_list() {
        let (_dir, proc) = fixture(b"Uid:\t1 1 1 1\nGid:\t1 1 1 1\n");
        assert!(matches!(supplementary_groups(&proc, 7), Err(UsersError::Parse { line: "Groups", .. })));
        let (_dir, proc) = fixture(b"Uid:\t1 1 1 1\nGid:\t1 1 1 1\nGroups:\t4 x\n");
        assert!(credentials(&proc, 7).is_err());
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        // The kernel escapes a newline in Name, but a prefix match must not take `Groups2:` either.
        let (_dir, proc) = fixture(b"Groups2:\t0\nUid:\t1 1 1 1\nGid:\t1 1 1 1\nGroups:\t5\n");
        assert_eq!(supplementary_groups(&proc, 7).unwrap().unwrap(), vec![5]);
    }

    #[test]
    fn looks_up_the_hosts_groups() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("failsafe-no-such-group").unwrap(), None);
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(group_name(0).unwrap().as_deref(), Some("root"));
    }
}
