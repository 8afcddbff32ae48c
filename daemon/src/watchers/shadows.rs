//! Shadows of earlier daemons: adds each again when its run is judged again, and forgets those of runs that are over.

use crate::{
    log::Log,
    pipeline::{Message, Sender},
    platform::clock,
    runs::Registry,
    shadows::{Attempt, Pending, RunLookup, Shadows},
};
use failsafe_core::{MonoTime, RunId, input::Gap, record::Record, signal::Source};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long the thread waits before it looks again for runs that were taken up.
const WAIT: Duration = Duration::from_millis(200);
/// How often what is kept of runs that are over is looked for.
const TIDY: Duration = Duration::from_secs(10);

/// The thread.
pub struct ShadowKeep {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The shadows.
    pub shadows: Shadows,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
}

impl ShadowKeep {
    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let (stored, wrong) = self.shadows.stored();
        if !wrong.is_empty() {
            self.report(None, format!("shadows of an earlier daemon are not judged any more: {}", wrong.join("; ")));
        }
        let mut pending: Vec<Pending> = stored.into_iter().map(|one| Pending::new(one, &self.shadows)).collect();
        let mut tidied = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            pending.retain_mut(|one| self.waits(one, stop));
            if tidied.elapsed() >= TIDY {
                tidied = Instant::now();
                self.shadows.tidy(|run| self.registry.is_held(run));
            }
            thread::park_timeout(WAIT);
        }
    }

    /// Tries one again. False: nothing more is to be tried.
    fn waits(&self, one: &mut Pending, stop: &AtomicBool) -> bool {
        let run = one.run();
        let live = || self.registry.get(run).map(|live| (Box::new(live.known().clone()), live.policy.clone()));
        let found = RunLookup::of(|| self.registry.is_guarded(run), live);
        match one.attempt(found, &self.shadows, |order| drop(self.pipeline.send(Message::Shadow(order)))) {
            Attempt::Waits => true,
            Attempt::Judges | Attempt::Over | Attempt::Removed => false,
            Attempt::Refused(why) => {
                let shadow = one.name();
                let what =
                    format!("shadow `{shadow}` of an earlier daemon is not judged now, and is tried again: {why}");
                self.report(Some(run), what);
                true
            }
            // The next daemon has it.
            Attempt::GivenUp(_) if stop.load(Ordering::Relaxed) => false,
            Attempt::GivenUp(why) => {
                let shadow = one.name();
                self.report(Some(run), format!("shadow `{shadow}` of an earlier daemon is not judged any more: {why}"));
                false
            }
        }
    }

    fn report(&self, run: Option<RunId>, what: String) {
        tracing::error!(
            run = run.map(tracing::field::display),
            what,
            "not all shadows of an earlier daemon are judged"
        );
        let at = MonoTime(clock::monotonic_ns());
        let gap = Gap { seq: 0, at, source: Source::Guard, run, gpu: None, what, lost: 0, blind: false };
        self.log.record(&Record::Gap(gap), run, None);
    }
}
