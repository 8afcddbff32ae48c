//! What the end of a run costs: detaching its programs and writing its file. Two threads do it, so that nobody who freezes waits for a
//! lock, a directory or a disk. Its cgroup was removed before, see [`super::removal`].
//!
//! ```text
//! pipeline: LiveRun::end (seen as ended from here on) ─► Reaper ─► reaper: kernel, registry ─► ended-runs: run.json
//! ```
//! Owns the two queues. Invariants: the pipeline never waits here: a run that finds no room stays with it, and is handed on
//! at its next tick; a run keeps its slot and stays in the registry, as ended, until the kernel has let go of it, so a
//! backlog makes starts fail ("runs live already") and loses nothing.

use super::{LiveRun, Registry, store::EndedRun};
use crate::{
    config::{Live, Recordings},
    log::Log,
    platform::clock,
};
use failsafe_core::record::Record;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What is kept is looked at so long after a run has ended, and otherwise after [`LATER`].
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(3_600);
/// Runs that may wait for each thread. The disk's queue holds the reaper up when it is full.
const QUEUE: usize = 256;

/// The pipeline's end.
pub struct Reaper {
    queue: SyncSender<Arc<LiveRun>>,
    waiting: VecDeque<Arc<LiveRun>>,
}

impl Reaper {
    /// Starts the threads; they end, after what waits, when the reaper is dropped.
    ///
    /// # Errors
    /// A thread could not be made.
    pub fn spawn(
        registry: Arc<Registry>,
        log: Log,
        keep: Live<Recordings>,
    ) -> std::io::Result<(Reaper, [JoinHandle<()>; 2])> {
        let (queue, ended) = mpsc::sync_channel(QUEUE);
        let (to_disk, written) = mpsc::sync_channel(QUEUE);
        let (keeps, totals) = (registry.clone(), log.clone());
        let keeper = std::thread::Builder::new()
            .name("ended-runs".into())
            .spawn(move || write_ends(&keeps, &written, &log, &keep))?;
        let reaper = std::thread::Builder::new()
            .name("reaper".into())
            .spawn(move || reap(&registry, &ended, &to_disk, &totals))?;
        Ok((Reaper { queue, waiting: VecDeque::new() }, [reaper, keeper]))
    }

    /// Takes a run that has ended. Never waits.
    pub fn take(&mut self, live: Arc<LiveRun>) {
        self.waiting.push_back(live);
        self.hand_on();
    }

    /// Hands on what found no room.
    pub fn hand_on(&mut self) {
        while let Some(live) = self.waiting.pop_front() {
            match self.queue.try_send(live) {
                Ok(()) => {}
                Err(TrySendError::Full(live)) => return self.waiting.push_front(live),
                // Without its thread, which has panicked, runs stay listed as ended and keep their slots.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

/// Writes ends, and looks at what is kept of ended runs: soon after one ended, and now and then.
fn write_ends(registry: &Registry, ended: &Receiver<Arc<EndedRun>>, log: &Log, keep: &Live<Recordings>) {
    let mut due = Instant::now() + SOON;
    loop {
        match ended.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(ended) => {
                registry.mark_ended(&ended);
                due = due.min(Instant::now() + SOON);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Also while one end follows the other.
        if due <= Instant::now() {
            if let Err(error) = registry.retain(&keep.get(), log, clock::wall_ns()) {
                tracing::warn!(error = error.chain(), "what is kept of ended runs cannot be looked at");
            }
            due = Instant::now() + LATER;
        }
    }
}

fn reap(registry: &Registry, ended: &Receiver<Arc<LiveRun>>, to_disk: &SyncSender<Arc<EndedRun>>, log: &Log) {
    for live in ended {
        live.end(clock::wall_ns());
        registry.touched().note(live.run.id);
        let (end, account) = registry.reap(&live);
        let (run, name) = (end.run.id, end.run.name.clone());
        if let Some(totals) = end.totals {
            log.record(&Record::RunTotals { run, name: name.clone(), totals }, Some(run), None);
        }
        log.record(&Record::Egress { run, name, account }, Some(run), None);
        let _stopping = to_disk.send(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        guard::kernel::Kernel,
        platform::CgroupRoot,
        runs::{start::Place, store::Store},
        testing::wanted,
    };
    use std::path::Path;

    #[test]
    fn a_run_that_waits_for_the_reaper_is_ended_for_everybody_and_its_name_is_free() {
        let Ok(root) = CgroupRoot::find() else { return };
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let kernel = Kernel::new(Err("none".into()));
        let registry = Arc::new(Registry::new(root, kernel, Store::open(folder.path()).unwrap()));
        let parent = format!("failsafe-reaper-{}", std::process::id());
        let make = || registry.make(wanted("job"), Place::Below(parent.clone().into()), "boot");
        let first = make().unwrap();
        assert!(make().is_err(), "the name is taken while the run lives");
        // A reaper that does nothing, as one that hangs on a disk.
        let (queue, held) = mpsc::sync_channel(1);
        let mut reaper = Reaper { queue, waiting: VecDeque::new() };
        first.end(7);
        let began = Instant::now();
        (0..3).for_each(|_| reaper.take(first.clone()));
        assert!(began.elapsed() < Duration::from_secs(1), "the pipeline does not wait");
        assert_eq!(reaper.waiting.len(), 2);
        assert!(registry.live().is_empty() && registry.get(first.run.id).is_none());
        assert_eq!(registry.ended().len(), 1);
        let second = make().unwrap();
        drop(held);
        for live in [first, second] {
            live.end(8);
            assert!(live.vacate().unwrap() && live.is_vacant());
            registry.reap(&live);
        }
        assert_eq!(registry.ended().len(), 2);
        let _gone = std::fs::remove_dir(registry.root().mount().join(Path::new(&parent)));
    }
}
