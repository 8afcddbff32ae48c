//! The recordings: every input of a run and the decisions that came of it, written on a thread of their own so that a slow
//! disk never stands before a containment.
//!
//! Owns the open recorders. What the thread cannot keep up with ends that run's recording, and says so in its file.
//!
//! When a recording is closed, its last hash goes into the audit log: into the entry of the run's end, or, where the daemon stops
//! while the run lives, into an entry of its own. The entry is queued before the file is synced, so that a slow disk does not
//! hold up the answer to a kill.

use crate::causes::chain;
use crate::log::Log;
use failsafe_core::{
    Policy, RunId,
    input::Run,
    record::{Record, RecordingSeal},
    replay::{ENGINE, Recorded},
};
use failsafe_journal::{Recorder, recorder::StopReason};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Frames of a recording are of this kind: postcard of [`Recorded`].
pub const FRAME_KIND: u8 = 1;
/// Entries that may wait for the disk. Counted, not allocated: a bounded channel would touch room for all of them.
const QUEUE: usize = 65_536;
/// Entries that are handed on together at most: each message may wake the thread.
const TOGETHER: usize = 256;
/// A recording's buffer is written at least this often.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The JSON header of a recording: enough to replay it anywhere.
#[derive(Serialize)]
struct Header<'a> {
    format: &'static str,
    version: u32,
    /// The engine that decides, so that a replay can say what a later one decides otherwise.
    engine: u32,
    part: u32,
    run: &'a Run,
    policy: &'a Policy,
    host: Host,
}

#[derive(Serialize)]
struct Host {
    hostname: String,
    failsafe: &'static str,
}

enum Message {
    Open(Box<Opening>),
    Entries(Vec<(RunId, Recorded)>),
    /// Entries of the run were refused: its recording ends before them.
    Lost(RunId),
    Close(RunId, Note),
    Flush(tokio::sync::oneshot::Sender<()>),
    Stop,
}

struct Opening {
    run: Run,
    part: u32,
    policy: Arc<Policy>,
    path: PathBuf,
    max_bytes: u64,
}

type Noted = Box<dyn FnOnce(Option<RecordingSeal>) + Send>;

/// Is called with what became of a recording, once: also when the thread has ended and nobody knows.
struct Note(Option<Noted>);

impl Note {
    fn call(mut self, seal: Option<RecordingSeal>) {
        if let Some(note) = self.0.take() {
            note(seal);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(note) = self.0.take() {
            note(None);
        }
    }
}

/// The handle of the recording thread.
pub struct Recordings {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    /// What is handed on next; counted as waiting.
    pending: Vec<(RunId, Recorded)>,
    lossy: Vec<RunId>,
    thread: Option<JoinHandle<()>>,
}

/// Asks for all that was recorded so far to be on disk.
#[derive(Clone)]
pub struct Flusher(Sender<Message>);

impl Flusher {
    /// Waits until it is.
    pub async fn flush(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.0.send(Message::Flush(done)).is_ok() {
            let _closed = wait.await;
        }
    }
}

impl Recordings {
    /// Starts the thread. The recordings of the live runs of one user, but root, have at most `per_user` bytes together.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(log: &Log, per_user: u64) -> std::io::Result<Recordings> {
        let (queue, receiver) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        let log = log.clone();
        let closed = move |run, recording| {
            log.record(&Record::RecordingClosed { run, recording }, Some(run), None);
        };
        let work = move || Writer { per_user, ..Writer::default() }.work(&receiver, &taken, closed);
        let thread = std::thread::Builder::new().name("recordings".into()).spawn(work)?;
        Ok(Recordings { queue, waiting, pending: Vec::new(), lossy: Vec::new(), thread: Some(thread) })
    }

    /// A handle to flush with.
    pub fn flusher(&self) -> Flusher {
        Flusher(self.queue.clone())
    }

    /// Begins a run's recording.
    pub fn open(&mut self, run: &Run, part: u32, policy: &Arc<Policy>, path: PathBuf, max_bytes: u64) {
        let opening = Opening { run: run.clone(), part, policy: policy.clone(), path, max_bytes };
        self.send(Message::Open(Box::new(opening)));
    }

    /// Records one entry, once [`Recordings::hand_on`] is called.
    pub fn entry(&mut self, run: RunId, entry: Recorded) {
        if self.lossy.contains(&run) {
            return;
        }
        if self.waiting.load(Ordering::Relaxed) < QUEUE {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.pending.push((run, entry));
            if self.pending.len() >= TOGETHER {
                self.hand_on();
            }
            return;
        }
        // A recording with a hole would replay to something else: it ends here instead, and for the writer too, which
        // would otherwise call it complete when the daemon stops.
        tracing::error!(%run, "the recording cannot keep up and ends");
        self.lossy.push(run);
        self.send(Message::Lost(run));
    }

    /// Ends a run's recording. `note` is called once with what became of it, on the recordings' thread as a rule; `None`: nobody
    /// knows. It must not block.
    pub fn close(&mut self, run: RunId, note: impl FnOnce(Option<RecordingSeal>) + Send + 'static) {
        self.lossy.retain(|r| *r != run);
        self.send(Message::Close(run, Note(Some(Box::new(note)))));
    }

    /// Hands the entries since the last time on to the thread.
    pub fn hand_on(&mut self) {
        if !self.pending.is_empty() {
            // Without its thread nothing is recorded, which its own end has told.
            let _ended = self.queue.send(Message::Entries(std::mem::take(&mut self.pending)));
        }
    }

    /// Only entries are bounded: beginnings and ends are few, and each must reach the writer.
    fn send(&mut self, message: Message) {
        self.hand_on();
        let _ended = self.queue.send(message);
    }
}

impl Drop for Recordings {
    /// Whoever holds a [`Flusher`] keeps the queue open, so the thread is told.
    fn drop(&mut self) {
        self.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

#[derive(Default)]
struct Writer {
    open: BTreeMap<RunId, Open>,
    /// Recordings that ended before their runs did, or never began.
    over: BTreeMap<RunId, RecordingSeal>,
    /// Written out with their end, and to be synced.
    unsynced: Vec<(RunId, Recorder)>,
    /// Most bytes of one user's live recordings.
    per_user: u64,
}

struct Open {
    recorder: Recorder,
    part: u32,
    uid: u32,
}

impl Writer {
    /// Works until it is stopped. `closed` is called for each recording that ends with the daemon and not with its run.
    fn work(
        mut self,
        queue: &Receiver<Message>,
        waiting: &AtomicUsize,
        closed: impl Fn(RunId, RecordingSeal) + Send + 'static,
    ) {
        let mut flushed = Instant::now();
        loop {
            match queue.recv_timeout(FLUSH_EVERY) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.handle(message, waiting),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                self.bound();
                self.flush();
                self.sync();
                flushed = Instant::now();
            }
        }
        for (run, open) in std::mem::take(&mut self.open) {
            let seal = self.finish(run, open);
            closed(run, seal);
        }
        for (run, seal) in std::mem::take(&mut self.over) {
            closed(run, seal);
        }
        self.sync();
    }

    fn handle(&mut self, message: Message, waiting: &AtomicUsize) {
        match message {
            Message::Entries(entries) => {
                for (run, entry) in entries {
                    self.entry(run, &entry);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Message::Open(opening) => self.begin(*opening),
            Message::Lost(run) => self.give_up(run, "the recording could not keep up with the run's inputs"),
            Message::Close(run, note) => {
                let over = self.over.remove(&run);
                let seal = self.open.remove(&run).map(|open| self.finish(run, open));
                note.call(seal.or(over));
            }
            Message::Flush(done) => {
                self.flush();
                let _nobody_waits = done.send(());
            }
            Message::Stop => {}
        }
    }

    fn begin(&mut self, opening: Opening) {
        let Opening { run, part, policy, path, max_bytes } = opening;
        let host = Host {
            hostname: nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
            failsafe: env!("CARGO_PKG_VERSION"),
        };
        let header =
            Header { format: "failsafe-recording", version: 1, engine: ENGINE, part, run: &run, policy: &policy, host };
        match Recorder::create(&path, &header, max_bytes) {
            Ok(recorder) => {
                self.open.insert(run.id, Open { recorder, part, uid: run.owner_uid });
            }
            Err(error) => {
                let problem = format!("the run is not recorded: {}", chain(&error));
                tracing::error!(run = %run.id, problem);
                let seal = RecordingSeal { part, frames: 0, hash: None, complete: false, problem: Some(problem) };
                self.over.insert(run.id, seal);
            }
        }
    }

    fn entry(&mut self, run: RunId, entry: &Recorded) {
        if let Some(open) = self.open.get_mut(&run)
            && let Err(error) = open.recorder.record(FRAME_KIND, entry)
        {
            let problem = chain(&error);
            tracing::error!(%run, problem, "the recording ends");
            self.give_up(run, &problem);
        }
    }

    /// Ends a recording without its end marker, so that a reader sees that it is not whole.
    fn give_up(&mut self, run: RunId, why: &str) {
        if let Some(Open { recorder, part, .. }) = self.open.remove(&run) {
            let mut seal = seal(&recorder, part);
            (seal.complete, seal.problem) = (false, Some(why.to_owned()));
            self.over.insert(run, seal);
        }
    }

    /// Ends a recording with its marker, and writes it out.
    fn finish(&mut self, run: RunId, open: Open) -> RecordingSeal {
        let Open { mut recorder, part, .. } = open;
        recorder.end();
        let mut seal = seal(&recorder, part);
        if let Err(error) = recorder.flush() {
            let problem = format!("its end could not be written: {}", chain(&error));
            tracing::warn!(%run, problem, "recording");
            seal.problem = Some(problem);
        }
        self.unsynced.push((run, recorder));
        seal
    }

    /// Ends the largest recording of each user that has too much: what is recorded has no holes, and the others go on.
    fn bound(&mut self) {
        let mut users: BTreeMap<u32, u64> = BTreeMap::new();
        for open in self.open.values().filter(|open| open.uid != 0) {
            *users.entry(open.uid).or_default() += open.recorder.bytes();
        }
        for (uid, _) in users.into_iter().filter(|(_, bytes)| *bytes > self.per_user) {
            let own = self.open.iter_mut().filter(|(_, open)| open.uid == uid && open.recorder.stopped().is_none());
            if let Some((run, open)) = own.max_by_key(|(_, open)| open.recorder.bytes()) {
                tracing::warn!(%run, uid, "the recording ends: the recordings of its user have reached recordings.per_user_mib");
                open.recorder.stop_at_quota();
            }
        }
    }

    fn flush(&mut self) {
        for (run, Open { recorder, .. }) in &mut self.open {
            if let Err(error) = recorder.flush() {
                tracing::warn!(%run, error = chain(&error), "the recording waits for the disk");
            }
        }
    }

    fn sync(&mut self) {
        for (run, recorder) in self.unsynced.drain(..) {
            if let Err(error) = recorder.finish() {
                tracing::warn!(%run, error = chain(&error), "the recording's end could not be written");
            }
        }
    }
}

fn seal(recorder: &Recorder, part: u32) -> RecordingSeal {
    let stopped = recorder.stopped();
    let problem = stopped.map(|stopped| match (&stopped.reason, &stopped.error) {
        (StopReason::MaxBytes, _) => format!("it reached its size limit after {} frames", stopped.frames),
        (StopReason::Quota, _) => "the recordings of its user reached recordings.per_user_mib".to_owned(),
        (StopReason::Storage, error) => {
            format!("the disk could not be written: {}", error.as_deref().unwrap_or("unknown error"))
        }
    });
    let hash = Some(hex::encode(recorder.hash()));
    RecordingSeal { part, frames: recorder.frames(), hash, complete: stopped.is_none(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use failsafe_core::{Input, MonoTime, policy::parse::parse};
    use failsafe_journal::{RecordingEnd, RecordingReader};

    #[test]
    fn a_recording_that_cannot_keep_up_ends_for_the_writer_too() {
        let (queue, receiver) = mpsc::channel();
        let mut recordings =
            Recordings { queue, waiting: Arc::default(), pending: Vec::new(), lossy: Vec::new(), thread: None };
        let [slow, other]: [RunId; 2] =
            [1, 2].map(|n| format!("00000000-0000-0000-0000-00000000000{n}").parse().unwrap());
        let tick = || Recorded::Input(Input::Tick(MonoTime(0)));
        for _ in 0..QUEUE + 5 {
            recordings.entry(slow, tick());
        }
        let (noted, notes) = mpsc::channel();
        for run in [slow, other] {
            let noted = noted.clone();
            recordings.close(run, move |seal| noted.send((run, seal)).unwrap());
        }
        drop(recordings);
        let told: Vec<Message> = receiver.iter().collect();
        let (entries, rest) = told.split_at(QUEUE / TOGETHER);
        let of_slow = |message: &Message| matches!(message, Message::Entries(all) if all.len() == TOGETHER && all.iter().all(|(run, _)| *run == slow));
        assert!(entries.iter().all(of_slow));
        assert!(matches!(rest[0], Message::Lost(run) if run == slow), "at once, and not complete");
        assert!(matches!(rest[1..], [Message::Close(..), Message::Close(..), Message::Stop]), "whatever the queue");
        drop(told);
        assert_eq!(notes.try_iter().collect::<Vec<_>>(), [(slow, None), (other, None)], "also without the thread");
    }

    #[test]
    fn a_recordings_last_hash_is_reported_when_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let policy = Arc::new(parse("p", "[policy]\nname = \"p\"\nowner = \"o\"\n").unwrap());
        let (queue, receiver) = mpsc::channel();
        let (closed, at_stop) = mpsc::channel();
        let waiting: Arc<AtomicUsize> = Arc::default();
        let mut recordings =
            Recordings { queue, waiting: waiting.clone(), pending: Vec::new(), lossy: Vec::new(), thread: None };
        let runs: [Run; 4] = std::array::from_fn(|n| run(n, &policy));
        let [ended, living, unrecorded, lost] = &runs;
        let path = |run: &Run| folder.path().join(run.id.to_string());
        std::fs::write(path(unrecorded), "in the way").unwrap();
        for run in &runs {
            recordings.open(run, 3, &policy, path(run), 1 << 20);
            recordings.entry(run.id, Recorded::Input(Input::Tick(MonoTime(7))));
        }
        recordings.send(Message::Lost(lost.id));
        let (noted, notes) = mpsc::channel();
        for run in [ended, unrecorded, lost] {
            let (noted, id) = (noted.clone(), run.id);
            recordings.close(id, move |seal| noted.send((id, seal.unwrap())).unwrap());
        }
        drop(recordings);
        Writer::default().work(&receiver, &waiting, move |run, seal| closed.send((run, seal)).unwrap());
        let seals: BTreeMap<RunId, RecordingSeal> = notes.try_iter().chain(at_stop.try_iter()).collect();
        assert_eq!(seals.len(), 4);
        for run in [ended, living, lost] {
            let mut reader = RecordingReader::open(&path(run)).unwrap();
            assert_eq!(reader.by_ref().map(Result::unwrap).count(), 1);
            let seal = &seals[&run.id];
            assert_eq!((seal.part, seal.frames, seal.hash.clone()), (3, 1, reader.hash().map(hex::encode)));
            assert_eq!(seal.complete, reader.end() == Some(&RecordingEnd::Finished));
            assert_eq!((seal.complete, seal.problem.is_none()), (run.id != lost.id, run.id != lost.id));
        }
        let seal = &seals[&unrecorded.id];
        assert!(seal.hash.is_none() && seal.problem.as_ref().unwrap().contains("exists"), "{seal:?}");
    }

    #[test]
    fn one_users_recordings_are_bounded_together_and_another_users_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let policy = Arc::new(parse("p", "[policy]\nname = \"p\"\nowner = \"o\"\n").unwrap());
        let mut writer = Writer { per_user: 64 << 10, ..Writer::default() };
        let runs: [Run; 4] = std::array::from_fn(|n| run(n, &policy));
        let uids = [1000, 1000, 1001, 0];
        for (run, uid) in runs.iter().zip(uids) {
            let run = Run { owner_uid: uid, ..run.clone() };
            let path = folder.path().join(run.id.to_string());
            writer.begin(Opening { run, part: 0, policy: policy.clone(), path, max_bytes: u64::MAX });
        }
        let much = |writer: &mut Writer, run: &Run, n: u64| {
            (0..n).for_each(|at| writer.entry(run.id, &Recorded::Input(Input::Tick(MonoTime(at)))));
        };
        much(&mut writer, &runs[0], 3_000);
        much(&mut writer, &runs[1], 100);
        much(&mut writer, &runs[2], 1_000);
        much(&mut writer, &runs[3], 6_000);
        writer.bound();
        let stopped: Vec<bool> = runs.iter().map(|run| writer.open[&run.id].recorder.stopped().is_some()).collect();
        assert_eq!(stopped, [true, false, false, false]);
        let seal = seal(&writer.open[&runs[0].id].recorder, 0);
        assert!(!seal.complete && seal.problem.unwrap().contains("per_user_mib"));
    }

    fn run(n: usize, policy: &Policy) -> Run {
        testing::run(&format!("00000000-0000-0000-0000-00000000000{n}"), 1000, policy.digest())
    }
}
