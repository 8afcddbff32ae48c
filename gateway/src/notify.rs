//! Notifications: messages about incidents and about health, to webhooks, Alertmanager, PagerDuty, programs and the journal.
//!
//! ```text
//! failsafed ─events─► watch ─► book (what is known, which messages follow) ─► routes ─► queue of each target ─► worker ─► target
//!                       └────────► store: what is known, and how far the log was read, in one file
//! ```
//! Invariants: an entry is noted as read only when the messages that it led to are in the queues on disk; a target that does not
//! answer delays no other one; memory and files are bounded; no secret is logged or shown.

pub mod book;
pub mod http;
mod message;
mod outbox;
mod queue;
mod store;
mod target;
mod watch;
mod worker;

pub use message::Message;
pub use target::{Delivery, Target};

use crate::{
    config::{About, Notify, Wrong},
    daemon::Daemon,
};
use anyhow::{Context, Result};
use book::Sender;
use message::{severity, time};
use queue::{Bounds, Queue};
use serde_json::{Value, json as object};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::{State, Store};
use worker::{Counts, Worker};

/// All targets, and the reader of events.
pub struct Notifier {
    daemon: Daemon,
    sender: Sender,
    store: Store,
    state: State,
    is_new: bool,
    /// Messages that are not in the queues yet.
    ready: Vec<Message>,
    targets: Vec<Routed>,
    seen: Arc<Seen>,
}

/// A target with what it gets.
struct Routed {
    worker: Arc<Worker>,
    routes: Vec<crate::config::Route>,
}

/// What the metrics show.
#[derive(Default)]
pub struct Seen {
    workers: Vec<Arc<Worker>>,
    /// Whether events are read now.
    pub reads: AtomicBool,
    /// Whether what is known was stored when it last had to be.
    pub stores: AtomicBool,
    /// Incidents that were forgotten because there were too many.
    pub forgotten: AtomicU64,
}

/// What is counted of a target.
pub struct TargetCounts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Messages that it took.
    pub sent: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Messages that it refused for ever.
    pub refused: u64,
    /// Messages that were lost.
    pub dropped: u64,
    /// Messages that wait.
    pub queued: usize,
    /// Age of the oldest of those, in seconds.
    pub oldest_s: f64,
}

impl Seen {
    /// Of each target.
    pub fn targets(&self) -> impl Iterator<Item = TargetCounts<'_>> {
        self.workers.iter().map(|worker| {
            let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let (queued, oldest) = worker.queue.waiting();
            let age = oldest.map_or(0, |at| now_ns().saturating_sub(at).max(0));
            TargetCounts {
                name: &worker.name,
                sent: get(&worker.counts.sent),
                failed: get(&worker.counts.failed),
                refused: get(&worker.counts.refused),
                dropped: get(&worker.queue.dropped),
                queued,
                oldest_s: age as f64 / 1e9,
            }
        })
    }
}

/// What of the files that the configuration names cannot be used.
pub fn check(config: &Notify) -> Vec<Wrong> {
    let of = |(name, target)| {
        let wrong = Target::open(target).err().unwrap_or_default();
        wrong.into_iter().map(move |(field, why)| Wrong::new(format!("notify.target.{name}.{field}"), why))
    };
    config.target.iter().flat_map(of).collect()
}

/// What can be used, but should be known: one line each.
pub fn warnings(config: &Notify) -> Vec<String> {
    let readable = config.target.iter().filter(|(_, target)| Target::is_sent_readable(target));
    let warning = |(name, target): (&String, &crate::config::Target)| {
        format!("notify.target.{name}.url: messages can be read on their way to {}: use https", target.url)
    };
    readable.map(warning).collect()
}

impl Notifier {
    /// Opens the targets and the queues.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn open(config: &Notify, socket: PathBuf) -> Result<Notifier> {
        let folder = config.folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("notify.state_dir: {}", folder.display()))?;
        let store = Store::new(&folder);
        let stored = store.read().with_context(|| {
            format!("{} cannot be used; without it, notifications begin at the end of the log", store.path().display())
        })?;
        let is_new = stored.is_none();
        let state = stored.unwrap_or_else(State::new);
        let mut targets = Vec::new();
        for (name, target) in &config.target {
            let opened = opened(name, target)?;
            let bounds = Bounds {
                entries: usize::try_from(target.queue_entries)?,
                bytes: usize::try_from(target.queue_kib.saturating_mul(1_024))?,
            };
            let place = folder.join("queue").join(name);
            let queue =
                Queue::open(place.clone(), bounds, state.queued).with_context(|| place.display().to_string())?;
            let worker = Worker {
                name: name.clone(),
                target: opened,
                queue,
                counts: Counts::default(),
                keep: Duration::from_secs(target.keep_h.saturating_mul(3_600)),
                first_wait: worker::FIRST,
                active: Mutex::default(),
            };
            targets.push(Routed { worker: Arc::new(worker), routes: target.route.clone() });
        }
        let workers = targets.iter().map(|target| target.worker.clone()).collect();
        let seen = Arc::new(Seen { workers, stores: AtomicBool::new(true), ..Seen::default() });
        let sender = Sender { node: config.node_name(), contact: config.contact.clone() };
        let (daemon, ready) = (Daemon::new(socket), Vec::new());
        let mut notifier = Notifier { daemon, sender, store, state, is_new, ready, targets, seen };
        // Alerts that were open before the start stay open, also where no message follows for long.
        notifier.show_open();
        Ok(notifier)
    }

    /// For the metrics.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// Reads events and sends messages. It does not end by itself.
    ///
    /// # Errors
    /// A task of it ended.
    pub async fn serve(self) -> Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for target in &self.targets {
            tasks.spawn(target.worker.clone().serve());
        }
        tasks.spawn(watch::watch(self));
        match tasks.join_next().await {
            Some(ended) => Ok(ended?),
            None => Ok(()),
        }
    }
}

/// A target; the error has a line for each field that cannot be used.
fn opened(name: &str, target: &crate::config::Target) -> Result<Target> {
    Target::open(target).map_err(|wrong| {
        let all: Vec<String> = wrong.iter().map(|(key, why)| format!("notify.target.{name}.{key}: {why}")).collect();
        anyhow::anyhow!(all.join("\n"))
    })
}

/// Sends a test message to one target, once.
///
/// # Errors
/// There is no such target, or a file of it cannot be used.
pub async fn test(config: &Notify, name: &str) -> Result<Delivery> {
    let names = || config.target.keys().cloned().collect::<Vec<_>>().join(", ");
    let target =
        config.target.get(name).with_context(|| format!("there is no target {name}: expected one of {}", names()))?;
    let target = opened(name, target)?;
    Ok(target.send(&Message::test(&config.node_name(), &config.contact, now_ns())).await)
}

/// A message as receivers get it.
fn json(message: &Message) -> Value {
    let about = match message.about {
        About::Incident => "incident",
        About::Health => "health",
        About::Test => "test",
    };
    let run = message.run.as_ref().map(|run| {
        object!({ "id": run.id, "name": run.name, "owner_uid": run.owner_uid, "labels": run.labels, "policy": run.policy })
    });
    object!({
        "id": message.id,
        "about": about,
        "key": message.key,
        "node": message.node,
        "severity": severity(message.severity),
        "mode": message.mode,
        "standing": message.standing,
        "resolved": message.resolved,
        "update": message.update,
        "began": time(message.began_ns),
        "at": time(message.at_ns),
        "summary": message.summary,
        "run": run,
        "rule": message.rule,
        "rationale": message.rationale,
        "condition": message.condition,
        "values": message.values,
        "done": message.done,
        "contact": message.contact,
        "playbook": message.playbook,
        "next": message.next,
    })
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
