//! The audit log's file, read without the daemon: every entry that can be read, and then what cannot.

use super::{Place, missing::Missing};
use crate::{
    args::Source,
    entry::{self, Logged},
    exit::{Exit, Fail, chain},
    render::clean,
};
use failsafe_journal::{
    Entry, Filter, Query, Verdict,
    head::{HEAD_FILE, HeadFile},
    verify::verify_file,
};
use std::{cell::RefCell, collections::BTreeSet, path::PathBuf};

/// A log file as a command reads it.
#[derive(Debug)]
pub(super) struct Offline {
    file: PathBuf,
    /// The folder that it lies in, where it is not a copy.
    folder: Option<PathBuf>,
    /// Entries that the log had when the command began, as the head beside it has it.
    expected: u64,
    /// Why entries from some place on cannot be read.
    broken: RefCell<Option<String>>,
    /// What is amiss with files that make queries faster. All entries are found all the same.
    problems: RefCell<BTreeSet<String>>,
}

impl Offline {
    pub fn new(place: &Place<'_>, source: &Source) -> Offline {
        let file = source.log(place.state_dir);
        let own = file == entry::log_file(place.state_dir);
        let head = own.then(|| HeadFile::read(&place.state_dir.join(HEAD_FILE)).ok().flatten()).flatten();
        let folder = file.parent().filter(|_| own).map(std::path::Path::to_owned);
        let (broken, problems) = (RefCell::default(), RefCell::default());
        Offline { folder, expected: head.map_or(0, |head| head.entries), broken, problems, file }
    }

    /// Shows each entry that the query wants, up to the first that cannot be read.
    pub fn each(&self, query: Query, mut show: impl FnMut(Entry) -> Result<(), Fail>) -> Result<(), Fail> {
        let mut search = entry::open(&self.file, query)?;
        for entry in search.by_ref() {
            match entry {
                Ok(entry) => show(entry)?,
                Err(error) => *self.broken.borrow_mut() = Some(chain(&error)),
            }
        }
        self.problems.borrow_mut().extend(search.problems().iter().cloned());
        if let Some(missing) = search.missing_in_words() {
            self.broken.borrow_mut().get_or_insert(missing);
        }
        Ok(())
    }

    /// The entries that pass.
    pub fn load(&self, filter: Filter) -> Result<Vec<Logged>, Fail> {
        self.collect(Query { filter, ..Query::default() })
    }

    /// The last `n` entries that pass.
    pub fn last(&self, filter: Filter, n: usize) -> Result<Vec<Logged>, Fail> {
        self.collect(Query { filter, tail: Some(n), ..Query::default() })
    }

    fn collect(&self, query: Query) -> Result<Vec<Logged>, Fail> {
        let mut entries = Vec::new();
        self.each(query, |entry| {
            entries.push(Logged::from(entry));
            Ok(())
        })?;
        Ok(entries)
    }

    /// What the log itself states to be missing.
    pub fn missing(&self) -> Result<Missing, Fail> {
        let gaps = self.load(Filter { kinds: vec!["gap".to_owned()], ..Filter::default() })?;
        Ok(Missing::of_log(&gaps, self.folder.as_deref()))
    }

    /// Says on stderr what of the file could not be read, after what could be was shown.
    pub fn done(&self) -> Exit {
        for problem in self.problems.take() {
            note!("failsafectl: warning: {}", clean(&problem));
        }
        let Some(why) = self.broken.take().or_else(|| self.incomplete()) else { return Exit::Done };
        note!("failsafectl: warning: {}: not all entries could be read: {why}", self.file.display());
        note!("  `failsafectl log verify` says what is wrong with it");
        Exit::Partial
    }

    fn incomplete(&self) -> Option<String> {
        let report = verify_file(&self.file).ok()?;
        match report.verdict {
            Verdict::Torn { index, reason, .. } => Some(format!("entry {index} is incomplete: {reason}")),
            Verdict::Tampered(problem) => Some(problem.to_string()),
            Verdict::NotALog(what) => Some(what.to_owned()),
            _ if report.entries < self.expected => {
                Some(format!("it has {} entries, but {} were written", report.entries, self.expected))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_journal::{
        AuditLog, Draft, Stamp,
        segments::{CATALOG_FILE, sealed, segment_path},
        storage::{LOG_FILE, Layout, LogFolder},
    };

    /// A log with three sealed segments.
    fn log() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { segment_bytes: 1, reserve_bytes: 0, ..Layout::default() };
        let stamp = || Stamp { wall_ns: 1, mono_ns: 1, boot_id: "b".into() };
        let (mut log, _) = AuditLog::open(LogFolder::open(dir.path(), layout).unwrap(), &stamp()).unwrap();
        for n in 0..3 {
            log.append(&Draft::new("run", stamp(), serde_json::json!({ "n": n }))).unwrap();
            log.commit().unwrap();
            assert!(log.seal_if_due(stamp()));
            log.commit().unwrap();
        }
        dir
    }

    fn read(dir: &std::path::Path) -> (usize, BTreeSet<String>, Exit) {
        let (broken, problems) = (RefCell::default(), RefCell::default());
        let offline = Offline { file: dir.join(LOG_FILE), folder: None, expected: 0, broken, problems };
        let read = offline.load(Filter::default()).unwrap().len();
        let problems = offline.problems.borrow().clone();
        (read, problems, offline.done())
    }

    #[test]
    fn entries_that_are_missing_make_the_result_partial_and_a_lost_catalog_does_not() {
        let dir = log();
        let (all, problems, exit) = read(dir.path());
        assert_eq!((problems.len(), exit), (0, Exit::Done));
        std::fs::remove_file(dir.path().join(CATALOG_FILE)).unwrap();
        let (read_all, problems, exit) = read(dir.path());
        assert_eq!((read_all, problems.len(), exit), (all, 1, Exit::Done), "{problems:?}");
        let segment = segment_path(dir.path(), sealed(dir.path())[1]);
        let header = std::fs::read(&segment).unwrap()[..60].to_vec();
        std::fs::write(segment, header).unwrap();
        let (fewer, _, exit) = read(dir.path());
        assert_eq!((fewer < all, exit), (true, Exit::Partial));
    }
}
