//! Trying again what could not be done at once: taking guarded runs up, recording ends, and removing programs of earlier daemons.
//!
//! A thread of its own, for it waits for the disk. Owns only when the next try is due: a guarded run is tried again after a second, then
//! after twice as long each time, up to [`SLOWEST`]; every second where only room on the disk was missing, and at once when its cgroup
//! is empty.

use crate::{
    interpreter::ActuatorReport,
    log::Log,
    pipeline::{Message, Sender, health},
    platform::clock,
    runs::{
        Registry,
        adopt::{Adopted, Pass},
        state_files::StateFiles,
    },
};
use failsafe_core::{
    MonoTime,
    health::{Fact, Target, Until},
    record::Record,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The code under which the health of the node has what was found amiss with the audit log.
pub const AUDIT_LOG: &str = "audit-log";

/// How often the thread looks.
const LOOK: Duration = Duration::from_secs(1);
/// In how many looks the state folder is looked at once.
const LOOKS_AT_FILES: u32 = 3;
/// The longest time between two tries.
const SLOWEST: Duration = Duration::from_secs(60);
/// The code of the node's reason of health while runs are guarded.
pub const GUARDED_CODE: &str = "runs-not-judged";
/// ... of a run's record that was found changed. It stays until somebody resets the health.
pub const CHANGED_CODE: &str = "run-record-changed";

/// ... of orders and commands of the state folder that are not as the audit log has them. It stays until somebody resets the health.
pub const STATE_CODE: &str = "state-changed";

/// ... while files of the state folder are missing.
pub const MISSING_CODE: &str = "state-missing";

/// ... while the kernel's programs are not pinned.
pub const UNPINNED_CODE: &str = "not-pinned";

/// ... while programs of an earlier daemon bind cgroups that nobody registered, and cannot be removed.
pub const UNRETIRED_CODE: &str = "earlier-programs";

/// What the thread needs of the daemon.
pub struct Keeping {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
    /// This boot's id.
    pub boot_id: String,
    /// The files of the state folder.
    pub state_files: Option<StateFiles>,
}

impl Keeping {
    /// Works until `stop`.
    pub fn work(mut self, stop: &AtomicBool) {
        let (mut wait, mut next) = (LOOK, Instant::now() + LOOK);
        let (mut guarded_state, mut pins) = (NodeState::new(GUARDED_CODE), NodeState::new(UNPINNED_CODE));
        let mut earlier = NodeState::new(UNRETIRED_CODE);
        let (mut folder, mut looks) = (NodeState::new(MISSING_CODE), 0u32);
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
            self.registry.mark_ends();
            let unpinned = self.registry.kernel().unpinned();
            self.report(&mut pins, unpinned.as_deref().map(unpinned_text));
            self.registry.retire_early_again();
            self.report(&mut earlier, self.registry.unretired().as_deref().map(unretired_text));
            self.report(&mut guarded_state, self.registry.guarded_note());
            if looks % LOOKS_AT_FILES == 0 {
                let missing = self.look_at_files();
                self.report(&mut folder, missing);
            }
            looks = looks.wrapping_add(1);
            let guarded = self.registry.guarded();
            if guarded.is_empty() {
                continue;
            }
            guarded.iter().for_each(|run| run.hold());
            // Each is looked at: when processes were last seen in it is recorded with its end.
            let mut at_once = false;
            for run in &guarded {
                at_once |= run.is_empty() || run.full;
            }
            if !at_once && Instant::now() < next {
                continue;
            }
            let before = guarded.len();
            let pass = self.registry.adopt_again(&self.log, &self.boot_id);
            let taken_up: Vec<_> = pass.adopted.iter().map(|adopted| adopted.live.clone()).collect();
            messages(pass).into_iter().for_each(|message| self.send(message));
            // After what the log has: of each number the first claim counts.
            taken_up.iter().for_each(|live| live.claims.open());
            wait = if self.registry.guarded().len() < before { LOOK } else { (wait * 2).min(SLOWEST) };
            next = Instant::now() + wait;
            self.report(&mut guarded_state, self.registry.guarded_note());
        }
    }

    /// What is missing of the state folder. Which files it has is on record, for the next daemon.
    fn look_at_files(&mut self) -> Option<String> {
        let files = self.state_files.as_mut()?;
        let missing = files.look();
        if missing.is_none() && self.log.orders().is_some_and(|orders| orders.files() != files.known()) {
            self.log.record(&Record::StateFiles { names: files.known().clone() }, None, None);
        }
        missing
    }

    fn report(&self, state: &mut NodeState, text: Option<String>) {
        state.update(text).into_iter().for_each(|message| self.send(message));
    }

    fn send(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.pipeline.send(message);
    }
}

/// What the pipeline is to know of runs that were taken up.
pub fn messages(pass: Pass) -> Vec<Message> {
    let mut messages = Vec::new();
    for Adopted { live, found, frozen_until_ns, outcomes, .. } in pass.adopted {
        messages.push(Message::Adopted { live, found, frozen_until_ns });
        let told = |outcome| Message::ActuatorReport(ActuatorReport::Outcome(outcome));
        messages.extend(outcomes.into_iter().map(told));
    }
    // What happened while no daemon read: late, but judged.
    messages.extend(pass.inputs.into_iter().map(Message::Input));
    messages.extend(pass.changed.into_iter().map(|what| lasting(CHANGED_CODE, what, Until::Reset)));
    messages
}

/// A degraded state of the node that lasts until it is over. Reports its begin, each change of its text, and its end. The first update
/// always reports: an earlier daemon may have left the reason.
#[derive(Debug)]
pub struct NodeState {
    code: &'static str,
    reported: Option<Option<String>>,
}

impl NodeState {
    /// The state that has this code in the node's health.
    pub fn new(code: &'static str) -> NodeState {
        NodeState { code, reported: None }
    }

    /// Takes what holds now, `None` if the state is over. Returns the message for the pipeline if one is due.
    pub fn update(&mut self, text: Option<String>) -> Option<Message> {
        if self.reported.as_ref() == Some(&text) {
            return None;
        }
        self.reported = Some(text.clone());
        Some(state(self.code, text))
    }
}

/// That the node is in this degraded state, or that it is not.
pub fn state(code: &str, text: Option<String>) -> Message {
    text.map_or_else(|| over(code), |text| lasting(code, text, Until::Over))
}

/// What it means that programs are not pinned.
pub fn unpinned_text(why: &str) -> String {
    format!("the eBPF programs are not pinned ({why}): while no daemon runs, no rule of any run is enforced")
}

/// What it means that programs of an earlier daemon are still attached.
fn unretired_text(why: &str) -> String {
    format!(
        "eBPF programs of an earlier daemon still bound cgroups that are not registered as runs; it is tried again ({why})"
    )
}

/// That a degraded state is over.
fn over(code: &str) -> Message {
    let (target, code, at) = (Target::Node, code.into(), MonoTime(clock::monotonic_ns()));
    Message::Health(health::Message::Fact(Fact::Over { target, code, at }))
}

/// That the node is in a degraded state which lasts.
pub fn lasting(code: &str, text: String, until: Until) -> Message {
    let (target, code, at) = (Target::Node, code.into(), MonoTime(clock::monotonic_ns()));
    Message::Health(health::Message::Fact(Fact::Lasting { target, code, text, until, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: Option<Message>) -> Option<Option<String>> {
        match message? {
            Message::Health(health::Message::Fact(Fact::Lasting { text, .. })) => Some(Some(text)),
            Message::Health(health::Message::Fact(Fact::Over { .. })) => Some(None),
            _ => panic!("another message"),
        }
    }

    #[test]
    fn the_first_update_of_a_state_ends_what_an_earlier_daemon_left() {
        let mut state = NodeState::new("discovery");
        assert_eq!(sent(state.update(None)), Some(None));
        assert_eq!(sent(state.update(None)), None);
    }

    #[test]
    fn a_state_reports_its_begin_its_change_and_its_end_once_each() {
        let mut state = NodeState::new("discovery");
        for text in [Some("a"), Some("b"), None] {
            let text = text.map(str::to_owned);
            assert_eq!(sent(state.update(text.clone())), Some(text.clone()));
            assert_eq!(sent(state.update(text)), None);
        }
    }
}
