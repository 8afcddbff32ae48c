//! The connections that the processes of a cgroup have open: TCP connections, and UDP sockets that are connected.
//!
//! Owns nothing. `/proc/PID/net` has the sockets of a network namespace, `/proc/PID/fd` those of a process. Bounded: a job with more
//! than is read here is told so. A socket that a process is about to open, or that lies in a message between two, is not seen.

use crate::platform::Cgroup;
use procfs::{
    net::{TcpState, UdpNetEntry},
    process::{FDTarget, Process},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

/// Network namespaces that are read.
const NAMESPACES: usize = 16;
/// Connections that are returned.
const MOST: usize = 1_024;
/// For so long it is looked.
const LOOK: Duration = Duration::from_secs(2);

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Address and port of the peer; a v4-mapped address as IPv4.
    pub remote: SocketAddr,
    /// Protocol number: 6 or 17.
    pub protocol: u8,
    /// A process that has it open.
    pub pid: u32,
}

/// Connections, each destination once.
#[derive(Debug, Default)]
pub struct Connections {
    /// Those that were found.
    pub all: Vec<Connection>,
    /// Why there may be more.
    pub unread: Option<String>,
}

/// The sockets of a namespace that have a peer, by inode.
type Sockets = HashMap<u64, (SocketAddr, u8)>;

/// Those of the processes in a cgroup and below it.
pub fn of_cgroup(cgroup: &Cgroup) -> Connections {
    let mut found = Connections::default();
    let until = Instant::now() + LOOK;
    let processes = match cgroup.all_procs() {
        Ok(processes) => processes,
        Err(error) => {
            found.unread = Some(format!("its processes cannot be listed: {error}"));
            return found;
        }
    };
    let mut namespaces: HashMap<u64, Sockets> = HashMap::new();
    let mut all: BTreeMap<(SocketAddr, u8), u32> = BTreeMap::new();
    for pid in processes {
        if Instant::now() >= until || all.len() >= MOST {
            found.unread = Some(format!("more than {MOST} connections, or more than is read in {} s", LOOK.as_secs()));
            break;
        }
        // One that has ended has no connections.
        let Ok(process) = i32::try_from(pid).map_or(Err(()), |pid| Process::new(pid).map_err(drop)) else { continue };
        let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")).map(|found| found.ino()) else { continue };
        if !namespaces.contains_key(&namespace) && namespaces.len() >= NAMESPACES {
            found.unread = Some(format!("more than {NAMESPACES} network namespaces"));
            continue;
        }
        let sockets = namespaces.entry(namespace).or_insert_with(|| sockets(&process));
        match process.fd() {
            Ok(open) => {
                let inodes = open.filter_map(|fd| match fd.ok()?.target {
                    FDTarget::Socket(inode) => Some(inode),
                    _ => None,
                });
                for peer in inodes.filter_map(|inode| sockets.get(&inode)) {
                    all.entry(*peer).or_insert(pid);
                }
            }
            Err(error) => found.unread = Some(format!("the open files of process {pid} cannot be read: {error}")),
        }
    }
    found.all = all.into_iter().map(|((remote, protocol), pid)| Connection { remote, protocol, pid }).collect();
    found.all.truncate(MOST);
    found
}

/// The sockets of a process's namespace that have a peer.
fn sockets(process: &Process) -> Sockets {
    let tcp = [process.tcp(), process.tcp6()].into_iter().flatten().flatten();
    let tcp = tcp
        .filter(|socket| !matches!(socket.state, TcpState::Listen | TcpState::Close | TcpState::TimeWait))
        .map(|socket| (socket.inode, (socket.remote_address, 6)));
    let udp = [process.udp(), process.udp6()].into_iter().flatten().flatten();
    let udp = udp.map(|UdpNetEntry { inode, remote_address, .. }| (inode, (remote_address, 17)));
    tcp.chain(udp)
        .filter(|(inode, (remote, _))| *inode != 0 && remote.port() != 0)
        .map(|(inode, (remote, protocol))| {
            (inode, (SocketAddr::new(remote.ip().to_canonical(), remote.port()), protocol))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn sockets_with_a_peer_are_found_by_their_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = TcpStream::connect(to).unwrap();
        let (udp, apart) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        udp.connect("127.0.0.1:9").unwrap();
        let all = sockets(&Process::myself().unwrap());
        let of = |socket: &dyn std::os::fd::AsRawFd| {
            let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            let inode = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
            all.get(&inode).copied()
        };
        assert_eq!(of(&stream), Some((to, 6)));
        assert_eq!(of(&udp), Some(("127.0.0.1:9".parse().unwrap(), 17)));
        assert_eq!((of(&listener), of(&apart)), (None, None));
    }
}
