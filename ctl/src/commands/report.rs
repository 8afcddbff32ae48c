//! `report`: one metric of the run that this command runs in, as one datagram. Who sends it is told by the kernel.

use crate::{
    args::ReportArgs,
    exit::{Exit, Fail},
    render::{json, print},
};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, sendmsg, socket,
};
use serde_json::json;
use std::{
    io::{ErrorKind, IoSlice},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

/// How long this process stays after sending. The daemon finds the run by this process's cgroup, which it can read only while
/// the process lives, and a datagram has no answer to wait for.
const STAY: Duration = Duration::from_millis(200);

pub(super) fn report(args: &ReportArgs) -> Result<Exit, Fail> {
    let line = line(args);
    send(&args.metrics_socket, &line)?;
    std::thread::sleep(STAY);
    if args.output.json() {
        let value = args.value.to_string();
        print(&json::text(&json!({ "name": args.name, "value": value, "step": args.step, "sent": true })))?;
    }
    Ok(Exit::Done)
}

fn line(args: &ReportArgs) -> String {
    let step = args.step.map(|step| format!(" {step}")).unwrap_or_default();
    format!("{} {}{step}\n", args.name, args.value)
}

fn send(to: &Path, line: &str) -> Result<(), Fail> {
    let failed = |error: nix::Error| {
        let error = std::io::Error::from(error);
        let fail = Fail::because(format!("cannot report to {}", to.display()), &error);
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => fail.advise(
                "failsafed is not running, or its socket is elsewhere: --metrics-socket or FAILSAFE_METRICS_SOCKET",
            ),
            ErrorKind::WouldBlock => fail.advise("the daemon's queue is full; the sample is lost"),
            _ => fail,
        }
    };
    let address = UnixAddr::new(to).map_err(failed)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(failed)?;
    let me = UnixCredentials::new();
    let credentials = [ControlMessage::ScmCredentials(&me)];
    let text = [IoSlice::new(line.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, &credentials, MsgFlags::MSG_NOSIGNAL, Some(&address)).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        cmsg_space,
        sys::socket::{ControlMessageOwned, recvmsg, setsockopt, sockopt::PassCred},
    };
    use std::{io::IoSliceMut, os::unix::net::UnixDatagram};

    #[test]
    fn a_metric_arrives_with_the_senders_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let server = UnixDatagram::bind(&path).unwrap();
        setsockopt(&server, PassCred, &true).unwrap();
        send(&path, "loss 2.5 7\n").unwrap();
        let (mut buffer, mut space) = ([0; 64], cmsg_space!(UnixCredentials));
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<UnixAddr>(server.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let pids: Vec<i32> = got
            .cmsgs()
            .unwrap()
            .filter_map(|c| if let ControlMessageOwned::ScmCredentials(c) = c { Some(c.pid()) } else { None })
            .collect();
        let bytes = got.bytes;
        assert_eq!(pids, [i32::try_from(std::process::id()).unwrap()]);
        assert_eq!(&buffer[..bytes], b"loss 2.5 7\n");
    }

    #[test]
    fn nobody_listening_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let fail = send(&dir.path().join("none"), "loss 1\n").unwrap_err();
        assert!(fail.advice.unwrap().contains("not running"));
        assert_eq!(fail.exit, Exit::Error);
    }
}
