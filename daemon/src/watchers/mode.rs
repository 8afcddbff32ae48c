//! Orders to observe: carries them out on the live runs, and ends them when their time is over.

use crate::{
    log::Log,
    pipeline::{Message, Sender},
    platform::clock,
    runs::{Registry, modes::Temporary},
};
use failsafe_core::{Actor, Mode, discover::Rules, record::Record};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// How often the thread looks whether an order is over.
const LOOK: Duration = Duration::from_millis(250);
/// Runs that an entry of the log names one by one.
const NAMED: usize = 32;

/// What is needed to change the mode.
#[derive(Clone)]
pub struct ModeSwitch {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
}

impl ModeSwitch {
    /// Gives an order, or ends the one that holds. It is on record when this returns. The answer is how many runs changed, and what
    /// could not be changed. May take long: tables are made for each run.
    ///
    /// # Errors
    /// The order could not be stored: nothing is changed then.
    pub fn change(&self, order: Option<Temporary>, reason: &str, actor: Actor) -> Result<(u64, Vec<String>), String> {
        let until_ns = order.as_ref().map(|order| order.until_ns);
        let (runs, failed) = self.registry.change_mode(order, |live, mode| {
            let (done, judged) = oneshot::channel();
            let sent = self.pipeline.send(Message::Mode(live.run.id, mode)).is_ok();
            if sent && self.pipeline.send(Message::Judged(done)).is_ok() {
                // The pipeline waits for nobody; without it the daemon is stopping.
                let _judged = judged.blocking_recv();
            }
        })?;
        let mode = self.registry.modes().node();
        let mut named = failed.clone();
        named.truncate(NAMED);
        let record = Record::Mode { mode, rule: None, until_ns, reason: reason.into(), actor, runs, failed: named };
        self.log.record(&record, None, None);
        tracing::warn!(?mode, runs, failed = failed.len(), reason, "the mode of the node");
        Ok((runs, failed))
    }

    /// The record of what the configuration says, at the daemon's start.
    pub fn record_start(&self, rules: &Rules) {
        let modes = self.registry.modes();
        let record = |mode, rule: Option<String>, until_ns, reason: String, actor| {
            let record = Record::Mode { mode, rule, until_ns, reason, actor, runs: 0, failed: Vec::new() };
            self.log.record(&record, None, None);
        };
        if modes.configured() == Mode::Observe {
            record(Mode::Observe, None, None, "the configuration says `mode = \"observe\"`".into(), Actor::Daemon);
        }
        if let Some(order) = modes.temporary() {
            let reason = format!("an earlier order holds: {}", order.reason);
            record(Mode::Observe, None, Some(order.until_ns), reason, order.actor);
        }
        for rule in rules.iter().filter(|rule| rule.mode == Mode::Observe) {
            let reason = "the configuration of the rule says `mode = \"observe\"`".into();
            record(Mode::Observe, Some(rule.name.clone()), None, reason, Actor::Daemon);
        }
    }

    /// Ends orders until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
            if self.registry.modes().is_over(clock::wall_ns())
                && let Err(why) = self.change(None, "the time of the order is over", Actor::Daemon)
            {
                // What cannot be stored is tried again: an order that is over does not hold after a restart either.
                tracing::error!(why, "an order to observe is over and cannot be removed");
                std::thread::park_timeout(Duration::from_secs(5));
            }
        }
    }
}
