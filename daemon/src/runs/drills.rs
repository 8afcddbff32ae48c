//! What outlives the daemon of its drills: `drill.json` in the state folder.
//!
//! Invariant: it is written before the run of a drill is made, so that a drill that the daemon's end cut short is known to the next
//! daemon. The audit log has every result; the file only spares the daemon to look for the last one.

use super::{
    disk::{Disk, Files},
    store::{StoreError, write_json},
};
use crate::platform::clock;
use failsafe_core::{
    Actor,
    drill::{Drill, Finding, Known},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

/// How far a time may be ahead of the clock, which can be set back a little: one minute.
const AHEAD_NS: i64 = 60_000_000_000;

/// A drill that is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    /// The name of its run.
    pub name: String,
    /// When it began, nanoseconds since the epoch.
    pub began_ns: i64,
    /// Who asked.
    pub actor: Actor,
    /// Why.
    pub reason: String,
}

/// What is known of drills.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drills {
    /// Since when there is a schedule, nanoseconds since the epoch.
    pub since_ns: Option<i64>,
    /// The one that is being done.
    pub under: Option<Under>,
    /// The last one.
    pub last: Option<Drill>,
    /// The last one that proved a stop.
    pub proved: Option<Drill>,
    /// The last one that failed, until one proves a stop.
    pub failed: Option<Drill>,
}

impl Drills {
    /// Takes in a result.
    pub fn take(&mut self, drill: &Drill) {
        self.under = None;
        self.last = Some(drill.clone());
        match drill.result {
            Finding::Proved => (self.proved, self.failed) = (Some(drill.clone()), None),
            Finding::Failed => self.failed = Some(drill.clone()),
            Finding::Unproved | Finding::NotDone => {}
        }
    }

    /// The latest time that it has, nanoseconds since the epoch.
    fn latest_ns(&self) -> Option<i64> {
        let drills = [&self.last, &self.proved, &self.failed].into_iter().flatten().map(Drill::ended_ns);
        drills.chain(self.since_ns).chain(self.under.as_ref().map(|under| under.began_ns)).max()
    }

    /// What a schedule goes by.
    pub fn known(&self, started_ns: i64) -> Known {
        Known {
            since_ns: self.since_ns.unwrap_or(started_ns),
            started_ns,
            last: self
                .last
                .as_ref()
                .map(|drill| (drill.ended_ns(), matches!(drill.result, Finding::Failed | Finding::NotDone))),
            proved_ns: self.proved.as_ref().map(Drill::ended_ns),
        }
    }
}

/// The file.
#[derive(Debug)]
pub struct DrillFile(PathBuf);

impl DrillFile {
    /// That of a state folder.
    pub fn new(state_dir: &Path) -> DrillFile {
        DrillFile(state_dir.join("drill.json"))
    }

    /// What it has. The text is why it does not count.
    pub fn read(&self) -> (Drills, Option<String>) {
        let read = match Files.read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Drills::default()),
            Err(error) => Err(error.to_string()),
        };
        let now = clock::wall_ns();
        match read {
            // It would prove stops that never were, and no drill would be due.
            Ok(drills) if drills.latest_ns() > Some(now.saturating_add(AHEAD_NS)) => {
                let why = format!("{} does not count: it has times in the future", self.0.display());
                (Drills::default(), Some(why))
            }
            Ok(drills) => (drills, None),
            Err(why) => (Drills::default(), Some(format!("{} does not count: {why}", self.0.display()))),
        }
    }

    /// Writes it whole, or leaves the old one.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self, drills: &Drills) -> Result<(), StoreError> {
        write_json(&self.0, drills)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::time::Span;

    fn drill(result: Finding, began_ns: i64) -> Drill {
        Drill {
            run: None,
            name: "failsafe-drill-1".into(),
            result,
            stopped_in: None,
            steps: Vec::new(),
            failed: None,
            problem: None,
            began_ns,
            took: Span(1),
            actor: Actor::Daemon,
            reason: "test".into(),
        }
    }

    #[test]
    fn a_file_with_a_drill_of_the_future_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = DrillFile::new(dir.path());
        let now = clock::wall_ns();
        for (began_ns, counts) in [(now, true), (now + 2 * AHEAD_NS, false)] {
            let mut drills = Drills::default();
            drills.take(&drill(Finding::Proved, began_ns));
            file.write(&drills).unwrap();
            let (read, problem) = file.read();
            assert_eq!((read == drills, problem.is_none()), (counts, counts), "{problem:?}");
        }
    }

    #[test]
    fn a_failure_stays_until_a_drill_proves_a_stop() {
        let mut drills = Drills::default();
        drills.take(&drill(Finding::Failed, 1));
        drills.take(&drill(Finding::Unproved, 2));
        assert_eq!(drills.failed, Some(drill(Finding::Failed, 1)), "a drill that proves nothing ends nothing");
        assert_eq!(drills.known(9).last, Some((3, false)));
        drills.take(&drill(Finding::NotDone, 4));
        assert_eq!(drills.failed, Some(drill(Finding::Failed, 1)), "nor does one that was not done");
        assert_eq!(drills.known(9).last, Some((5, true)), "which is repeated soon");
        drills.take(&drill(Finding::Proved, 5));
        assert_eq!((drills.failed.clone(), drills.known(9).proved_ns), (None, Some(6)));
    }

    #[test]
    fn the_file_survives_and_a_broken_one_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = DrillFile::new(folder.path());
        assert_eq!(file.read(), (Drills::default(), None));
        let mut drills = Drills { since_ns: Some(3), ..Drills::default() };
        drills.take(&drill(Finding::Proved, 5));
        let actor = Actor::Schedule { name: "drill".into() };
        drills.under = Some(Under { name: "failsafe-drill-2".into(), began_ns: 7, actor, reason: "x".into() });
        file.write(&drills).unwrap();
        assert_eq!(file.read(), (drills, None));
        std::fs::write(folder.path().join("drill.json"), "{").unwrap();
        let (read, why) = file.read();
        assert_eq!(read, Drills::default());
        assert!(why.unwrap().contains("does not count"));
    }
}
