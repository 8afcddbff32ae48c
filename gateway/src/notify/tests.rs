//! What targets get, from a server, a program and a socket of the tests.

use super::{message::tests::frozen, queue::Queued, *};
use crate::config;
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{os::unix::fs::PermissionsExt, path::Path};
use tokio::{
    net::{TcpListener, UnixDatagram},
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// A request as it arrived.
struct Got {
    path: String,
    headers: hyper::HeaderMap,
    body: Vec<u8>,
}

/// An HTTP server that answers with these, the last one again and again.
struct Server {
    port: u16,
    got: mpsc::UnboundedReceiver<Got>,
}

/// A status, and headers.
type Answer = (u16, &'static [(&'static str, &'static str)]);

impl Server {
    async fn start(answers: &'static [Answer], tls: Option<TlsAcceptor>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, got) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let count = Arc::new(AtomicU64::new(0));
            while let Ok((stream, _)) = listener.accept().await {
                let (send, count, tls) = (send.clone(), count.clone(), tls.clone());
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (send, count) = (send.clone(), count.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes().to_vec();
                        let got = Got { path: parts.uri.path().to_owned(), headers: parts.headers, body };
                        let at = usize::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap().min(answers.len() - 1);
                        let (status, headers) = answers[at];
                        let mut answer = Response::builder().status(status);
                        for (name, value) in headers {
                            answer = answer.header(*name, *value);
                        }
                        let _ended = send.send(got);
                        Ok::<_, hyper::Error>(answer.body(Full::new(Bytes::from("said by the server"))).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ended = match tls {
                        None => server.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Server { port, got }
    }

    async fn next(&mut self) -> Got {
        self.got.recv().await.unwrap()
    }
}

fn config(text: &str) -> config::Target {
    toml::from_str(text).unwrap()
}

fn target(text: &str) -> Target {
    Target::open(&config(text)).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn worker(dir: &Path, name: &str, target: Target) -> Arc<Worker> {
    let queue = Queue::open(dir.join(name), Bounds { entries: 100, bytes: 1 << 20 }, 0).unwrap();
    let keep = Duration::from_secs(u64::MAX / 1_000_000_000);
    let (counts, active, first_wait) = (Counts::default(), Mutex::default(), Duration::from_millis(1));
    Arc::new(Worker { name: name.into(), target, queue, counts, keep, first_wait, active })
}

fn add(worker: &Worker, n: u64) {
    add_about(worker, n, "inc");
}

fn add_about(worker: &Worker, n: u64, key: &str) {
    let queued = Arc::new(Queued { n, message: Message { id: format!("{key}/{n}"), key: key.into(), ..frozen() } });
    let text = serde_json::to_vec(&queued.message).unwrap();
    worker.queue.store(&queued, &text).unwrap();
    worker.queue.publish(queued, text.len(), true);
}

/// Nothing waits any more.
async fn is_empty(worker: &Worker) {
    while worker.queue.waiting().0 > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_webhook_gets_a_signed_cloud_event() {
    let dir = tempfile::tempdir().unwrap();
    let secret = file(dir.path(), "secret", "a secret of many characters\n");
    let mut server = Server::start(&[(204, &[])], None).await;
    let url = format!("http://127.0.0.1:{}/hook?a=b", server.port);
    let target = target(&format!("type = \"webhook\"\nurl = {url:?}\nsecret_file = {secret:?}"));
    let message = Message { id: "inc-1/7".into(), ..frozen() };
    assert_eq!(target.send(&message).await, Delivery::Sent);
    let Got { path, headers, body } = server.next().await;
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!((path.as_str(), header("content-type").as_str()), ("/hook", "application/cloudevents+json"));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"a secret of many characters").unwrap();
    mac.update(format!("inc-1/7.{}.", header("webhook-timestamp")).as_bytes());
    mac.update(&body);
    assert_eq!(header("webhook-signature"), format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())));
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&event["specversion"], &event["id"]), (&object!("1.0"), &object!("inc-1/7")));
    assert_eq!(event["type"], "failsafe.v1.incident");
    assert_eq!(event["time"], "2027-01-15T08:00:00Z");
    assert_eq!(event["data"]["run"]["labels"]["team"], "llm");
    assert_eq!(event["data"]["next"], "failsafectl explain inc-5f0c9a1b2c3d-1");
}

#[tokio::test]
async fn a_message_that_is_not_taken_is_sent_again_with_its_id_before_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let answers: &[Answer] = &[(503, &[("retry-after", "0")]), (429, &[]), (200, &[]), (422, &[]), (200, &[])];
    let mut server = Server::start(answers, None).await;
    let url = format!("http://127.0.0.1:{}/", server.port);
    let worker = worker(dir.path(), "a", target(&format!("type = \"webhook\"\nurl = {url:?}")));
    (1..=3).for_each(|n| add(&worker, n));
    tokio::spawn(worker.clone().serve());
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(server.next().await.headers["webhook-id"].to_str().unwrap().to_owned());
    }
    assert_eq!(ids, ["inc/1", "inc/1", "inc/1", "inc/2", "inc/3"], "what is refused for ever is not sent again");
    is_empty(&worker).await;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!([&worker.counts.sent, &worker.counts.failed, &worker.counts.refused].map(count), [2, 2, 1]);
}

#[tokio::test]
async fn a_target_that_does_not_answer_delays_no_other_one() {
    let dir = tempfile::tempdir().unwrap();
    // It accepts connections, and answers none.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let slow = worker(dir.path(), "slow", target(&format!("type = \"webhook\"\nurl = {url:?}\ntimeout_s = 300")));
    let mut server = Server::start(&[(200, &[])], None).await;
    let url = format!("http://127.0.0.1:{}/", server.port);
    let quick = worker(dir.path(), "quick", target(&format!("type = \"webhook\"\nurl = {url:?}")));
    for worker in [&slow, &quick] {
        (1..=3).for_each(|n| add(worker, n));
        tokio::spawn(worker.clone().serve());
    }
    for _ in 0..3 {
        server.next().await;
    }
    assert_eq!(slow.queue.waiting().0, 3);
}

#[tokio::test]
async fn a_message_that_its_target_never_takes_delays_only_those_about_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let hook = program(
        dir.path(),
        "d=${0%/*}; m=$(cat); case $m in *'\"key\":\"bad\"'*) [ -e $d/mended ] || exit 1;; esac\n\
         echo \"$m\" | grep -o '\"id\":\"[a-z]*/[0-9]' | cut -d'\"' -f4 >>$d/taken",
    );
    let worker = worker(dir.path(), "a", target(&format!("type = \"exec\"\ncommand = [{hook:?}]\ntimeout_s = 300")));
    for (n, key) in [(1, "bad"), (2, "bad"), (3, "good"), (4, "other"), (5, "good")] {
        add_about(&worker, n, key);
    }
    let serving = tokio::spawn(worker.clone().serve());
    while worker.queue.waiting().0 > 2 {
        tokio::task::yield_now().await;
    }
    let taken = || std::fs::read_to_string(dir.path().join("taken")).unwrap_or_default();
    assert_eq!(taken(), "good/3\nother/4\ngood/5\n");
    file(dir.path(), "mended", "");
    is_empty(&worker).await;
    serving.abort();
    assert_eq!(taken(), "good/3\nother/4\ngood/5\nbad/1\nbad/2\n", "what was held back is sent in its order");
}

/// A server that answers each connection with the beginning of an answer, and leaves the connection open.
async fn unfinished(head: &'static str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _read = stream.read(&mut [0; 65_536]).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    port
}

#[tokio::test]
async fn the_status_of_an_answer_counts_although_its_body_does_not_end() {
    for (status, sent) in [("204 OK", true), ("200 OK", true), ("422 No", false)] {
        let head: String = format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsaid\r\n");
        let port = unfinished(Box::leak(head.into_boxed_str())).await;
        // The time limit is far away: what ends the wait is the bound of the body.
        let text = format!("type = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\ntimeout_s = 300");
        let delivery = target(&text).send(&frozen()).await;
        match sent {
            true => assert_eq!(delivery, Delivery::Sent, "{status}"),
            false => assert_eq!(delivery, Delivery::Refused("HTTP 422: said".into())),
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_old_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = worker(dir.path(), "a", target("type = \"webhook\"\nurl = \"http://127.0.0.1:1/\""));
    let nobody = Arc::new(Worker { keep: Duration::ZERO, ..Arc::into_inner(nobody).unwrap() });
    let queued = Queued { n: 1, message: Message { at_ns: 1, ..frozen() } };
    nobody.queue.publish(Arc::new(queued), 1, true);
    let serving = tokio::spawn(nobody.clone().serve());
    is_empty(&nobody).await;
    serving.abort();
    assert_eq!(nobody.queue.dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_is_verified_with_the_authorities_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut server = Server::start(&[(200, &[])], Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let ca = file(dir.path(), "ca.pem", &made.cert.pem());
    let url = |host: &str| format!("type = \"webhook\"\nurl = \"https://{host}:{}/\"\n", server.port);
    let trusted = target(&format!("{}ca_file = {ca:?}", url("localhost")));
    assert_eq!(trusted.send(&frozen()).await, Delivery::Sent);
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = file(dir.path(), "other.pem", &other.cert.pem());
    for (host, ca) in [("localhost", &other), ("127.0.0.1", &ca)] {
        let refused = target(&format!("{}ca_file = {ca:?}", url(host))).send(&frozen()).await;
        assert!(matches!(&refused, Delivery::Later(why, _) if why.contains("TLS")), "{host}: {refused:?}");
    }
    server.next().await;
    assert!(server.got.try_recv().is_err(), "nothing was sent to a server that is not verified");
}

#[tokio::test]
async fn a_routing_key_is_sent_and_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let key = file(dir.path(), "key", "R0UT1NGKEY");
    let mut server = Server::start(&[(202, &[])], None).await;
    let text =
        format!("type = \"pagerduty\"\nurl = \"http://127.0.0.1:{}/v2/enqueue\"\nsecret_file = {key:?}", server.port);
    let config = config(&text);
    assert_eq!(target(&text).send(&frozen()).await, Delivery::Sent);
    let event: Value = serde_json::from_slice(&server.next().await.body).unwrap();
    assert_eq!((&event["routing_key"], &event["event_action"]), (&object!("R0UT1NGKEY"), &object!("trigger")));
    assert!(!format!("{config:?}").contains("R0UT1NGKEY"));
    // A new key is used without a restart.
    let target = target(&text);
    std::fs::write(dir.path().join("key"), "SECOND").unwrap();
    target.send(&frozen()).await;
    let event: Value = serde_json::from_slice(&server.next().await.body).unwrap();
    assert_eq!(event["routing_key"], "SECOND");
}

/// A program of a test's own.
fn program(dir: &Path, text: &str) -> String {
    let path = file(dir, "hook", &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn a_program_gets_the_message_on_its_input_its_arguments_as_they_are_and_no_environment() {
    let dir = tempfile::tempdir().unwrap();
    let hook = program(dir.path(), "d=${0%/*}; cat >$d/in; printf %s \"$1\" >$d/args; env >$d/env");
    let exec = target(&format!("type = \"exec\"\ncommand = [{hook:?}, \"$(touch x); a b\"]"));
    assert_eq!(exec.send(&frozen()).await, Delivery::Sent);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("args"), "$(touch x); a b");
    let message: Value = serde_json::from_str(&read("in")).unwrap();
    assert_eq!(message["key"], "inc-5f0c9a1b2c3d-1");
    // The shell adds PWD and such; nothing is of the test's environment.
    let names: Vec<String> = read("env").lines().filter_map(|it| Some(it.split_once('=')?.0.to_owned())).collect();
    assert!(
        names.iter().all(|name| ["PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name.as_str())),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_program_that_fails_is_tried_again_later_and_its_errors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let hook = program(dir.path(), "echo 'no modem' >&2; exit 3");
    let failed = target(&format!("type = \"exec\"\ncommand = [{hook:?}]")).send(&frozen()).await;
    let Delivery::Later(why, _) = failed else { panic!("{failed:?}") };
    assert!(why.contains("exit status: 3") && why.contains("no modem"), "{why}");
}

#[tokio::test]
async fn a_program_that_takes_too_long_ends_with_all_processes_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let hook = program(dir.path(), "sleep 600 & echo $! >${0%/*}/new; mv ${0%/*}/new ${0%/*}/child; wait");
    let late = target(&format!("type = \"exec\"\ncommand = [{hook:?}]\ntimeout_s = 2")).send(&frozen()).await;
    assert!(matches!(&late, Delivery::Later(why, _) if why.contains("2 s")), "{late:?}");
    // On a slow machine the shell may not have come as far as starting one.
    let Ok(child) = std::fs::read_to_string(dir.path().join("child")) else { return };
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        status.contains("(sleep)") && !status.contains(") Z")
    };
    while alive() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_program_that_others_can_change_is_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    let hook = program(dir.path(), "true");
    let open = || Target::open(&config(&format!("type = \"exec\"\ncommand = [{hook:?}]"))).err();
    assert_eq!(open(), None);
    for mode in [0o722, 0o702, 0o600] {
        std::fs::set_permissions(&hook, PermissionsExt::from_mode(mode)).unwrap();
        let wrong = open().unwrap();
        assert_eq!((wrong.len(), wrong[0].0), (1, "command"), "{mode:o}");
    }
}

#[tokio::test]
async fn the_journal_gets_fields_that_can_be_searched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    let journal = target(&format!("type = \"journald\"\nsocket = {:?}", path.display().to_string()));
    assert_eq!(journal.send(&frozen()).await, Delivery::Sent);
    let mut entry = vec![0; 65_536];
    let length = socket.recv(&mut entry).await.unwrap();
    let text = String::from_utf8_lossy(&entry[..length]).into_owned();
    assert!(text.contains("FAILSAFE_INCIDENT") && text.contains("inc-5f0c9a1b2c3d-1"), "{text}");
    drop(socket);
    assert!(matches!(journal.send(&frozen()).await, Delivery::Later(..)), "the journal is away");
}

#[test]
fn alerts_that_are_open_are_sent_again_after_a_restart_without_a_new_message() {
    use book::tests::{decision, outcome, sender, started};
    use failsafe_core::decision::{Action, Verdict};
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::new();
    let frozen =
        [started(1, 1000), decision(1, 1, 1, &[Action::Freeze]), outcome(1, 1, 1, Action::Freeze, Verdict::Proved)];
    frozen.iter().for_each(|record| state.book.apply(&book::Entry { wall_ns: 1, mono_ns: 0, record }));
    let key = state.book.take(1, &sender())[0].key.clone();
    state.routed.insert(key.clone(), ["am".to_owned()].into());
    Store::new(dir.path()).write(&state).unwrap();
    let text = format!(
        "state_dir = {:?}\n[target.am]\ntype = \"alertmanager\"\nurl = \"http://127.0.0.1:1\"\n\
         [target.other]\ntype = \"alertmanager\"\nurl = \"http://127.0.0.1:1\"\n",
        dir.path().display().to_string()
    );
    // The channel to failsafed needs a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let notifier = runtime.block_on(async { Notifier::open(&toml::from_str(&text).unwrap(), "/none".into()) }).unwrap();
    let active = |name: &str| {
        let target = notifier.targets.iter().find(|it| it.worker.name == name).unwrap();
        target.worker.active.lock().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!((active("am"), active("other")), (vec![key], vec![]));
}

/// A notifier with one target, which nothing is sent to.
pub(super) async fn notifier(dir: &Path, socket: &Path) -> Notifier {
    let text = format!(
        "state_dir = {:?}\n[target.a]\ntype = \"alertmanager\"\nurl = \"http://127.0.0.1:1\"",
        dir.display().to_string()
    );
    Notifier::open(&toml::from_str(&text).unwrap(), socket.into()).unwrap()
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_is_not_lost_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("queue/a");
    let mut before = notifier(dir.path(), Path::new("/none")).await;
    assert!(before.commit_now());
    std::fs::remove_dir(&folder).unwrap();
    before.state.next = 7;
    before.ready.push(frozen());
    assert!(!before.commit_now());
    assert_eq!(before.targets[0].worker.queue.waiting().0, 1, "it is sent from memory");
    // Without its file, the entry that it is made of is read again after a restart.
    assert_eq!(before.store.read().unwrap().unwrap().next, 0);
    assert!(!before.commit_now(), "it still cannot be stored");
    std::fs::create_dir(&folder).unwrap();
    assert!(before.commit_now());
    drop(before);
    let after = notifier(dir.path(), Path::new("/none")).await;
    assert_eq!((after.state.next, after.targets[0].worker.queue.waiting().0), (7, 1));
}

#[tokio::test]
async fn what_is_noted_of_incidents_and_their_targets_is_removed_when_they_are_closed_or_forgotten() {
    use book::tests::{decision, ended, started};
    use failsafe_core::decision::Action;
    let dir = tempfile::tempdir().unwrap();
    let mut notifier = notifier(dir.path(), Path::new("/none")).await;
    let add = |notifier: &mut Notifier, at: i64, record| {
        notifier.state.book.apply(&book::Entry { wall_ns: at, mono_ns: 0, record: &record });
        let messages = notifier.state.book.take(at, &notifier.sender);
        notifier.ready.extend(messages);
    };
    add(&mut notifier, 1, started(1, 1000));
    for n in 1..=4_200 {
        add(&mut notifier, n.into(), decision(1, n, n, &[Action::Notify]));
        // Some of them are sent on the way.
        if n % 100 == 0 {
            notifier.ready.truncate(1);
            notifier.commit_now();
        }
    }
    assert_eq!(notifier.state.book.forgotten, 104);
    let active = |notifier: &Notifier| notifier.targets[0].worker.active.lock().unwrap().len();
    // Of those of which the first one of a hundred was sent, two are forgotten.
    assert_eq!((notifier.state.routed.len(), active(&notifier)), (40, 40));
    let first = notifier.state.routed.keys().next().unwrap().clone();
    assert!(notifier.state.book.has(&first), "{first}");
    add(&mut notifier, 6_000, ended(1));
    notifier.commit_now();
    assert_eq!((notifier.state.routed.len(), active(&notifier)), (0, 0));
}

#[test]
fn targets_that_messages_can_be_read_on_the_way_to_are_named() {
    let text = "[target.plain]\ntype = \"webhook\"\nurl = \"http://hooks.example.org/a\"\n\
                [target.local]\ntype = \"webhook\"\nurl = \"http://127.0.0.1:1/\"\n\
                [target.tls]\ntype = \"alertmanager\"\nurl = \"https://alerts.example.org/\"\n\
                [target.journal]\ntype = \"journald\"";
    let all = warnings(&toml::from_str(text).unwrap());
    assert!(all.len() == 1 && all[0].starts_with("notify.target.plain.url: "), "{all:?}");
}
