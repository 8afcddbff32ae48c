//! The HTTP server of a witness: each answer of the specification, and the limits.

use super::{
    super::tests::{Bench, checkpoint, proof},
    *,
};
use failsafe_tlog::Note;
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{fs::OpenOptions, io::Read as _};

struct Asked {
    bench: Bench,
    server: Arc<Server>,
}

impl Asked {
    fn new() -> Asked {
        let bench = Bench::new();
        let (dir, keys) = (bench.path("witness"), bench.path("keys"));
        let server = Arc::new(Server { dir, keys, turn: Arc::default(), zone: jiff::tz::TimeZone::UTC });
        Asked { bench, server }
    }

    /// Status, type and body of the answer.
    fn ask(&self, method: Method, path: &str, body: &[u8]) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(Full::<Bytes>::from(body.to_vec())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(self.server.clone().answer(request, "127.0.0.1:1".parse().unwrap()));
        let kind = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    fn add(&self, body: &[u8]) -> (u16, String) {
        let (status, _, text) = self.ask(Method::POST, "/add-checkpoint", body);
        (status, text)
    }
}

#[test]
fn an_extension_is_cosigned_and_the_answer_completes_the_checkpoint() {
    let asked = Asked::new();
    for (request, note) in [(checkpoint(3, false), checkpoint(3, false)), (proof(3, 7, false), checkpoint(7, false))] {
        let (status, line) = asked.add(&request);
        assert_eq!((status, line.lines().count()), (200, 1), "{line}");
        let cosigned = Note::parse(&[note.as_slice(), line.as_bytes()].concat()).unwrap();
        assert!(asked.bench.public().cosigned(&cosigned).unwrap().is_some());
    }
}

#[test]
fn each_refusal_has_the_status_of_the_specification_and_signs_nothing() {
    let asked = Asked::new();
    assert_eq!(asked.add(&checkpoint(3, false)).0, 200);
    let kept = std::fs::read(asked.bench.kept()).unwrap();
    let conflict = asked.ask(Method::POST, "/add-checkpoint", &proof(2, 2, false));
    assert_eq!(conflict, (409, "text/x.tlog.size".into(), "3\n".into()));
    assert_eq!(asked.add(&proof(3, 7, true)).0, 422);
    assert_eq!(asked.add(b"text").0, 400);
    assert_eq!(asked.add(&vec![b'x'; MAX_BYTES + 1]).0, 413);
    let forged = String::from_utf8(proof(3, 7, false)).unwrap().replacen("\n7\n", "\n8\n", 1);
    assert_eq!(asked.add(forged.as_bytes()).0, 403);
    let other = String::from_utf8(checkpoint(3, false)).unwrap().replacen("failsafe", "elsewhere", 1);
    assert_eq!(asked.add(other.as_bytes()).0, 404);
    assert_eq!(asked.ask(Method::GET, "/add-checkpoint", b"").0, 405);
    assert_eq!(asked.ask(Method::POST, "/", b"").0, 404);
    assert_eq!(std::fs::read(asked.bench.kept()).unwrap(), kept);
}

#[test]
fn a_witness_that_cannot_work_gives_no_reason_away_and_signs_nothing() {
    let asked = Asked::new();
    std::fs::remove_file(asked.bench.path("keys")).unwrap();
    assert_eq!(asked.add(&checkpoint(3, false)), (503, "the witness cannot cosign now\n".into()));
    assert!(!asked.bench.kept().exists());
}

#[test]
fn a_client_of_http_gets_its_cosignature_by_the_network() {
    let asked = Asked::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(accept(listener, asked.server.clone()));
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let body = checkpoint(3, false);
    let head = format!("POST /add-checkpoint HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\n\r\n\u{2014} "), "{answer}");
}

/// The disk hangs in place of the list of keys: a pipe that nobody writes to.
#[test]
fn on_a_disk_that_hangs_one_request_hangs_and_a_stop_does_not_wait_for_it() {
    let asked = Asked::new();
    let keys = asked.bench.path("keys");
    std::fs::remove_file(&keys).unwrap();
    mkfifo(&keys, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ask = || {
        let request = Request::post("/add-checkpoint").body(Full::<Bytes>::from(checkpoint(3, false))).unwrap();
        asked.server.clone().answer(request, "127.0.0.1:1".parse().unwrap())
    };
    runtime.block_on(async {
        let first = tokio::spawn(ask());
        while asked.server.turn.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        // Its connection takes too long, and is closed.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let second = tokio::time::timeout(Duration::from_millis(50), ask()).await;
        assert!(second.is_err(), "it waits for its turn");
        assert!(asked.server.turn.try_lock().is_err(), "the first one has it");
    });
    stop(runtime);
    // Lets go of the thread that waits.
    drop(OpenOptions::new().write(true).open(&keys).unwrap());
}
