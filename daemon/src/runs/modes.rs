//! Whether a run is bounded as its policy says, or only watched: the configuration of the node, that of the rule which discovered it,
//! and an administrator's temporary order.
//!
//! Owns the order, and its file `mode.json` in the state folder: it survives restarts and ends by itself. Invariants: whoever makes the
//! runs fewer that are bounded does so for a bounded time, by the wall clock and by the clock of the boot, whichever is over first, also
//! over a reboot: the time of the file says how far the wall clock had come, and the rest counts by the clock of the new boot; its end
//! needs no disk; an order that cannot be read, that was given in the future, or that is not in force by the audit log, does not count; a
//! run of a rule that the configuration lacks is bounded as the node says.

use super::{
    disk::{Disk, Files},
    store::write_json,
};
use crate::{causes::chain, log::LoggedOrders, platform::clock};
use failsafe_core::{
    Actor, Mode,
    discover::{LABEL, Labels, Rules},
    record::BornOut,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

/// A time, by both clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since the epoch. Somebody may set this clock.
    pub wall_ns: i64,
    /// Nanoseconds since the boot, suspended time too. Nobody sets this clock.
    pub boot_ns: u64,
    /// Which boot.
    pub boot_id: String,
}

impl Moment {
    /// Now, in this boot.
    pub fn now(boot_id: &str) -> Moment {
        Moment { wall_ns: clock::wall_ns(), boot_ns: clock::boottime_ns(), boot_id: boot_id.to_owned() }
    }
}

/// An administrator's order to observe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// When it was given, nanoseconds since the epoch.
    pub since_ns: i64,
    /// When it ends.
    pub until_ns: i64,
    /// When it ends by the clock of the boot in which it was given. None in files of earlier versions.
    #[serde(default)]
    pub until_boot_ns: Option<u64>,
    /// That boot.
    #[serde(default)]
    pub boot_id: String,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub actor: Actor,
}

impl Temporary {
    /// One that is given now, for so long.
    pub fn new(now: &Moment, length_ns: u64, reason: String, actor: Actor) -> Temporary {
        let length = i64::try_from(length_ns).unwrap_or(i64::MAX);
        Temporary {
            since_ns: now.wall_ns,
            until_ns: now.wall_ns.saturating_add(length),
            until_boot_ns: Some(now.boot_ns.saturating_add(length_ns)),
            boot_id: now.boot_id.clone(),
            reason,
            actor,
        }
    }

    /// The same order in the boot of `now`, if that is another than the one in which it was given. `reached_ns`: the wall clock has been
    /// there; who sets it back prolongs nothing.
    fn in_boot(mut self, now: &Moment, reached_ns: i64) -> Temporary {
        if self.boot_id != now.boot_id {
            let rest = self.until_ns.saturating_sub(now.wall_ns.max(reached_ns));
            self.until_boot_ns = Some(now.boot_ns.saturating_add(u64::try_from(rest).unwrap_or(0)));
            self.boot_id.clone_from(&now.boot_id);
        }
        self
    }

    /// Whether it holds. One from the future means that the wall clock was set back: it would hold for longer than was asked.
    fn holds(&self, now: &Moment) -> bool {
        let over = self.boot_id == now.boot_id && self.until_boot_ns.is_some_and(|until| now.boot_ns >= until);
        (self.since_ns..self.until_ns).contains(&now.wall_ns) && !over
    }
}

/// The modes.
#[derive(Debug, Default)]
pub struct Modes {
    node: Mode,
    rules: BTreeMap<String, Mode>,
    file: Option<PathBuf>,
    boot_id: String,
    /// Held while the file is written or removed.
    disk: Mutex<()>,
    temporary: Mutex<Option<Temporary>>,
    /// An order was found that had ended while no daemon ran.
    found_over: Option<Temporary>,
    /// Why an order does not count that the file or the audit log has; for the record.
    dropped: Option<String>,
    /// The file has an order that is over.
    stale: AtomicBool,
}

impl Modes {
    /// Those of a configuration, with the order that an earlier daemon had. The text is what is wrong with its file.
    pub fn open(node: Mode, rules: &Rules, state_dir: &Path, now: &Moment) -> (Modes, Option<String>) {
        let file = state_dir.join("mode.json");
        let read = match Files.read(&file) {
            Ok(bytes) => serde_json::from_slice::<Option<Temporary>>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let (found, mut wrong) = match read {
            Ok(found) => (found, None),
            Err(why) => (None, Some(format!("{} does not count: {why}: policies are enforced", file.display()))),
        };
        let rebased = found.clone().map(|order| order.in_boot(now, reached(&file)));
        let (holds, found_over) = match rebased {
            Some(order) if order.holds(now) => (Some(order), None),
            _ => (None, found.clone()),
        };
        // The next start in this boot has the same end.
        if holds.is_some()
            && holds != found
            && let Err(error) = write_json(&file, &holds)
        {
            let why = chain(&error);
            wrong = Some(format!("{}: the end of the order in this boot cannot be stored: {why}", file.display()));
        }
        let rules = rules.iter().map(|rule| (rule.name.clone(), rule.mode)).collect();
        let stale = AtomicBool::new(found_over.is_some());
        let (file, boot_id, temporary) = (Some(file), now.boot_id.clone(), Mutex::new(holds));
        let disk = Mutex::default();
        (Modes { node, rules, file, boot_id, disk, temporary, found_over, dropped: None, stale }, wrong)
    }

    /// Holds what the file has against the audit log. An order that is not in force by the log does not count: the configuration says what
    /// holds, and the file is removed later. The text is what differs.
    #[must_use]
    pub fn borne_out_by(mut self, logged: &LoggedOrders, now: &Moment) -> (Modes, Option<String>) {
        let found = self.temporary().or_else(|| self.found_over.clone());
        let Some(order) = found else {
            let missing = logged.orders.observe().filter(|order| order.until_ns > now.wall_ns && self.file.is_some());
            self.dropped = missing.map(|_| {
                "mode.json is missing, or cannot be read: it had an order to observe that is in force by the audit log; \
                 the configuration says what holds"
                    .to_owned()
            });
            let text = self.dropped.clone();
            return (self, text);
        };
        let text = match logged.orders.bear_out(order.until_ns, &order.reason, &order.actor) {
            BornOut::InForce => return (self, None),
            // Its time is over, which is on record: only the file was not removed yet.
            BornOut::Ended if self.temporary().is_none() => {
                self.found_over = None;
                return (self, None);
            }
            BornOut::No if logged.may_lack && !logged.orders.know_observe() => {
                let text = "the order to observe in mode.json is accepted although the audit log does not have it: the \
                            log was begun by an earlier version, and its beginning was removed";
                return (self, Some(text.to_owned()));
            }
            BornOut::Ended => {
                "mode.json still had an order to observe that has ended by the audit log: it does not count"
            }
            BornOut::No => "mode.json had an order to observe that is not in force by the audit log: it does not count",
        };
        self.set(None);
        (self.found_over, self.dropped) = (None, Some(format!("{text}; the configuration says what holds")));
        let text = self.dropped.clone();
        (self, text)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Temporary>> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, as orders are measured.
    pub fn now(&self) -> Moment {
        Moment::now(&self.boot_id)
    }

    /// The mode of a run with these labels.
    pub fn of(&self, labels: &Labels) -> Mode {
        let by_rule = labels.get(LABEL).and_then(|rule| self.rules.get(rule)).copied().unwrap_or_default();
        if self.node() == Mode::Observe { Mode::Observe } else { by_rule }
    }

    /// The mode of runs that no rule has.
    pub fn node(&self) -> Mode {
        if self.lock().is_some() { Mode::Observe } else { self.node }
    }

    /// The mode that the configuration gives the node.
    pub fn configured(&self) -> Mode {
        self.node
    }

    /// The order that holds.
    pub fn temporary(&self) -> Option<Temporary> {
        self.lock().clone()
    }

    /// The order that an earlier daemon had and that ended while no daemon ran.
    pub fn found_over(&self) -> Option<&Temporary> {
        self.found_over.as_ref()
    }

    /// Why an order does not count that the file or the audit log has.
    pub fn dropped(&self) -> Option<&str> {
        self.dropped.as_deref()
    }

    /// Stores an order, which does not hold yet: see [`Modes::set`].
    ///
    /// # Errors
    /// It could not be stored.
    pub(super) fn store(&self, order: &Temporary) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let _disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        write_json(file, &Some(order)).map_err(|error| format!("the order cannot be stored: {}", chain(&error)))?;
        self.stale.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Has a stored order hold, or ends the one that does. In memory alone: a disk that is full, read-only or hangs keeps no run unbounded.
    /// Whoever calls applies it to the runs, and has the disk follow with [`Modes::settle`].
    pub(super) fn set(&self, order: Option<Temporary>) {
        if order.is_none() {
            self.stale.store(true, Ordering::Relaxed);
        }
        *self.lock() = order;
    }

    /// Whether the disk may have an order that is over.
    pub fn is_stale(&self) -> bool {
        self.file.is_some() && self.stale.load(Ordering::Relaxed)
    }

    /// Removes an order from the disk that is over. May hang with the disk.
    ///
    /// # Errors
    /// It could not be removed, or somebody else is at it.
    pub fn settle(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let Ok(_disk) = self.disk.try_lock() else { return Err(format!("{} is being written", file.display())) };
        if !self.is_stale() || self.lock().is_some() {
            return Ok(());
        }
        // Removed and not written: a full disk lets that be.
        let removed = match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => file.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|folder| folder.sync_all())),
        };
        removed.map_err(|error| format!("cannot remove {}: {error}", file.display()))?;
        self.stale.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Has the file of an order say how far the wall clock has come, for a start after a reboot. May hang with the disk.
    pub fn note_time(&self) {
        let (Some(file), Ok(_disk)) = (&self.file, self.disk.try_lock()) else { return };
        if self.lock().is_none() || self.is_stale() {
            return;
        }
        let now = UNIX_EPOCH + Duration::from_nanos(u64::try_from(clock::wall_ns()).unwrap_or(0));
        let noted = File::options().write(true).open(file).and_then(|open| match open.metadata()?.modified()? < now {
            true => open.set_modified(now),
            false => Ok(()),
        });
        if let Err(error) = noted {
            tracing::warn!(file = %file.display(), %error, "the time of an order to observe cannot be noted");
        }
    }

    /// Whether the order that holds is over at this time.
    pub fn is_over(&self, now: &Moment) -> bool {
        self.lock().as_ref().is_some_and(|order| !order.holds(now))
    }
}

/// How far the wall clock had come when the file was written or [`Modes::note_time`] was called last; 0: not known.
fn reached(file: &Path) -> i64 {
    let modified = fs::metadata(file).and_then(|found| found.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        discover::{Preset, Rule},
        record::Record,
    };

    fn rules() -> Rules {
        let rule = |name: &str, mode| Rule {
            name: name.into(),
            patterns: Preset::Docker.patterns().unwrap(),
            policy: "p".into(),
            shadow: None,
            mode,
            labels: Labels::new(),
        };
        Rules::new(vec![rule("watched", Mode::Observe), rule("bounded", Mode::Enforce)]).unwrap()
    }

    fn at(wall_ns: i64, boot_ns: u64) -> Moment {
        Moment { wall_ns, boot_ns, boot_id: "b".into() }
    }

    /// From 10 to 20 by the wall clock, to 110 by the boot's.
    fn order() -> Temporary {
        Temporary::new(&at(10, 100), 10, "rollout".into(), Actor::Daemon)
    }

    fn give(modes: &Modes) {
        modes.store(&order()).unwrap();
        modes.set(Some(order()));
    }

    #[test]
    fn the_stronger_of_node_and_rule_to_observe_counts() {
        let folder = tempfile::tempdir().unwrap();
        let of = |modes: &Modes, rule: &str| modes.of(&Labels::from([(LABEL.to_owned(), rule.to_owned())]));
        let (modes, wrong) = Modes::open(Mode::Enforce, &rules(), folder.path(), &at(0, 0));
        assert_eq!(wrong, None);
        assert_eq!(
            [of(&modes, "watched"), of(&modes, "bounded"), of(&modes, "gone")],
            [Mode::Observe, Mode::Enforce, Mode::Enforce]
        );
        assert_eq!(modes.of(&Labels::new()), Mode::Enforce);
        give(&modes);
        assert_eq!(
            [of(&modes, "bounded"), modes.node(), modes.configured()],
            [Mode::Observe, Mode::Observe, Mode::Enforce]
        );
        let (node, _) = Modes::open(Mode::Observe, &rules(), &folder.path().join("none"), &at(0, 0));
        assert_eq!(of(&node, "bounded"), Mode::Observe);
    }

    #[test]
    fn an_order_survives_a_restart_and_ends_with_the_earlier_of_both_clocks() {
        let folder = tempfile::tempdir().unwrap();
        let open = |now: &Moment| Modes::open(Mode::Enforce, &rules(), folder.path(), now);
        give(&open(&at(0, 0)).0);
        let cases = [(9, 100, false), (10, 100, true), (19, 109, true), (20, 109, false), (12, 110, false)];
        for (wall_ns, boot_ns, holds) in cases {
            let (modes, wrong) = open(&at(wall_ns, boot_ns));
            let over = (!holds).then(order);
            assert_eq!((modes.temporary().is_some(), modes.found_over(), wrong), (holds, over.as_ref(), None));
        }
        let (modes, _) = open(&at(15, 105));
        assert!(!modes.is_over(&at(19, 109)) && modes.is_over(&at(20, 105)) && modes.is_over(&at(9, 105)));
        assert!(modes.is_over(&at(15, 110)), "the wall clock was set back");
        modes.set(None);
        modes.settle().unwrap();
        let (modes, wrong) = open(&at(15, 105));
        assert!(modes.temporary().is_none() && modes.found_over().is_none() && wrong.is_none());
        std::fs::write(folder.path().join("mode.json"), "{").unwrap();
        let (modes, wrong) = open(&at(15, 105));
        assert!(modes.temporary().is_none() && wrong.unwrap().contains("mode.json does not count"));
        std::fs::remove_file(folder.path().join("mode.json")).unwrap();
        std::fs::create_dir(folder.path().join("mode.json")).unwrap();
        assert!(open(&at(15, 105)).1.is_some(), "a folder is no order");
    }

    #[test]
    fn after_a_reboot_an_order_lasts_no_longer_than_its_rest_whoever_sets_the_clock_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mode.json");
        let open = |now: &Moment| Modes::open(Mode::Enforce, &rules(), folder.path(), now).0;
        let reached = |at: u64| File::open(&file).unwrap().set_modified(UNIX_EPOCH + Duration::from_nanos(at)).unwrap();
        let boot = |id: &str, wall_ns, boot_ns| Moment { boot_id: id.into(), ..at(wall_ns, boot_ns) };
        give(&open(&at(0, 0)));
        reached(13);
        // The wall clock says 11, and had come to 13: 7 are left.
        let modes = open(&boot("c", 11, 500));
        assert_eq!(modes.temporary().unwrap().until_boot_ns, Some(507));
        assert!(!modes.is_over(&boot("c", 11, 506)) && modes.is_over(&boot("c", 11, 507)));
        // Another start in that boot has the same end, whatever the wall clock says then.
        assert_eq!(open(&boot("c", 10, 503)).temporary().unwrap().until_boot_ns, Some(507));
        assert_eq!(open(&boot("c", 10, 507)).temporary(), None);
        // The wall clock went on while the machine was off.
        reached(13);
        assert_eq!(open(&boot("d", 18, 40)).temporary().unwrap().until_boot_ns, Some(42));
        reached(25);
        let modes = open(&boot("e", 11, 40));
        assert!(modes.temporary().is_none() && modes.found_over().is_some(), "its time was over before the reboot");
    }

    #[test]
    fn the_file_of_an_order_says_how_far_the_wall_clock_has_come_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mode.json");
        let now = Moment::now("b");
        let (modes, _) = Modes::open(Mode::Enforce, &rules(), folder.path(), &now);
        let order = Temporary::new(&now, 3_600_000_000_000, "rollout".into(), Actor::Daemon);
        modes.store(&order).unwrap();
        modes.set(Some(order));
        let set = |at: i64| {
            let at = UNIX_EPOCH + Duration::from_nanos(u64::try_from(at).unwrap());
            File::open(&file).unwrap().set_modified(at).unwrap();
        };
        set(now.wall_ns - 1_000_000_000);
        modes.note_time();
        assert!(reached(&file) >= now.wall_ns);
        let later = now.wall_ns + 3_600_000_000_000;
        set(later);
        modes.note_time();
        assert_eq!(reached(&file), later);
    }

    #[test]
    fn an_order_counts_only_if_it_is_in_force_by_the_audit_log() {
        let record = |until_ns: Option<i64>, begins, reason: &str| Record::Mode {
            mode: if until_ns.is_none() { Mode::Enforce } else { Mode::Observe },
            rule: None,
            until_ns,
            reason: reason.into(),
            actor: Actor::Daemon,
            runs: 0,
            failed: Vec::new(),
            begins,
        };
        let announced = record(Some(20), true, "rollout");
        let (done, over) = (record(Some(20), false, "rollout"), record(None, false, "enough"));
        let other = record(Some(19), true, "rollout");
        let cases: [(&[&Record], bool, bool, &str); 8] = [
            (&[&announced], false, true, ""),
            (&[&announced, &done], false, true, ""),
            (&[], false, false, "not in force by"),
            (&[], true, true, "accepted although"),
            (&[&other], false, false, "not in force by"),
            (&[&other], true, false, "not in force by"),
            (&[&announced, &done, &over], false, false, "has ended by the audit log"),
            (&[&announced, &done, &over], true, false, "has ended by the audit log"),
        ];
        for (records, may_lack, holds, text) in cases {
            let folder = tempfile::tempdir().unwrap();
            let now = at(15, 105);
            let open = || Modes::open(Mode::Enforce, &rules(), folder.path(), &now).0;
            let mut logged = LoggedOrders { may_lack, ..LoggedOrders::default() };
            records.iter().for_each(|record| logged.orders.take(record));
            give(&open());
            let (modes, differs) = open().borne_out_by(&logged, &now);
            let mode = if holds { Mode::Observe } else { Mode::Enforce };
            assert_eq!((modes.node(), modes.dropped().is_some()), (mode, !holds), "{records:?}");
            assert!(differs.as_deref().unwrap_or_default().contains(text) && differs.is_none() == text.is_empty());
            modes.settle().unwrap();
            assert_eq!(folder.path().join("mode.json").exists(), holds, "what does not count is removed");
            give(&open());
            let late = at(30, 120);
            let (modes, differs) =
                Modes::open(Mode::Enforce, &rules(), folder.path(), &late).0.borne_out_by(&logged, &late);
            let has_ended = !may_lack && records.len() == 3;
            assert!(!has_ended || differs.is_none() && modes.found_over().is_none() && modes.is_stale());
            let _removed = std::fs::remove_file(folder.path().join("mode.json"));
            let (_, differs) = open().borne_out_by(&logged, &now);
            let (_, later) = open().borne_out_by(&logged, &at(20, 110));
            assert_eq!((differs.is_some(), later), (logged.orders.observe().is_some(), None), "the file is missing");
        }
    }

    #[test]
    fn an_order_that_ended_while_no_daemon_ran_is_removed_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let open = |now: &Moment| Modes::open(Mode::Enforce, &rules(), folder.path(), now).0;
        give(&open(&at(0, 0)));
        let modes = open(&at(30, 120));
        assert_eq!(modes.found_over(), Some(&order()));
        modes.settle().unwrap();
        assert!(!folder.path().join("mode.json").exists() && open(&at(15, 105)).temporary().is_none());
    }

    #[test]
    fn a_disk_that_takes_nothing_refuses_an_order_and_does_not_keep_one() {
        let folder = tempfile::tempdir().unwrap();
        let (modes, _) = Modes::open(Mode::Enforce, &rules(), folder.path(), &at(10, 100));
        give(&modes);
        // Neither a write nor a removal of the file succeeds.
        let file = folder.path().join("mode.json");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("x")).unwrap();
        modes.set(None);
        assert_eq!((modes.node(), modes.temporary()), (Mode::Enforce, None), "the end needs no disk");
        assert!(modes.store(&order()).is_err());
        assert!(modes.settle().is_err() && modes.is_stale(), "it is tried again");
        std::fs::remove_dir_all(&file).unwrap();
        modes.settle().unwrap();
        assert!(!modes.is_stale());
    }
}
