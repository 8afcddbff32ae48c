//! The writer thread: owns the [`AuditLog`], seals in order, commits, tells. Nothing else writes the log.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Options;
use super::queue::{Item, Queue, Refused};
use super::ticket::{Done, Durable, WaitError};
use super::vouch::Vouching;
use crate::clock::Stamp;
use crate::entry::{Draft, Sealed, kind};
use crate::segments::Summary;
use crate::storage::Storage;
use crate::writer::{AuditLog, Recovery, chain_text};

pub(super) fn run<S: Storage>(log: AuditLog<S>, queue: &Queue, options: Options, recovery: Recovery) {
    let Options { observer, live, statement, clock, retry_after, retry_least, signing, heartbeat, .. } = options;
    let waiting = VecDeque::new();
    let (retained, outage) = (None, None);
    let vouching = Vouching::new(signing, heartbeat);
    let mut worker = Worker {
        log,
        queue,
        clock,
        observer,
        live,
        statement,
        waiting,
        outage,
        retry_after,
        retry_least,
        retained,
        vouching,
    };
    worker.publish(&recovery.written);
    if let Some(error) = recovery.deferred {
        worker.failed(error);
    }
    while worker.turn() {}
    // What could not be written is not signed over.
    if worker.outage.is_none() {
        worker.vouch(true);
    }
}

struct Worker<'a, S> {
    log: AuditLog<S>,
    queue: &'a Queue,
    clock: Box<dyn crate::clock::Clock>,
    observer: Option<super::Observer>,
    live: Option<super::LiveRuns>,
    statement: Option<super::Statement>,
    /// By index: who waits for the log's pending entries. Entries of the journal itself are not all here.
    waiting: VecDeque<(u64, Queued)>,
    outage: Option<Outage>,
    retry_after: Duration,
    retry_least: Duration,
    /// When it was last looked for segments to remove.
    retained: Option<Instant>,
    vouching: Vouching,
}

/// Segments to remove are looked for when one was sealed, and this often.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

enum Queued {
    Draft { bytes: usize, done: Done },
    Refused(u64),
}

/// The time in which commits fail.
struct Outage {
    since: Stamp,
    error: String,
    attempts: u64,
    last_failure: Instant,
}

impl<S: Storage> Worker<'_, S> {
    /// One wait and one commit. False: the end.
    fn turn(&mut self) -> bool {
        let after = |delay| self.outage.as_ref().map(|outage| outage.last_failure + delay);
        let idle_until = match self.outage {
            Some(_) => after(self.retry_after),
            None => self.vouching.due(&self.log),
        };
        let work = self.queue.take(after(self.retry_least), idle_until);
        for item in work.items {
            self.seal(item);
        }
        if self.outage.is_none() && self.log.pending() == 0 && self.vouching.heart_is_due(&self.log) {
            // The draft is ours, and always fits.
            let beat = self.vouching.heartbeat(self.log.signed(), self.clock.now());
            let _beat = self.log.append(&beat);
        }
        if self.log.pending() > 0 || self.outage.is_some() {
            self.commit();
        }
        if self.outage.is_none() {
            self.build_tree();
            self.vouch(false);
        }
        match work.close_by {
            // Submits are refused by now, so nothing was queued behind what this turn took.
            Some(by) => (self.log.pending() > 0 || self.outage.is_some()) && Instant::now() < by,
            None => true,
        }
    }

    fn seal(&mut self, item: Item) {
        match item {
            Item::Draft { prepared, done } => {
                let bytes = prepared.max_bytes();
                let index = self.log.append_prepared(&prepared).index;
                self.waiting.push_back((index, Queued::Draft { bytes, done }));
            }
            Item::Refused(refused) => {
                if let Ok(sealed) = self.log.append(&overflow_gap(&refused, self.clock.now())) {
                    self.waiting.push_back((sealed.index, Queued::Refused(refused.count)));
                }
            }
        }
    }

    fn commit(&mut self) {
        self.queue.commit_begins(self.clock.now());
        match self.log.commit() {
            Ok(written) => {
                self.publish(&written);
                if let Some(why) = self.log.aside_problem() {
                    let why = format!(
                        "earlier checkpoints, which the audit log does not contain, cannot be put aside: {why}"
                    );
                    self.queue.set_tree(|tree| tree.problem = Some(why));
                }
                if let Some(outage) = self.outage.take() {
                    self.queue.outage_over();
                    // Appended only now, behind what was delayed; a second sync is nothing after an outage.
                    if self.log.append(&storage_gap(&outage, &written, self.clock.now())).is_ok() {
                        self.commit();
                    }
                } else if self.log.seal_if_due_with(self.clock.now(), || {
                    self.statement.as_ref().map(|state| state()).unwrap_or_default()
                }) {
                    self.retained = None;
                    // The tree stands at the border: the entry that names the sealed segment is not in it yet.
                    let (signed, now) = (self.vouching.sign(&mut self.log, true), self.clock.now());
                    self.signed(signed, now);
                    self.commit();
                } else if self.retained.is_none_or(|at| at.elapsed() >= RETAIN_EVERY) {
                    self.retain();
                }
            }
            Err(error) => self.failed(chain_text(&error)),
        }
    }

    /// One step of reading sealed segments for the tree, if there are any to read.
    fn build_tree(&mut self) {
        if !self.log.is_building_tree() {
            return;
        }
        let (building, found) = self.log.build_tree(self.clock.now());
        self.queue.set_tree(|tree| {
            tree.building = building;
            tree.findings.extend(found);
        });
        if self.log.pending() > 0 {
            self.commit();
        }
    }

    /// Signs a checkpoint if it is time to, or at the end.
    fn vouch(&mut self, at_end: bool) {
        if at_end || self.vouching.signature_is_due(&self.log) {
            let (signed, now) = (self.vouching.sign(&mut self.log, false), self.clock.now());
            self.signed(signed, now);
        }
    }

    fn signed(&self, signed: std::io::Result<bool>, now: Stamp) {
        let entries = self.log.signed();
        self.queue.set_tree(|tree| {
            tree.signed = entries;
            match signed {
                Ok(true) => (tree.signed_at, tree.problem) = (Some(now), None),
                Ok(false) => {}
                Err(error) => {
                    tree.problem =
                        Some(format!("the checkpoint of the audit log cannot be signed and written: {error}"))
                }
            }
        });
    }

    fn retain(&mut self) {
        let Some(runs) = self.live.as_ref().and_then(|live| live()) else { return };
        self.retained = Some(Instant::now());
        self.queue.set_plausible(self.log.plausible(&self.clock.now()));
        let live = |summary: &Summary| summary.runs.keys().any(|run| runs.contains(run));
        match self.log.retain(self.clock.now(), &live) {
            Ok(written) => self.publish(&written),
            Err(error) => self.failed(chain_text(&error)),
        }
    }

    fn failed(&mut self, error: String) {
        let now = self.clock.now();
        self.queue.commit_failed(now.clone(), error.clone());
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: now,
            error: String::new(),
            attempts: 0,
            last_failure: Instant::now(),
        });
        outage.error = error;
        outage.attempts += 1;
        outage.last_failure = Instant::now();
    }

    /// Observer first: who learns from a ticket that an entry is durable may rely on its having been published.
    fn publish(&mut self, written: &[Sealed]) {
        self.vouching.wrote(written.len());
        if let Some(observer) = &mut self.observer {
            for sealed in written {
                observer(sealed.index, sealed.bytes.clone());
            }
        }
        let (mut entries, mut bytes, mut refused) = (0, 0, 0);
        let mut resolved = Vec::with_capacity(written.len());
        for sealed in written {
            let Some((_, waiting)) = self.waiting.pop_front_if(|(index, _)| *index == sealed.index) else { continue };
            match waiting {
                Queued::Draft { bytes: size, done } => {
                    entries += 1;
                    bytes += size;
                    resolved.push((done, Durable { index: sealed.index, leaf_hash: sealed.leaf_hash }));
                }
                Queued::Refused(count) => refused += count,
            }
        }
        self.queue.commit_ends(written.len() as u64, entries, bytes, refused);
        for (done, durable) in resolved {
            done.resolve(Ok(durable));
        }
    }
}

fn overflow_gap(refused: &Refused, now: Stamp) -> Draft {
    let body = json!({
        "cause": "overflow",
        "dropped": refused.count,
        "dropped_by_kind": refused.by_kind,
        "first": stamp(&refused.first),
        "last": stamp(&refused.last),
    });
    Draft::new(kind::GAP, now, body)
}

fn storage_gap(outage: &Outage, delayed: &[Sealed], now: Stamp) -> Draft {
    let body = json!({
        "cause": "storage",
        "error": outage.error,
        "failed_commits": outage.attempts,
        "since": stamp(&outage.since),
        "duration_ns": now.mono_ns.saturating_sub(outage.since.mono_ns),
        "delayed": delayed.len(),
        "delayed_first": delayed.first().map(|sealed| sealed.index),
        "delayed_last": delayed.last().map(|sealed| sealed.index),
    });
    Draft::new(kind::GAP, now, body)
}

fn stamp(stamp: &Stamp) -> serde_json::Value {
    json!({ "wall_ns": stamp.wall_ns, "mono_ns": stamp.mono_ns })
}

/// However the thread ends, nobody waits for it in vain.
impl<S> Drop for Worker<'_, S> {
    fn drop(&mut self) {
        let queued = self.queue.stop().into_iter().filter_map(|item| match item {
            Item::Draft { done, .. } => Some(done),
            Item::Refused(_) => None,
        });
        let sealed = self.waiting.drain(..).filter_map(|(_, waiting)| match waiting {
            Queued::Draft { done, .. } => Some(done),
            Queued::Refused(_) => None,
        });
        for done in sealed.chain(queued) {
            done.resolve(Err(WaitError::Closed));
        }
    }
}
