//! Shadows of earlier daemons: adds each again when its run is judged again, and forgets those of runs that are over.

use crate::{
    log::Log,
    pipeline::{Message, Sender},
    platform::clock,
    runs::{LiveRun, Registry},
    shadows::{Asked, By, Shadows, Stored},
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
        let (mut pending, wrong) = self.shadows.stored();
        if !wrong.is_empty() {
            let what = format!("shadows of an earlier daemon are not judged any more: {}", wrong.join("; "));
            tracing::error!(what);
            let at = MonoTime(clock::monotonic_ns());
            let gap = Gap { seq: 0, at, source: Source::Guard, run: None, gpu: None, what, lost: 0, blind: false };
            self.log.record(&Record::Gap(gap), None, None);
        }
        let mut tidied = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            pending.retain(|stored| match self.registry.get(stored.run) {
                Some(live) => {
                    self.add(&live, stored);
                    false
                }
                // A guarded run may be taken up later.
                None => self.lives(stored.run),
            });
            if tidied.elapsed() >= TIDY {
                tidied = Instant::now();
                self.shadows.tidy(|run| self.lives(run));
            }
            thread::park_timeout(WAIT);
        }
    }

    fn lives(&self, run: RunId) -> bool {
        self.registry.get(run).is_some() || self.registry.guarded().iter().any(|guarded| guarded.run.id == run)
    }

    fn add(&self, live: &LiveRun, stored: &Stored) {
        let asked = Asked {
            run: live.known().clone(),
            enforced: live.policy.clone(),
            digest: stored.policy.digest(),
            policy: Arc::new(stored.policy.clone()),
            by: By::User(stored.uid),
            reserved: stored.reserved,
            actor: stored.actor.clone(),
        };
        let (run, shadow) = (live.run.id, stored.policy.name.as_str());
        match self.shadows.add(asked) {
            Ok((order, _not_waited_for)) => drop(self.pipeline.send(Message::Shadow(order))),
            Err(why) => tracing::warn!(%run, shadow, %why, "a shadow of an earlier daemon is not judged any more"),
        }
    }
}
