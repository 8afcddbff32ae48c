//! Trying again what could not be done at once: taking guarded runs up, and recording ends.
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
    },
};
use failsafe_core::{
    MonoTime,
    health::{Fact, Target, Until},
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
/// The longest time between two tries.
const SLOWEST: Duration = Duration::from_secs(60);
/// The code of the node's reason of health while runs are guarded.
pub const GUARDED_CODE: &str = "runs-not-judged";
/// ... of a run's record that was found changed. It stays until somebody resets the health.
pub const CHANGED_CODE: &str = "run-record-changed";

/// ... while the kernel's programs are not pinned.
pub const UNPINNED_CODE: &str = "not-pinned";
/// A reason of health ends after a day unless it is repeated.
const REPEATED: Duration = Duration::from_secs(3_600);

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
}

impl Keeping {
    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let (mut wait, mut next) = (LOOK, Instant::now() + LOOK);
        let mut noted = self.registry.guarded_note();
        let mut pins = (self.registry.kernel().unpinned(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
            self.registry.mark_ends();
            let unpinned = self.registry.kernel().unpinned();
            if unpinned != pins.0 || (unpinned.is_some() && pins.1.elapsed() > REPEATED) {
                self.send(unpinned_fact(unpinned.as_deref()));
                pins = (unpinned, Instant::now());
            }
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
            messages(pass).into_iter().for_each(|message| self.send(message));
            wait = if self.registry.guarded().len() < before { LOOK } else { (wait * 2).min(SLOWEST) };
            next = Instant::now() + wait;
            let note = self.registry.guarded_note();
            if note != noted {
                self.send(guarded_fact(note.clone()));
                noted = note;
            }
        }
    }

    fn send(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.pipeline.send(message);
    }
}

/// What the pipeline is to know of runs that were taken up.
pub fn messages(pass: Pass) -> Vec<Message> {
    let mut messages = Vec::new();
    for Adopted { live, found, outcomes, .. } in pass.adopted {
        messages.push(Message::Adopted(live, found));
        let told = |outcome| Message::ActuatorReport(ActuatorReport::Outcome(outcome));
        messages.extend(outcomes.into_iter().map(told));
    }
    // What happened while no daemon read: late, but judged.
    messages.extend(pass.inputs.into_iter().map(Message::Input));
    messages.extend(pass.changed.into_iter().map(|what| lasting(CHANGED_CODE, what, Until::Reset)));
    messages
}

/// That runs are guarded, or that none is.
pub fn guarded_fact(note_of: Option<String>) -> Message {
    note_of.map_or_else(|| over(GUARDED_CODE), |text| lasting(GUARDED_CODE, text, Until::Over))
}

/// That the kernel's programs are not pinned, with the reason, or that they are.
pub fn unpinned_fact(why: Option<&str>) -> Message {
    why.map_or_else(|| over(UNPINNED_CODE), |why| lasting(UNPINNED_CODE, unpinned_text(why), Until::Over))
}

/// What it means that programs are not pinned.
pub fn unpinned_text(why: &str) -> String {
    format!("the eBPF programs are not pinned ({why}): while no daemon runs, no rule of any run is enforced")
}

/// That a degraded state is over.
pub fn over(code: &str) -> Message {
    let (target, code, at) = (Target::Node, code.into(), MonoTime(clock::monotonic_ns()));
    Message::Health(health::Message::Fact(Fact::Over { target, code, at }))
}

/// That the node is in a degraded state which lasts.
pub fn lasting(code: &str, text: String, until: Until) -> Message {
    let (target, code, at) = (Target::Node, code.into(), MonoTime(clock::monotonic_ns()));
    Message::Health(health::Message::Fact(Fact::Lasting { target, code, text, until, at }))
}
