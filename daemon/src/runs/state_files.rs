//! Whether the state folder is the one that was opened, and has the files that it had: somebody may remove it, or a part of it, while the
//! daemon runs or between two daemons.
//!
//! The audit log has which files there were. Invariants: only files that the daemon never removes by itself are looked for; one is
//! missing when it was not there twice in a row, because files are replaced by renaming.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files that stay once they were made.
const NAMES: [&str; 12] = [
    "audit",
    "audit/audit.log",
    "canaries",
    "drill.json",
    "head.json",
    "health.json",
    "lineages",
    "lock",
    "log.keys",
    "policies",
    "runs",
    "signing-keys",
];

/// The state folder.
#[derive(Debug)]
pub struct StateFiles {
    folder: PathBuf,
    /// The folder and its lock: as long as they are open, no other file has their inodes.
    opened: [Option<File>; 2],
    /// The files that were there.
    known: BTreeSet<String>,
    /// Those that were missing at the last look.
    missing: BTreeSet<String>,
}

/// The names that are there. A file that cannot be looked at counts as there: nothing is known against it.
fn present(folder: &Path) -> BTreeSet<String> {
    let is_there = |name: &&&str| match fs::symlink_metadata(folder.join(name)) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    NAMES.iter().filter(is_there).map(|name| (*name).to_owned()).collect()
}

/// Whether there is another file than this one at the path, or none.
fn is_another(path: &Path, opened: &File) -> bool {
    let identity = |found: &Metadata| (found.dev(), found.ino());
    match (fs::metadata(path), opened.metadata()) {
        (Ok(found), Ok(opened)) => identity(&found) != identity(&opened),
        (Err(error), _) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        (_, Err(_)) => false,
    }
}

fn lock(folder: &Path) -> PathBuf {
    folder.join("lock")
}

fn named(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl StateFiles {
    /// As the folder is before a daemon makes anything in it but the lock, which it holds.
    pub fn open(folder: &Path) -> StateFiles {
        let opened = [File::open(folder).ok(), File::open(lock(folder)).ok()];
        StateFiles { folder: folder.to_owned(), opened, known: present(folder), missing: BTreeSet::new() }
    }

    /// Which of the files are missing that an earlier daemon had, in words. `had`: by the audit log.
    pub fn lacks(&self, had: &BTreeSet<String>) -> Option<String> {
        let lacks: BTreeSet<String> = had.difference(&self.known).cloned().collect();
        (!lacks.is_empty()).then(|| {
            format!(
                "files of the state folder are missing that an earlier daemon had: {}: it goes on without them",
                named(&lacks)
            )
        })
    }

    /// The files that are known to have been there.
    pub fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    /// Looks again. What is missing, in words. May hang with the disk.
    pub fn look(&mut self) -> Option<String> {
        let paths = [self.folder.clone(), lock(&self.folder)];
        let is_moved =
            |(opened, path): (&Option<File>, &PathBuf)| opened.as_ref().is_some_and(|it| is_another(path, it));
        if self.opened.iter().zip(&paths).any(is_moved) {
            return Some(format!(
                "the state folder {} was removed, moved or replaced while failsafed runs: what is written since then is lost with \
                 its end; runs stay bounded and judged; restart failsafed",
                self.folder.display()
            ));
        }
        let present = present(&self.folder);
        let missing = self.known.difference(&present).cloned().collect();
        let before = std::mem::replace(&mut self.missing, missing);
        let lacks: BTreeSet<String> = before.intersection(&self.missing).cloned().collect();
        self.known.extend(present);
        (!lacks.is_empty()).then(|| {
            format!("files of the state folder were removed while failsafed runs: {}: restart failsafed", named(&lacks))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|file| fs::write(folder.path().join(file), "").unwrap());
        folder
    }

    #[test]
    fn a_file_that_an_earlier_daemon_had_is_missed_at_the_start() {
        let dir = folder(&["lock", "health.json", "mode.json"]);
        let files = StateFiles::open(dir.path());
        assert_eq!(files.known(), &names(&["lock", "health.json"]), "an order comes and goes");
        assert_eq!(files.lacks(&names(&["health.json"])), None);
        assert_eq!(files.lacks(&names(&[])), None, "the log of an earlier version");
        let lacks = files.lacks(&names(&["health.json", "runs", "signing-keys"])).unwrap();
        assert!(lacks.contains("an earlier daemon had: runs, signing-keys:"), "{lacks}");
    }

    #[test]
    fn a_file_that_is_removed_is_missed_and_one_that_is_replaced_is_not() {
        let dir = folder(&["lock", "health.json"]);
        let mut files = StateFiles::open(dir.path());
        fs::write(dir.path().join("drill.json"), "").unwrap();
        assert_eq!((files.look(), files.known().len()), (None, 3));
        fs::remove_file(dir.path().join("drill.json")).unwrap();
        assert_eq!(files.look(), None, "it may be replaced at this moment");
        assert!(files.look().unwrap().contains("were removed while failsafed runs: drill.json:"));
        fs::write(dir.path().join("drill.json"), "").unwrap();
        assert_eq!(files.look(), None);
    }

    #[test]
    fn a_folder_that_is_moved_or_replaced_is_missed() {
        let dir = folder(&[]);
        let (state, away) = (dir.path().join("state"), dir.path().join("away"));
        fs::create_dir(&state).unwrap();
        fs::write(lock(&state), "").unwrap();
        let mut files = StateFiles::open(&state);
        assert_eq!(files.look(), None);
        let missed =
            |files: &mut StateFiles| files.look().is_some_and(|text| text.contains("removed, moved or replaced"));
        fs::rename(&state, &away).unwrap();
        assert!(missed(&mut files));
        fs::create_dir(&state).unwrap();
        fs::write(lock(&state), "").unwrap();
        assert!(missed(&mut files), "another folder");
        fs::remove_dir_all(&state).unwrap();
        fs::rename(&away, &state).unwrap();
        assert_eq!(files.look(), None);
        fs::rename(lock(&state), state.join("old")).unwrap();
        fs::write(lock(&state), "").unwrap();
        assert!(missed(&mut files), "another daemon could take that lock");
    }
}
