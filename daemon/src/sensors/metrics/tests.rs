//! Both sockets, with this process as the sender.

use super::*;
use crate::testing::until;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    time::Duration,
};

/// Every process of this test is in one run, or in none.
struct Fake {
    run: Arc<Mutex<Option<RunId>>>,
    roots: bool,
    relays: bool,
}

impl Runs for Fake {
    fn of_cgroup(&self, _cgroup: &Path) -> Option<Reporting> {
        let run = (*self.run.lock().unwrap())?;
        let text = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
                    when = { signal = \"metric.loss\", above = 1 }\nactions = [\"notify\"]\n";
        let policy = failsafe_core::policy::parse::parse("p", text).unwrap();
        Some(Reporting { run, needed: Arc::new(Needed::of(&policy)) })
    }
    fn lives(&self, _run: RunId) -> bool {
        true
    }
    fn another_is_roots(&self, _run: RunId) -> bool {
        self.roots
    }
    fn relays(&self, _uid: u32, _cgroup: &Path) -> bool {
        self.relays
    }
}

struct Rig {
    folder: tempfile::TempDir,
    events: mpsc::Receiver<MetricsEvent>,
    run: Arc<Mutex<Option<RunId>>>,
    _running: Running,
}

impl Rig {
    fn new(in_a_run: bool, roots: bool) -> Rig {
        Rig::with(in_a_run, roots, false)
    }

    /// In which this process is the gateway.
    fn relay() -> Rig {
        Rig::with(false, false, true)
    }

    fn with(in_a_run: bool, roots: bool, relays: bool) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let (tx, events) = mpsc::channel();
        let socket = MetricsSocket::bind(&folder.path().join("m.sock")).unwrap();
        let id: RunId = ID.parse().unwrap();
        let run = Arc::new(Mutex::new(in_a_run.then_some(id)));
        let running =
            socket.spawn(Fake { run: run.clone(), roots, relays }, move |event| drop(tx.send(event))).unwrap();
        Rig { folder, events, run, _running: running }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("m.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(stream_path(&self.path())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn next(&self) -> MetricsEvent {
        self.events.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn metric(&self) -> Metric {
        loop {
            if let MetricsEvent::Metric { metric, .. } = self.next() {
                return metric;
            }
        }
    }

    fn lost(&self) -> (String, u64) {
        loop {
            if let MetricsEvent::Lost { why, count, .. } = self.next() {
                return (why, count);
            }
        }
    }
}

fn answer(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_stream_answers_whether_each_value_was_accepted_and_why_not() {
    let rig = Rig::new(true, false);
    let mut stream = rig.connect();
    stream.write_all(b"loss 2.5 7\nloss nan rank=1\nlo$s 1\nloss x\n?\n").unwrap();
    let text = answer(&stream);
    assert_eq!(text, "accepted 2 refused 2 the name is not 1 to 64 of letters, digits, `_`, `-`, `.`, `/`\n");
    let (first, second) = (rig.metric(), rig.metric());
    let pid = std::process::id();
    assert!(matches!(&first.series, Series::Process { pid: own, .. } if *own == pid) && first.step == Some(7));
    assert!(second.value.is_nan() && second.series == Series::Rank("1".into()));
    stream.write_all(b"!rank 5\nloss 1\n?\n").unwrap();
    assert_eq!(answer(&stream), "accepted 1 refused 0\n", "counted since the last answer");
    assert_eq!(rig.metric().series, Series::Rank("5".into()));
    let refused = [rig.lost(), rig.lost()];
    assert!(refused.iter().all(|(why, count)| why.starts_with("refused: ") && *count == 1), "{refused:?}");
}

#[test]
fn outside_a_run_nothing_is_accepted_and_a_process_that_leaves_its_run_is_refused() {
    let rig = Rig::new(false, false);
    assert_eq!(answer(&rig.connect()), "accepted 0 refused 1 the process is in no run that failsafed watches\n");
    let rig = Rig::new(true, false);
    let mut stream = rig.connect();
    stream.write_all(b"loss 1\n?\n").unwrap();
    assert_eq!(answer(&stream), "accepted 1 refused 0\n");
    *rig.run.lock().unwrap() = None;
    until("the cgroup of the sender is read again", || {
        stream.write_all(b"loss 1\n?\n").unwrap();
        answer(&stream).starts_with("accepted 0 refused 1 the process is in no run")
    });
}

#[test]
fn what_the_client_lost_is_reported() {
    let rig = Rig::new(true, false);
    rig.connect().write_all(b"!lost 12\n").unwrap();
    assert_eq!(rig.lost(), ("the client's buffer was full".to_owned(), 12));
}

#[test]
fn a_connection_that_another_process_writes_to_reports_nothing() {
    let rig = Rig::new(true, false);
    let stream = rig.connect();
    let mut child = Command::new("sh");
    child.args(["-c", "echo loss nan"]).stdout(Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap())));
    let mut child = child.spawn().unwrap();
    assert!(child.wait().unwrap().success());
    (&stream).write_all(b"loss 1\n?\n").unwrap();
    let text = answer(&stream);
    assert!(text.starts_with("accepted 1 refused 1 written by another process"), "{text}");
    assert_eq!(rig.metric().value, 1.0);
}

#[test]
fn a_hundred_metrics_at_a_thousand_steps_lose_nothing() {
    let rig = Rig::new(true, false);
    let mut stream = rig.connect();
    let writer = std::thread::spawn(move || {
        for step in 0..1_000u64 {
            let mut lines = String::new();
            for n in 0..99 {
                lines.push_str(&format!("m{n} {step} {step}\n"));
            }
            let loss = if step == 777 { "nan".to_owned() } else { step.to_string() };
            lines.push_str(&format!("loss {loss} {step}\n"));
            stream.write_all(lines.as_bytes()).unwrap();
        }
        stream.write_all(b"?\n").unwrap();
        answer(&stream)
    });
    let mut steps = Vec::new();
    while steps.len() < 1_000 {
        let metric = rig.metric();
        if metric.name == "loss" {
            assert_eq!(metric.value.is_nan(), metric.step == Some(777));
            steps.extend(metric.step);
        }
    }
    assert!(steps.iter().copied().eq(0..1_000));
    assert_eq!(writer.join().unwrap(), "accepted 100000 refused 0\n");
}

/// Passes a connection, as the gateway does.
fn pass(stream: &UnixStream, passed: &UnixStream) {
    let files = [std::os::fd::AsRawFd::as_raw_fd(passed)];
    let (bytes, rights) = ([std::io::IoSlice::new(b"!peer\n")], [ControlMessage::ScmRights(&files)]);
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    sendmsg::<()>(fd, &bytes, &rights, MsgFlags::empty(), None).unwrap();
}

const ID: &str = "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d";

#[test]
fn the_gateway_reports_for_the_process_of_the_connection_that_it_passes() {
    let rig = Rig::relay();
    let mut stream = rig.connect();
    stream.write_all(b"loss 1\n?\n").unwrap();
    assert!(
        answer(&stream).starts_with("accepted 0 refused 1 the process is in no run"),
        "no connection is passed yet"
    );
    let listener = UnixListener::bind(rig.folder.path().join("of-gateway")).unwrap();
    let client = UnixStream::connect(rig.folder.path().join("of-gateway")).unwrap();
    let accepted = listener.accept().unwrap().0;
    *rig.run.lock().unwrap() = Some(ID.parse().unwrap());
    pass(&stream, &accepted);
    stream.write_all(b"!refused 3 name\n!refused 1 nonsense\nloss 2.5 7\n?\n").unwrap();
    let text = answer(&stream);
    assert!(text.starts_with("accepted 1 refused 4 the name is not 1 to 64"), "{text}");
    assert_eq!((rig.metric().step, rig.lost().1 + rig.lost().1), (Some(7), 4));
    // Once is enough: what is passed later is closed, and the connection with it.
    pass(&stream, &accepted);
    assert_eq!(answer(&stream), "");
    drop(client);
}

#[test]
fn a_process_that_connected_to_the_gateway_before_its_run_was_registered_reports_once_it_is() {
    let rig = Rig::relay();
    let mut stream = rig.connect();
    let listener = UnixListener::bind(rig.folder.path().join("of-gateway")).unwrap();
    let _client = UnixStream::connect(rig.folder.path().join("of-gateway")).unwrap();
    pass(&stream, &listener.accept().unwrap().0);
    let mut report = || {
        stream.write_all(b"loss 2.5\n?\n").unwrap();
        answer(&stream)
    };
    assert!(report().starts_with("accepted 0 refused 1 the process is in no run"));
    *rig.run.lock().unwrap() = Some(ID.parse().unwrap());
    until("the run is found", || report() == "accepted 1 refused 0\n");
    assert_eq!(rig.metric().name, "loss");
}

#[test]
fn a_connection_that_the_gateway_made_itself_is_not_whose_listener_it_reached() {
    let rig = Rig::relay();
    let path = rig.folder.path().join("of-victim");
    let _listener = UnixListener::bind(&path).unwrap();
    let made = UnixStream::connect(&path).unwrap();
    let mut stream = rig.connect();
    stream.write_all(b"?\n").unwrap();
    assert_eq!(answer(&stream), "accepted 0 refused 0\n", "it is the gateway's");
    *rig.run.lock().unwrap() = Some(ID.parse().unwrap());
    pass(&stream, &made);
    stream.write_all(b"loss nan\n?\n").unwrap();
    let text = answer(&stream);
    assert!(text.starts_with("accepted 0 refused 1 the client's socket is bound to an address"), "{text}");
}

#[test]
fn a_process_of_a_run_cannot_report_for_another_connection() {
    let rig = Rig::new(true, false);
    let (one, _other) = UnixStream::pair().unwrap();
    let stream = rig.connect();
    pass(&stream, &one);
    assert_eq!(answer(&stream), "", "the connection is closed");
    let mut stream = rig.connect();
    stream.write_all(b"!peer\n!refused 5 name\n?\n").unwrap();
    let text = answer(&stream);
    assert!(text.starts_with("accepted 0 refused 6 unknown command"), "{text}");
}

#[test]
fn datagrams_count_only_while_no_other_run_is_roots() {
    let rig = Rig::new(true, false);
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"loss nan 7\n", rig.path()).unwrap();
    let metric = rig.metric();
    assert!(metric.value.is_nan() && metric.step == Some(7));
    let rig = Rig::new(true, true);
    sender.send_to(b"loss nan 7\n", rig.path()).unwrap();
    let (why, count) = rig.lost();
    assert!(why.contains("use the stream socket") && count == 1, "{why}");
}

#[test]
fn a_series_ends_with_its_process() {
    let rig = Rig::new(true, false);
    let stream = stream_path(&rig.path());
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect({:?}); s.sendall(b'loss 1\\n?\\n'); s.recv(99)",
        stream.display().to_string()
    );
    let Ok(mut child) = Command::new("python3").args(["-S", "-c", &script]).spawn() else { return };
    assert!(child.wait().unwrap().success());
    let of = rig.metric().series;
    let ended = loop {
        if let MetricsEvent::SeriesEnded { series, .. } = rig.next() {
            break series;
        }
    };
    assert!(of == ended && matches!(ended, Series::Process { pid, .. } if pid == child.id()));
}

#[test]
fn garbage_is_counted_and_what_comes_after_still_arrives() {
    let rig = Rig::new(true, false);
    let sender = UnixDatagram::unbound().unwrap();
    for _ in 0..1_500 {
        sender.send_to(b"\xff\xfe not a metric", rig.path()).unwrap();
    }
    sender.send_to(b"ok 1", rig.path()).unwrap();
    let (mut garbage, mut ok) = (0, false);
    while garbage < 1_500 || !ok {
        match rig.next() {
            MetricsEvent::Garbage { count } => garbage += count,
            MetricsEvent::Metric { metric, .. } => ok = metric.name == "ok",
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(garbage, 1_500);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let Rig { folder, _running: running, .. } = Rig::new(true, false);
    let path = folder.path().join("m.sock");
    assert!(matches!(MetricsSocket::bind(&path), Err(MetricsError::InUse(_))));
    drop(running);
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(path.exists());
    MetricsSocket::bind(&path).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(MetricsSocket::bind(&file), Err(MetricsError::Socket { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}
