//! Puts messages into the queues of their targets, and stores what is known with them.
//!
//! Invariant: how far the log was read is stored only when all messages that it led to are stored, so that a restart loses none.

use super::{Message, Notifier, Routed, Worker, queue::Queued};
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
};

impl Notifier {
    /// Puts the messages that are ready into the queues, and stores what is known. `false`: that is to be tried again.
    pub(super) fn commit(&mut self) -> bool {
        tokio::task::block_in_place(|| self.commit_now())
    }

    pub(super) fn commit_now(&mut self) -> bool {
        let rest = self.targets.iter().map(|target| target.worker.queue.store_rest());
        let mut stored: io::Result<()> = rest.fold(Ok(()), io::Result::and);
        let mut queued = Vec::new();
        for message in std::mem::take(&mut self.ready) {
            let receivers = self.receivers(&message);
            self.show(&message, &receivers);
            for worker in receivers {
                self.state.queued += 1;
                let message = Queued { n: self.state.queued, message: message.clone() };
                match serde_json::to_vec(&message.message) {
                    Ok(text) => {
                        let written = worker.queue.store(&message, &text);
                        queued.push((worker, Arc::new(message), text.len(), written.is_ok()));
                        stored = stored.and(written);
                    }
                    Err(error) => tracing::error!(%error, "a notification cannot be written"),
                }
            }
        }
        for key in self.state.book.take_gone() {
            self.state.routed.remove(&key);
            self.hide(&key);
        }
        // What is read again after a restart leads to the same messages, with the same ids.
        let stored = stored.and_then(|()| self.store.write(&self.state));
        self.report(&stored);
        self.seen.forgotten.store(self.state.book.forgotten, Ordering::Relaxed);
        for (worker, message, bytes, is_stored) in queued {
            worker.queue.publish(message, bytes, is_stored);
        }
        stored.is_ok()
    }

    fn report(&self, stored: &io::Result<()>) {
        if self.seen.stores.swap(stored.is_ok(), Ordering::Relaxed) == stored.is_ok() {
            return;
        }
        match stored {
            // Without room on the disk they are sent all the same: after a restart some are sent again.
            Err(error) => tracing::error!(%error, "notifications cannot be stored: they are in memory only"),
            Ok(()) => tracing::info!("notifications are stored again"),
        }
    }

    /// The targets that get a message: those that its routes lead to, and those that got an earlier one about the same.
    fn receivers(&mut self, message: &Message) -> Vec<Arc<Worker>> {
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

    /// Notes a message for the targets that want to hear of open alerts again, before they get it: an alert that is closed is not
    /// opened again.
    fn show(&self, message: &Message, receivers: &[Arc<Worker>]) {
        if message.resolved {
            self.hide(&message.key);
            return;
        }
        let wanting: Vec<_> = receivers.iter().filter(|worker| worker.target.wants_again()).collect();
        if wanting.is_empty() {
            return;
        }
        let again = Arc::new(Message { id: format!("{}/again", message.key), ..message.clone() });
        for worker in wanting {
            let mut active = worker.active.lock().unwrap_or_else(PoisonError::into_inner);
            active.insert(message.key.clone(), again.clone());
        }
    }

    fn hide(&self, key: &str) {
        for Routed { worker, .. } in &self.targets {
            worker.active.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }

    /// At the start: notes what is open, as it was stored.
    pub(super) fn show_open(&mut self) {
        let book = &self.state.book;
        self.state.routed.retain(|key, _| book.has(key));
        for message in book.active(&self.sender) {
            let Some(names) = self.state.routed.get(&message.key) else { continue };
            let got = self.targets.iter().map(|target| &target.worker).filter(|worker| names.contains(&worker.name));
            let got: Vec<Arc<Worker>> = got.cloned().collect();
            self.show(&message, &got);
        }
    }
}
