//! The process that acts inside a run: this test binary, started again, taking commands on its standard input.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use failsafe_matchers::egress::EgressPolicy;
use failsafed::guard::Ebpf;
use nix::errno::Errno;
use nix::sys::socket::{Backlog, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, bind, connect, listen, sendto};

use super::bench::{TestCgroup, config_of, enforce, spec};

const ROLE: &str = "FAILSAFE_TEST_AGENT";

/// This binary, started again, doing as it is told.
pub struct Agent {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    pub fn start(cgroup: &TestCgroup) -> Self {
        Self::spawn(cgroup.command(&own_binary()))
    }

    /// The same, started by another program, as one that gives it namespaces of its own.
    pub fn start_as(cgroup: &TestCgroup, by: &[&str]) -> Self {
        let mut command = cgroup.command(by[0]);
        command.args(&by[1..]).arg(own_binary());
        Self::spawn(command)
    }

    /// The same outside of every run.
    pub fn start_outside_as(by: &[&str]) -> Self {
        let mut command = Command::new(by[0]);
        command.args(&by[1..]).arg(own_binary());
        Self::spawn(command)
    }

    pub fn start_outside() -> Self {
        Self::spawn(Command::new(own_binary()))
    }

    fn spawn(mut command: Command) -> Self {
        command.args(["--exact", "agent_process", "--nocapture", "--test-threads=1"]).env(ROLE, "commands");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Self { child, commands, answers };
        assert_eq!(agent.ask("hello"), "hello");
        agent
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the agent died");
            if let Some((_, answer)) = line.split_once("ANSWER ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_binary() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

/// Body of the agent; returns at once in an ordinary test run.
pub fn agent_main() {
    match std::env::var(ROLE).as_deref() {
        Ok("commands") => {
            let mut kept = Kept::default();
            for line in std::io::stdin().lines() {
                let line = line.unwrap();
                let words: Vec<&str> = line.split(' ').collect();
                let answer = act(&mut kept, &words).unwrap_or_else(|e| match e.raw_os_error() {
                    Some(n) => format!("{:?}", Errno::from_raw(n)),
                    None => e.to_string(),
                });
                println!("ANSWER {answer}");
            }
        }
        Ok(role) => {
            if let Some(number) = role.strip_prefix("call32 ") {
                std::process::exit(super::calls::make_compat(number.parse().unwrap()));
            }
        }
        Err(_) => {}
    }
}

#[derive(Default)]
struct Kept {
    ready: super::calls::Ready,
    stream: Option<TcpStream>,
    listener: Option<TcpListener>,
    accepted: Option<TcpStream>,
    udp: VecDeque<UdpSocket>,
    raw: Option<OwnedFd>,
    guards: Vec<Ebpf>,
}

fn act(kept: &mut Kept, words: &[&str]) -> std::io::Result<String> {
    let ok = Ok(String::from("ok"));
    match words {
        ["hello"] => Ok(String::from("hello")),
        ["tcp", addr] => TcpStream::connect(addr).and(ok),
        ["open", addr] => {
            let s = TcpStream::connect(addr)?;
            s.set_nodelay(true)?;
            kept.stream = Some(s);
            ok
        }
        ["write"] => kept.stream.as_mut().unwrap().write_all(b"hello").and(ok),
        ["fastopen", addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let s = socket(addr.ip(), libc::SOCK_STREAM, 0)?;
            let fast_open = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
            sendto(s.as_raw_fd(), b"hello", native(addr).as_ref(), fast_open)?;
            ok
        }
        ["udp", addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let s = socket(addr.ip(), libc::SOCK_DGRAM, 0)?;
            sendto(s.as_raw_fd(), b"hello", native(addr).as_ref(), MsgFlags::empty())?;
            ok
        }
        ["udpconnect", addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let s = socket(addr.ip(), libc::SOCK_DGRAM, 0)?;
            connect(s.as_raw_fd(), native(addr).as_ref())?;
            ok
        }
        ["udpwrite", addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let s = socket(addr.ip(), libc::SOCK_DGRAM, 0)?;
            connect(s.as_raw_fd(), native(addr).as_ref())?;
            nix::unistd::write(&s, b"hello")?;
            ok
        }
        ["probes", rest @ ..] => super::probes::act(rest),
        // Each to another address, so that each is an event; what comes of it is not asked. At uneven distances, a few microseconds
        // apart: so they meet their reader in whatever it is doing.
        ["scatter", from, many] => {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            let from: u32 = from.parse().unwrap();
            for n in from..from + many.parse::<u32>().unwrap() {
                let _refused = socket.send_to(b"x", (std::net::Ipv4Addr::from(0x0a00_0000 + n), 9));
                let apart = std::time::Duration::from_micros(u64::from(n.wrapping_mul(7_919) % 32));
                let since = Instant::now();
                while since.elapsed() < apart {
                    std::hint::spin_loop();
                }
            }
            ok
        }
        ["raw"] => socket(IpAddr::from([127, 0, 0, 1]), libc::SOCK_RAW, libc::IPPROTO_UDP).and(ok),
        ["mptcp"] => socket(IpAddr::from([127, 0, 0, 1]), libc::SOCK_STREAM, libc::IPPROTO_MPTCP).and(ok),
        ["sctp"] => socket(IpAddr::from([127, 0, 0, 1]), libc::SOCK_STREAM, libc::IPPROTO_SCTP).and(ok),
        ["bind"] => TcpListener::bind("127.0.0.1:0").and(ok),
        ["bindto", protocol, addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let kind = if *protocol == "tcp" { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
            let s = socket(addr.ip(), kind, 0)?;
            bind(s.as_raw_fd(), native(addr).as_ref())?;
            ok
        }
        ["listento", addr] => {
            let addr: SocketAddr = addr.parse().unwrap();
            let s = socket(addr.ip(), libc::SOCK_STREAM, 0)?;
            bind(s.as_raw_fd(), native(addr).as_ref())?;
            listen(&s, Backlog::new(1)?)?;
            ok
        }
        ["userns", way] => {
            // In a child, which ends at once.
            let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
            // SAFETY: as fork, without a new stack; the child calls nothing that takes a lock before it ends.
            let pid = unsafe {
                match *way {
                    "clone" => libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0),
                    "clone3" => {
                        let mut args = [0_u64; 11];
                        args[0] = libc::CLONE_NEWUSER as u64;
                        args[4] = libc::SIGCHLD as u64;
                        libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of_val(&args))
                    }
                    _ => match libc::fork() {
                        0 => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER).min(0),
                        pid => pid.into(),
                    },
                }
            };
            if pid == 0 {
                // SAFETY: ends the child without running what its parent has registered.
                unsafe { libc::_exit(0) };
            }
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).map_err(std::io::Error::other)?);
            nix::sys::wait::waitpid(pid, None)?;
            ok
        }
        ["listen"] => {
            let l = TcpListener::bind("127.0.0.1:0")?;
            let port = l.local_addr()?.port();
            kept.listener = Some(l);
            Ok(port.to_string())
        }
        ["greet"] => {
            if kept.accepted.is_none() {
                kept.accepted = Some(kept.listener.as_ref().unwrap().accept()?.0);
            }
            kept.accepted.as_mut().unwrap().write_all(b"hello").and(ok)
        }
        ["udpbind"] => {
            let s = UdpSocket::bind("127.0.0.1:0")?;
            let port = s.local_addr()?.port();
            kept.udp.push_back(s);
            Ok(port.to_string())
        }
        ["udpkeep"] => {
            kept.raw = Some(socket(IpAddr::from([127, 0, 0, 1]), libc::SOCK_DGRAM, 0)?);
            ok
        }
        ["sendkept", addr] => {
            let fd = kept.raw.as_ref().unwrap().as_raw_fd();
            sendto(fd, b"hello", native(addr.parse().unwrap()).as_ref(), MsgFlags::empty())?;
            ok
        }
        ["exec", program, args @ ..] => Command::new(program).args(args).stdin(Stdio::null()).status().and(ok),
        ["execin", folder, program] => Command::new(program).current_dir(folder).stdin(Stdio::null()).status().and(ok),
        ["execfd", program] => {
            let file = fs::File::open(program)?;
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            Command::new(path).stdin(Stdio::null()).status().and(ok)
        }
        ["execas", uid, program] => {
            use std::os::unix::process::CommandExt;
            Command::new(program).uid(uid.parse().unwrap()).stdin(Stdio::null()).status().and(ok)
        }
        ["regain"] => regain().and(ok),
        ["execmemfd"] => {
            let fd = nix::sys::memfd::memfd_create("true", nix::sys::memfd::MFdFlags::empty())?;
            let mut file = fs::File::from(fd);
            file.write_all(&fs::read("/bin/true")?)?;
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            // Open for writing, it could not be run.
            let reader = fs::File::open(&path)?;
            drop(file);
            Command::new(format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd())).status().and(ok)
        }
        ["resolve", name, server] => super::names::ask(name, server).and(ok),
        ["resolvetcp", name, server] => super::names::ask_tcp(name, server).and(ok),
        // Until the agent ends.
        ["serve", at, answer] => {
            let server = super::names::Server::start(at, answer.parse().unwrap());
            std::mem::forget(server);
            ok
        }
        ["loopback"] => super::answers::raise_loopback().and(ok),
        ["answers", rest @ ..] => super::answers::act(rest),
        ["read", path] => fs::File::open(path).and(ok),
        ["append", path] => fs::OpenOptions::new().append(true).open(path).and(ok),
        ["mapexec", kind] => map_executable(kind).and(ok),
        ["bpf"] => {
            // SAFETY: BPF_MAP_GET_FD_BY_ID (14) of id 0 with an empty attribute: the kernel only reads the buffer.
            let done = unsafe { libc::syscall(libc::SYS_bpf, 14, [0_u64; 16].as_ptr(), 128) };
            if done < 0 { Err(std::io::Error::last_os_error()) } else { ok }
        }
        ["signal", pid] => {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            Ok(nix::sys::signal::kill(pid, None).map(|()| String::from("ok"))?)
        }
        ["attach", pid] => {
            // SAFETY: PTRACE_SEIZE touches no memory of this process.
            let done = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.parse::<i32>().unwrap(), 0, 0) };
            if done < 0 { Err(std::io::Error::last_os_error()) } else { ok }
        }
        ["ringfamily", number] => {
            let mut ring = io_uring::IoUring::new(2)?;
            let entry = io_uring::opcode::Socket::new(number.parse().unwrap(), libc::SOCK_RAW, 0).build();
            // SAFETY: the operation takes numbers only.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1)?;
            let done = ring.completion().next().unwrap().result();
            if done < 0 { Err(std::io::Error::from_raw_os_error(-done)) } else { ok }
        }
        ["ringopen", path] => {
            let mut ring = io_uring::IoUring::new(2)?;
            let path = std::ffi::CString::new(*path).unwrap();
            let entry = io_uring::opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
            // SAFETY: the path outlives the operation, which is waited for.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1)?;
            let done = ring.completion().next().unwrap().result();
            if done < 0 { Err(std::io::Error::from_raw_os_error(-done)) } else { ok }
        }
        ["family", number] => {
            // SAFETY: socket(2) takes numbers only.
            let fd = unsafe { libc::socket(number.parse().unwrap(), libc::SOCK_RAW, 0) };
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: made just now, and owned by nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            ok
        }
        ["cloneto", dir] => clone_into(Path::new(dir)).and(ok),
        ["time", what @ ..] => {
            let n = 20_000;
            let start = Instant::now();
            for _ in 0..n {
                match what {
                    ["getppid"] => drop(nix::unistd::getppid()),
                    what => drop(act(kept, what)),
                }
            }
            Ok((start.elapsed().as_nanos() / n).to_string())
        }
        ["storm", n, addr] => {
            let through = (0..n.parse().unwrap())
                .filter(|_: &u32| !matches!(TcpStream::connect(addr), Err(e) if e.raw_os_error() == Some(libc::EPERM)))
                .count();
            if through == 0 { ok } else { Ok(format!("{through} were not refused")) }
        }
        ["memfd"] => {
            memfd();
            ok
        }
        ["unshare"] => Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).map(|()| String::from("ok"))?),
        ["ptrace"] => {
            // SAFETY: no process has id 0: the call fails without touching any memory.
            unsafe { libc::ptrace(libc::PTRACE_CONT, 0, 0, 0) };
            ok
        }
        ["keyctl"] => {
            // SAFETY: KEYCTL_GET_KEYRING_ID takes numbers only.
            unsafe { libc::syscall(libc::SYS_keyctl, 0, -1, 0) };
            ok
        }
        ["prepare"] => super::calls::prepare(&mut kept.ready).and(ok),
        ["call", name] => super::calls::make(&kept.ready, name).and(ok),
        ["call32", number] => {
            // In a child: where the kernel has no such ABI it is killed.
            let mut c = Command::new(own_binary());
            let c = c.args(["--exact", "agent_process"]).env(ROLE, format!("call32 {number}"));
            let errno = c.stdout(Stdio::null()).status()?.code().unwrap_or(libc::ENOSYS);
            Err(std::io::Error::from_raw_os_error(errno))
        }
        ["moveto", dir] => fs::write(Path::new(dir).join("cgroup.procs"), "0").and(ok),
        ["eat"] => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1u8; 1 << 20]);
            }
        }
        ["guard", instance, held, blocked] => {
            let mut e = Ebpf::load(&config_of(instance)).map_err(std::io::Error::other)?;
            for (slot, path, policy) in [(0, held, enforce(&[])), (1, blocked, EgressPolicy::default())] {
                let cgroup = std::mem::ManuallyDrop::new(TestCgroup {
                    path: PathBuf::from(path),
                    id: fs::metadata(path)?.ino(),
                });
                e.add_run(&spec(&cgroup, slot, &policy)).map_err(std::io::Error::other)?;
            }
            e.beat().map_err(std::io::Error::other)?;
            e.set_block(1, true).map_err(std::io::Error::other)?;
            kept.guards.push(e);
            ok
        }
        _ => Ok(format!("what is {words:?}?")),
    }
}

/// Makes memory executable: `anonymous`, or `both` writable and executable.
fn map_executable(kind: &str) -> std::io::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_EXEC | if kind == "both" { libc::PROT_WRITE } else { 0 };
    let memfd = if kind == "memfd" {
        let file = fs::File::from(nix::sys::memfd::memfd_create("code", nix::sys::memfd::MFdFlags::empty())?);
        file.set_len(4096)?;
        Some(file)
    } else {
        None
    };
    let (flags, fd) = memfd.as_ref().map_or((libc::MAP_ANONYMOUS, -1), |file| (0, file.as_raw_fd()));
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_PRIVATE | flags, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the mapping made above, which nobody else knows of.
    unsafe { libc::munmap(at, 4096) };
    Ok(())
}

/// Root becomes nobody, and root again.
fn regain() -> std::io::Result<()> {
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(65534))?;
    Ok(nix::unistd::seteuid(nix::unistd::Uid::from_raw(0))?)
}

/// A child that is born in another cgroup, ends at once, and is waited for.
fn clone_into(dir: &Path) -> std::io::Result<()> {
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let cgroup = fs::File::open(dir)?;
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let mut args = [0_u64; 11];
    args[0] = CLONE_INTO_CGROUP;
    args[4] = libc::SIGCHLD as u64;
    args[10] = cgroup.as_raw_fd() as u64;
    // SAFETY: like fork: no shared memory, no new stack; the child does nothing but end.
    let pid = unsafe {
        match libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of_val(&args)) {
            0 => libc::_exit(0),
            pid => pid,
        }
    };
    match i32::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).map(drop)?),
        _ => Err(std::io::Error::last_os_error()),
    }
}

pub fn native(addr: SocketAddr) -> Box<dyn SockaddrLike> {
    match addr {
        SocketAddr::V4(a) => Box::new(SockaddrIn::from(a)),
        SocketAddr::V6(a) => Box::new(SockaddrIn6::from(a)),
    }
}

pub fn socket(family: IpAddr, kind: i32, protocol: i32) -> std::io::Result<OwnedFd> {
    let domain = if family.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes numbers only; its result is a descriptor that nobody else owns, or -1.
    unsafe {
        match libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) {
            -1 => Err(std::io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

pub fn memfd() {
    nix::sys::memfd::memfd_create("failsafe-test", nix::sys::memfd::MFdFlags::empty()).unwrap();
}

/// Bytes that come within the stream's own time limit; 0 if none.
pub fn read_some(stream: &mut TcpStream) -> usize {
    stream.read(&mut [0; 64]).unwrap_or(0)
}
