//! Reads a log of the tests' own, which can be cut and replaced.

use crate::notify::{
    Notifier,
    book::tests::{decision, started},
    store::{State, Store},
    tests::notifier,
    watch::watch,
    worker::Worker,
};
use failsafe_core::{decision::Action, record::Record};
use failsafe_proto::v1::{
    self,
    event_service_server::{EventService, EventServiceServer},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

const START: i64 = 1_800_000_000_000_000_000;

/// A log, and how many entries a stream gives before it breaks.
#[derive(Clone, Default)]
struct Log {
    entries: Arc<Mutex<Vec<v1::Record>>>,
    breaks_after: Arc<Mutex<Option<usize>>>,
    changed: Arc<tokio::sync::Notify>,
}

impl Log {
    /// Serves it on a socket.
    fn start(dir: &Path) -> (Log, PathBuf) {
        let (log, socket) = (Log::default(), dir.join("socket"));
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder().add_service(EventServiceServer::new(log.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        (log, socket)
    }

    /// Adds an entry of this time.
    fn add(&self, seconds: i64, record: &Record) {
        let mut entries = self.entries.lock().unwrap();
        let entry = serde_json::json!({ "mono_ns": 0, "body": record });
        let kind = if matches!(record, Record::Decision { .. }) { "decision" } else { "run" };
        let index = entries.len() as u64;
        entries.push(v1::Record {
            index,
            wall_ns: START + seconds * 1_000_000_000,
            kind: kind.into(),
            entry: serde_json::to_vec(&entry).unwrap(),
            ..v1::Record::default()
        });
        drop(entries);
        self.changed.notify_waiters();
    }

    /// An incident that is only noted.
    fn noted(&self, seconds: i64, incident: u32) {
        self.add(seconds, &decision(1, incident, incident, &[Action::Notify]));
    }
}

#[tonic::async_trait]
impl EventService for Log {
    type WatchStream = ReceiverStream<Result<v1::Record, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { from, follow, tail, .. } = request.into_inner();
        let mut at = usize::try_from(from).unwrap();
        if tail == Some(1) {
            at = self.entries.lock().unwrap().len() - 1;
        }
        let mut most = if follow { self.breaks_after.lock().unwrap().take() } else { None };
        let (send, answer) = mpsc::channel(1);
        let log = self.clone();
        tokio::spawn(async move {
            loop {
                let changed = log.changed.notified();
                let entry = log.entries.lock().unwrap().get(at).cloned();
                match entry {
                    _ if most == Some(0) => {
                        let _gone = send.send(Err(Status::unavailable("the test breaks it"))).await;
                        return;
                    }
                    Some(entry) => {
                        if send.send(Ok(entry)).await.is_err() {
                            return;
                        }
                        (at, most) = (at + 1, most.map(|most| most - 1));
                    }
                    None if !follow => return,
                    None => changed.await,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

/// A gateway that reads the log; its messages stay in the queue.
struct Reader {
    task: JoinHandle<()>,
    worker: Arc<Worker>,
}

impl Reader {
    async fn start(dir: &Path, socket: &Path) -> Reader {
        let notifier: Notifier = notifier(dir, socket).await;
        let worker = notifier.targets[0].worker.clone();
        Reader { task: tokio::spawn(watch(notifier)), worker }
    }

    /// Waits until there is a message about this incident, and gives all: their incidents.
    async fn until(&self, incident: u32) -> Vec<u32> {
        loop {
            let all: Vec<u32> = self.worker.queue.all().iter().map(|it| number(&it.message.key)).collect();
            if all.contains(&incident) {
                return all;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }
}

/// The number at the end of an incident's id.
fn number(key: &str) -> u32 {
    key.rsplit('-').next().unwrap().parse().unwrap()
}

/// A log with a run, from the start of which a gateway reads.
async fn began(dir: &Path) -> (Log, PathBuf) {
    Store::new(dir).write(&State::new()).unwrap();
    let (log, socket) = Log::start(dir);
    log.add(1, &started(1, 1000));
    (log, socket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_replaced_by_one_of_the_same_length_is_read_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, socket) = began(dir.path()).await;
    log.noted(2, 1);
    let reader = Reader::start(dir.path(), &socket).await;
    assert_eq!(reader.until(1).await, [1]);
    reader.stop().await;
    log.entries.lock().unwrap().truncate(1);
    log.noted(3, 2);
    let reader = Reader::start(dir.path(), &socket).await;
    assert_eq!(reader.until(2).await, [1, 2]);
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_log_that_was_cut_are_not_announced_again_although_the_connection_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let (log, socket) = began(dir.path()).await;
    (1..=4).for_each(|n| log.noted(1 + i64::from(n), n));
    let reader = Reader::start(dir.path(), &socket).await;
    assert_eq!(reader.until(4).await, [1, 2, 3, 4]);
    reader.stop().await;
    log.entries.lock().unwrap().truncate(4);
    *log.breaks_after.lock().unwrap() = Some(2);
    let reader = Reader::start(dir.path(), &socket).await;
    // It reads the entries that are left, in two parts, and then new ones.
    let reads = || log.breaks_after.lock().unwrap().is_none();
    while !reads() {
        tokio::task::yield_now().await;
    }
    log.noted(9, 5);
    log.noted(10, 6);
    assert_eq!(reader.until(6).await, [1, 2, 3, 4, 5, 6]);
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_without_failsafed_stores_no_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut notifier = notifier(dir.path(), &dir.path().join("none")).await;
    assert!(notifier.follow().await.is_err());
    notifier.stopped();
    assert!(Store::new(dir.path()).read().unwrap().is_none(), "the next start is the first one as well");
}
