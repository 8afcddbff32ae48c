//! `report`: one metric of the run that this command runs in, over the daemon's stream socket, which answers whether it accepted
//! the value. The kernel tells the daemon which process connected.

use crate::{
    args::ReportArgs,
    exit::{Exit, Fail},
    render::{json, print},
};
use serde_json::json;
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the daemon's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, bytes.
const ANSWER: u64 = 4_096;

pub(super) fn report(args: &ReportArgs) -> Result<Exit, Fail> {
    send(&args.metrics_socket, &lines(args))?;
    if args.output.json() {
        let value = args.value.to_string();
        print(&json::text(&json!({ "name": args.name, "value": value, "step": args.step, "accepted": true })))?;
    }
    Ok(Exit::Done)
}

fn lines(args: &ReportArgs) -> String {
    let step = args.step.map(|step| format!(" {step}")).unwrap_or_default();
    // Values that separate commands report are one series.
    format!("!rank {}\n!oneshot\n{} {}{step}\n?\n", args.rank, args.name, args.value)
}

fn send(socket: &Path, lines: &str) -> Result<(), Fail> {
    accepted(&exchange(socket, lines)?)
}

/// Sends lines, the last of them a question, and gives the daemon's answer.
///
/// # Errors
/// The daemon does not answer.
pub(super) fn exchange(socket: &Path, lines: &str) -> Result<String, Fail> {
    let mut stream = socket.as_os_str().to_owned();
    stream.push(".stream");
    let path = PathBuf::from(stream);
    let failed = |error: std::io::Error| {
        let fail = Fail::because(format!("cannot report to {}", path.display()), &error);
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => fail.advise(
                "failsafed is not running, or its socket is elsewhere: --metrics-socket or FAILSAFE_METRICS_SOCKET",
            ),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => fail.advise("failsafed did not answer within 10 s"),
            _ => fail,
        }
    };
    let connected = UnixStream::connect(&path).map_err(failed)?;
    connected.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    connected.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    // One that is refused at once is answered and closed: the answer is there all the same.
    let written = (&connected).write_all(lines.as_bytes());
    let mut answer = String::new();
    let read = BufReader::new((&connected).take(ANSWER)).read_line(&mut answer);
    if answer.is_empty() {
        written.map_err(failed)?;
        read.map_err(failed)?;
    }
    Ok(answer.trim().to_owned())
}

/// `accepted A refused R [REASON]`.
fn accepted(answer: &str) -> Result<(), Fail> {
    let mut words = answer.splitn(5, ' ');
    if let (Some("accepted"), Some("1"), Some("refused"), Some("0")) =
        (words.next(), words.next(), words.next(), words.next())
    {
        return Ok(());
    }
    let reason = words.next().unwrap_or("the connection was closed without an answer");
    Err(Fail::new(Exit::Error, format!("failsafed did not accept the value: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answered(answer: &'static str) -> (Result<(), Fail>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let server = UnixListener::bind(dir.path().join("m.stream")).unwrap();
        let daemon = std::thread::spawn(move || {
            let (stream, _) = server.accept().unwrap();
            let mut got = String::new();
            let mut lines = BufReader::new(&stream);
            while !got.ends_with("?\n") {
                assert!(lines.read_line(&mut got).unwrap() > 0);
            }
            (&stream).write_all(answer.as_bytes()).unwrap();
            got
        });
        (send(&path, "loss 2.5 7\n?\n"), daemon.join().unwrap())
    }

    #[test]
    fn the_daemons_answer_decides_and_its_reason_is_shown() {
        let (done, got) = answered("accepted 1 refused 0\n");
        assert!(done.is_ok() && got == "loss 2.5 7\n?\n", "{got}");
        let (done, _) = answered("accepted 0 refused 1 the process is in no run that failsafed watches\n");
        let fail = done.unwrap_err();
        assert!(fail.message.contains("the process is in no run"), "{}", fail.message);
        assert_eq!(fail.exit, Exit::Error);
        assert!(answered("").0.is_err(), "no answer is no acceptance");
    }

    #[test]
    fn nobody_listening_is_an_error_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let fail = send(&dir.path().join("none"), "loss 1\n").unwrap_err();
        assert!(fail.advice.unwrap().contains("not running"));
        assert_eq!(fail.exit, Exit::Error);
    }
}
