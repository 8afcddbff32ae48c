//! Shadows: policies that are judged live beside the one in force, on the same inputs, without effect.
//!
//! ```text
//! API, discovery ─► Shadows: limits ─► pipeline: from here on ─► Feed ─► bounded queue ─► thread `shadows` ─► Tally, Book
//! pipeline: each input of the run, with its decisions ─────────────┘ (drops and counts)          API: report ◄┘
//! ```
//! The pipeline hands on a copy of what it records anyway, after the containment. Invariants: it waits for nobody here: what finds no room
//! is dropped and counted, and the report says so; each report in the queue holds its caller's turn, so that their number is bounded; nothing that this thread does reaches the engine, a run or the kernel, and its end does
//! not end the daemon; the number of shadows is bounded for each run, each user and the node.

mod again;
mod book;
mod delayed;
mod feed;
mod judge;
mod kept;
mod list;

pub use again::{Attempt, Pending, RunLookup};
pub use book::{Group, Named};
pub use delayed::Delayed;
pub use feed::Feed;
pub use kept::Stored;
pub use list::{LeftOut, Listed, PER_NODE, PER_RUN, PER_USER, Refused};

use crate::log::Log;
use delayed::DelayedList;
use failsafe_core::{Policy, PolicyDigest, RunId, actor::Actor, input::Run};
use failsafe_matchers::shadow::Now;
use list::{List, Place};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
};
use tokio::sync::oneshot;

/// Who wants a shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A rule of discovery: those who see all runs see its report.
    Rule(String),
    /// Somebody: this user sees its report, too.
    User(u32),
}

/// A shadow that is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The run.
    pub run: Run,
    /// Its policy.
    pub enforced: Arc<Policy>,
    /// The policy of the shadow.
    pub policy: Arc<Policy>,
    /// Its digest.
    pub digest: PolicyDigest,
    /// For whom.
    pub by: By,
    /// Root or an administrator asks, for whom places are kept.
    pub reserved: bool,
    /// The same for the log.
    pub actor: Actor,
}

/// What goes through the pipeline, so that it takes effect between two inputs.
pub enum ShadowChange {
    /// A shadow begins.
    Begin(Box<Beginning>),
    /// One is ended.
    End(Ending),
}

/// A shadow that has its place.
pub struct Beginning {
    asked: Asked,
    place: Place,
    done: oneshot::Sender<Result<(), Refused>>,
}

impl Beginning {
    /// The run.
    pub fn run(&self) -> RunId {
        self.asked.run.id
    }

    /// The run is not judged, or no longer.
    pub fn refuse(self) {
        let Beginning { asked: _, place, done } = self;
        // First: whoever tries again finds it free.
        drop(place);
        let _nobody_waits = done.send(Err(Refused::NotLive));
    }
}

/// A shadow that is to be ended.
pub struct Ending {
    run: RunId,
    digest: PolicyDigest,
    by: By,
    actor: Actor,
    done: oneshot::Sender<Group>,
}

/// What the thread takes.
enum Message {
    Begin { beginning: Box<Beginning>, now: Now, fed: Arc<AtomicUsize> },
    Entries(Vec<feed::Entry>),
    Dropped(RunId, u64),
    End(Ending),
    RunEnded(RunId),
    Report(Report),
    Stop,
}

/// Somebody wants to know what was found.
struct Report {
    /// Of this live run; none: of all.
    run: Option<RunId>,
    /// Whether the caller sees what was found for somebody.
    sees: Box<dyn Fn(&By) -> bool + Send>,
    answer: oneshot::Sender<Vec<Group>>,
    /// The caller's turn, which it keeps until this is out of the queue: whoever leaves and asks again has no more reports there.
    held: Box<dyn Send>,
}

/// The way in for whoever asks: adds, removes, lists and reports.
#[derive(Clone)]
pub struct Shadows {
    list: List,
    delayed: DelayedList,
    queue: Sender<Message>,
    dropped: Arc<AtomicU64>,
    /// Where they are kept over a restart.
    folder: PathBuf,
    /// Held by whoever keeps or forgets one: for as long as the disk takes.
    files: Arc<Mutex<()>>,
}

impl Shadows {
    /// Starts the thread. The second part is the pipeline's. Shadows are kept in the state folder.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(log: &Log, state_dir: &Path) -> std::io::Result<(Shadows, Feed)> {
        let (queue, receiver) = mpsc::channel();
        let (list, dropped) = (List::default(), Arc::new(AtomicU64::new(0)));
        let delayed = DelayedList::default();
        let feed = Feed::spawn(queue.clone(), dropped.clone(), {
            let log = log.clone();
            move |stop| judge::Judge::new(log).work(&receiver, &stop)
        })?;
        Ok((Shadows { list, delayed, queue, dropped, folder: state_dir.join("shadows"), files: Arc::default() }, feed))
    }

    /// Takes a place for a shadow. The order is for the pipeline; then it is known whether the shadow judges.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn add(&self, asked: Asked) -> Result<(ShadowChange, oneshot::Receiver<Result<(), Refused>>), Refused> {
        let place = self.list.take(&asked)?;
        let (done, wait) = oneshot::channel();
        Ok((ShadowChange::Begin(Box::new(Beginning { asked, place, done })), wait))
    }

    /// An order that ends a shadow; then what it found is known, unless it has ended meanwhile.
    pub fn remove(&self, shadow: &Listed, actor: Actor) -> (ShadowChange, oneshot::Receiver<Group>) {
        let (done, wait) = oneshot::channel();
        let Listed { run, digest, by, .. } = shadow;
        (ShadowChange::End(Ending { run: *run, digest: *digest, by: by.clone(), actor, done }), wait)
    }

    /// Keeps a shadow that somebody asked for, so that the next daemon has it, too. One that was removed or has ended meanwhile is not
    /// kept. May hang with the disk.
    ///
    /// # Errors
    /// It is not kept.
    pub fn keep(&self, asked: &Asked) -> Result<(), String> {
        let _files = self.files();
        if self.list.stays(asked) { kept::keep(&self.folder, asked) } else { Ok(()) }
    }

    /// The next daemon does not have it, also if whoever asked for it is about to keep it. May hang with the disk.
    ///
    /// # Errors
    /// It is kept all the same.
    pub fn forget(&self, shadow: &Listed) -> std::io::Result<()> {
        let _files = self.files();
        kept::forget(&self.folder, shadow.run, shadow.digest)?;
        self.list.leaves(shadow);
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that earlier daemons kept, and what is wrong with others.
    pub fn stored(&self) -> (Vec<Stored>, Vec<String>) {
        kept::read_all(&self.folder)
    }

    /// Forgets those of runs that do not live.
    pub fn tidy(&self, lives: impl Fn(RunId) -> bool) {
        kept::tidy(&self.folder, lives);
    }

    /// Those that judge, by run.
    pub fn list(&self) -> Vec<Listed> {
        self.list.all()
    }

    /// Those of an earlier daemon that do not judge yet.
    pub fn delayed(&self) -> Vec<Delayed> {
        let judging = self.list.all();
        let mut delayed = self.delayed.all();
        delayed.retain(|one| !judging.iter().any(|listed| one.is(listed)));
        delayed
    }

    /// Gives one of them up, also for the next daemon. It may have got its place meanwhile: look for it in [`Shadows::list`] afterwards.
    /// May hang with the disk.
    ///
    /// # Errors
    /// Its file cannot be removed, and nothing is given up.
    pub fn give_up(&self, delayed: &Delayed) -> std::io::Result<()> {
        let _files = self.files();
        kept::forget(&self.folder, delayed.run, delayed.digest)?;
        self.delayed.remove(delayed.run, delayed.digest);
        Ok(())
    }

    /// Whether the run has a shadow of this rule of discovery already.
    pub fn has_of_rule(&self, run: RunId, rule: &str) -> bool {
        self.list.has_of_rule(run, rule)
    }

    /// What was found of a live run, or of all, that the caller `sees`. `held`: what bounds how many reports there are at once; it is
    /// dropped when this one is answered, or was given up and its turn comes.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn report(
        &self,
        run: Option<RunId>,
        sees: impl Fn(&By) -> bool + Send + 'static,
        held: impl Send + 'static,
    ) -> Result<oneshot::Receiver<Vec<Group>>, Refused> {
        let (answer, wait) = oneshot::channel();
        let report = Report { run, sees: Box::new(sees), answer, held: Box::new(held) };
        self.queue.send(Message::Report(report)).map_err(|_| Refused::Ended)?;
        Ok(wait)
    }

    /// Keeps which runs of a rule have no shadow now, and why. True: that is new.
    pub fn leave_out(&self, rule: &str, run: RunId, why: &Refused) -> bool {
        self.list.leave_out(rule, run, why)
    }

    /// Forgets the runs that do not live any more, but for their number.
    pub fn retain_left_out(&self, lives: impl Fn(RunId) -> bool) {
        self.list.retain_left_out(lives);
    }

    /// How many runs of each rule got no shadow since the daemon started.
    pub fn left_out(&self) -> Vec<LeftOut> {
        self.list.left_out()
    }

    /// Shadows, and inputs that were dropped since the daemon started.
    pub fn counts(&self) -> (u64, u64) {
        (self.list.len() as u64, self.dropped.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
