//! The process at the other end of a unix stream socket, by descriptor, and who really sends on that socket.
//!
//! Owns one descriptor for each [`Peer`]. A pid alone is no identity: it is reused once its process is reaped, and a
//! descriptor of a socket can be inherited or passed to another process. So the peer is held by pidfd, its rights are read at
//! the moment of each question ([`Peer::now`]), and each read says which process sent the bytes ([`receive`]).
//!
//! Limit: before kernel 6.5 (`SO_PEERPIDFD`) the pidfd is opened by number when the connection is accepted. A process that
//! gets the number between the connect and the accept is then taken for the peer, if it has the same user.

use super::{
    CgroupRoot, peercred,
    pidfd::{Glance, PidFd},
    proc::{ProcFs, ProcessId},
    users,
};
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
};

/// Threads of one process that are looked at, where they can be in different cgroups.
const MAX_THREADS: usize = 256;

/// Why it is not known who the peer is.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The process has ended, or its main thread has.
    #[error("process {pid}, which made this connection, has ended")]
    Ended {
        /// Its number.
        pid: u32,
    },
    /// The kernel gives no process: it is in a pid namespace that the daemon does not see.
    #[error("the kernel names no peer process: it is in another pid namespace")]
    Unseen,
    /// The user of the process is no longer the one that connected.
    #[error(
        "process {pid} connected as user {then} and is user {now} now: it has to make a new connection as that user"
    )]
    OtherUser {
        /// Its number.
        pid: u32,
        /// The user that connected.
        then: u32,
        /// The user now.
        now: u32,
    },
    /// More threads than are looked at.
    #[error("process {pid} has more than {MAX_THREADS} threads in a threaded cgroup (limit {MAX_THREADS})")]
    TooManyThreads {
        /// Its number.
        pid: u32,
    },
    /// A system call failed.
    #[error("cannot {op} of the peer")]
    System {
        /// What was being done.
        op: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PeerError {
    /// The error with its cause.
    pub fn chain(&self) -> String {
        match self {
            PeerError::System { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    pidfd: PidFd,
    id: ProcessId,
    uid: u32,
    /// Its effective and supplementary groups when it connected.
    groups: Vec<u32>,
}

/// What the peer is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// Its effective user; the same as when it connected.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Groups that it had when it connected and has still.
    pub groups: Vec<u32>,
    /// The v2 cgroups of its threads; more than one only where a cgroup is threaded.
    pub cgroups: Vec<PathBuf>,
}

impl Peer {
    /// The peer of a connected socket.
    ///
    /// # Errors
    /// [`PeerError`]; also when it has ended already.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Peer, PeerError> {
        let system = |op| move |source: Errno| PeerError::System { op, source: source.into() };
        let credentials = peercred::credentials(socket).map_err(system("read the credentials"))?;
        let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0).ok_or(PeerError::Unseen)?;
        let ended = || PeerError::Ended { pid };
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(fd) => PidFd::from(fd),
            // The option came with kernel 6.5.
            Err(Errno::ENOPROTOOPT) => PidFd::open(pid).map_err(|error| match error {
                Errno::ESRCH => ended(),
                source => PeerError::System { op: "open a descriptor", source: source.into() },
            })?,
            // Of a process that was reaped there is none.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => return Err(ended()),
            Err(source) => return Err(system("open a descriptor")(source)),
        };
        let identity = ProcFs::default().identity(pid);
        let id = identity.map_err(|e| PeerError::System { op: e.op, source: e.source })?.ok_or_else(ended)?;
        let mut groups = peercred::groups(socket).map_err(system("read the groups"))?;
        groups.push(credentials.gid());
        let peer = Peer { pidfd, id, uid: credentials.uid(), groups };
        // The number meant this process while it was asked after.
        peer.alive()?;
        Ok(peer)
    }

    /// Its number and start time.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it is there still.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub fn alive(&self) -> Result<(), PeerError> {
        match self.pidfd.has_ended() {
            Ok(false) => Ok(()),
            Ok(true) => Err(PeerError::Ended { pid: self.id.pid }),
            Err(source) => Err(PeerError::System { op: "ask after the end", source: source.into() }),
        }
    }

    /// What one call says of it: enough to see that it is what it was. `None`: the kernel has no such call (before 6.13), and only
    /// that it is alive is known.
    ///
    /// # Errors
    /// [`PeerError`]; also when it has ended.
    pub fn glance(&self) -> Result<Option<Glance>, PeerError> {
        // A zombie has credentials still: the kernel gives them until it is reaped.
        self.alive()?;
        match self.pidfd.glance() {
            Ok(glance) => Ok(Some(glance)),
            Err(Errno::ENOTTY | Errno::EINVAL) => Ok(None),
            Err(Errno::ESRCH) => Err(PeerError::Ended { pid: self.id.pid }),
            Err(source) => Err(PeerError::System { op: "read the credentials", source: source.into() }),
        }
    }

    /// Its user, groups and cgroups at this moment.
    ///
    /// # Errors
    /// [`PeerError`]: it has ended, or is another user than the one that connected. Otherwise a request that an unprivileged
    /// process sent would be judged as root's once that process executes a setuid program.
    pub fn now(&self, root: &CgroupRoot) -> Result<Now, PeerError> {
        let (proc, pid) = (ProcFs::default(), self.id.pid);
        let ended = || PeerError::Ended { pid };
        let failed = |source| PeerError::System { op: "read the credentials", source };
        let stat = proc.stat(pid).map_err(|e| failed(e.source))?.ok_or_else(ended)?;
        // A main thread that has ended stays in the cgroup where it was, while the other threads are moved.
        if stat.id != self.id || matches!(stat.state, 'Z' | 'X') {
            return Err(ended());
        }
        let now = users::credentials(&proc, pid).map_err(|e| failed(io::Error::other(e)))?.ok_or_else(ended)?;
        let cgroups = cgroups(&proc, root, pid)?;
        // The number meant this process all the while.
        self.alive()?;
        if now.uid != self.uid {
            return Err(PeerError::OtherUser { pid, then: self.uid, now: now.uid });
        }
        let has = |group: &u32| now.gid == *group || now.groups.contains(group);
        let groups = self.groups.iter().copied().filter(has).collect();
        Ok(Now { uid: now.uid, gid: now.gid, groups, cgroups })
    }
}

/// The cgroups of a process's threads. They are all in the main thread's, unless cgroups are threaded.
fn cgroups(proc: &ProcFs, root: &CgroupRoot, pid: u32) -> Result<Vec<PathBuf>, PeerError> {
    let failed = |source| PeerError::System { op: "read the cgroup", source };
    let main = proc.cgroup(pid).map_err(|e| failed(e.source))?.ok_or(PeerError::Ended { pid })?;
    let threaded = root.is_threaded(&main);
    let mut all = vec![main];
    if threaded {
        let tasks = std::fs::read_dir(proc.path(pid, "task")).map_err(failed)?;
        for (seen, task) in tasks.flatten().enumerate() {
            if seen >= MAX_THREADS {
                return Err(PeerError::TooManyThreads { pid });
            }
            let Some(tid) = task.file_name().to_str().and_then(|tid| tid.parse::<u32>().ok()) else { continue };
            // A thread that ends meanwhile sends nothing.
            let Some(path) = proc.thread_cgroup(pid, tid).map_err(|e| failed(e.source))? else { continue };
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    Ok(all)
}

/// Who sent bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The process with this number; it may have ended since.
    Pid(u32),
    /// The kernel does not say.
    Unknown,
}

/// Room for the credentials and for nothing else: descriptors that are sent along are closed by the kernel.
#[repr(C, align(8))]
struct Control([u8; CREDENTIALS]);

/// `CMSG_SPACE(sizeof(struct ucred))`.
const CREDENTIALS: usize =
    (size_of::<libc::cmsghdr>() + size_of::<libc::ucred>()).next_multiple_of(align_of::<libc::cmsghdr>());

/// Reads from a socket with `SO_PASSCRED`. The bytes are of one sender: the kernel does not join those of two.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
    let mut control = Control([0; CREDENTIALS]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: of this plain C struct every bit pattern is a value; zero means: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CREDENTIALS as _;
    // JUSTIFICATION: nix refuses control data that was cut off, and whoever sends a descriptor along causes that.
    // SAFETY: the header's pointers are to a live slice and a live buffer of the lengths that stand beside them.
    let read =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(Errno::result(read)?).map_err(io::Error::other)?;
    let mut sender = Sender::Unknown;
    // SAFETY: the header is as recvmsg left it, with `control` alive and aligned; CMSG_FIRSTHDR gives null or a whole header in it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    if let Some(header) = header
        && (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
        && header.cmsg_len >= size_of::<libc::cmsghdr>() + size_of::<libc::ucred>()
    {
        // SAFETY: the kernel wrote a whole `struct ucred` behind this header, as its length says.
        let credentials = unsafe { libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned() };
        if let Some(pid) = u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0) {
            sender = Sender::Pid(pid);
        }
    }
    Ok((bytes, sender))
}

/// Has the kernel say who sends, from now on. Set before `bind`, every connection has it from its first byte on.
///
/// # Errors
/// As setsockopt(2).
pub fn ask_for_senders(socket: &impl AsFd) -> io::Result<()> {
    nix::sys::socket::setsockopt(socket, sockopt::PassCred, &true).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        os::{
            fd::OwnedFd,
            unix::net::{UnixListener, UnixStream},
        },
    };

    fn pair() -> (UnixStream, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        ask_for_senders(&listener).unwrap();
        let client = UnixStream::connect(folder.path().join("s")).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_peer_is_this_process_with_its_user_groups_and_cgroup() {
        let (_client, server) = pair();
        let peer = Peer::of(server.as_fd()).unwrap();
        let proc = ProcFs::default();
        assert_eq!(Some(peer.id()), proc.identity(std::process::id()).unwrap());
        let Ok(root) = CgroupRoot::find() else { return eprintln!("SKIPPED: no cgroup2") };
        let now = peer.now(&root).unwrap();
        let me = users::credentials(&proc, std::process::id()).unwrap().unwrap();
        assert_eq!((now.uid, now.gid), (me.uid, me.gid));
        assert!(now.groups.contains(&me.gid) && me.groups.iter().all(|group| now.groups.contains(group)));
        assert_eq!(now.cgroups, [proc.own_cgroup().unwrap().unwrap()]);
    }

    #[test]
    fn bytes_name_the_process_that_sent_them_and_bytes_of_two_are_not_joined() {
        let (mut client, server) = pair();
        client.write_all(b"ours").unwrap();
        // The child inherits the connection as its standard output.
        let inherited = std::process::Stdio::from(OwnedFd::from(client.try_clone().unwrap()));
        let mut child = std::process::Command::new("printf").arg("theirs").stdout(inherited).spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let mut buffer = [0; 64];
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap(), (4, Sender::Pid(std::process::id())));
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap(), (6, Sender::Pid(pid)));
        let nothing = receive(server.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_that_is_sent_along_is_not_taken() {
        let (client, server) = pair();
        let (kept, sent) = std::os::unix::net::UnixStream::pair().unwrap();
        let files = [sent.as_raw_fd()];
        let control = [nix::sys::socket::ControlMessage::ScmRights(&files)];
        let bytes = [io::IoSlice::new(b"x")];
        let flags = nix::sys::socket::MsgFlags::empty();
        nix::sys::socket::sendmsg::<()>(client.as_raw_fd(), &bytes, &control, flags, None).unwrap();
        drop(sent);
        let mut buffer = [0; 8];
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap(), (1, Sender::Pid(std::process::id())));
        // Its other end would not read the end of the stream, were it still open anywhere.
        let mut byte = [0; 1];
        assert_eq!(nix::unistd::read(&kept, &mut byte), Ok(0));
    }

    #[test]
    fn a_peer_that_ended_has_no_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.read()";
        let spawned = std::process::Command::new("python3")
            .args(["-c", script, &path.display().to_string()])
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else { return eprintln!("SKIPPED: no python3") };
        let server = listener.accept().unwrap().0;
        let peer = Peer::of(server.as_fd()).unwrap();
        assert_eq!(peer.id().pid, child.id());
        peer.alive().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(matches!(peer.alive(), Err(PeerError::Ended { .. })));
        assert!(matches!(Peer::of(server.as_fd()), Err(PeerError::Ended { .. })));
    }
}
