//! Who sees, outside every run, what got through: a listener for each protocol on every address of the node, and a tap on the
//! loopback interface, which sees what no listener would take.
//!
//! Invariant: between two marks that the witness itself sends, it has seen all that was sent between them, because every
//! listener hands on in order and a packet over loopback is handed on before its sender's call returns.

use anyhow::{Context, Result, bail};
use bypass::sys::net;
use integration::wait_for;
use nix::sys::socket::{MsgFlags, recv};
use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Where nothing may go: an address of this host that no policy of the suite allows.
pub const FORBIDDEN: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 9);

const ETH_P_ALL: u16 = 3;
/// What the tap can hold until it is read.
const TAP_BUFFER: i32 = 64 << 20;
/// No packet of an attempt or a mark is longer.
const LONGEST: usize = 512;
/// When a mark that has not come is sent again.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sight {
    by: &'static str,
    what: String,
}

/// The witness. Dropped, its threads end with their next packet or the test.
pub struct Witness {
    port: u16,
    home: TcpListener,
    home_udp: UdpSocket,
    seen: Arc<Mutex<Vec<Sight>>>,
    marks: AtomicU64,
    over: Arc<AtomicBool>,
}

impl Witness {
    /// Listens.
    pub fn new() -> Result<Witness> {
        let Listeners { port, tcp, udp, others } = on_a_free_port(Listeners::on_one_port)?;
        let (home, home_udp) = on_a_free_port(|| {
            let home = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let udp = UdpSocket::bind(home.local_addr()?)?;
            Ok((home, udp))
        })?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let witness = Witness { port, home, home_udp, seen, marks: AtomicU64::new(0), over };
        witness.accept("tcp", tcp);
        witness.receive("udp", udp.into());
        for (by, socket) in others {
            match by {
                "sctp" => witness.accept(by, socket.into()),
                by => witness.receive(by, socket),
            }
        }
        let tap = net::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ETH_P_ALL.to_be())).context("a tap")?;
        let lo = net::interface(c"lo").context("no interface lo")?;
        net::bind(&tap, &net::link_address(lo, ETH_P_ALL)).context("tapping lo")?;
        // Others' traffic passes lo too.
        net::set_option(&tap, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &TAP_BUFFER.to_ne_bytes())
            .context("its buffer")?;
        witness.receive("tap", tap);
        Ok(witness)
    }

    /// Where nothing may go.
    pub fn forbidden(&self) -> SocketAddr {
        (FORBIDDEN, self.port).into()
    }

    /// The port that it listens on, on every address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The one address that the policies allow.
    pub fn home(&self) -> Result<SocketAddr> {
        Ok(self.home.local_addr()?)
    }

    /// A token that only one attempt sends.
    pub fn token(&self) -> String {
        let n = self.marks.fetch_add(1, Ordering::Relaxed);
        format!("bypass-{}-{n}-", std::process::id())
    }

    /// Adds what was seen by other means.
    pub fn saw(&self, by: &'static str, what: String) {
        record(&self.seen, by, what);
    }

    /// All that was seen since the last call: of the token by any means, and any connection.
    pub fn since(&self, token: &str) -> Result<Option<String>> {
        self.mark()?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *seen);
        let home = to_text(self.home()?);
        let of_it = |sight: &Sight| {
            let token = sight.what.contains(token) && !(sight.by == "tap" && sight.what.starts_with(&home));
            sight.by == "tcp" || sight.by == "sctp" || token
        };
        let mut by: Vec<&str> = all.iter().filter(|s| of_it(s)).map(|s| s.by).collect();
        by.sort_unstable();
        by.dedup();
        Ok((!by.is_empty()).then(|| by.join(", ")))
    }

    /// Sends a mark each way and waits until all have come; one that a full buffer has lost is sent again.
    fn mark(&self) -> Result<()> {
        let mark = format!("mark-{}-{}", std::process::id(), self.marks.fetch_add(1, Ordering::Relaxed));
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, self.port).into();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = TcpStream::connect(to).context("marking by TCP")?;
        let text = format!("from {}", sender.local_addr()?);
        let mut sent: Option<Instant> = None;
        wait_for("the witness has seen the marks", || {
            if sent.is_none_or(|at| at.elapsed() > AGAIN) {
                udp.send_to(mark.as_bytes(), to).context("marking by UDP")?;
                sent = Some(Instant::now());
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let has = |by: &str, what: &str| seen.iter().any(|s| s.by == by && s.what.contains(what));
            let come = has("udp", &mark) && has("tap", &mark) && has("tcp", &text);
            if come {
                seen.retain(|s| !s.what.contains(&text));
            }
            Ok(come)
        })
    }

    fn accept(&self, by: &'static str, listener: TcpListener) {
        let (seen, over) = (Arc::clone(&self.seen), Arc::clone(&self.over));
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                record(&seen, by, format!("from {}", plain(peer)));
                // So that whoever connected can send and end; nobody waits for it.
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                    let _ = stream.read_to_end(&mut Vec::new());
                });
            }
        });
    }

    fn receive(&self, by: &'static str, socket: OwnedFd) {
        let (seen, over) = (Arc::clone(&self.seen), Arc::clone(&self.over));
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(n) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if n > LONGEST {
                    continue;
                }
                let text = String::from_utf8_lossy(&buffer[..n]);
                if text.contains("bypass-") || text.contains("mark-") {
                    let to = if by == "tap" { destination(&buffer[..n]).map(to_text) } else { None };
                    record(&seen, by, to.unwrap_or_default() + &text);
                }
            }
        });
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listeners up; the UDP and tap threads end with the test's process.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.home_udp.send_to(b"mark-over", (Ipv4Addr::LOCALHOST, self.port));
    }
}

fn record(seen: &Mutex<Vec<Sight>>, by: &'static str, what: String) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(Sight { by, what });
}

/// Where an IPv4 packet without options goes that a frame holds; of TCP, UDP and the like.
fn destination(frame: &[u8]) -> Option<SocketAddr> {
    let packet = frame.get(14..)?;
    let ip: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let port: [u8; 2] = packet.get(22..24)?.try_into().ok()?;
    (packet[0] == 0x45).then(|| (Ipv4Addr::from(ip), u16::from_be_bytes(port)).into())
}

fn to_text(address: SocketAddr) -> String {
    format!("to {address}: ")
}

/// IPv4 without the IPv6 around it.
fn plain(peer: SocketAddr) -> SocketAddr {
    (peer.ip().to_canonical(), peer.port()).into()
}

/// What listens on one port of every address, IPv4 and IPv6, by every protocol that has ports.
struct Listeners {
    port: u16,
    tcp: TcpListener,
    udp: UdpSocket,
    /// By SCTP and UDP-Lite, where the kernel has them.
    others: Vec<(&'static str, OwnedFd)>,
}

impl Listeners {
    fn on_one_port() -> io::Result<Listeners> {
        let tcp = TcpListener::bind("[::]:0")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind(("::", port))?;
        let wild = net::bytes_of((Ipv4Addr::UNSPECIFIED, port).into());
        let mut others = Vec::new();
        if let Ok(sctp) = net::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) {
            net::bind(&sctp, &wild)?;
            net::listen(&sctp)?;
            others.push(("sctp", sctp));
        }
        if let Ok(lite) = net::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE) {
            net::bind(&lite, &wild)?;
            others.push(("udp-lite", lite));
        }
        Ok(Listeners { port, tcp, udp, others })
    }
}

/// A port that the kernel gives for one protocol may be taken for another: by other tests, and by earlier witnesses.
fn on_a_free_port<T>(open: impl Fn() -> io::Result<T>) -> Result<T> {
    for _ in 0..20 {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            opened => return opened.context("listening"),
        }
    }
    bail!("no port is free for all protocols")
}
