//! Work that blocks, in turns: reads of files and compilations of policies, so many at once for a user and for all.
//!
//! Each lane has its own [`Work`] on its own threads. Invariants: who waits for a turn holds no thread; a turn of reading is a
//! bounded read, so that a thousand followers need no more threads than one; commands never ask for a turn.

use super::limits::{Quota, Share, Usage};
use failsafe_proto::ErrorReason;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

/// Reads at once: of one user, in all.
const READS: (usize, usize) = (2, 4);
/// Policies that are parsed, or runs that are made, at once: of one user, in all. The second of all is for another user.
const COMPILES: (usize, usize) = (1, 2);
/// Reports of shadows at once: of one user, in all. Each waits for the thread of shadows, which judges first, and may take seconds.
const REPORTS: (usize, usize) = (1, 4);
/// Threads of a lane for all that: one each, and some to spare.
pub const THREADS: usize = 32;
/// Followers are woken this long after the log has grown: what is written together is read together, and whoever waits for the
/// outcome of a command is answered before a thousand followers wake up.
const GATHER: Duration = Duration::from_millis(20);

/// A lane's work.
#[derive(Debug)]
pub struct Work {
    reads: Turns,
    compiles: Turns,
    reports: Turns,
    growth: watch::Sender<()>,
    runs: watch::Sender<()>,
}

impl Work {
    /// Nothing is under way.
    pub fn new() -> Work {
        Work {
            reads: Turns::new(READS),
            compiles: Turns::new(COMPILES),
            reports: Turns::new(REPORTS),
            growth: watch::Sender::new(()),
            runs: watch::Sender::new(()),
        }
    }

    /// A bounded read, on a thread.
    ///
    /// # Errors
    /// `INTERNAL`: it panicked.
    pub async fn read<T: Send + 'static>(
        &self,
        share: Share,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.reads.take(share).await?;
        blocking(turn, work).await
    }

    /// Parsing a policy, or making a run of it, on a thread.
    ///
    /// # Errors
    /// `INTERNAL`: it panicked.
    pub async fn compile<T: Send + 'static>(
        &self,
        share: Share,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.compiles.take(share).await?;
        blocking(turn, work).await
    }

    /// A turn of making a run.
    ///
    /// # Errors
    /// `UNAVAILABLE`: the daemon is stopping.
    pub async fn turn(&self, share: Share) -> Result<Turn, Status> {
        self.compiles.take(share).await
    }

    /// A turn of a report of shadows. It is to be held until the thread of shadows is done with it.
    ///
    /// # Errors
    /// `UNAVAILABLE`: the daemon is stopping.
    pub async fn report_turn(&self, share: Share) -> Result<Turn, Status> {
        self.reports.take(share).await
    }

    /// Changes some time after the log has grown.
    pub fn growth(&self) -> watch::Receiver<()> {
        self.growth.subscribe()
    }

    /// Passes the growth of the log on to the lane's followers, for as long as there is a log.
    pub async fn pass_on(&self, mut latest: watch::Receiver<u64>) {
        while latest.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            latest.mark_unchanged();
            self.growth.send_replace(());
        }
    }

    /// Changes some time after a run has changed.
    pub fn runs_changed(&self) -> watch::Receiver<()> {
        self.runs.subscribe()
    }

    /// Passes changes of runs on to the lane's followers.
    pub async fn pass_on_runs(&self, mut grown: watch::Receiver<()>) {
        while grown.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            grown.mark_unchanged();
            self.runs.send_replace(());
        }
    }

    /// What is under way here and in the `reserved` lane.
    pub fn usage(&self, reserved: &Work) -> [Usage; 3] {
        let one = |name, (per_user, total): (usize, usize), here: &Turns, reserved: &Turns| Usage {
            used: total.saturating_sub(here.all.available_permits()),
            reserve_used: total.saturating_sub(reserved.all.available_permits()),
            waited: here.waited.load(Ordering::Relaxed),
            ..Usage::of(name, "at once", Quota { per_user, total, reserve: total }).by(here.held())
        };
        [
            one("compilations", COMPILES, &self.compiles, &reserved.compiles),
            one("reads", READS, &self.reads, &reserved.reads),
            one("reports", REPORTS, &self.reports, &reserved.reports),
        ]
    }
}

async fn blocking<T: Send + 'static>(turn: Turn, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        // Not before: whoever gave the request up does not end what is under way.
        drop(turn);
        done
    });
    done.await.map_err(|error| ErrorReason::Internal.status(format!("a worker failed: {error}")))
}

/// Turns: so many at once for a user, and for all.
#[derive(Debug)]
struct Turns {
    all: Arc<Semaphore>,
    per_user: usize,
    users: Mutex<BTreeMap<u32, Weak<Semaphore>>>,
    waited: AtomicU64,
}

/// A turn, until it is dropped.
pub struct Turn {
    _own: Option<(OwnedSemaphorePermit, Arc<Semaphore>)>,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    fn new((per_user, all): (usize, usize)) -> Turns {
        let all = Arc::new(Semaphore::new(all));
        Turns { all, per_user, users: Mutex::default(), waited: AtomicU64::new(0) }
    }

    async fn take(&self, share: Share) -> Result<Turn, Status> {
        let closed = |_: AcquireError| ErrorReason::DaemonStopping.status("the daemon is stopping");
        let own = match share {
            Share::Reserved(_) => None,
            Share::User(uid) => {
                let own = self.of(uid);
                if own.available_permits() == 0 {
                    self.waited.fetch_add(1, Ordering::Relaxed);
                }
                Some((own.clone().acquire_owned().await.map_err(closed)?, own))
            }
        };
        if self.all.available_permits() == 0 {
            self.waited.fetch_add(1, Ordering::Relaxed);
        }
        let all = self.all.clone().acquire_owned().await.map_err(closed)?;
        Ok(Turn { _own: own, _all: all })
    }

    /// The turns that each user has.
    fn held(&self) -> BTreeMap<u32, usize> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |own: &Weak<Semaphore>| Some(self.per_user.saturating_sub(own.upgrade()?.available_permits()));
        users.iter().filter_map(|(uid, own)| Some((*uid, held(own)?))).collect()
    }

    fn of(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = users.get(&uid).and_then(Weak::upgrade) {
            return own;
        }
        users.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.per_user));
        users.insert(uid, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::ZERO, future).await.ok() })
    }

    #[test]
    fn a_user_waits_for_its_own_turn_and_leaves_one_to_others() {
        let turns = Turns::new((1, 2));
        let first = now(turns.take(Share::User(7))).unwrap().unwrap();
        assert!(now(turns.take(Share::User(7))).is_none(), "one at once");
        let other = now(turns.take(Share::User(8))).unwrap().unwrap();
        assert!(now(turns.take(Share::User(9))).is_none(), "two in all");
        assert_eq!(turns.waited.load(Ordering::Relaxed), 2);
        assert_eq!(turns.held(), [(7, 1), (8, 1)].into());
        drop((first, other));
        assert!(now(turns.take(Share::User(7))).is_some());
    }

    #[test]
    fn reports_of_shadows_that_wait_delay_no_reads_and_one_user_leaves_room_for_others() {
        let work = Work::new();
        let held: Vec<Turn> = (1..=4).map(|uid| now(work.report_turn(Share::User(uid))).unwrap().unwrap()).collect();
        assert!(now(work.report_turn(Share::User(5))).is_none(), "all turns are taken");
        for uid in 1..=5 {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(work.read(Share::User(uid), || 7)).unwrap(), 7);
        }
        drop(held);
        let _one = now(work.report_turn(Share::User(1))).unwrap();
        assert!(now(work.report_turn(Share::User(1))).is_none(), "one at once");
        assert!(now(work.report_turn(Share::User(2))).is_some());
    }
}
