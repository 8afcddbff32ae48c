//! The folders below which matching cgroups may be made, and the cgroups that appear in them.
//!
//! A folder is watched (inotify) before it is listed, so that no cgroup is missed in between. What the kernel has no room to report
//! shows as an overflow, and everything is listed again.
//!
//! Invariants: only folders on the way to a pattern are watched; their number is bounded; a name that is no UTF-8 matches nothing.

use failsafe_core::discover::Rules;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

/// Folders and cgroups that one pass looks at.
const MOST_LOOKED_AT: usize = 65_536;

/// The folders that are watched.
pub struct Folders {
    /// Where the paths of patterns begin.
    root: PathBuf,
    inotify: Inotify,
    by_watch: HashMap<WatchDescriptor, String>,
    by_path: BTreeMap<String, WatchDescriptor>,
    most: usize,
    /// Folders for which there was no room in this pass.
    pub unwatched: u64,
}

/// What the kernel reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Paths of new cgroups, below the root.
    pub made: Vec<String>,
    /// Reports were lost.
    pub overflow: bool,
}

impl Folders {
    /// None yet.
    ///
    /// # Errors
    /// The kernel gives no inotify descriptor.
    pub fn new(root: PathBuf, most: usize) -> nix::Result<Folders> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Folders { root, inotify, by_watch: HashMap::new(), by_path: BTreeMap::new(), most, unwatched: 0 })
    }

    /// Readable when the kernel has something to report.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How many are watched.
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Lists everything from the root: the cgroups that may match go to `seen`. False: there were too many to look at.
    pub fn pass(&mut self, rules: &Rules, seen: &mut dyn FnMut(&str)) -> bool {
        self.unwatched = 0;
        let root = self.root.clone();
        let known: Vec<String> = self.by_path.keys().cloned().collect();
        for gone in known.iter().filter(|path| !root.join(path).is_dir()) {
            self.forget(gone);
        }
        let mut left = MOST_LOOKED_AT;
        self.enter("", rules, seen, &mut left);
        left > 0
    }

    /// Takes a cgroup in that was reported: it, and what is in it by now.
    pub fn take_in(&mut self, path: &str, rules: &Rules, seen: &mut dyn FnMut(&str)) {
        let mut left = MOST_LOOKED_AT;
        seen(path);
        self.enter(path, rules, seen, &mut left);
    }

    fn enter(&mut self, path: &str, rules: &Rules, seen: &mut dyn FnMut(&str), left: &mut usize) {
        if !rules.lead_below(path) || !self.watch(path) {
            return;
        }
        // What vanishes meanwhile needs no look.
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if *left == 0 {
                return;
            }
            *left -= 1;
            let below = joined(path, name);
            seen(&below);
            self.enter(&below, rules, seen, left);
        }
    }

    /// Whether the folder is there; watched or not: without room the passes find what is made in it.
    fn watch(&mut self, path: &str) -> bool {
        // Asked again also where it is watched: the folder may be another one by now. While somebody has the old one open, cgroupfs does
        // not tell that it was removed (no IN_IGNORED). For the same folder the kernel gives the same descriptor.
        let known = self.by_path.get(path).copied();
        if known.is_none() && self.by_path.len() >= self.most {
            self.unwatched += 1;
            return true;
        }
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        match self.inotify.add_watch(&self.root.join(path), flags) {
            Ok(watch) => {
                // The kernel gives one descriptor for one folder: another path of it would be a second name, which cgroups lack.
                if known != Some(watch) {
                    self.forget(path);
                    self.by_watch.insert(watch, path.to_owned());
                    self.by_path.insert(path.to_owned(), watch);
                }
                true
            }
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {
                self.forget(path);
                false
            }
            Err(_) => {
                self.unwatched += 1;
                true
            }
        }
    }

    fn forget(&mut self, path: &str) {
        if let Some(watch) = self.by_path.remove(path) {
            self.by_watch.remove(&watch);
            let _gone = self.inotify.rm_watch(watch);
        }
    }

    /// What the kernel has reported since it was asked last. Never waits.
    pub fn reported(&mut self) -> Reported {
        let mut out = Reported::default();
        // Bounded by the kernel's queue (fs.inotify.max_queued_events): what does not fit is an overflow.
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    out.overflow = true;
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    if let Some(path) = self.by_watch.remove(&event.wd)
                        && self.by_path.get(&path) == Some(&event.wd)
                    {
                        self.by_path.remove(&path);
                    }
                } else if event.mask.contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR)
                    && let (Some(folder), Some(name)) =
                        (self.by_watch.get(&event.wd), event.name.as_deref().and_then(|name| name.to_str()))
                {
                    out.made.push(joined(folder, name));
                }
            }
        }
        out
    }
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        Mode,
        discover::{Labels, Rule},
    };
    use nix::poll::{PollFd, PollFlags, poll};

    fn rules(pattern: &str) -> Rules {
        let patterns = vec![pattern.parse().unwrap()];
        let rule = Rule {
            name: "r".into(),
            patterns,
            policy: "p".into(),
            shadow: None,
            mode: Mode::Enforce,
            labels: Labels::new(),
        };
        Rules::new(vec![rule]).unwrap()
    }

    fn passed(folders: &mut Folders, rules: &Rules) -> Vec<String> {
        let mut seen = Vec::new();
        assert!(folders.pass(rules, &mut |path| seen.push(path.to_owned())));
        seen.sort();
        seen
    }

    #[test]
    fn only_folders_on_the_way_to_a_pattern_are_looked_into() {
        let root = tempfile::tempdir().unwrap();
        for path in ["jobs/job_1/step_0/user/task_0", "jobs/other/step_0", "beside/deep/er"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let rules = rules("jobs/job_{job:number}/step_{step}/user");
        let mut folders = Folders::new(root.path().to_owned(), 100).unwrap();
        let seen = passed(&mut folders, &rules);
        assert_eq!(
            seen,
            ["beside", "jobs", "jobs/job_1", "jobs/job_1/step_0", "jobs/job_1/step_0/user", "jobs/other"],
            "a folder beside the pattern is seen by name and not entered"
        );
        assert_eq!(folders.len(), 4, "the root, jobs, job_1, step_0");
        fs::remove_dir_all(root.path().join("jobs/job_1")).unwrap();
        assert_eq!(passed(&mut folders, &rules), ["beside", "jobs", "jobs/other"]);
        assert_eq!(folders.len(), 2);
    }

    #[test]
    fn a_tree_that_is_made_level_by_level_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let rules = rules("jobs/job_{job:number}/step_{step}/user");
        let mut folders = Folders::new(root.path().to_owned(), 100).unwrap();
        passed(&mut folders, &rules);
        fs::create_dir_all(root.path().join("jobs/job_7/step_0/user")).unwrap();
        let mut seen = Vec::new();
        // Each level is watched when the one above was reported: what was made meanwhile is listed then.
        while !seen.contains(&"jobs/job_7/step_0/user".to_owned()) {
            let mut fds = [PollFd::new(folders.fd(), PollFlags::POLLIN)];
            assert!(poll(&mut fds, 10_000u16).unwrap() > 0, "nothing is reported: {seen:?}");
            for made in folders.reported().made {
                folders.take_in(&made, &rules, &mut |path| seen.push(path.to_owned()));
            }
        }
    }

    #[test]
    fn a_cgroup_that_is_made_again_is_watched_again_while_the_old_one_is_open() {
        let mount = std::path::Path::new("/sys/fs/cgroup");
        let root = mount.join(format!("failsafe-test-folders-{}", std::process::id()));
        if !nix::unistd::geteuid().is_root() || fs::create_dir_all(root.join("jobs/job_1")).is_err() {
            return crate::skip::skip("needs root and cgroup v2");
        }
        let rules = rules("jobs/job_{job:number}/user");
        let mut folders = Folders::new(root.clone(), 100).unwrap();
        passed(&mut folders, &rules);
        // As the daemon does with the cgroup of a run.
        let open = fs::File::open(root.join("jobs/job_1")).unwrap();
        fs::remove_dir(root.join("jobs/job_1")).unwrap();
        fs::create_dir(root.join("jobs/job_1")).unwrap();
        for made in folders.reported().made {
            folders.take_in(&made, &rules, &mut |_| {});
        }
        fs::create_dir(root.join("jobs/job_1/user")).unwrap();
        let made = folders.reported().made;
        let watched = folders.len();
        for path in ["jobs/job_1/user", "jobs/job_1", "jobs", ""] {
            fs::remove_dir(root.join(path)).unwrap();
        }
        drop(open);
        assert_eq!((made, watched), (vec!["jobs/job_1/user".to_owned()], 3));
    }

    #[test]
    fn without_room_for_a_watch_the_pass_still_finds_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        for job in 0..8 {
            fs::create_dir_all(root.path().join(format!("jobs/job_{job}/user"))).unwrap();
        }
        let rules = rules("jobs/job_{job:number}/user");
        let mut folders = Folders::new(root.path().to_owned(), 4).unwrap();
        assert_eq!(passed(&mut folders, &rules).iter().filter(|path| path.ends_with("/user")).count(), 8);
        assert_eq!((folders.len(), folders.unwatched), (4, 6));
    }
}
