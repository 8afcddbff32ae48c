//! The network: only one address is on the list, and everything else is tried.

use crate::{
    inside::Inside,
    outsider::Outsider,
    trial::{Stage, judge},
    witness::Witness,
};
use anyhow::{Context, Result};
use bypass::table::{FOREIGN, RACES, Row, SOCKETS, URING, WIRE};
use integration::{Node, on_node, wait_for, wait_for_some};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    ifaddrs::getifaddrs,
};
use std::{
    io::{IoSlice, Read},
    net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixListener},
    },
    path::PathBuf,
    sync::Arc,
    thread,
};

#[test]
fn sockets_of_the_run() -> Result<()> {
    judged("sockets", SOCKETS)
}

#[test]
fn sockets_raced_for() -> Result<()> {
    judged("races", RACES)
}

#[test]
fn sockets_through_io_uring() -> Result<()> {
    judged("io-uring", URING)
}

#[test]
fn packets_that_the_run_writes_itself() -> Result<()> {
    judged("packets", WIRE)
}

#[test]
fn sockets_of_others() -> Result<()> {
    judged("foreign-sockets", FOREIGN)
}

fn judged(subject: &str, rows: &[Row]) -> Result<()> {
    on_node(&format!("bypass-{subject}"), "", |node| {
        let mut network = Network::new(node.file("giver"))?;
        judge(node, subject, rows, &mut network)
    })
}

struct Network {
    witness: Arc<Witness>,
    token: String,
    giver: PathBuf,
    /// Sockets that stay open for one attempt.
    kept: Vec<OwnedFd>,
    pings: Option<Pings>,
    holder: Option<Outsider>,
}

/// Everybody may have ping sockets; dropped, as it was before.
struct Pings(String);

const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

impl Pings {
    fn open() -> Result<Pings> {
        let before = std::fs::read_to_string(PING_GROUPS).context("reading who may ping")?;
        std::fs::write(PING_GROUPS, "0 65534").context("letting everybody ping")?;
        Ok(Pings(before))
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(PING_GROUPS, &self.0) {
            eprintln!("left changed: {PING_GROUPS}: {error}");
        }
    }
}

impl Network {
    fn new(giver: PathBuf) -> Result<Network> {
        Ok(Network {
            witness: Arc::new(Witness::new()?),
            token: String::new(),
            giver,
            kept: Vec::new(),
            pings: None,
            holder: None,
        })
    }

    /// A socket made outside, left open for the run's first process.
    fn inherit(&mut self, socket: OwnedFd) -> Result<Vec<String>> {
        fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("leaving the socket open over exec")?;
        let argument = socket.as_raw_fd().to_string();
        self.kept.push(socket);
        Ok(vec!["--fd".into(), argument])
    }

    /// A process outside, of the same user, with a UDP socket of its own as its standard input.
    fn hold(&mut self, user: &str) -> Result<Vec<String>> {
        let socket = OwnedFd::from(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
        let holder = self.holder.insert(Outsider::start(user, &["sleep", "600"], socket.into())?);
        Ok(vec!["--pid".into(), holder.pid().to_string(), "--fd".into(), "0".into()])
    }

    /// Gives a UDP socket to the first who asks.
    fn give(&mut self) -> Result<Vec<String>> {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let _ = std::fs::remove_file(&self.giver);
        let listener = UnixListener::bind(&self.giver).context("the giver's socket")?;
        std::fs::set_permissions(&self.giver, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        thread::spawn(move || -> Result<()> {
            let (taker, _) = listener.accept()?;
            let fds = [socket.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(taker.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None)?;
            Ok(())
        });
        Ok(vec!["--path".into(), self.giver.display().to_string()])
    }

    /// A service that says to the witness what it was told.
    fn service(&self) -> Result<Vec<String>> {
        let name = format!("failsafe-{}", self.token);
        let listener = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name)?).context("the service")?;
        let witness = Arc::clone(&self.witness);
        thread::spawn(move || -> Result<()> {
            let mut told = String::new();
            listener.accept()?.0.read_to_string(&mut told)?;
            witness.saw("unix", told);
            Ok(())
        });
        Ok(vec!["--path".into(), name])
    }

    fn extra(&mut self, row: &Row, user: &str) -> Result<Vec<String>> {
        match row.attempt {
            "inherited-udp" => self.inherit(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.into()),
            "inherited-tcp" => self.inherit(connected(&self.witness)?),
            "handed-in" => self.give(),
            "taken-from-outside" => self.hold(user),
            "unix-socket" => self.service(),
            "ping" => {
                self.pings = Some(Pings::open()?);
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn to(&self, row: &Row) -> Result<SocketAddr> {
        Ok(match row.attempt {
            "ipv6-link-local-tcp" | "ipv6-link-local-udp" => link_local(self.witness.port())?,
            "listen-and-answer" => free()?,
            _ => self.witness.forbidden(),
        })
    }
}

impl Stage for Network {
    fn policy(&mut self, _: &Row, _: bool) -> Result<String> {
        let home = self.witness.home()?;
        Ok(format!(
            "[policy]\nname = \"only-home\"\nowner = \"tests\"\n\
             [egress]\nallow = [{{ cidr = \"{}/32\", ports = [{}] }}]\n",
            home.ip(),
            home.port()
        ))
    }

    fn prepare(&mut self, _: &Node, row: &Row, user: &str) -> Result<Vec<String>> {
        self.kept.clear();
        self.pings = None;
        self.holder = None;
        self.token = self.witness.token();
        let mut told = self.extra(row, user)?;
        // What was made ready is no part of the attempt.
        self.witness.since(&self.token)?;
        let (to, home) = (self.to(row)?.to_string(), self.witness.home()?.to_string());
        told.extend(["--to".into(), to, "--home".into(), home, "--token".into(), self.token.clone()]);
        Ok(told)
    }

    fn meanwhile(&mut self, row: &Row, run: &Inside) -> Result<()> {
        if row.attempt != "listen-and-answer" {
            return Ok(());
        }
        wait_for("the run listens", || Ok(run.output().contains("LISTENING")))?;
        let said = std::fs::read_to_string(format!("/proc/{}/cmdline", run.pid()))?;
        let to = said.split('\0').skip_while(|word| *word != "--to").nth(1).context("--to")?.to_owned();
        let mut caller = wait_for_some("the run lets the caller in", || Ok(TcpStream::connect(&to).ok()))?;
        caller.set_read_timeout(Some(integration::PATIENCE))?;
        let mut told = vec![0; self.token.len()];
        if caller.read_exact(&mut told).is_ok() {
            self.witness.saw("answer", String::from_utf8_lossy(&told).into_owned());
        }
        Ok(())
    }

    fn happened(&mut self, _: &Node, _: &Row, _: &Inside) -> Result<Option<String>> {
        self.witness.since(&self.token)
    }
}

/// An open connection to where nothing may go.
fn connected(witness: &Witness) -> Result<OwnedFd> {
    Ok(TcpStream::connect(witness.forbidden()).context("connecting outside the run")?.into())
}

fn free() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A link-local address of this host; loopback's own where it has no other.
fn link_local(port: u16) -> Result<SocketAddr> {
    let addresses = getifaddrs().context("the node's addresses")?.filter_map(|i| i.address);
    let mut v6 = addresses.filter_map(|a| a.as_sockaddr_in6().map(|a| (a.ip(), a.scope_id())));
    let (ip, scope) = v6.find(|(ip, _)| ip.is_unicast_link_local()).context("no link-local address")?;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}
