//! The recordings: every input of a run and the decisions that came of it, written on a thread of their own so that a slow
//! disk never stands before a containment.
//!
//! Owns the open recorders. What the thread cannot keep up with ends that run's recording, and says so in its file.

use failsafe_core::{Policy, RunId, input::Run, replay::Recorded};
use failsafe_journal::Recorder;
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
    Open { run: Box<Run>, policy: Arc<Policy>, path: PathBuf, max_bytes: u64 },
    Entries(Vec<(RunId, Recorded)>),
    Close { run: RunId, whole: bool },
    Flush(tokio::sync::oneshot::Sender<()>),
    Stop,
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
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn() -> std::io::Result<Recordings> {
        let (queue, receiver) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        let work = move || Writer::default().work(&receiver, &taken);
        let thread = std::thread::Builder::new().name("recordings".into()).spawn(work)?;
        Ok(Recordings { queue, waiting, pending: Vec::new(), lossy: Vec::new(), thread: Some(thread) })
    }

    /// A handle to flush with.
    pub fn flusher(&self) -> Flusher {
        Flusher(self.queue.clone())
    }

    /// Begins a run's recording.
    pub fn open(&mut self, run: &Run, policy: &Arc<Policy>, path: PathBuf, max_bytes: u64) {
        self.send(Message::Open { run: Box::new(run.clone()), policy: policy.clone(), path, max_bytes });
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
        self.send(Message::Close { run, whole: false });
    }

    /// Ends a run's recording.
    pub fn close(&mut self, run: RunId) {
        if self.lossy.contains(&run) {
            self.lossy.retain(|r| *r != run);
        } else {
            self.send(Message::Close { run, whole: true });
        }
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
    open: BTreeMap<RunId, Recorder>,
}

impl Writer {
    fn work(mut self, queue: &Receiver<Message>, waiting: &AtomicUsize) {
        let mut flushed = Instant::now();
        loop {
            match queue.recv_timeout(FLUSH_EVERY) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.handle(message, waiting),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                self.flush();
                flushed = Instant::now();
            }
        }
        for (run, recorder) in std::mem::take(&mut self.open) {
            finish(run, recorder);
        }
    }

    fn handle(&mut self, message: Message, waiting: &AtomicUsize) {
        match message {
            Message::Entries(entries) => {
                for (run, entry) in entries {
                    self.entry(run, &entry);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Message::Open { run, policy, path, max_bytes } => {
                let host = Host {
                    hostname: nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
                    failsafe: env!("CARGO_PKG_VERSION"),
                };
                let header = Header { format: "failsafe-recording", version: 1, run: &run, policy: &policy, host };
                match Recorder::create(&path, &header, max_bytes) {
                    Ok(recorder) => {
                        self.open.insert(run.id, recorder);
                    }
                    Err(error) => tracing::error!(run = %run.id, %error, "the run is not recorded"),
                }
            }
            Message::Close { run, whole } => match self.open.remove(&run) {
                Some(recorder) if whole => finish(run, recorder),
                // Without its end marker a reader sees that it is not whole.
                _ => {}
            },
            Message::Flush(done) => {
                self.flush();
                let _nobody_waits = done.send(());
            }
            Message::Stop => {}
        }
    }

    fn entry(&mut self, run: RunId, entry: &Recorded) {
        if let Some(recorder) = self.open.get_mut(&run)
            && let Err(error) = recorder.record(FRAME_KIND, entry)
        {
            tracing::error!(%run, %error, "the recording ends");
            self.open.remove(&run);
        }
    }

    fn flush(&mut self) {
        for (run, recorder) in &mut self.open {
            if let Err(error) = recorder.flush() {
                tracing::warn!(%run, %error, "the recording waits for the disk");
            }
        }
    }
}

fn finish(run: RunId, recorder: Recorder) {
    if let Err(error) = recorder.finish() {
        tracing::warn!(%run, %error, "the recording's end could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{Input, MonoTime};

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
        recordings.close(slow);
        recordings.close(other);
        drop(recordings);
        let told: Vec<Message> = receiver.iter().collect();
        let (entries, rest) = told.split_at(QUEUE / TOGETHER);
        let of_slow = |message: &Message| matches!(message, Message::Entries(all) if all.len() == TOGETHER && all.iter().all(|(run, _)| *run == slow));
        assert!(entries.iter().all(of_slow));
        assert!(matches!(rest[0], Message::Close { run, whole: false } if run == slow), "at once, and not complete");
        assert!(matches!(rest[1], Message::Close { run, whole: true } if run == other), "whatever the queue");
        assert!(matches!(rest[2..], [Message::Stop]));
    }
}
