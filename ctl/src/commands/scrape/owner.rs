//! Whether a port of this host belongs to a process of the run that this command runs in: one of its cgroup, or of one below.

use nix::unistd::Pid;
use procfs::{
    net::TcpState,
    process::{FDTarget, Process},
};
use std::{collections::BTreeSet, net::SocketAddr};

/// The listening sockets of the port, all of which processes of the run hold.
pub(super) fn of(address: SocketAddr) -> Result<BTreeSet<u64>, String> {
    let entries = if address.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
    let entries = entries.map_err(|error| format!("the sockets of this host cannot be listed: {error}"))?;
    let here = |local: SocketAddr| {
        local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
    };
    let listening: BTreeSet<u64> = entries
        .into_iter()
        .filter(|entry| entry.state == TcpState::Listen && here(entry.local_address))
        .map(|entry| entry.inode)
        .collect();
    if listening.is_empty() {
        return Err("nobody listens there".to_owned());
    }
    let own = cgroup(&Process::myself().map_err(|error| error.to_string())?)
        .ok_or("the cgroup of this process cannot be read")?;
    let all = procfs::process::all_processes().map_err(|error| error.to_string())?;
    let mut held = BTreeSet::new();
    for process in all.flatten().filter(|process| cgroup(process).is_some_and(|of| within(&own, &of))) {
        let Ok(open) = process.fd() else { continue };
        held.extend(open.flatten().filter_map(|fd| match fd.target {
            FDTarget::Socket(inode) if listening.contains(&inode) => Some(inode),
            _ => None,
        }));
    }
    if held == listening { Ok(held) } else { Err("the port does not belong to a process of this run".to_owned()) }
}

/// Whether a process is in the cgroup of this one, or below.
pub(super) fn is_here(pid: Pid) -> bool {
    let of = |process: Result<Process, _>| process.ok().as_ref().and_then(cgroup);
    match (of(Process::myself()), of(Process::new(pid.as_raw()))) {
        (Some(own), Some(other)) => within(&own, &other),
        _ => false,
    }
}

/// The cgroup in the unified hierarchy.
fn cgroup(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?;
    groups.into_iter().find(|group| group.hierarchy == 0).map(|group| group.pathname)
}

fn within(parent: &str, cgroup: &str) -> bool {
    let rest = cgroup.strip_prefix(parent.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_of_this_process_is_its_own_and_one_without_listener_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(of(address).unwrap().len(), 1);
        drop(listener);
        assert!(of(address).is_err());
    }

    #[test]
    fn a_cgroup_is_within_itself_and_those_above() {
        assert!(within("/a", "/a") && within("/a", "/a/b") && within("/", "/a"));
        assert!(!within("/a", "/ab") && !within("/a/b", "/a"));
    }
}
