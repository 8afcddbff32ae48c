//! Orders to observe: carries them out on the live runs, ends them when their time is over, and tries again what the kernel refused.
//! Invariants: an order to observe is durable in the audit log before the first run changes; the end of one waits for no disk.

use crate::{
    log::Log,
    pipeline::{Message, Sender},
    runs::{LiveRun, Registry, modes::Temporary},
    watchers::keep::NodeState,
};
use failsafe_core::{Actor, Mode, discover::Rules, record::Record};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often the thread looks whether an order is over.
const LOOK: Duration = Duration::from_millis(250);
/// How often what the kernel did not take is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The end of an order waits at most this long for the disk.
const SETTLED: Duration = Duration::from_secs(2);
/// While an order holds, its file is noted the time so often. Who sets the wall clock back before a reboot prolongs an order by less.
const NOTED: Duration = Duration::from_secs(60);
/// The code of the node's reason of health while the kernel refuses nothing of runs that are to be enforced.
pub const CODE: &str = "runs-not-enforced";
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
    /// Gives an order, or ends the one that holds. An order to observe is durable in the audit log before the first run changes; what came
    /// of it is on record when this returns. The answer is how many runs changed, and what could not be changed. May take long: tables are
    /// made for each run that is to be watched.
    ///
    /// # Errors
    /// The order to observe could not be recorded or stored: nothing is changed then. The end of one always takes effect.
    pub fn change(&self, order: Option<Temporary>, reason: &str, actor: Actor) -> Result<(u64, Vec<String>), String> {
        let until_ns = order.as_ref().map(|order| order.until_ns);
        if order.is_some() {
            self.announce(until_ns, reason, &actor)?;
        }
        let ends = order.is_none();
        let changed = self.registry.change_mode(order, |live, mode| self.tell(live, mode));
        let (runs, mut failed) = changed.inspect_err(|why| self.refused(reason, &actor, why))?;
        failed.extend(self.settle().err().filter(|_| ends));
        let mode = self.registry.modes().node();
        let mut named = failed.clone();
        named.truncate(NAMED);
        let record = Record::Mode {
            mode,
            rule: None,
            until_ns,
            reason: reason.into(),
            actor,
            runs,
            failed: named,
            begins: false,
        };
        self.log.record(&record, None, None);
        tracing::warn!(?mode, runs, failed = failed.len(), reason, "the mode of the node");
        Ok((runs, failed))
    }

    /// Has the engine follow for a run, and returns when it did.
    fn tell(&self, live: &Arc<LiveRun>, mode: Mode) {
        let (done, judged) = oneshot::channel();
        let sent = self.pipeline.send(Message::Mode(live.run.id, mode)).is_ok();
        if sent && self.pipeline.send(Message::Judged(done)).is_ok() {
            // The pipeline waits for nobody; without it the daemon is stopping.
            let _judged = judged.blocking_recv();
        }
    }

    /// Has the disk follow the end of an order. On a thread of its own: the disk may hang, and the next order must end all the same.
    fn settle(&self) -> Result<(), String> {
        let registry = self.registry.clone();
        let (done, wait) = mpsc::sync_channel(1);
        let work = move || drop(done.send(registry.modes().settle()));
        let made = thread::Builder::new().name("mode-file".into()).spawn(work);
        let settled = match made {
            Ok(_) => wait.recv_timeout(SETTLED).unwrap_or_else(|_| Err("the disk does not answer".into())),
            Err(error) => Err(format!("no thread: {error}")),
        };
        settled.map_err(|why| {
            format!(
                "the end of the order has taken effect and is not stored, which is tried again; after a restart of failsafed the order \
                 does not hold either, unless the audit log cannot be written: {why}"
            )
        })
    }

    /// Notes the time in the file of the order, on a thread of its own: the disk may hang. There is one such thread at most.
    fn note_time(&self, noting: &Arc<AtomicBool>) {
        if noting.swap(true, Ordering::Relaxed) {
            return;
        }
        let (registry, done) = (self.registry.clone(), noting.clone());
        let work = move || {
            registry.modes().note_time();
            done.store(false, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("mode-file".into()).spawn(work) {
            noting.store(false, Ordering::Relaxed);
            tracing::warn!(%error, "no thread to note the time of an order to observe");
        }
    }

    /// Records an order to observe, and waits until that is durable.
    fn announce(&self, until_ns: Option<i64>, reason: &str, actor: &Actor) -> Result<(), String> {
        let record = Record::Mode {
            mode: Mode::Observe,
            rule: None,
            until_ns,
            reason: reason.to_owned(),
            actor: actor.clone(),
            runs: 0,
            failed: Vec::new(),
            begins: true,
        };
        let Err(why) = self.log.record_durably(&record, None) else { return Ok(()) };
        let why = format!("the order cannot be recorded in the audit log: {why}");
        self.refused(reason, actor, &why);
        Err(why)
    }

    /// Records that an order to observe was not carried out: its announcement may be on record.
    fn refused(&self, reason: &str, actor: &Actor, why: &str) {
        let reason = format!("the order to observe was not carried out: {reason}");
        self.record_node(reason, actor.clone(), 0, vec![why.to_owned()]);
    }

    /// Records the mode that the node has now.
    fn record_node(&self, reason: String, actor: Actor, runs: u64, failed: Vec<String>) {
        let modes = self.registry.modes();
        let (mode, until_ns) = (modes.node(), modes.temporary().map(|order| order.until_ns));
        let record = Record::Mode { mode, rule: None, until_ns, reason, actor, runs, failed, begins: false };
        self.log.record(&record, None, None);
    }

    /// The record of what the configuration says, and of what became of an earlier daemon's order, at the daemon's start.
    pub fn record_start(&self, rules: &Rules) {
        let modes = self.registry.modes();
        let record = |mode, rule: Option<String>, until_ns, reason: String, actor| {
            let record =
                Record::Mode { mode, rule, until_ns, reason, actor, runs: 0, failed: Vec::new(), begins: false };
            self.log.record(&record, None, None);
        };
        if modes.configured() == Mode::Observe {
            record(Mode::Observe, None, None, "the configuration says `mode = \"observe\"`".into(), Actor::Daemon);
        }
        if let Some(order) = modes.temporary() {
            let reason = format!("an earlier order holds: {}", order.reason);
            record(Mode::Observe, None, Some(order.until_ns), reason, order.actor);
        }
        if let Some(order) = modes.found_over() {
            let reason = format!("an earlier order ended while no daemon ran: {}", order.reason);
            record(modes.node(), None, None, reason, order.actor.clone());
        }
        if let Some(why) = modes.dropped() {
            record(modes.node(), None, None, why.to_owned(), Actor::Daemon);
        }
        for rule in rules.iter().filter(|rule| rule.mode == Mode::Observe) {
            let reason = "the configuration of the rule says `mode = \"observe\"`".into();
            record(Mode::Observe, Some(rule.name.clone()), None, reason, Actor::Daemon);
        }
    }

    /// Ends orders, and tries again what the kernel did not take, until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let modes = self.registry.modes();
        let is_over = || modes.is_over(&modes.now());
        let (mut next, mut state) = (Instant::now(), NodeState::new(CODE));
        let (mut noted, noting) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        while !stop.load(Ordering::Relaxed) {
            if is_over() {
                // The end of an order takes effect whatever happens to the disk.
                let _ended = self.change(None, "the time of the order is over", Actor::Daemon);
            }
            if Instant::now() >= next {
                self.catch_up(|| is_over() || stop.load(Ordering::Relaxed));
                if modes.is_stale()
                    && let Err(why) = self.settle()
                {
                    tracing::error!(why);
                }
                next = Instant::now() + AGAIN;
            }
            if noted.elapsed() >= NOTED && modes.temporary().is_some() {
                noted = Instant::now();
                self.note_time(&noting);
            }
            if let Some(message) = state.update(self.registry.unbounded_note()) {
                let _stopping = self.pipeline.send(message);
            }
            thread::park_timeout(LOOK);
        }
    }

    fn catch_up(&self, stop: impl Fn() -> bool) {
        let runs = self.registry.catch_up(|live, mode| self.tell(live, mode), stop);
        if runs.is_empty() {
            return;
        }
        let names: Vec<&str> = runs.iter().take(NAMED).map(|run| run.run.name.as_str()).collect();
        let reason = format!("the kernel follows now, which it did not before: {}", names.join(", "));
        self.record_node(reason, Actor::Daemon, runs.len() as u64, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::AuditLog,
        guard::kernel::Kernel,
        log::LogOwner,
        pipeline::queue,
        platform::CgroupRoot,
        runs::{
            modes::{Modes, Moment},
            store::Store,
        },
    };
    use std::path::Path;

    fn switch(state: &Path) -> Option<(ModeSwitch, LogOwner)> {
        let root = CgroupRoot::find().ok()?;
        let (owner, _) =
            LogOwner::open(state, &state.join("second-head.json"), "b", AuditLog::default().bounds(), None).unwrap();
        let (modes, wrong) = Modes::open(Mode::Enforce, &Rules::default(), state, &Moment::now("b"));
        assert_eq!(wrong, None);
        let store = Store::open(state).unwrap();
        let registry = Arc::new(Registry::new(root, Kernel::new(Err("a test's".into())), store).with_modes(modes));
        let (pipeline, _) = queue::channel(1);
        Some((ModeSwitch { registry, log: owner.log(), pipeline }, owner))
    }

    fn order(switch: &ModeSwitch) -> Option<Temporary> {
        Some(Temporary::new(&switch.registry.modes().now(), 3_600_000_000_000, "drill".into(), Actor::Daemon))
    }

    #[test]
    fn an_order_to_observe_is_on_record_before_it_takes_effect() {
        let state = tempfile::tempdir().unwrap();
        let Some((switch, owner)) = switch(state.path()) else { return };
        switch.change(order(&switch), "drill", Actor::Daemon).unwrap();
        switch.change(None, "enough", Actor::Daemon).unwrap();
        let path = owner.log().path().to_owned();
        owner.close();
        let entries = failsafe_journal::LogReader::open(&path).unwrap().map_while(Result::ok);
        let begins: Vec<(bool, String)> = entries
            .filter(|entry| entry.body["type"] == "mode")
            .map(|entry| (entry.body["begins"] == true, entry.body["mode"].as_str().unwrap().to_owned()))
            .collect();
        let expected = [(true, "observe"), (false, "observe"), (false, "enforce")];
        assert_eq!(begins, expected.map(|(begins, mode)| (begins, mode.to_owned())));
    }

    #[test]
    fn an_order_that_cannot_be_recorded_is_refused_and_its_end_is_not() {
        let state = tempfile::tempdir().unwrap();
        let Some((switch, owner)) = switch(state.path()) else { return };
        switch.change(order(&switch), "drill", Actor::Daemon).unwrap();
        owner.close();
        let modes = switch.registry.modes();
        switch.change(None, "enough", Actor::Daemon).unwrap();
        assert_eq!(modes.node(), Mode::Enforce, "the end needs no log");
        let why = switch.change(order(&switch), "drill", Actor::Daemon).unwrap_err();
        assert!(why.contains("cannot be recorded in the audit log"), "{why}");
        assert_eq!((modes.node(), modes.temporary()), (Mode::Enforce, None));
        assert!(!state.path().join("mode.json").exists(), "nothing is stored");
    }

    #[test]
    fn the_end_of_an_order_takes_effect_although_it_cannot_be_stored() {
        let state = tempfile::tempdir().unwrap();
        let Some((switch, _owner)) = switch(state.path()) else { return };
        switch.change(order(&switch), "drill", Actor::Daemon).unwrap();
        let file = state.path().join("mode.json");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("x")).unwrap();
        let (_, failed) = switch.change(None, "enough", Actor::Daemon).unwrap();
        assert!(failed[0].contains("has taken effect and is not stored"), "{failed:?}");
        assert_eq!(switch.registry.modes().node(), Mode::Enforce);
    }
}
