//! Streams: what a client follows or exports, in batches that are read on a thread and sent as the client keeps up.
//!
//! ```text
//! Source::next (a thread, bounded) ─► batch ─► one at a time ─► client
//!        ▲                                        │ not read for too long: the stream ends, then the connection
//!        └── the log grew ◄── nothing more ◄──────┘
//! ```
//! Invariants: a stream holds a thread only during a bounded read; it holds one batch in memory; one that is not read gives up
//! its files after `unread`, and its connection after as long again; a batch is in memory for [`BATCHES`] times `unread` at most, however
//! slowly it is read.

use super::{peer::Peer, work::Work};
use failsafe_proto::ErrorReason;
use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::Status;

/// Items that may wait to be sent, besides the batch that they are of.
const AHEAD: usize = 4;
/// Bytes of a batch, more or less.
const BATCH: usize = 64 << 10;
/// How often `unread` has to pass until a client that reads a little now and then is too slow for a batch.
const BATCHES: u32 = 4;
/// How long reading a batch may take, more or less.
const SLICE: Duration = Duration::from_millis(5);

/// Reads what a stream sends. It may block.
pub trait Source: Send + 'static {
    /// What is sent.
    type Item: Send + 'static;

    /// The next batch, within `bounds`.
    ///
    /// # Errors
    /// What ends the stream.
    fn next(&mut self, bounds: &Bounds) -> Result<Batch<Self::Item>, Status>;
}

/// What was read.
#[derive(Debug)]
pub struct Batch<T> {
    /// In order.
    pub items: Vec<T>,
    /// Whether more can be read at once.
    pub more: bool,
}

/// Bounds of a batch.
#[derive(Debug)]
pub struct Bounds {
    until: Instant,
    bytes: usize,
}

impl Bounds {
    pub(super) fn new() -> Bounds {
        Bounds { until: Instant::now() + SLICE, bytes: BATCH }
    }

    /// Other bounds than those of a stream's batch.
    pub(super) fn of(time: Duration, bytes: usize) -> Bounds {
        Bounds { until: Instant::now() + time, bytes }
    }

    /// Whether a batch of so many bytes is to be sent before more is read.
    pub fn are_reached(&self, bytes: usize) -> bool {
        bytes >= self.bytes || Instant::now() >= self.until
    }

    /// Bytes that are read at once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// How a stream is sent.
pub struct Follow<G> {
    /// The lane's work.
    pub work: Arc<Work>,
    /// Whose stream it is.
    pub peer: Arc<Peer>,
    /// How long the client may not read.
    pub unread: Duration,
    /// Says that there may be more, where that is to be waited for.
    pub growth: Option<watch::Receiver<G>>,
}

/// A stream to a client.
pub type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<G: Send + Sync + 'static> Follow<G> {
    /// Sends what `source` has.
    pub fn stream<S: Source>(self, source: S) -> Answer<S::Item> {
        let (tx, items) = mpsc::channel(AHEAD);
        let (open, gone) = oneshot::channel();
        let end = Arc::new(OnceLock::new());
        let answer = Sent { items, end: end.clone(), ended: false, _open: open };
        tokio::spawn(async move {
            let (peer, unread) = (self.peer.clone(), self.unread);
            let Some(status) = self.send(source, &tx).await else { return };
            let _first = end.set(status.0);
            drop(tx);
            // What is read now is the rest and the status. Whoever does not even read that loses the connection, which is
            // what holds their memory.
            if status.1 && tokio::time::timeout(unread, gone).await.is_err() {
                peer.cut_off();
            }
        });
        Box::pin(answer)
    }

    /// Why the stream ends other than well, and whether that is because it is not read.
    async fn send<S: Source>(mut self, mut source: S, tx: &mpsc::Sender<S::Item>) -> Option<(Status, bool)> {
        loop {
            if let Some(growth) = &mut self.growth {
                growth.mark_unchanged();
            }
            let read = self.work.read(self.peer.share(), move || {
                let batch = source.next(&Bounds::new());
                (source, batch)
            });
            let batch = match read.await {
                Ok((back, batch)) => {
                    source = back;
                    batch
                }
                Err(status) => return Some((status, false)),
            };
            let Batch { items, more } = match batch {
                Ok(batch) => batch,
                Err(status) => return Some((status, false)),
            };
            if let Err(ended) = send_all(items, tx, self.unread).await {
                return ended.map(|status| (status, true));
            }
            if more {
                if tx.is_closed() {
                    return None;
                }
                continue;
            }
            let growth = self.growth.as_mut()?;
            tokio::select! {
                grown = growth.changed() => grown.ok()?,
                () = tx.closed() => return None,
            }
        }
    }
}

/// Sends a batch. An error without a status: the client has gone.
async fn send_all<T>(items: Vec<T>, tx: &mpsc::Sender<T>, patience: Duration) -> Result<(), Option<Status>> {
    let until = tokio::time::Instant::now() + patience * BATCHES;
    for item in items {
        let next = until.min(tokio::time::Instant::now() + patience);
        match tokio::time::timeout_at(next, tx.send(item)).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => return Err(None),
            Err(_) if next == until => return Err(Some(slow(patience * BATCHES))),
            Err(_) => return Err(Some(unread(patience))),
        }
    }
    Ok(())
}

fn slow(after: Duration) -> Status {
    let seconds = after.as_secs();
    ErrorReason::LimitReached.status(format!(
        "limit `unread`: the client took more than {seconds} s to read {} KiB of this stream, so it ended; follow again from the last \
         index that you have",
        BATCH >> 10
    ))
}

fn unread(after: Duration) -> Status {
    let seconds = after.as_secs();
    ErrorReason::LimitReached.status(format!(
        "limit `unread`: the client read nothing of this stream for {seconds} s, so it ended; follow again from the last index \
         that you have"
    ))
}

/// The client's end.
struct Sent<T> {
    items: mpsc::Receiver<T>,
    end: Arc<OnceLock<Status>>,
    ended: bool,
    _open: oneshot::Sender<()>,
}

impl<T> Stream for Sent<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.items.poll_recv(cx));
        self.ended = item.is_none();
        Poll::Ready(item.map(Ok).or_else(|| self.end.get().cloned().map(Err)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_batch_that_is_read_too_slowly_ends_the_stream_although_its_items_are_read() {
        runtime().block_on(async {
            let (tx, mut rx) = mpsc::channel(1);
            let reader = tokio::spawn(async move {
                while rx.recv().await.is_some() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            // At this pace, more than an hour.
            let ended = send_all((0..100_000).collect(), &tx, Duration::from_millis(500)).await;
            assert!(ended.unwrap_err().is_some_and(|status| status.message().starts_with("limit `unread`")));
            drop(tx);
            reader.await.unwrap();
        });
    }

    #[test]
    fn a_batch_that_is_not_read_ends_the_stream_and_one_that_is_read_does_not() {
        runtime().block_on(async {
            let (tx, rx) = mpsc::channel(1);
            let ended = send_all(vec![1, 2], &tx, Duration::from_millis(10)).await.unwrap_err().unwrap();
            assert!(ended.message().contains("read nothing of this stream"), "{ended}");
            drop(rx);
            assert!(send_all(vec![1], &tx, Duration::from_secs(60)).await.unwrap_err().is_none(), "it has gone");
            let (tx, mut rx) = mpsc::channel(1);
            let reader = tokio::spawn(async move { while rx.recv().await.is_some() {} });
            assert!(send_all((0..500).collect(), &tx, Duration::from_secs(60)).await.is_ok());
            drop(tx);
            reader.await.unwrap();
        });
    }
}
