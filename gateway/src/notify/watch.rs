//! Reads the entries of the audit log that messages are made of.
//!
//! Invariant: an entry that is read again leads to nothing new: not after a restart, and not in a log that was cut or replaced.

use super::{
    Notifier,
    book::{Book, Entry},
    now_ns,
    store::Again,
};
use anyhow::{Context, Result, ensure};
use failsafe_core::record::Record;
use failsafe_proto::v1;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{sync::atomic::Ordering, time::Duration};

/// The kinds of entries that are read.
const KINDS: [&str; 5] = ["run", "decision", "outcome", "health", "gap"];
/// How long failsafed may take to answer what is not followed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far was read is stored after this time where no message is due.
const FLUSH: Duration = Duration::from_secs(2);
/// While entries come, no message is due by time: what is read may already say more.
const QUIET: Duration = Duration::from_millis(300);
/// Messages that are put into the queues together, at most.
const TOGETHER: usize = 256;
/// Waits between two attempts to reach failsafed.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Follows the log for ever.
pub async fn watch(mut notifier: Notifier) {
    let mut wait = WAITS.0;
    let mut said = String::new();
    loop {
        let before = notifier.state.next;
        let Err(error) = notifier.follow().await;
        notifier.stopped();
        let error = format!("{error:#}");
        if said != error {
            tracing::warn!(error, "notifications: the log of failsafed cannot be followed; it is tried again");
            said = error;
        }
        wait = if notifier.state.next == before { (wait * 2).min(WAITS.1) } else { WAITS.0 };
        tokio::time::sleep(wait).await;
    }
}

/// An entry of the log, as far as it is needed.
#[derive(Deserialize)]
struct Logged {
    #[serde(default)]
    mono_ns: i64,
    body: serde_json::Value,
}

impl Notifier {
    async fn follow(&mut self) -> Result<std::convert::Infallible> {
        let last = self.last().await?;
        let end = last.index + 1;
        if self.is_new {
            self.learn(end).await?;
            self.state.last = Some(leaf(&last));
        }
        if !self.is_same_log(&last).await? {
            self.read_again(end);
        }
        let mut stream = self.daemon.events(request(self.state.next, true)).await?;
        self.seen.reads.store(true, Ordering::Relaxed);
        tracing::info!(from = self.state.next, "events are read for notifications");
        let mut dirty = !self.commit();
        loop {
            let due = self.state.book.next_due();
            let until_due = due.map(|due| Duration::from_nanos(u64::try_from(due - now_ns()).unwrap_or(0)).max(QUIET));
            let timer = match (until_due, dirty) {
                // Entries that are there are taken first.
                _ if !self.ready.is_empty() => Duration::ZERO,
                (Some(until), true) => until.min(FLUSH),
                (Some(until), false) => until.min(Duration::from_secs(60)),
                (None, true) => FLUSH,
                (None, false) => Duration::from_secs(3_600),
            };
            tokio::select! {
                biased;
                record = stream.message(), if self.ready.len() < TOGETHER => {
                    let record = record?.context("the stream of events ended")?;
                    self.take(&record)?;
                    dirty = true;
                }
                () = tokio::time::sleep(timer) => {
                    if self.ready.is_empty() {
                        let due = self.state.book.take(now_ns(), &self.sender);
                        self.ready.extend(due);
                    }
                    dirty = !self.commit();
                }
            }
        }
    }

    /// The log can no longer be read: stores what was read until then. Before the first start nothing was.
    fn stopped(&mut self) {
        self.seen.reads.store(false, Ordering::Relaxed);
        if !self.is_new {
            self.commit();
        }
    }

    /// The last entry of the log.
    async fn last(&self) -> Result<v1::Record> {
        let tail = v1::WatchRequest { tail: Some(1), ..v1::WatchRequest::default() };
        let last = self.first_of(tail).await?;
        last.context(
            "failsafed shows no entry of its log: notifications need `gateway.notifications = true` in failsafed.toml",
        )
    }

    async fn first_of(&self, request: v1::WatchRequest) -> Result<Option<v1::Record>> {
        let first = async {
            let mut stream = self.daemon.events(request).await?;
            stream.message().await
        };
        Ok(tokio::time::timeout(PATIENCE, first).await.context("failsafed does not answer")??)
    }

    /// Whether the entry that was read last is still where it was. `last`: the last one of the log now.
    async fn is_same_log(&self, last: &v1::Record) -> Result<bool> {
        if last.index + 1 < self.state.next {
            return Ok(false);
        }
        let (Some(known), Some(at)) = (&self.state.last, self.state.next.checked_sub(1)) else { return Ok(true) };
        if last.index == at {
            return Ok(leaf(last) == *known);
        }
        let there = self.first_of(v1::WatchRequest { from: at, ..v1::WatchRequest::default() }).await?;
        // Entries that were removed because they are old cannot be compared.
        Ok(there.is_none_or(|there| there.index != at || leaf(&there) == *known))
    }

    /// Begins anew with the log that is there now.
    fn read_again(&mut self, end: u64) {
        let next = self.state.next;
        tracing::error!(end, next, "the audit log is not the one that was read: it was cut or replaced");
        self.state.book.restart();
        self.state.again = Some(Again { end, heard_ns: self.state.heard_ns });
        (self.state.next, self.state.last) = (0, None);
    }

    /// At the first start: learns the runs that live. What happened before is not announced.
    async fn learn(&mut self, end: u64) -> Result<()> {
        let mut stream = self.daemon.events(request(0, false)).await?;
        self.state.book = Book::default();
        while let Some(record) = stream.message().await? {
            if record.index < end {
                self.apply(&record)?;
            }
        }
        self.state.book.begin();
        self.state.next = end;
        self.is_new = false;
        Ok(())
    }

    /// Takes an entry up, with the messages that it leads to.
    fn take(&mut self, record: &v1::Record) -> Result<()> {
        ensure!(record.index >= self.state.next, "failsafed sent entry {} again", record.index);
        let is_heard = self.state.again.is_some_and(|it| record.index < it.end && record.wall_ns <= it.heard_ns);
        if let Some(again) = self.state.again.filter(|_| !is_heard) {
            // What was due before the newest entry that was read was announced.
            let _announced = self.state.book.take(again.heard_ns, &self.sender);
        }
        if self.state.again.is_some_and(|it| record.index >= it.end) {
            self.state.again = None;
        }
        self.apply(record)?;
        self.state.next = record.index + 1;
        self.state.last = Some(leaf(record));
        self.state.heard_ns = self.state.heard_ns.max(record.wall_ns);
        let messages = self.state.book.take(record.wall_ns, &self.sender);
        if !is_heard {
            self.ready.extend(messages);
        }
        Ok(())
    }

    fn apply(&mut self, record: &v1::Record) -> Result<()> {
        let logged: Logged = serde_json::from_slice(&record.entry).context("an entry cannot be read")?;
        match serde_json::from_value::<Record>(logged.body) {
            Ok(known) => {
                let entry = Entry { wall_ns: record.wall_ns, mono_ns: logged.mono_ns, record: &known };
                self.state.book.apply(&entry);
            }
            // The journal's own entries, and those of a later version of failsafed.
            Err(error) => tracing::debug!(index = record.index, %error, "an entry is of an unknown kind"),
        }
        Ok(())
    }
}

/// The hash of an entry as a leaf of the log's tree.
fn leaf(record: &v1::Record) -> String {
    let hash = Sha256::new().chain_update([0]).chain_update(&record.entry).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(from: u64, follow: bool) -> v1::WatchRequest {
    let kinds = KINDS.map(str::to_owned).to_vec();
    v1::WatchRequest { from, follow, kinds, ..v1::WatchRequest::default() }
}

#[cfg(test)]
mod tests;
