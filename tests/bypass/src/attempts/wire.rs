//! Below TCP and UDP: packets that the run writes itself.

use super::{Attempt, Scene};
use crate::sys::net;
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(super) const ALL: &[Attempt] = &[
    ("raw", raw),
    ("raw-own-header", raw_own_header),
    ("raw6", raw6),
    ("ping", ping),
    ("source-route", source_route),
    ("packet", |s| packet(s, libc::AF_PACKET, libc::SOCK_DGRAM)),
    ("packet-by-inet", |s| packet_by_inet(s)),
];

const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 1, 0, 1];
const IPV4: u16 = 0x0800;

fn v4(scene: &Scene) -> Result<Ipv4Addr> {
    match scene.to()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => bail!("--to is no IPv4 address"),
    }
}

/// An echo request with the token in it.
fn echo(token: &[u8]) -> Vec<u8> {
    let mut message = ECHO.to_vec();
    message.extend(token);
    if message.len() % 2 == 1 {
        message.push(0);
    }
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// An IPv4 packet with a UDP datagram in it; UDP's checksum is left out, as RFC 768 allows.
fn packet_to(ip: Ipv4Addr, port: u16, token: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(8 + token.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + udp_length).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    bytes.extend(Ipv4Addr::LOCALHOST.octets());
    bytes.extend(ip.octets());
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [40_000, port, udp_length, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(token);
    bytes
}

fn raw(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).context("socket")?;
    net::send_to(&socket, &echo(scene.message()), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// The address of the call is an allowed one, that of the packet is not.
fn raw_own_header(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).context("socket")?;
    let bytes = packet_to(v4(scene)?, scene.to()?.port(), scene.message());
    net::send_to(&socket, &bytes, 0, &net::bytes_of(scene.home()?)).context("sendto")?;
    Ok(())
}

fn raw6(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET6, libc::SOCK_RAW, 253).context("socket")?;
    let to: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, 0).into();
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(to)).context("sendto")?;
    Ok(())
}

/// ICMP for those who may not have raw sockets.
fn ping(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP).context("socket")?;
    net::send_to(&socket, &echo(scene.message()), 0, &net::bytes_of(scene.to()?)).context("sendto")?;
    Ok(())
}

/// The call names the allowed address; the packet goes to the forbidden one, to be passed on.
fn source_route(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).context("socket")?;
    // No operation; loose source route, 7 bytes, at the first hop.
    let mut option = vec![1, 131, 7, 4];
    option.extend(v4(scene)?.octets());
    net::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option).context("IP_OPTIONS")?;
    net::send_to(&socket, scene.message(), 0, &net::bytes_of(scene.home()?)).context("sendto")?;
    Ok(())
}

/// Straight to the loopback interface.
fn packet(scene: &Scene, family: i32, kind: i32) -> Result<()> {
    let socket = net::socket(family, kind, i32::from(IPV4.to_be())).context("socket")?;
    let lo = net::interface(c"lo").context("no interface lo")?;
    let bytes = packet_to(v4(scene)?, scene.to()?.port(), scene.message());
    net::send_to(&socket, &bytes, 0, &net::link_address(lo, IPV4)).context("sendto")?;
    Ok(())
}

/// The old name of the same: `SOCK_PACKET` of the IPv4 family, with the interface by name and the frame's own header.
fn packet_by_inet(scene: &Scene) -> Result<()> {
    let socket = net::socket(libc::AF_INET, 10, i32::from(IPV4.to_be())).context("socket")?;
    let mut frame = vec![0; 12];
    frame.extend(IPV4.to_be_bytes());
    frame.extend(packet_to(v4(scene)?, scene.to()?.port(), scene.message()));
    // `sockaddr_pkt`: family, name in 14 bytes, protocol.
    let mut address = u16::try_from(libc::AF_PACKET).unwrap_or_default().to_ne_bytes().to_vec();
    address.extend(b"lo\0\0\0\0\0\0\0\0\0\0\0\0");
    address.extend(IPV4.to_be_bytes());
    net::send_to(&socket, &frame, 0, &address).context("sendto")?;
    Ok(())
}
