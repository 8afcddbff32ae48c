//! Ways to an address that is not on the list, through sockets that the kernel knows as the run's, or that were not.

use super::{Attempt, Scene};
use crate::sys::{self, net, process::Racing};
use anyhow::{Context, Result, bail};
use std::{
    io::{self, IoSliceMut, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{SocketAddr as UnixAddress, UnixStream},
    },
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

pub(super) const ALL: &[Attempt] = &[
    ("tcp-connect", |s| tcp(s, s.to()?)),
    ("udp-send-to", |s| udp(s, s.to()?)),
    ("udp-connect", udp_connect),
    ("udp-reconnect", udp_reconnect),
    ("udp-connected-send-to", udp_connected_send_to),
    ("udp-unspecified-family", udp_unspecified_family),
    ("udp6-to-ipv4", udp6_to_ipv4),
    ("udp-batch", udp_batch),
    ("tcp-fast-open", |s| fast_open(s, s.to()?)),
    ("tcp-fast-open-option", fast_open_option),
    ("tcp-repair", tcp_repair),
    ("mapped-tcp", |s| tcp(s, mapped(s)?)),
    ("mapped-udp", |s| udp(s, mapped(s)?)),
    ("mapped-fast-open", |s| fast_open(s, mapped(s)?)),
    ("any-address-tcp", |s| tcp(s, (Ipv4Addr::UNSPECIFIED, s.to()?.port()).into())),
    ("any-address-udp", |s| udp(s, (Ipv4Addr::UNSPECIFIED, s.to()?.port()).into())),
    ("ipv6-tcp", |s| tcp(s, (Ipv6Addr::LOCALHOST, s.to()?.port()).into())),
    ("ipv6-udp", |s| udp(s, (Ipv6Addr::LOCALHOST, s.to()?.port()).into())),
    ("ipv6-any-address-tcp", |s| tcp(s, (Ipv6Addr::UNSPECIFIED, s.to()?.port()).into())),
    ("ipv6-any-address-udp", |s| udp(s, (Ipv6Addr::UNSPECIFIED, s.to()?.port()).into())),
    ("ipv6-link-local-tcp", |s| tcp(s, s.to()?)),
    ("ipv6-link-local-udp", |s| udp(s, s.to()?)),
    ("mptcp", |s| stream(s, libc::IPPROTO_MPTCP)),
    ("sctp", |s| stream(s, libc::IPPROTO_SCTP)),
    ("udp-lite", udp_lite),
    ("inherited-udp", inherited_udp),
    ("inherited-tcp", inherited_tcp),
    ("handed-in", handed_in),
    ("taken-from-outside", taken_from_outside),
    ("listen-and-answer", listen_and_answer),
    ("unix-socket", unix_socket),
    ("race-send-to", race_send_to),
    ("race-connect", race_connect),
    ("many-threads", many_threads),
];

/// How long a race is run.
const RACE: Duration = Duration::from_secs(1);

fn family(address: SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn udp_socket(address: SocketAddr) -> Result<OwnedFd> {
    net::socket(family(address), libc::SOCK_DGRAM, 0).context("socket")
}

fn tcp(scene: &Scene, to: SocketAddr) -> Result<()> {
    let socket = net::socket(family(to), libc::SOCK_STREAM, 0).context("socket")?;
    net::connect(&socket, &net::bytes_of(to)).context("connect")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

fn udp(scene: &Scene, to: SocketAddr) -> Result<()> {
    net::send_to(&udp_socket(to)?, scene.message(), 0, &net::bytes_of(to)).context("sendto")?;
    Ok(())
}

fn udp_connect(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    let socket = udp_socket(to)?;
    net::connect(&socket, &net::bytes_of(to)).context("connect")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

/// Connected to where it may, then to where it may not.
fn udp_reconnect(scene: &Scene) -> Result<()> {
    let socket = udp_socket(scene.to()?)?;
    net::connect(&socket, &net::bytes_of(scene.home()?)).context("connect to the allowed address")?;
    net::connect(&socket, &net::bytes_of(scene.to()?)).context("connect once more")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

fn udp_connected_send_to(scene: &Scene) -> Result<()> {
    let socket = udp_socket(scene.to()?)?;
    net::connect(&socket, &net::bytes_of(scene.home()?)).context("connect to the allowed address")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto elsewhere")?;
    Ok(())
}

/// UDP takes an address whose family is 0 for IPv4.
fn udp_unspecified_family(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    net::send_to(&udp_socket(to)?, scene.message(), 0, &net::with_family(to, libc::AF_UNSPEC)).context("sendto")?;
    Ok(())
}

fn udp6_to_ipv4(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0).context("socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// The forbidden one in the middle of allowed ones.
fn udp_batch(scene: &Scene) -> Result<()> {
    let (home, to) = (net::bytes_of(scene.home()?), net::bytes_of(scene.to()?));
    let sent = net::send_many(&udp_socket(scene.to()?)?, scene.message(), &[home.clone(), to, home]);
    match sent.context("sendmmsg")? {
        3 => Ok(()),
        // The kernel tells of the failure only with the next call.
        sent => {
            Err(io::Error::from_raw_os_error(libc::EPERM)).with_context(|| format!("sendmmsg stopped after {sent}"))
        }
    }
}

fn fast_open(scene: &Scene, to: SocketAddr) -> Result<()> {
    let socket = net::socket(family(to), libc::SOCK_STREAM, 0).context("socket")?;
    net::send_to(&socket, scene.message(), libc::MSG_FASTOPEN, &net::bytes_of(to)).context("sendto")?;
    Ok(())
}

/// `connect` does nothing yet; the first write connects.
fn fast_open_option(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    let socket = net::socket(family(to), libc::SOCK_STREAM, 0).context("socket")?;
    net::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32.to_ne_bytes()).context("option")?;
    net::connect(&socket, &net::bytes_of(to)).context("connect")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

/// A connection that is declared, not made: no SYN, but its data goes out.
fn tcp_repair(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    let socket = net::socket(family(to), libc::SOCK_STREAM, 0).context("socket")?;
    let set = |name, value: &[u8]| net::set_option(&socket, libc::IPPROTO_TCP, name, value);
    set(libc::TCP_REPAIR, &1_i32.to_ne_bytes()).context("TCP_REPAIR")?;
    net::connect(&socket, &net::bytes_of(to)).context("connect")?;
    // The peer's window, which nobody has told: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    let window: Vec<u8> = [0_u32, 65_535, 65_535, 65_535, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    set(libc::TCP_REPAIR_WINDOW, &window).context("TCP_REPAIR_WINDOW")?;
    // Off, without a probe.
    set(libc::TCP_REPAIR, &(-1_i32).to_ne_bytes()).context("TCP_REPAIR off")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

fn mapped(scene: &Scene) -> Result<SocketAddr> {
    let to = scene.to()?;
    match to.ip() {
        IpAddr::V4(ip) => Ok((ip.to_ipv6_mapped(), to.port()).into()),
        IpAddr::V6(_) => bail!("--to is no IPv4 address"),
    }
}

fn stream(scene: &Scene, protocol: i32) -> Result<()> {
    let to = scene.to()?;
    let socket = net::socket(family(to), libc::SOCK_STREAM, protocol).context("socket")?;
    net::connect(&socket, &net::bytes_of(to)).context("connect")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

fn udp_lite(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    let socket = net::socket(family(to), libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE).context("socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(to)).context("sendto")?;
    Ok(())
}

fn inherited_udp(scene: &Scene) -> Result<()> {
    let socket = sys::inherited(scene.fd()?).context("taking the socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// Connected before the run began.
fn inherited_tcp(scene: &Scene) -> Result<()> {
    let socket = sys::inherited(scene.fd()?).context("taking the socket")?;
    net::send_to(&socket, scene.message(), 0, &[]).context("send")?;
    Ok(())
}

/// A process outside gives its socket through a UNIX one.
fn handed_in(scene: &Scene) -> Result<()> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let giver = UnixStream::connect(scene.path()?).context("connecting to the giver")?;
    let mut byte = [0];
    let mut vectors = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(i32);
    let got = recvmsg::<()>(giver.as_raw_fd(), &mut vectors, Some(&mut space), MsgFlags::empty()).context("recvmsg")?;
    if got.flags.contains(MsgFlags::MSG_CTRUNC) {
        // There was room for it: that is how the kernel says that it kept the socket back.
        return Err(io::Error::from_raw_os_error(libc::EPERM)).context("recvmsg gave no socket");
    }
    let fd = got.cmsgs().context("control messages")?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let socket = sys::inherited(fd.context("no socket came")?).context("taking the socket")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// `pidfd_getfd`: nobody outside has to agree.
fn taken_from_outside(scene: &Scene) -> Result<()> {
    let socket = net::descriptor_of(scene.pid()?, scene.fd()?).context("pidfd_getfd")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// Somebody outside connects in, and is told.
fn listen_and_answer(scene: &Scene) -> Result<()> {
    let listener = TcpListener::bind(scene.to()?).context("bind")?;
    println!("LISTENING");
    io::stdout().flush()?;
    let (mut caller, _) = listener.accept().context("accept")?;
    caller.write_all(scene.message()).context("answering")?;
    // Until whoever called has read it.
    caller.read_to_end(&mut Vec::new()).context("waiting for the caller")?;
    Ok(())
}

/// A service of the node that speaks for whoever asks.
fn unix_socket(scene: &Scene) -> Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let name = scene.path()?.as_os_str().as_encoded_bytes();
    let address = UnixAddress::from_abstract_name(name).context("the name")?;
    UnixStream::connect_addr(&address).context("connect")?.write_all(scene.message()).context("write")
}

/// One thread turns the address to and fro while this one sends to it.
fn race(scene: &Scene, act: impl Fn(&Racing) -> io::Result<()>) -> Result<()> {
    let (home, to) = (net::bytes_of(scene.home()?), net::bytes_of(scene.to()?));
    let address = Racing::new(&home);
    let over = AtomicBool::new(false);
    let (mut sent, mut last) = (0_u64, None);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                address.set(&to);
                std::thread::yield_now();
                address.set(&home);
            }
        });
        let end = Instant::now() + RACE;
        while Instant::now() < end {
            match act(&address) {
                Ok(()) => sent += 1,
                Err(error) => last = Some(error),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    eprintln!("{sent} went through");
    last.map_or(Ok(()), |error| Err(error).context("the last refusal of the race"))
}

fn race_send_to(scene: &Scene) -> Result<()> {
    let socket = udp_socket(scene.to()?)?;
    race(scene, |address| net::send_to_racing(&socket, scene.message(), address))
}

fn race_connect(scene: &Scene) -> Result<()> {
    race(scene, |address| {
        let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        net::connect_racing(&socket, address)?;
        net::send_to(&socket, scene.message(), 0, &[]).map(drop)
    })
}

/// Each with a socket of its own, all at once.
fn many_threads(scene: &Scene) -> Result<()> {
    let to = scene.to()?;
    std::thread::scope(|threads| {
        let all: Vec<_> = (0..64)
            .map(|n| {
                threads.spawn(move || {
                    (0..20)
                        .map(|_| if n % 2 == 0 { udp(scene, to) } else { tcp(scene, to) })
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}
