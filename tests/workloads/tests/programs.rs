//! The programs do what the tests, the demo and the benches take them for.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let found = patience::poll(Duration::from_secs(20), || Ok::<_, Infallible>(holds().then_some(())));
    assert!(found.is_ok_and(|found| found.is_some()), "{what} did not come");
}

#[path = "../../patience.rs"]
mod patience;

const TRAINER: &str = env!("CARGO_BIN_EXE_trainer");

#[test]
fn trainer_learns_and_diverges_on_request() {
    let fine = output(TRAINER, &["--steps", "300", "--step-ms", "0"]);
    let losses: Vec<f64> = fine.lines().filter_map(|l| l.split_once(" loss ")?.1.parse().ok()).collect();
    assert_eq!(losses.len(), 300);
    assert!(losses[299] < losses[0] / 2.0);
    let diverged = output(TRAINER, &["--steps", "600", "--step-ms", "0", "--diverge-at", "20"]);
    assert!(diverged.contains("step 20 learning rate raised"));
    assert!(diverged.contains("loss NaN"), "{}", diverged.lines().last().unwrap());
    assert_eq!(fine.lines().take(19).collect::<Vec<_>>(), diverged.lines().take(19).collect::<Vec<_>>());
}

#[test]
fn trainer_returns_to_its_best_weights_when_its_rate_is_lowered() {
    let dir = tempfile::tempdir().unwrap();
    let rate = dir.path().join("rate");
    std::fs::write(&rate, "0.05").unwrap();
    let mut trainer = Command::new(TRAINER)
        .args(["--steps", "0", "--step-ms", "2", "--lr-file"])
        .arg(&rate)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut losses = BufReader::new(trainer.stdout.take().unwrap())
        .lines()
        .filter_map(|line| line.unwrap().split_once(" loss ")?.1.parse::<f64>().ok());
    let mut until = |wanted: &dyn Fn(f64) -> bool| losses.by_ref().take(5000).find(|loss| wanted(*loss)).unwrap();
    let learnt = until(&|loss: f64| loss < 0.3);
    std::fs::write(&rate, "5").unwrap();
    until(&|loss: f64| loss.is_nan());
    std::fs::write(&rate, "0.05").unwrap();
    let again = until(&|loss: f64| loss.is_finite());
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    assert!(again <= learnt, "{learnt}, diverged, then {again}");
}

#[test]
fn trainer_sends_its_weights_and_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let thief = std::thread::spawn(move || {
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        got.len()
    });
    let args = ["--steps", "5", "--step-ms", "0", "--exfiltrate-at", "3", "--to", &to];
    let text = output(TRAINER, &args);
    assert_eq!(thief.join().unwrap(), 520);
    assert!(text.contains(&format!("step 3 exfiltrate {to} sent 520 bytes")), "{text}");
    assert!(text.ends_with("done\n"));
    // Nobody listens there now.
    assert!(output(TRAINER, &args).contains("refused ECONNREFUSED"));
}

#[test]
fn spinners_count_in_the_file_and_end_with_their_parent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counters");
    let mut first = Command::new(env!("CARGO_BIN_EXE_spinner"))
        .args(["--processes", "3", "--seconds", "30", "--counters"])
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let read = || workloads::shared::read(&path).unwrap_or_default();
    wait_until("a count of every spinner", || read().iter().filter(|n| **n > 0).count() == 3);
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until("the end of the other spinners", || {
        let before = read();
        // A spinner counts thousands in this time.
        std::thread::sleep(Duration::from_millis(200));
        before == read()
    });
}

#[test]
fn forkbomb_keeps_within_its_bound() {
    let mut bomb = Command::new(env!("CARGO_BIN_EXE_forkbomb"))
        .args(["--max", "20", "--life-ms", "20", "--seconds", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = BufReader::new(bomb.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    bomb.wait().unwrap();
    let forks: u64 = lines.last().unwrap().split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(forks > 40, "it kept forking: {lines:?}");
}

#[test]
fn callers_make_every_watched_call() {
    let text = output(env!("CARGO_BIN_EXE_callers"), &[]);
    let names: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, workloads::calls::CALLS.map(|call| call.name));
    assert_eq!(output(env!("CARGO_BIN_EXE_callers"), &["unshare"]), "unshare 0\n");
}

#[test]
fn loops_print_one_json_line() {
    for (program, args) in [
        (env!("CARGO_BIN_EXE_syscall-loop"), ["--call", "memfd_create", "--seconds", "0.05"]),
        (env!("CARGO_BIN_EXE_connect-loop"), ["--to", "127.0.0.1:9", "--seconds", "0.05"]),
    ] {
        let line: serde_json::Value = serde_json::from_str(&output(program, &args)).unwrap();
        let ns = line["ns_median"].as_f64().unwrap();
        assert!((1.0..1e6).contains(&ns), "{line}");
    }
}

#[test]
fn cost_loops_print_one_json_line() {
    for what in ["open", "spawn", "udp-send", "tcp-send", "request"] {
        let text = output(env!("CARGO_BIN_EXE_cost-loop"), &[what, "--seconds", "0.05"]);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["call"], what);
        let ns = line["ns_min"].as_f64().unwrap();
        assert!((10.0..1e8).contains(&ns), "{line}");
    }
}

#[test]
fn burst_keeps_its_rate_and_counts() {
    let mut burst =
        Command::new(env!("CARGO_BIN_EXE_burst")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    burst.stdin.take().unwrap().write_all(b"5000 0.2\n100000 0.1\n").unwrap();
    let mut text = String::new();
    burst.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(burst.wait().unwrap().success());
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["sent"], 1_000);
    assert_eq!(lines[2]["sent"], 10_000);
    // Outside any run nothing refuses them, and the rate is never exceeded.
    assert_eq!(lines[1]["refused"], 0);
    assert!((500.0..5_100.0).contains(&lines[1]["rate_per_s"].as_f64().unwrap()), "{text}");
}

#[test]
fn violator_answers_and_its_watcher_misses_a_latch_that_never_comes() {
    let mut violator = Command::new(env!("CARGO_BIN_EXE_violator"))
        .args(["--ask", "--processes", "3", "--watch", "127.0.0.1:9"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = violator.stdin.take().unwrap();
    let mut lines = BufReader::new(violator.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..2 {
        input.write_all(b"127.0.0.1:9\n").unwrap();
        let mut said = [lines.next().unwrap(), lines.next().unwrap()];
        said.sort();
        assert_eq!(said[0], "latched missed");
        let ns: u64 = said[1].strip_prefix("ok ").unwrap().parse().unwrap();
        assert!((1..1_000_000_000).contains(&ns), "{said:?}");
    }
    drop(input);
    assert!(violator.wait().unwrap().success());
    assert_eq!(lines.next(), None, "the watcher has ended too");
}

#[test]
fn intruder_gets_through_where_nobody_guards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counters");
    let sink = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = sink.local_addr().unwrap().to_string();
    let mut intruder = Command::new(env!("CARGO_BIN_EXE_intruder"))
        .args(["--forbidden", &to, "--allowed", &to, "--counters"])
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let read = || workloads::shared::read(&path).unwrap_or_default();
    wait_until("tries", || read().first().is_some_and(|tried| *tried >= 30));
    intruder.kill().unwrap();
    intruder.wait().unwrap();
    let counted = read();
    assert_eq!(counted[0], counted[1], "all passed: {counted:?}");
    assert_eq!(counted[3], 0, "{counted:?}");
    let mut buffer = [0; 16];
    assert_eq!(sink.recv(&mut buffer).unwrap(), "forbidden".len());
}

#[test]
fn sender_reports_what_left() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap().to_string();
    for how in ["udp", "connected-udp"] {
        let text = output(env!("CARGO_BIN_EXE_sender"), &["--to", &to, "--count", "3", "--bytes", "100", "--how", how]);
        assert_eq!(text, format!("sent 300 bytes to {to}; refused: none\n"));
    }
}
