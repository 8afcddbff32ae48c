//! A process held by descriptor, so that a signal cannot reach a stranger that got its number (pidfd_open(2)).
//!
//! Owns one file descriptor. Opening does not stop the number from being reused once the process is reaped: a
//! caller that got the number from a listing compares the start time *after* opening, and from then on the
//! descriptor means that process and no other.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A process by descriptor. Readable (poll) once the process has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Opens the process with this number (the thread-group leader's).
    ///
    /// # Errors
    /// `ESRCH` when there is none, `EINVAL` when the number is a thread's, `ENOSYS` before kernel 5.3.
    pub fn open(pid: u32) -> Result<Self, Errno> {
        let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1; no memory is passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd)?;
        let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just returned this descriptor (close-on-exec) to us, so nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// `ESRCH` when it has ended and was reaped, `EPERM` when the caller may not.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        // SAFETY: the descriptor is open for the whole call; a null siginfo is documented to mean "as kill(2)".
        let rc = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(rc).map(drop)
    }

    /// Whether the process has ended (it may still be a zombie).
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn has_ended(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }
}

/// The first version of the kernel's `struct pidfd_info` (linux/pidfd.h, kernel 6.13): 64 bytes.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    rest: [u32; 5],
}

const PIDFD_INFO_CREDS: u64 = 1 << 1;
const PIDFD_INFO_CGROUPID: u64 = 1 << 2;

/// What one call says of a process at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The v2 cgroup of its main thread.
    pub cgroup_id: u64,
}

/// `PIDFD_GET_INFO`, `_IOWR(0xFF, 11, 64 bytes)` in the encoding of x86-64 and arm64.
const GET_INFO: libc::Ioctl = 0xC040_FF0B;
const _: () = assert!(size_of::<PidfdInfo>() == 64, "the size in GET_INFO");

impl PidFd {
    /// The id of the process's v2 cgroup.
    ///
    /// # Errors
    /// `ENOTTY` or (6.11, 6.12) `EINVAL` before kernel 6.13, `ESRCH` when the process has ended.
    pub fn cgroup_id(&self) -> Result<u64, Errno> {
        self.info(PIDFD_INFO_CGROUPID).map(|info| info.cgroup_id)
    }

    /// Its effective ids and its cgroup.
    ///
    /// # Errors
    /// As [`PidFd::cgroup_id`].
    pub fn glance(&self) -> Result<Glance, Errno> {
        let info = self.info(PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID)?;
        Ok(Glance { uid: info.euid, gid: info.egid, cgroup_id: info.cgroup_id })
    }

    fn info(&self, wanted: u64) -> Result<PidfdInfo, Errno> {
        let mut info = PidfdInfo { mask: wanted, ..PidfdInfo::default() };
        // SAFETY: the descriptor is open, and the request's number carries the size of the struct passed, which the
        // kernel does not write past; every bit pattern is a valid value of it.
        let rc = unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_INFO, &raw mut info) };
        Errno::result(rc)?;
        if info.mask & wanted == wanted { Ok(info) } else { Err(Errno::ESRCH) }
    }
}

impl From<OwnedFd> for PidFd {
    /// A descriptor that the kernel gave for a process, as with `SO_PEERPIDFD`.
    fn from(fd: OwnedFd) -> PidFd {
        PidFd { fd }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn signals_only_the_process_it_was_opened_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let fd = PidFd::open(child.id()).unwrap();
        assert!(!fd.has_ended().unwrap());
        fd.signal(Signal::SIGKILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(fd.has_ended().unwrap());
        assert_eq!(fd.signal(Signal::SIGKILL), Err(Errno::ESRCH));
        assert_eq!(PidFd::open(u32::MAX).unwrap_err(), Errno::ESRCH);
    }
}
