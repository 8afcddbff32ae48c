//! Whether a run is bounded as its policy says, or only watched: the configuration of the node, that of the rule which discovered it,
//! and an administrator's temporary order.
//!
//! Owns the order, and its file `mode.json` in the state folder: it survives restarts and ends by itself. Invariants: whoever makes the
//! runs fewer that are bounded does so for a bounded time; an order that cannot be read, or that was given in the future, does not
//! count; a run of a rule that the configuration lacks is bounded as the node says.

use super::{
    disk::{Disk, Files},
    store::write_json,
};
use failsafe_core::{
    Actor, Mode,
    discover::{LABEL, Labels, Rules},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// An administrator's order to observe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// When it was given, nanoseconds since the epoch.
    pub since_ns: i64,
    /// When it ends.
    pub until_ns: i64,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub actor: Actor,
}

impl Temporary {
    /// Whether it holds. One from the future means that the clock was set back: it would hold for longer than was asked.
    fn holds(&self, now_ns: i64) -> bool {
        (self.since_ns..self.until_ns).contains(&now_ns)
    }
}

/// The modes.
#[derive(Debug, Default)]
pub struct Modes {
    node: Mode,
    rules: BTreeMap<String, Mode>,
    file: Option<PathBuf>,
    temporary: Mutex<Option<Temporary>>,
}

impl Modes {
    /// Those of a configuration, with the order that an earlier daemon had. The text is what is wrong with its file.
    pub fn open(node: Mode, rules: &Rules, state_dir: &Path, now_ns: i64) -> (Modes, Option<String>) {
        let file = state_dir.join("mode.json");
        let read = match Files.read(&file) {
            Ok(bytes) => serde_json::from_slice::<Option<Temporary>>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let (found, wrong) = match read {
            Ok(found) => (found.filter(|order| order.holds(now_ns)), None),
            Err(why) => (None, Some(format!("{} does not count: {why}: policies are enforced", file.display()))),
        };
        let rules = rules.iter().map(|rule| (rule.name.clone(), rule.mode)).collect();
        (Modes { node, rules, file: Some(file), temporary: Mutex::new(found) }, wrong)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Temporary>> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Gives an order, or ends the one that holds. Whoever calls applies it to the runs.
    ///
    /// # Errors
    /// It could not be stored: nothing is changed then.
    pub(super) fn set(&self, order: Option<Temporary>) -> Result<(), String> {
        if let Some(file) = &self.file {
            write_json(file, &order).map_err(|error| crate::causes::chain(&error))?;
        }
        *self.lock() = order;
        Ok(())
    }

    /// Whether the order that holds is over at this time.
    pub fn is_over(&self, now_ns: i64) -> bool {
        self.lock().as_ref().is_some_and(|order| !order.holds(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::discover::{Preset, Rule};

    fn rules() -> Rules {
        let rule = |name: &str, mode| Rule {
            name: name.into(),
            patterns: Preset::Docker.patterns().unwrap(),
            policy: "p".into(),
            mode,
            labels: Labels::new(),
        };
        Rules::new(vec![rule("watched", Mode::Observe), rule("bounded", Mode::Enforce)]).unwrap()
    }

    fn order(since_ns: i64, until_ns: i64) -> Temporary {
        Temporary { since_ns, until_ns, reason: "rollout".into(), actor: Actor::Daemon }
    }

    #[test]
    fn the_stronger_of_node_and_rule_to_observe_counts() {
        let folder = tempfile::tempdir().unwrap();
        let of = |modes: &Modes, rule: &str| modes.of(&Labels::from([(LABEL.to_owned(), rule.to_owned())]));
        let (modes, wrong) = Modes::open(Mode::Enforce, &rules(), folder.path(), 0);
        assert_eq!(wrong, None);
        assert_eq!(
            [of(&modes, "watched"), of(&modes, "bounded"), of(&modes, "gone")],
            [Mode::Observe, Mode::Enforce, Mode::Enforce]
        );
        assert_eq!(modes.of(&Labels::new()), Mode::Enforce);
        modes.set(Some(order(10, 20))).unwrap();
        assert_eq!(
            [of(&modes, "bounded"), modes.node(), modes.configured()],
            [Mode::Observe, Mode::Observe, Mode::Enforce]
        );
        let (node, _) = Modes::open(Mode::Observe, &rules(), &folder.path().join("none"), 0);
        assert_eq!(of(&node, "bounded"), Mode::Observe);
    }

    #[test]
    fn an_order_survives_a_restart_ends_by_itself_and_does_not_grow_by_a_clock() {
        let folder = tempfile::tempdir().unwrap();
        let open = |now| Modes::open(Mode::Enforce, &rules(), folder.path(), now);
        open(0).0.set(Some(order(10, 20))).unwrap();
        for (now, holds) in [(9, false), (10, true), (19, true), (20, false)] {
            let (modes, wrong) = open(now);
            assert_eq!((modes.temporary().is_some(), wrong), (holds, None), "{now}");
        }
        let (modes, _) = open(15);
        assert!(!modes.is_over(19) && modes.is_over(20) && modes.is_over(9));
        modes.set(None).unwrap();
        assert_eq!(open(15).0.temporary(), None);
        std::fs::write(folder.path().join("mode.json"), "{").unwrap();
        let (modes, wrong) = open(15);
        assert!(modes.temporary().is_none() && wrong.unwrap().contains("mode.json does not count"));
        std::fs::remove_file(folder.path().join("mode.json")).unwrap();
        std::fs::create_dir(folder.path().join("mode.json")).unwrap();
        assert!(open(15).1.is_some(), "a folder is no order");
    }
}
