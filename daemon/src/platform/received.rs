//! Bytes of a stream socket, with what the kernel adds to them: who wrote them (`SCM_CREDENTIALS`), and a file that was passed
//! (`SCM_RIGHTS`); unix(7).

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg},
};
use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Most files of one message (`SCM_MAX_FD`). With less room the kernel would cut the message, and files of it would stay open.
const FILES: usize = 253;

/// What was read.
#[derive(Debug, Default)]
pub struct Received {
    /// How many bytes; 0 at the end.
    pub bytes: usize,
    /// The process that wrote them.
    pub writer: Option<u32>,
    /// The first file that was passed with them. Further ones are closed.
    pub file: Option<OwnedFd>,
}

/// Reads once and does not wait. Without `files`, what is passed is closed, and the answer is an error.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8], files: bool) -> nix::Result<Received> {
    let mut space = if files { cmsg_space!(UnixCredentials, [RawFd; FILES]) } else { cmsg_space!(UnixCredentials) };
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut received = Received { bytes: message.bytes, ..Received::default() };
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmCredentials(credentials) => received.writer = u32::try_from(credentials.pid()).ok(),
            ControlMessageOwned::ScmRights(passed) => {
                for fd in passed {
                    // JUSTIFICATION: nix gives the descriptors of a message as numbers.
                    // SAFETY: the kernel has just opened it for this process, and nothing else knows its number.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    received.file.get_or_insert(fd);
                }
            }
            _ => {}
        }
    }
    // Without credentials there is room for some files.
    if !files && received.file.is_some() { Err(Errno::EBADMSG) } else { Ok(received) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, sendmsg};
    use std::{
        io::{IoSlice, Read, Write},
        os::unix::net::UnixStream,
    };

    fn pass(over: &UnixStream, files: &[RawFd]) {
        let bytes = [IoSlice::new(b"x")];
        sendmsg::<()>(over.as_raw_fd(), &bytes, &[ControlMessage::ScmRights(files)], MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn the_first_passed_file_is_kept_and_the_others_are_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        let (first, mut kept) = UnixStream::pair().unwrap();
        let (second, mut closed) = UnixStream::pair().unwrap();
        pass(&there, &[first.as_raw_fd(), second.as_raw_fd()]);
        drop((first, second));
        let received = receive(&here, &mut [0; 8], true).unwrap();
        assert_eq!(received.bytes, 1);
        let mut file = UnixStream::from(received.file.unwrap());
        file.write_all(b"k").unwrap();
        let mut byte = [0];
        kept.read_exact(&mut byte).unwrap();
        assert_eq!(closed.read(&mut byte).unwrap(), 0, "its other end is closed");
    }

    #[test]
    fn a_file_that_is_not_expected_is_refused_and_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        let (passed, mut closed) = UnixStream::pair().unwrap();
        pass(&there, &[passed.as_raw_fd()]);
        drop(passed);
        assert!(receive(&here, &mut [0; 8], false).is_err());
        assert_eq!(closed.read(&mut [0]).unwrap(), 0);
    }
}
