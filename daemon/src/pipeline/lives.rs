//! The beginning and the end of runs here: what is set up when a run is judged first, and what must be proved before it ends.
//!
//! Invariants: the policy of a run is with the engine before its first input; a run ends once, when its cgroup is proved vacant.

use super::{Pipeline, containment::Answer, lane::Command};
use crate::{platform::clock, runs::LiveRun};
use failsafe_core::{Input, Mode, MonoTime, RunId, record::Record};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a stop waits for the proof that runs which are over have ended.
const LAST_ENDS: Duration = Duration::from_secs(2);

impl Pipeline {
    pub(super) fn start(&mut self, live: Arc<LiveRun>) {
        let run = live.run.clone();
        let path = self.parts.registry.store().recording(run.id, live.part);
        self.parts.recordings.open(&run, live.part, &live.policy, path, self.parts.recording_max_bytes);
        self.silence.started(&run, &live.policy);
        let id = run.id;
        self.judge.prepare(id, &(run.policy, live.policy.clone()), live.status().containment.clone());
        let mode = live.mode();
        self.runs.insert(id, live);
        if mode == Mode::Observe {
            // Before the start, which may decide something already.
            self.feed(Input::Mode { run: id, mode, at: run.registered });
        }
        self.feed(Input::RunStarted(run));
        let (own, others) = std::mem::take(&mut self.early).into_iter().partition(|early| early.run() == Some(id));
        self.early = others;
        let own: Vec<Command> = own;
        own.into_iter().for_each(|command| self.command(command));
    }

    /// Ends a run once its end is proved; until then it is judged as before.
    pub(super) fn end_if_vacant(&mut self, id: RunId) {
        let Some(live) = self.runs.get(&id) else { return };
        if live.is_vacant() {
            self.end(id);
        } else {
            self.parts.remover.ask(live);
        }
    }

    /// The last work: a run that is over by now ends, though the sampler may not have seen that yet. Without a run the daemon then removes
    /// everything from the kernel.
    pub(super) fn stop(&mut self) {
        self.urgent();
        let deadline = Instant::now() + LAST_ENDS;
        loop {
            let over: Vec<RunId> = self.runs.values().filter(|run| run.is_over()).map(|run| run.run.id).collect();
            // One that is being brought back may fill its run again.
            let waits = over.iter().any(|run| !self.ends.is_recaptured(*run));
            if !waits || Instant::now() >= deadline {
                return;
            }
            for run in over {
                if self.ends.is_settled(run, Instant::now()) {
                    self.end_if_vacant(run);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
            self.urgent();
        }
    }

    pub(super) fn end(&mut self, id: RunId) {
        let Some(live) = self.runs.remove(&id) else { return };
        let waiting = self.ends.ended(id);
        let suppressed = self.judge.state.suppressed(&self.judge.policies, id);
        self.feed(Input::RunEnded { run: id, at: MonoTime(clock::monotonic_ns()) });
        self.record(id, Input::RunEnded { run: id, at: MonoTime(clock::monotonic_ns()) }, &[]);
        self.parts.shadows.run_ended(id);
        self.containments.ended(id);
        self.silence.ended(id);
        self.unsure.ended(id);
        self.lines.ended(id);
        let frozen_ns = live.end(clock::wall_ns()).frozen_ns;
        self.parts.registry.touched().note(id);
        for (answer, tell) in &waiting {
            let _gone = tell.send(answer.clone());
        }
        // The entry names the recording by its hash, so the thread that has the recording queues it. It stands behind the outcome
        // in the log: if it is durable, both are.
        let (log, stamp, name) = (self.parts.log.clone(), self.parts.log.stamp(), live.run.name.clone());
        self.parts.recordings.close(id, move |recording| {
            let record = Record::RunEnded { run: id, name, recording, suppressed, unwatched: None, frozen_ns };
            log.record_at_then(stamp, &record, Some(id), None, move |done| {
                for (answer, tell) in waiting.into_iter().filter(|_| done.is_ok()) {
                    let _gone = tell.send(Answer { durable: true, ..answer });
                }
            });
        });
        tracing::info!(run = %id, name = live.run.name, "run ended");
        if !self.runs.values().any(|other| other.run.policy == live.run.policy) {
            self.judge.forget(&live.run.policy);
        }
        self.parts.reaper.take(live);
    }

    /// Ends runs that were killed as soon as that is sure, and answers whoever killed one that does not end.
    pub(super) fn settle_killed(&mut self) {
        for run in self.ends.kills() {
            if self.runs.get(&run).is_some_and(|live| live.is_over()) {
                if self.ends.is_settled(run, Instant::now()) {
                    self.end_if_vacant(run);
                }
            } else {
                for (answer, tell) in self.ends.given_up(run, Instant::now()) {
                    let _gone = tell.send(Answer { durable: true, ..answer });
                }
            }
        }
    }
}
