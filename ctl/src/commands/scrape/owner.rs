//! Whether a socket of this host belongs to a process of the run that this command runs in: one of its cgroup, or of one below.
//!
//! Anybody on the host may listen on a loopback port, and connect to one. What is read there counts for the run, so that the kernel's
//! tables of sockets and `/proc/PID/fd` have to show that a process of the run holds each socket that it may have come from.

use nix::unistd::Pid;
use procfs::{
    net::{TcpNetEntry, TcpState, UdpNetEntry},
    process::{FDTarget, Process},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// The listening sockets of the port, all of which processes of the run hold.
pub(super) fn of(address: SocketAddr) -> Result<BTreeSet<u64>, String> {
    let here = |local: SocketAddr| is_at(local, address);
    let listening: BTreeSet<u64> = tcp()?
        .filter(|entry| entry.state == TcpState::Listen && here(entry.local_address))
        .map(|entry| entry.inode)
        .collect();
    if listening.is_empty() {
        return Err("nobody listens there".to_owned());
    }
    if held(&listening)? { Ok(listening) } else { Err("the port does not belong to a process of this run".to_owned()) }
}

/// Whether a process of the run holds the other end of a connection: the socket at `peer`, connected to `here`.
pub(in crate::commands) fn connected(peer: SocketAddr, here: SocketAddr) -> Result<bool, String> {
    let is =
        |entry: &TcpNetEntry| plain(entry.local_address) == plain(peer) && plain(entry.remote_address) == plain(here);
    let sockets = tcp()?.filter(is).map(|entry| (entry.inode, entry.uid)).collect();
    all_own(sockets)
}

/// The sockets, with their users, that can have sent a datagram from each of these addresses.
pub(in crate::commands) fn at(senders: &BTreeSet<SocketAddr>) -> Result<BTreeMap<SocketAddr, Vec<(u64, u32)>>, String> {
    let mut found: BTreeMap<SocketAddr, Vec<(u64, u32)>> = BTreeMap::new();
    for UdpNetEntry { local_address, inode, uid, .. } in udp()? {
        for sender in senders.iter().filter(|sender| is_at(local_address, **sender)) {
            found.entry(*sender).or_default().push((inode, uid));
        }
    }
    Ok(found)
}

/// Whether there is one, and processes of the run hold all of them. Sockets of other users are refused without a look at processes, of
/// which strangers could ask for many.
pub(in crate::commands) fn all_own(sockets: Vec<(u64, u32)>) -> Result<bool, String> {
    let me = nix::unistd::geteuid();
    if sockets.is_empty() || sockets.iter().any(|(_, uid)| !me.is_root() && *uid != me.as_raw()) {
        return Ok(false);
    }
    held(&sockets.into_iter().map(|(inode, _)| inode).collect())
}

/// Whether a socket at `local` answers at the address.
fn is_at(local: SocketAddr, address: SocketAddr) -> bool {
    let (local, address) = (plain(local), plain(address));
    local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
}

/// An IPv4 address in IPv6 as what it is: a socket for both has such.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn tcp() -> Result<impl Iterator<Item = TcpNetEntry>, String> {
    let (v4, v6) = (procfs::net::tcp().map_err(unlisted)?, procfs::net::tcp6());
    // A host without IPv6 has no such table.
    Ok(v4.into_iter().chain(v6.into_iter().flatten()))
}

fn udp() -> Result<impl Iterator<Item = UdpNetEntry>, String> {
    let (v4, v6) = (procfs::net::udp().map_err(unlisted)?, procfs::net::udp6());
    Ok(v4.into_iter().chain(v6.into_iter().flatten()))
}

fn unlisted(error: procfs::ProcError) -> String {
    format!("the sockets of this host cannot be listed: {error}")
}

/// Whether processes of the run hold all of these sockets.
fn held(sockets: &BTreeSet<u64>) -> Result<bool, String> {
    let own = cgroup(&Process::myself().map_err(|error| error.to_string())?)
        .ok_or("the cgroup of this process cannot be read")?;
    let all = procfs::process::all_processes().map_err(|error| error.to_string())?;
    let mut missing = sockets.clone();
    for process in all.flatten().filter(|process| cgroup(process).is_some_and(|of| within(&own, &of))) {
        let Ok(open) = process.fd() else { continue };
        for fd in open.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                missing.remove(&inode);
            }
        }
    }
    Ok(missing.is_empty())
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

/// In a cgroup namespace, what is outside of it begins with `/..`, and what left it may end so.
fn within(parent: &str, cgroup: &str) -> bool {
    if cgroup.split('/').any(|part| part == "..") {
        return false;
    }
    let rest = cgroup.strip_prefix(parent.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_port_of_this_process_is_its_own_and_one_without_listener_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(of(address).unwrap().len(), 1);
        drop(listener);
        assert!(of(address).is_err());
    }

    #[test]
    fn the_other_end_of_a_connection_and_the_sender_of_a_datagram_are_found_while_they_are_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let client = TcpStream::connect(here).unwrap();
        let peer = client.local_addr().unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(connected(peer, here), Ok(true));
        assert_eq!(connected(peer, SocketAddr::new(here.ip(), 1)), Ok(false), "it is connected elsewhere");
        drop(client);
        drop(accepted);
        assert_eq!(connected(peer, here), Ok(false));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = socket.local_addr().unwrap();
        let sends = || all_own(at(&[sender].into())?.remove(&sender).unwrap_or_default());
        assert_eq!(sends(), Ok(true));
        drop(socket);
        assert_eq!(sends(), Ok(false));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_the_same_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(is_at(at("[::ffff:127.0.0.1]:9"), at("127.0.0.1:9")) && is_at(at("[::]:9"), at("127.0.0.1:9")));
        assert!(!is_at(at("127.0.0.2:9"), at("127.0.0.1:9")) && !is_at(at("127.0.0.1:8"), at("127.0.0.1:9")));
    }

    #[test]
    fn a_cgroup_is_within_itself_and_those_above() {
        assert!(within("/a", "/a") && within("/a", "/a/b") && within("/", "/a"));
        assert!(!within("/a", "/ab") && !within("/a/b", "/a"));
    }

    #[test]
    fn a_cgroup_outside_of_the_namespace_is_within_none() {
        assert!(!within("/", "/../other") && !within("/", "/..") && !within("/a", "/a/../b"));
        assert!(within("/", "/..x"), "a name that begins with two dots is a name");
    }
}
