//! Sockets of any family, and addresses as the bytes that the kernel reads.

use super::{answer, descriptor};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

/// The address as `sockaddr_in` or `sockaddr_in6`.
#[must_use]
pub fn bytes_of(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = family_and_port(libc::AF_INET, v4.port());
            bytes.extend(v4.ip().octets());
            bytes.resize(16, 0);
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = family_and_port(libc::AF_INET6, v6.port());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// The same with another number for the family.
#[must_use]
pub fn with_family(address: SocketAddr, family: i32) -> Vec<u8> {
    let mut bytes = bytes_of(address);
    bytes[..2].copy_from_slice(&short(family).to_ne_bytes());
    bytes
}

/// `sockaddr_ll` of an interface.
#[must_use]
pub fn link_address(interface: i32, protocol: u16) -> Vec<u8> {
    let mut bytes = short(libc::AF_PACKET).to_ne_bytes().to_vec();
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(interface.to_ne_bytes());
    bytes.extend([0, 0, 0, 6]);
    bytes.resize(20, 0);
    bytes
}

fn family_and_port(family: i32, port: u16) -> Vec<u8> {
    let mut bytes = short(family).to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes
}

fn short(family: i32) -> u16 {
    u16::try_from(family).unwrap_or_default()
}

/// `socket(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    descriptor(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into())
}

/// `connect(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn connect(fd: &OwnedFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `address.len()` bytes of `address` and writes nothing.
    let said = unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), length(address)) };
    answer(said.into()).map(drop)
}

/// `bind(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn bind(fd: &OwnedFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: as for `connect`.
    let said = unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), length(address)) };
    answer(said.into()).map(drop)
}

/// `listen(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn listen(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    answer(unsafe { libc::listen(fd.as_raw_fd(), 16) }.into()).map(drop)
}

/// `sendto(2)`; an empty address is none.
///
/// # Errors
/// The kernel's answer.
pub fn send_to(fd: &OwnedFd, message: &[u8], flags: i32, address: &[u8]) -> io::Result<usize> {
    let at = if address.is_empty() { std::ptr::null() } else { address.as_ptr() };
    // SAFETY: the kernel reads `message.len()` bytes of `message` and `address.len()` of `address`.
    let said = unsafe {
        libc::sendto(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), flags, at.cast(), length(address))
    };
    let said = answer(said as libc::c_long)?;
    usize::try_from(said).map_err(io::Error::other)
}

/// `sendto(2)` on an address that another thread rewrites meanwhile.
///
/// # Errors
/// The kernel's answer.
pub fn send_to_racing(fd: &OwnedFd, message: &[u8], address: &super::process::Racing) -> io::Result<()> {
    // SAFETY: the kernel reads both buffers, which outlive the call; that `address` changes meanwhile is the kernel's
    // to bear, no reference of this program reads it.
    let said = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            address.pointer().cast(),
            u32::try_from(address.len()).unwrap_or_default(),
        )
    };
    answer(said as libc::c_long).map(drop)
}

/// `connect(2)` to an address that another thread rewrites meanwhile.
///
/// # Errors
/// The kernel's answer.
pub fn connect_racing(fd: &OwnedFd, address: &super::process::Racing) -> io::Result<()> {
    let length = u32::try_from(address.len()).unwrap_or_default();
    // SAFETY: as for `send_to_racing`.
    answer(unsafe { libc::connect(fd.as_raw_fd(), address.pointer().cast(), length) }.into()).map(drop)
}

/// `sendmmsg(2)`: one message to each address.
///
/// # Errors
/// The kernel's answer to the first that failed; those before it were sent.
pub fn send_many(fd: &OwnedFd, message: &[u8], addresses: &[Vec<u8>]) -> io::Result<usize> {
    let mut vectors: Vec<libc::iovec> = addresses
        .iter()
        .map(|_| libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = Vec::new();
    for (vector, address) in vectors.iter_mut().zip(addresses) {
        // SAFETY: all zeroes is a valid `mmsghdr`: null pointers with length 0.
        let mut one: libc::mmsghdr = unsafe { std::mem::zeroed() };
        one.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        one.msg_hdr.msg_namelen = length(address);
        one.msg_hdr.msg_iov = vector;
        one.msg_hdr.msg_iovlen = 1;
        messages.push(one);
    }
    let count = u32::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: `messages`, the vectors and the addresses they point to live until the call is over; the kernel writes
    // only the lengths in `messages`.
    let said = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(answer(said.into())?).map_err(io::Error::other)
}

/// `setsockopt(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn set_option(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes of `value`.
    let said = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length(value)) };
    answer(said.into()).map(drop)
}

/// The number of a network interface; `None` where there is none of that name.
#[must_use]
pub fn interface(name: &std::ffi::CStr) -> Option<i32> {
    // SAFETY: the name ends with a zero byte.
    i32::try_from(unsafe { libc::if_nametoindex(name.as_ptr()) }).ok().filter(|n| *n > 0)
}

/// Takes a copy of another process's descriptor: `pidfd_getfd(2)`.
///
/// # Errors
/// The kernel's answer.
pub fn descriptor_of(pid: i32, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: neither call takes a pointer.
    let process = descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

fn length(bytes: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes.len()).unwrap_or_default()
}
