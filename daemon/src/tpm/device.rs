//! The way to a TPM: the kernel's device with its resource manager, or the socket of a software TPM.

use super::ANSWER;
use failsafe_tpm::{Transport, command::MAX_ANSWER};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    path::Path,
    time::Duration,
};

/// Bytes in front of an answer.
const HEADER: usize = 10;

/// An open TPM.
pub(super) struct Device {
    way: Way,
    /// How long an answer is waited for.
    patience: Duration,
}

enum Way {
    /// `/dev/tpmrm0`.
    File(File),
    /// The socket of swtpm.
    Socket(UnixStream),
}

impl Device {
    pub fn open(path: &Path) -> io::Result<Device> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_socket() {
            let socket = UnixStream::connect(path)?;
            socket.set_write_timeout(Some(ANSWER))?;
            return Ok(Device::of(Way::Socket(socket)));
        }
        if !kind.is_char_device() {
            return Err(io::Error::other("it is neither a character device nor a socket"));
        }
        // Without waiting in `write`: the kernel carries the command out in the background, and `poll` shows when it has ended.
        let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits())
            .open(path)
            .map(|file| Device::of(Way::File(file)))
    }

    fn of(way: Way) -> Device {
        Device { way, patience: ANSWER }
    }

    /// From now on an answer is waited for as long.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }
}

impl Transport for Device {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.way {
            Way::File(file) => {
                // The driver takes a command in one piece, and gives an answer in one.
                if file.write(command)? != command.len() {
                    return Err(io::Error::other("the driver took a part of the command only"));
                }
                let mut wanted = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                let timeout = PollTimeout::try_from(self.patience).unwrap_or(PollTimeout::MAX);
                if poll(&mut wanted, timeout)? == 0 {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
                let mut answer = vec![0; MAX_ANSWER];
                let n = file.read(&mut answer)?;
                answer.truncate(n);
                Ok(answer)
            }
            Way::Socket(socket) => {
                socket.set_read_timeout(Some(self.patience))?;
                socket.write_all(command)?;
                let mut answer = vec![0; HEADER];
                socket.read_exact(&mut answer)?;
                let size = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]) as usize;
                if !(HEADER..=MAX_ANSWER).contains(&size) {
                    return Err(io::Error::other(format!("an answer of {size} bytes, expected 10 to {MAX_ANSWER}")));
                }
                answer.resize(size, 0);
                socket.read_exact(&mut answer[HEADER..])?;
                Ok(answer)
            }
        }
    }
}
