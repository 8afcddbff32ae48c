//! Who connected to a unix socket, by the kernel's word when it did (`SO_PEERCRED`, `SO_PEERGROUPS` in unix(7)): two calls that
//! read no file, so that whoever connects in a flood costs no more than that.

use nix::{
    errno::Errno,
    sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials},
};
use std::os::fd::{AsFd, AsRawFd};

/// Supplementary groups that are asked for at first: most users have fewer.
const GROUPS: usize = 64;
/// The kernel's own limit (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Process, user and group.
///
/// # Errors
/// Those of getsockopt(2).
pub fn credentials(stream: impl AsFd) -> Result<UnixCredentials, Errno> {
    getsockopt(&stream, PeerCredentials)
}

/// Supplementary groups.
///
/// # Errors
/// Those of getsockopt(2).
pub fn groups(stream: impl AsFd) -> Result<Vec<u32>, Errno> {
    match ask(&stream, GROUPS) {
        Err(Errno::ERANGE) => ask(&stream, GROUPS_MAX),
        other => other,
    }
}

fn ask(stream: &impl AsFd, room: usize) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; room];
    let mut bytes = libc::socklen_t::try_from(room * size_of::<u32>()).map_err(|_| Errno::ERANGE)?;
    // JUSTIFICATION: nix has no SO_PEERGROUPS.
    // SAFETY: the buffer is `bytes` long and lives through the call, and any bytes are valid group ids; the kernel writes at
    // most `bytes`, and how many it wrote to `bytes`.
    let rc = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    Errno::result(rc)?;
    groups.truncate(bytes as usize / size_of::<u32>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pair_of_sockets_belongs_to_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let who = credentials(&one).unwrap();
        assert_eq!((who.uid(), who.pid()), (nix::unistd::geteuid().as_raw(), nix::unistd::getpid().as_raw()));
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut told = groups(&one).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
