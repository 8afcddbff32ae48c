//! One operation at a time through io_uring, with or without a kernel thread that submits.

use io_uring::{IoUring, opcode, squeue, types::Fd};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Who hands the operations to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submit {
    /// The caller, in `io_uring_enter`.
    Caller,
    /// A kernel thread (`IORING_SETUP_SQPOLL`).
    KernelThread,
    /// A worker thread of the kernel (`IOSQE_ASYNC`).
    Worker,
}

/// A ring.
pub struct Ring {
    ring: IoUring,
    submit: Submit,
}

impl Ring {
    /// Sets one up.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn new(submit: Submit) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        if submit == Submit::KernelThread {
            builder.setup_sqpoll(1000);
        }
        Ok(Ring { ring: builder.build(8)?, submit })
    }

    /// `connect(2)`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn connect(&mut self, fd: &OwnedFd, address: &[u8]) -> io::Result<()> {
        let length = u32::try_from(address.len()).map_err(io::Error::other)?;
        let entry = opcode::Connect::new(Fd(fd.as_raw_fd()), address.as_ptr().cast(), length).build();
        self.complete(entry).map(drop)
    }

    /// `send(2)` on a connected socket.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn send(&mut self, fd: &OwnedFd, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.complete(opcode::Send::new(Fd(fd.as_raw_fd()), message.as_ptr(), length).build()).map(drop)
    }

    /// `sendmsg(2)` to an address.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn send_message(&mut self, fd: &OwnedFd, message: &[u8], address: &[u8], flags: i32) -> io::Result<()> {
        let mut vector = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        // SAFETY: all zeroes is a valid `msghdr`.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = u32::try_from(address.len()).map_err(io::Error::other)?;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        let entry = opcode::SendMsg::new(Fd(fd.as_raw_fd()), &raw const header).flags(flags.cast_unsigned()).build();
        self.complete(entry).map(drop)
    }

    /// `socket(2)`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn socket(&mut self, family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        let fd = self.complete(opcode::Socket::new(family, kind, protocol).build())?;
        // SAFETY: the operation has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `openat(2)` of an absolute path.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open(&mut self, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
        let entry = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags).mode(0o600).build();
        let fd = self.complete(entry)?;
        // SAFETY: as for `socket`.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Hands over one operation and waits for its end: what it points to must live until then, and does, as every caller
    /// above borrows it.
    fn complete(&mut self, entry: squeue::Entry) -> io::Result<i32> {
        let entry = if self.submit == Submit::Worker { entry.flags(squeue::Flags::ASYNC) } else { entry };
        // SAFETY: the operation's buffers are borrowed by the caller, which returns only after its completion below.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?.result();
        if done < 0 { Err(io::Error::from_raw_os_error(-done)) } else { Ok(done) }
    }
}
