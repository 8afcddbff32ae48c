//! `scrape` and `relay`: what goes on beside a command, whatever becomes of the caller's descriptors.

use crate::support::bare;
use std::{
    io::{BufRead, BufReader, Read, pipe},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// What hangs fails after this.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_scraper_goes_on_when_nobody_reads_its_standard_error() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    // Nobody listens at port 1, or another process does: it is an error in each pass, and printed in the first.
    let mut scraper = bare(Path::new("/nonexistent"))
        .args(["scrape", "127.0.0.1:1", "--every", "100ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    let lines = BufReader::new(scraper.stdout.take().unwrap()).lines();
    let passes: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    scraper.kill().unwrap();
    scraper.wait().unwrap();
    assert!(passes.len() == 3 && passes.iter().all(|pass| pass.contains("cannot read")), "{passes:?}");
}

#[test]
fn what_goes_on_beside_the_caller_holds_no_descriptor_of_it() {
    // Descriptor 7 is the pipe that this test reads to its end. The shell closes its own, and stays.
    let script = "\"$0\" relay --statsd 127.0.0.1:0 --detach 7>&1 >/dev/null && exec >/dev/null && read line";
    let program = bare(Path::new("/nonexistent")).get_program().to_owned();
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = shell.stdout.take().unwrap();
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let mut all = String::new();
        output.read_to_string(&mut all).unwrap();
        ended.send(all)
    });
    let all = end.recv_timeout(PATIENCE);
    let is_running = shell.try_wait().unwrap().is_none();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(all.as_deref(), Ok(""), "the end of the pipe is not seen");
    assert!(is_running, "the relay did not start");
}
