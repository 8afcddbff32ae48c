//! The thread of shadows: judges what the pipeline hands on, and answers for reports.
//!
//! It gives way to all other threads. Invariants: an entry is judged once by each shadow of its run, in the order of the pipeline; the
//! beginning and the end of each shadow are in the audit log.

use super::{
    Beginning, By, Ending, Message, Report, book, book::Book, book::Group, book::Named, feed::Entry, list::Place,
};
use crate::{
    log::Log,
    platform::{clock, sched},
};
use failsafe_core::{
    Actor, RunId,
    record::Record,
    shadow::{Summary, Tally},
};
use failsafe_matchers::shadow::{Beside, Now, Shadow};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::Receiver,
    },
};

/// One shadow of a run.
struct One {
    shadow: Shadow,
    group: Group,
    actor: Actor,
    /// Free again when this is dropped.
    _place: Place,
}

/// A run with its shadows; at least one.
struct OfRun {
    beside: Beside,
    /// The pipeline hands entries on for as long as this is held.
    _fed: Arc<AtomicUsize>,
    shadows: Vec<One>,
}

/// The thread's state.
pub(super) struct Judge {
    log: Log,
    runs: BTreeMap<RunId, OfRun>,
    book: Book,
}

impl Judge {
    pub fn new(log: Log) -> Judge {
        Judge { log, runs: BTreeMap::new(), book: Book::default() }
    }

    /// Works until it is stopped, or nobody is left who asks.
    pub fn work(mut self, queue: &Receiver<Message>, stop: &AtomicBool) {
        sched::background();
        while let Ok(message) = queue.recv() {
            match message {
                Message::Stop => break,
                // What waits is not judged any more: the stop of the daemon does not wait for it.
                Message::Entries(entries) if stop.load(Ordering::Relaxed) => {
                    entries.iter().for_each(|entry| self.dropped(entry.run, 1));
                }
                Message::Entries(entries) => {
                    for entry in entries {
                        self.entry(&entry);
                    }
                }
                Message::Begin { beginning, now, fed } => self.begin(*beginning, now, fed),
                Message::Dropped(run, lost) => self.dropped(run, lost),
                Message::End(ending) => self.end(ending),
                Message::RunEnded(run) => self.run_ended(run, "the run has ended"),
                // A client that has left costs nothing but this look.
                Message::Report(report) if report.answer.is_closed() => {}
                Message::Report(Report { run, sees, answer, held }) => {
                    let _nobody_waits = answer.send(self.report(run, &*sees));
                    drop(held);
                }
            }
        }
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        runs.into_iter().for_each(|run| self.run_ended(run, "the daemon stops"));
    }

    fn begin(&mut self, beginning: Beginning, now: Now, fed: Arc<AtomicUsize>) {
        let Beginning { asked, place, done } = beginning;
        let wall = clock::wall_ns();
        let of_run = self.runs.entry(asked.run.id).or_insert_with(|| {
            let wall_offset_ns = wall.saturating_sub(i64::try_from(clock::monotonic_ns()).unwrap_or(i64::MAX));
            let beside = Beside { run: asked.run.clone(), enforced: asked.enforced.clone(), wall_offset_ns };
            OfRun { beside, _fed: fed, shadows: Vec::new() }
        });
        let shadow = Shadow::begin(&of_run.beside, asked.policy.clone(), now);
        let group = Group {
            by: asked.by,
            enforced: Named::of(&asked.enforced, asked.run.policy),
            shadow: Named::of(&asked.policy, shadow.digest()),
            since_ns: wall,
            live: 1,
            tally: Tally::of_run(),
        };
        self.log.record(&record(&of_run.beside, &group, &asked.actor, None), Some(asked.run.id), None);
        of_run.shadows.push(One { shadow, group, actor: asked.actor, _place: place });
        let _nobody_waits = done.send(Ok(()));
    }

    fn entry(&mut self, entry: &Entry) {
        let Some(OfRun { beside, shadows, .. }) = self.runs.get_mut(&entry.run) else { return };
        for one in shadows {
            one.shadow.take(beside, &entry.input, &entry.decisions, entry.frozen, &mut one.group.tally);
        }
    }

    fn dropped(&mut self, run: RunId, lost: u64) {
        if let Some(of_run) = self.runs.get_mut(&run) {
            of_run.shadows.iter_mut().for_each(|one| one.group.tally.dropped += lost);
        }
    }

    fn end(&mut self, Ending { run, digest, by, actor, done }: Ending) {
        let Some(of_run) = self.runs.get_mut(&run) else { return };
        let is = |one: &One| one.shadow.digest() == digest && one.group.by == by;
        let Some(at) = of_run.shadows.iter().position(is) else { return };
        let one = of_run.shadows.remove(at);
        let beside = of_run.beside.clone();
        if of_run.shadows.is_empty() {
            self.runs.remove(&run);
        }
        let group = self.close(&beside, one, Some(actor), "it was removed");
        let _nobody_waits = done.send(group);
    }

    fn run_ended(&mut self, run: RunId, why: &str) {
        let Some(OfRun { beside, shadows, .. }) = self.runs.remove(&run) else { return };
        for one in shadows {
            self.close(&beside, one, None, why);
        }
    }

    /// Records the end of a shadow, and keeps what it found.
    fn close(&mut self, beside: &Beside, one: One, actor: Option<Actor>, why: &str) -> Group {
        let One { shadow, mut group, actor: asked, _place } = one;
        shadow.conclude(beside, &mut group.tally);
        let summary = Summary { why: why.to_owned(), ..Summary::of(&group.tally) };
        let record = record(beside, &group, &actor.unwrap_or(asked), Some(summary));
        self.log.record(&record, Some(beside.run.id), None);
        self.book.add(&group);
        Group { live: 0, ..group }
    }

    /// What was found of a live run, or of all, that the caller sees. Nothing is copied or computed of the rest.
    fn report(&self, run: Option<RunId>, sees: &dyn Fn(&By) -> bool) -> Vec<Group> {
        let mut all: BTreeMap<book::Key, Group> = BTreeMap::new();
        let key = |group: &Group| book::key(&group.by, group.enforced.digest, group.shadow.digest);
        if run.is_none() {
            let seen = self.book.groups().filter(|group| sees(&group.by));
            all.extend(seen.map(|group| (key(group), group.clone())));
        }
        let live = self.runs.iter().filter(|(id, _)| run.is_none_or(|run| run == **id));
        for (_, OfRun { beside, shadows, .. }) in live {
            for one in shadows.iter().filter(|one| sees(&one.group.by)) {
                let mut tally = one.group.tally.clone();
                one.shadow.conclude(beside, &mut tally);
                match all.get_mut(&key(&one.group)) {
                    Some(known) => {
                        known.live += 1;
                        known.since_ns = known.since_ns.min(one.group.since_ns);
                        known.tally.merge(&tally);
                    }
                    None => {
                        all.insert(key(&one.group), Group { tally, ..one.group.clone() });
                    }
                }
            }
        }
        all.into_values().collect()
    }
}

fn record(beside: &Beside, group: &Group, actor: &Actor, ended: Option<Summary>) -> Record {
    Record::Shadow {
        run: beside.run.id,
        name: beside.run.name.clone(),
        policy: group.shadow.digest,
        policy_name: format!("{} v{}", group.shadow.name, group.shadow.version),
        actor: actor.clone(),
        ended,
    }
}
