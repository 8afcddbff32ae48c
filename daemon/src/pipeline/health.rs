//! Health as the daemon keeps it: fed on the pipeline's thread, on record, on disk, and published for the API.
//!
//! ```text
//! inputs, facts, orders ─► core's Health ─► Change ─► audit log
//!                                             ├─► Shared: what the API answers and watchers follow
//!                                             └─► saver's thread ─► health.json (the pipeline waits for no disk)
//! ```

use super::pulse::{Pulses, Stuck};
use crate::{log::Log, platform::clock, runs::store};
use failsafe_core::{
    GpuId, Input, MonoTime, Proof,
    health::{Change, Fact, Health, Kept, Level, Order, OrderRefused, ReadTo, Slot, Start, Target, Thresholds, View},
    record::Record,
    time::Span,
    xid::{Advice, Catalogue},
};
use failsafe_journal::{Filter, Query, Search};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
};
use tokio::sync::{oneshot, watch};

/// The file in the state folder.
const FILE: &str = "health.json";
/// Changes kept for watchers that come late.
const CHANGES_KEPT: usize = 1_024;
/// What changes no level and no reason, such as how often one came, is kept after so many ticks.
const SAVE_AFTER: u32 = 10;
/// A sample may be this old at least, however often is sampled.
const FRESH: Span = Span::from_secs(10);

/// What health is told through the pipeline's queue.
#[derive(Debug)]
pub enum Message {
    /// Something that a sensor knows.
    Fact(Fact),
    /// An authorised order, and who waits for it to be on record.
    Order(Order, oneshot::Sender<Result<(), OrderRefused>>),
}

/// What the API reads.
#[derive(Debug)]
pub struct Shared {
    published: Mutex<Published>,
    /// Of the threads that freeze. The pipeline cannot report that it makes no progress.
    pulses: Pulses,
    revision: watch::Sender<u64>,
}

#[derive(Debug)]
struct Published {
    /// Shared with those who read it: a thousand clients ask between two ticks.
    view: Arc<View>,
    changes: VecDeque<Change>,
}

/// Changes since a revision.
#[derive(Debug, Default)]
pub struct Since {
    /// They are not all known any more: the whole state is to be read anew.
    pub missed: bool,
    /// Oldest first.
    pub changes: Vec<Change>,
}

impl Shared {
    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How node and GPUs stand now; `unknown` where the pipeline has not spoken for too long, `unhealthy` while a thread that freezes makes
    /// no progress.
    pub fn view(&self) -> Arc<View> {
        let view = self.published().view.clone();
        let now = MonoTime(clock::monotonic_ns());
        let view = if view.is_fresh(now) { view } else { Arc::new(View::clone(&view).at(now)) };
        match self.pulses.stuck() {
            Some(Stuck { thread, since }) => {
                let since = Span(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
                Arc::new(View::clone(&view).without_progress(thread, since, clock::wall_ns()))
            }
            None => view,
        }
    }

    /// The pulses of the threads that freeze.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// Changes after `revision`. A revision higher than the current one comes from another state folder: then all
    /// changes are returned.
    pub fn since(&self, revision: u64) -> Since {
        let published = self.published();
        let oldest =
            published.changes.front().map_or(published.view.revision.saturating_add(1), |change| change.revision);
        let missed = revision.saturating_add(1) < oldest || revision > published.view.revision;
        let changes = published.changes.iter().filter(|change| missed || change.revision > revision);
        Since { missed, changes: changes.cloned().collect() }
    }

    /// Changes whenever there is a new revision.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

/// Owner of the health; lives on the pipeline's thread.
pub struct HealthStore {
    health: Health,
    log: Log,
    shared: Arc<Shared>,
    saver: Option<Sender<Kept>>,
    thread: Option<JoinHandle<()>>,
    /// As last given to the saver.
    saved: Kept,
    ticks: u32,
}

impl HealthStore {
    /// Takes up what was kept. A file that cannot be read is no clean bill of health: somebody has to look.
    ///
    /// # Errors
    /// The saver's thread could not be made.
    pub fn open(
        state_dir: &Path,
        log: Log,
        (catalogue, thresholds): (Catalogue, Thresholds),
        gpus: bool,
        interval: Span,
    ) -> std::io::Result<HealthStore> {
        let path = state_dir.join(FILE);
        let at = MonoTime(clock::monotonic_ns());
        let (kept, unread) = match store::read_json::<Kept>(&path) {
            Ok(kept) => (kept, None),
            Err(error) if error.is_missing() && was_judged(&log) => (Kept::default(), Some(error.chain())),
            Err(error) if error.is_missing() => (Kept::default(), None),
            Err(error) => (Kept::default(), Some(error.chain())),
        };
        let wall_offset_ns = clock::wall_ns().saturating_sub(i64::try_from(at.0).unwrap_or(i64::MAX));
        let fresh = FRESH.max(Span(interval.0.saturating_mul(3)));
        let saved = kept.clone();
        let health =
            Health::new(Arc::new(catalogue), Arc::new(thresholds), kept, Start { at, wall_offset_ns, fresh, gpus });
        let published = Published { view: Arc::new(health.view()), changes: VecDeque::new() };
        let (revision, _) = watch::channel(published.view.revision);
        let shared = Arc::new(Shared { published: Mutex::new(published), pulses: Pulses::default(), revision });
        let (saver, queue) = mpsc::channel();
        let thread = std::thread::Builder::new().name("health".into()).spawn(move || save(&path, &queue))?;
        let (saver, thread) = (Some(saver), Some(thread));
        let mut keeper = HealthStore { health, log, shared, saver, thread, saved, ticks: 0 };
        if let Some(why) = unread {
            tracing::error!(why, "the health of the node could not be read");
            keeper.fact(&Fact::Noted {
                target: Target::Node,
                code: "health-lost".into(),
                level: Level::Unhealthy,
                text: format!("what was known of this node's health could not be read: {why}"),
                advice: Advice::InspectHardware,
                at,
            });
        }
        Ok(keeper)
    }

    /// What the API reads.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The last record of this boot's kernel log that was taken in; `None` before the first.
    pub fn kernel_log_read(&self, boot_id: &str) -> Option<u64> {
        self.health.read_to().filter(|to| to.boot_id == boot_id).map(|to| to.sequence)
    }

    /// Where each GPU is that is or was in this node.
    pub fn slots(&self) -> BTreeMap<GpuId, Slot> {
        self.health.slots()
    }

    /// What comes next is what the kernel's log says up to there.
    pub fn reads_to(&mut self, to: ReadTo) {
        self.health.reads_to(to);
    }

    /// Whether this XID, told late, was heard when it came.
    pub fn knows_xid(&self, gpu: &GpuId, code: u64, at: MonoTime) -> bool {
        self.health.knows_xid(gpu, code, at)
    }

    /// Takes in an input of the core.
    pub fn take(&mut self, input: &Input) {
        let changes = self.health.take(input);
        self.changed(changes);
    }

    /// Time passes; the answer of the API stays fresh.
    pub fn tick(&mut self, at: MonoTime) {
        self.take(&Input::Tick(at));
        self.shared.published().view = Arc::new(self.health.view());
        self.ticks += 1;
        if self.ticks >= SAVE_AFTER {
            self.save();
        }
    }

    /// Gives the saver what is to be kept, where that is news.
    fn save(&mut self) {
        self.ticks = 0;
        let kept = self.health.keep();
        if let Some(saver) = &self.saver
            && kept != self.saved
        {
            self.saved = kept.clone();
            // Its thread ends only with this.
            let _ended = saver.send(kept);
        }
    }

    /// From the pipeline's queue.
    pub fn message(&mut self, message: Message) {
        match message {
            Message::Fact(fact) => self.fact(&fact),
            Message::Order(order, done) => self.order(&order, done),
        }
    }

    /// Cordons a part for a rule; what then stands is the proof.
    ///
    /// # Errors
    /// The GPU is not this node's.
    pub fn cordon(&mut self, order: &Order) -> Result<Proof, OrderRefused> {
        let changes = self.health.order(order, MonoTime(clock::monotonic_ns()))?;
        self.log.record(&Record::Order(order.clone()), None, None);
        self.changed(changes);
        let view = self.health.view();
        let level = match &order.target {
            Target::Node => view.node.level,
            Target::Gpu(gpu) => view.gpus.get(gpu).map_or(Level::Unknown, |part| part.level),
        };
        Ok(Proof { fact: format!("health of {}", order.target), seen: format!("{level}, cordoned") })
    }

    fn fact(&mut self, fact: &Fact) {
        let changes = self.health.fact(fact);
        self.changed(changes);
    }

    fn order(&mut self, order: &Order, done: oneshot::Sender<Result<(), OrderRefused>>) {
        match self.health.order(order, MonoTime(clock::monotonic_ns())) {
            Ok(changes) => {
                tracing::warn!(order = ?order.kind, part = %order.target, by = order.by, why = order.why, "order");
                // Whoever waits for the record is to find the order obeyed.
                self.publish(&changes);
                self.log.record_then(&Record::Order(order.clone()), None, None, move |_| {
                    let _gone = done.send(Ok(()));
                });
                self.record(&changes);
            }
            Err(error) => {
                let _gone = done.send(Err(error));
            }
        }
    }

    fn changed(&mut self, changes: Vec<Change>) {
        self.publish(&changes);
        self.record(&changes);
    }

    fn record(&mut self, changes: &[Change]) {
        for change in changes {
            let codes: Vec<&str> = change.added.iter().map(|reason| reason.code.as_str()).collect();
            tracing::warn!(
                part = %change.target, from = %change.from, to = %change.to, added = codes.join(","),
                removed = change.removed.join(","), "health"
            );
            self.log.record(&Record::Health(change.clone()), None, None);
        }
        if !changes.is_empty() {
            self.save();
        }
    }

    fn publish(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let view = self.health.view();
        let revision = view.revision;
        {
            let mut published = self.shared.published();
            published.view = Arc::new(view);
            published.changes.extend(changes.iter().cloned());
            let over = published.changes.len().saturating_sub(CHANGES_KEPT);
            published.changes.drain(..over);
        }
        self.shared.revision.send_replace(revision);
    }
}

impl Drop for HealthStore {
    /// The last state is on disk before the daemon ends.
    fn drop(&mut self) {
        self.save();
        drop(self.saver.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn save(path: &Path, queue: &Receiver<Kept>) {
    while let Ok(mut kept) = queue.recv() {
        // What is newer makes what is older needless.
        while let Ok(newer) = queue.try_recv() {
            kept = newer;
        }
        if let Err(error) = store::write_json(path, &kept) {
            tracing::error!(error = error.chain(), "the health of the node could not be kept");
        }
    }
}

/// Whether the audit log has an entry about health: an earlier daemon then had a file of it. A log that cannot be read proves nothing, and
/// is a reason of health itself.
fn was_judged(log: &Log) -> bool {
    let kinds = vec!["health".to_owned(), "order".to_owned()];
    let query = Query { filter: Filter { kinds, ..Filter::default() }, ..Query::default() };
    Search::open(log.path(), query).is_ok_and(|mut found| found.next().is_some_and(|entry| entry.is_ok()))
}
