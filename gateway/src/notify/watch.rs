//! Reads the entries of the audit log that messages are made of, and puts the messages into the queues.
//!
//! Invariant: how far the log was read is stored together with what it led to. An entry that is read again leads to nothing new.

use super::{Message, Notifier, Routed, book::Entry, now_ns, queue::Queued};
use anyhow::{Context, Result, ensure};
use failsafe_core::record::Record;
use failsafe_proto::v1;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

/// The kinds of entries that are read.
const KINDS: [&str; 5] = ["run", "decision", "outcome", "health", "gap"];
/// How long failsafed may take to answer what is not followed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far was read is stored after this time where no message is due.
const FLUSH: Duration = Duration::from_secs(2);
/// While entries come, no message is due by time: what is read may already say more.
const QUIET: Duration = Duration::from_millis(300);
/// Waits between two attempts to reach failsafed.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Follows the log for ever.
pub async fn watch(mut notifier: Notifier) {
    let mut wait = WAITS.0;
    let mut said = String::new();
    loop {
        let before = notifier.state.next;
        let Err(error) = notifier.follow().await;
        notifier.seen.reads.store(false, Ordering::Relaxed);
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
        let end = self.end().await?;
        if self.is_new {
            self.learn(end).await?;
        }
        let mut heard_ns = i64::MIN;
        if end < self.state.next {
            let next = self.state.next;
            tracing::error!(end, next, "the audit log has fewer entries than were read: it was cut or replaced");
            // Entries that are not newer than those that were read led to messages already.
            (self.state.next, heard_ns) = (0, self.state.heard_ns);
        }
        let mut stream = self.daemon.events(request(self.state.next, true)).await?;
        self.seen.reads.store(true, Ordering::Relaxed);
        tracing::info!(from = self.state.next, "events are read for notifications");
        let mut dirty = false;
        loop {
            let due = self.state.book.next_due();
            let until_due = due.map(|due| Duration::from_nanos(u64::try_from(due - now_ns()).unwrap_or(0)).max(QUIET));
            let timer = match (until_due, dirty) {
                (Some(until), true) => until.min(FLUSH),
                (Some(until), false) => until.min(Duration::from_secs(60)),
                (None, true) => FLUSH,
                (None, false) => Duration::from_secs(3_600),
            };
            tokio::select! {
                biased;
                record = stream.message() => {
                    let record = record?.context("the stream of events ended")?;
                    self.take(&record, record.wall_ns <= heard_ns)?;
                    dirty = true;
                }
                () = tokio::time::sleep(timer) => {
                    let messages = self.state.book.take(now_ns(), &self.sender);
                    self.commit(messages);
                    dirty = false;
                }
            }
        }
    }

    /// The index behind the last entry of the log.
    async fn end(&self) -> Result<u64> {
        let tail = v1::WatchRequest { tail: Some(1), ..v1::WatchRequest::default() };
        let last = async {
            let mut stream = self.daemon.events(tail).await?;
            stream.message().await
        };
        let last = tokio::time::timeout(PATIENCE, last).await.context("failsafed does not answer")??;
        let why =
            "failsafed shows no entry of its log: notifications need `gateway.notifications = true` in failsafed.toml";
        Ok(last.context(why)?.index + 1)
    }

    /// At the first start: learns the runs that live. What happened before is not announced.
    async fn learn(&mut self, end: u64) -> Result<()> {
        let mut stream = self.daemon.events(request(0, false)).await?;
        while let Some(record) = stream.message().await? {
            if record.index < end {
                self.apply(&record)?;
            }
        }
        self.state.book.begin();
        self.state.next = end;
        self.is_new = false;
        self.commit(Vec::new());
        Ok(())
    }

    /// Takes an entry up, and queues the messages that it leads to. `heard`: they were queued before.
    fn take(&mut self, record: &v1::Record, heard: bool) -> Result<()> {
        ensure!(record.index >= self.state.next, "failsafed sent entry {} again", record.index);
        self.apply(record)?;
        self.state.next = record.index + 1;
        self.state.heard_ns = self.state.heard_ns.max(record.wall_ns);
        let messages = self.state.book.take(record.wall_ns, &self.sender);
        if !messages.is_empty() && !heard {
            self.commit(messages);
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

    /// Puts messages into the queues, and stores what is known with them.
    fn commit(&mut self, messages: Vec<Message>) {
        tokio::task::block_in_place(|| self.commit_now(messages));
    }

    fn commit_now(&mut self, messages: Vec<Message>) {
        let mut problem = None;
        let mut ready = Vec::new();
        let any = !messages.is_empty();
        for message in messages {
            for worker in self.receivers(&message) {
                self.state.queued += 1;
                let queued = Arc::new(Queued { n: self.state.queued, message: message.clone() });
                match serde_json::to_vec(&queued.message) {
                    Ok(text) => {
                        if let Err(error) = worker.queue.store(&queued, &text) {
                            problem = Some(error);
                        }
                        ready.push((worker, queued, text.len()));
                    }
                    Err(error) => tracing::error!(%error, "a notification cannot be written"),
                }
            }
        }
        if let Err(error) = self.store.write(&self.state) {
            problem = Some(error);
        }
        let stores = problem.is_none();
        if self.seen.stores.swap(stores, Ordering::Relaxed) != stores {
            match problem {
                // Without room on the disk they are sent all the same: after a restart some are sent again.
                Some(error) => tracing::error!(%error, "notifications cannot be stored: they are in memory only"),
                None => tracing::info!("notifications are stored again"),
            }
        }
        self.seen.forgotten.store(self.state.book.forgotten, Ordering::Relaxed);
        for (worker, queued, bytes) in ready {
            worker.queue.publish(queued, bytes);
        }
        if any || self.is_new {
            self.show_active();
        }
    }

    /// The targets that get a message: those that its routes lead to, and those that got an earlier one about the same.
    fn receivers(&mut self, message: &Message) -> Vec<Arc<super::Worker>> {
        let earlier = self.state.routed.get(&message.key).cloned().unwrap_or_default();
        let gets = |target: &&Routed| {
            let knows = earlier.contains(&target.worker.name);
            if message.closes_only {
                return knows && target.worker.target.keeps_alerts();
            }
            knows || message.goes_by(&target.routes)
        };
        let receivers: Vec<_> = self.targets.iter().filter(gets).map(|target| target.worker.clone()).collect();
        if message.resolved {
            self.state.routed.remove(&message.key);
        } else {
            let names: BTreeSet<String> = receivers.iter().map(|worker| worker.name.clone()).collect();
            let all = earlier.union(&names).cloned().collect();
            self.state.routed.insert(message.key.clone(), all);
        }
        receivers
    }

    /// Gives the targets that want to hear of open alerts again what is open now.
    pub(super) fn show_active(&self) {
        let wanting = || self.targets.iter().filter(|target| target.worker.target.wants_again());
        if wanting().next().is_none() {
            return;
        }
        let active = self.state.book.active(&self.sender);
        for Routed { worker, .. } in wanting() {
            let got = |message: &&Message| {
                self.state.routed.get(&message.key).is_some_and(|names| names.contains(&worker.name))
            };
            let own = active.iter().filter(got).cloned().collect();
            *worker.active.lock().unwrap_or_else(PoisonError::into_inner) = own;
        }
    }
}

fn request(from: u64, follow: bool) -> v1::WatchRequest {
    let kinds = KINDS.map(str::to_owned).to_vec();
    v1::WatchRequest { from, follow, kinds, ..v1::WatchRequest::default() }
}
