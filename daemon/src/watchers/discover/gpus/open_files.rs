//! Which GPUs the processes of a run have open, as two looks show it.
//!
//! A look at a run of many processes takes several passes: each goes on behind the last process. Invariants: a device file is known by
//! its numbers and not by its name, because a process can have it under another name; a link counts against the budget also where it is
//! no device, and a process also where it has no file.

use crate::platform::ProcFs;
use failsafe_core::RunId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{read_dir, read_link},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Links of one process that a look reads at most.
pub(super) const OF_A_PROCESS: usize = 4_096;
/// Processes that are kept for each GPU of a run: one is enough, and a run can have very many.
const OPENERS: usize = 16;
/// Major number of NVIDIA's devices; `/dev/nvidiactl` has minor 255.
pub(super) const NVIDIA: u32 = 195;
/// How links begin that are no files of a file system. The kernel writes them; the path of a file begins with `/`.
const NO_FILES: [&[u8]; 3] = [b"socket:", b"pipe:", b"anon_inode:"];

/// Which GPUs processes have open.
pub(super) struct OpenFiles {
    pub proc: ProcFs,
    /// The numbers of a device.
    pub device: fn(&Path) -> Option<(u32, u32)>,
}

impl OpenFiles {
    /// The minor numbers of the GPUs that the process has open, and whether the budget was enough to look at its links.
    pub fn of(&self, pid: u32, left: &mut usize) -> (BTreeSet<u32>, bool) {
        let mut minors = BTreeSet::new();
        // One that has ended has nothing open.
        let open = read_dir(self.proc.path(pid, "fd")).into_iter().flatten().flatten();
        for file in open.take(OF_A_PROCESS) {
            let Some(rest) = left.checked_sub(1) else { return (minors, false) };
            *left = rest;
            let is_file = |to: &Path| !NO_FILES.iter().any(|begin| to.as_os_str().as_bytes().starts_with(begin));
            if read_link(file.path()).is_ok_and(|to| is_file(&to))
                && let Some((NVIDIA, minor)) = (self.device)(&file.path())
            {
                minors.insert(minor);
            }
        }
        (minors, true)
    }
}

/// What two looks at a run show, by minor number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OpenDevices {
    /// Devices that one process had open at both looks, and the process.
    pub again: BTreeMap<u32, u32>,
    /// Devices that were open at one of them.
    pub open: BTreeSet<u32>,
    /// Whether a device that is not in `open` was open at neither.
    pub is_whole: bool,
}

/// Processes that have a device open, by its minor number.
type Openers = BTreeMap<u32, BTreeSet<u32>>;

/// The looks at a run: the one before, and the one that is being made. A tool that lists the GPUs opens all of them for a moment.
#[derive(Default)]
pub(super) struct Looks {
    before: Option<Look>,
    now: Look,
    /// The last process of the look that is being made.
    behind: Option<u32>,
}

#[derive(Default)]
struct Look {
    open: Openers,
    /// Some processes could not be listed.
    is_partial: bool,
}

/// How far a pass came with a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Each process was looked at.
    Done(OpenDevices),
    /// The budget is spent.
    Spent,
}

impl Looks {
    /// Goes on with the look. `pids` are in ascending order, `complete` unless some are missing; `of` gives the minor numbers that a
    /// process has open, and whether the budget was enough.
    pub fn go_on(
        &mut self,
        (pids, complete): (&[u32], bool),
        left: &mut usize,
        of: impl Fn(u32, &mut usize) -> (BTreeSet<u32>, bool),
    ) -> Progress {
        self.now.is_partial |= !complete;
        let behind = self.behind;
        for pid in pids.iter().copied().filter(|pid| behind.is_none_or(|behind| *pid > behind)) {
            let Some(rest) = left.checked_sub(1) else { return Progress::Spent };
            *left = rest;
            let (minors, is_whole) = of(pid, left);
            if !is_whole {
                // From its first link again: a descriptor may have another place then.
                return Progress::Spent;
            }
            for minor in minors {
                let pids = self.now.open.entry(minor).or_default();
                if pids.len() < OPENERS {
                    pids.insert(pid);
                }
            }
            self.behind = Some(pid);
        }
        Progress::Done(self.end())
    }

    fn end(&mut self) -> OpenDevices {
        self.behind = None;
        let now = std::mem::take(&mut self.now);
        let seen = match &self.before {
            None => OpenDevices { open: now.open.keys().copied().collect(), ..OpenDevices::default() },
            Some(before) => OpenDevices {
                again: now
                    .open
                    .iter()
                    .filter_map(|(minor, pids)| Some((*minor, common(pids, before.open.get(minor)?)?)))
                    .collect(),
                open: now.open.keys().chain(before.open.keys()).copied().collect(),
                is_whole: !now.is_partial && !before.is_partial,
            },
        };
        self.before = Some(now);
        seen
    }
}

fn common(one: &BTreeSet<u32>, other: &BTreeSet<u32>) -> Option<u32> {
    one.intersection(other).next().copied()
}

/// The looks at all runs.
#[derive(Default)]
pub(super) struct AllLooks(BTreeMap<RunId, Looks>);

impl AllLooks {
    /// Those at this run.
    pub fn of(&mut self, run: RunId) -> &mut Looks {
        self.0.entry(run).or_default()
    }

    /// Forgets other runs than these.
    pub fn retain(&mut self, runs: &BTreeSet<RunId>) {
        self.0.retain(|run, _| runs.contains(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn open_files_are_gpus_by_their_numbers_and_not_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("7/fd");
        fs::create_dir_all(&folder).unwrap();
        let links = [
            "/dev/nvidia0",
            "/dev/nvidia3",
            "/dev/null",
            "/tmp/bound (deleted)",
            "socket:[1]",
            "pipe:[2]",
            "anon_inode:[eventfd]",
        ];
        for (fd, to) in links.iter().enumerate() {
            symlink(to, folder.join(fd.to_string())).unwrap();
        }
        // `/dev/nvidia0` is a plain file here, as a user can make one in a mount namespace, and `/tmp/bound` is a bind mount of a device.
        let device = |path: &Path| match read_link(path).unwrap().to_str().unwrap() {
            "/dev/nvidia3" => Some((NVIDIA, 3)),
            "/tmp/bound (deleted)" => Some((NVIDIA, 5)),
            "/dev/null" => Some((1, 3)),
            "/dev/nvidia0" => None,
            other => panic!("{other} is asked for"),
        };
        let files = OpenFiles { proc: ProcFs::new(root.path()), device };
        let mut left = 100;
        assert_eq!((files.of(7, &mut left), left), (([3, 5].into(), true), 93));
        assert_eq!((files.of(8, &mut left), left), (([].into(), true), 93), "it has ended");
        let mut left = 2;
        assert!(!files.of(7, &mut left).1);
        assert_eq!(left, 0);
    }

    /// One pass over processes that have these devices open.
    fn pass(looks: &mut Looks, all: &[(u32, &[u32])], left: usize) -> Progress {
        let mut left = left;
        let pids: Vec<u32> = all.iter().map(|(pid, _)| *pid).collect();
        looks.go_on((&pids, true), &mut left, |pid, left| {
            let minors = all.iter().find(|(of, _)| *of == pid).unwrap().1;
            match left.checked_sub(minors.len()) {
                Some(rest) => {
                    *left = rest;
                    (minors.iter().copied().collect(), true)
                }
                None => {
                    *left = 0;
                    (BTreeSet::new(), false)
                }
            }
        })
    }

    fn done(again: &[(u32, u32)], open: &[u32], is_whole: bool) -> Progress {
        let (again, open) = (again.iter().copied().collect(), open.iter().copied().collect());
        Progress::Done(OpenDevices { again, open, is_whole })
    }

    #[test]
    fn a_device_counts_when_one_process_has_it_open_at_two_looks_and_is_closed_when_none_has_at_two() {
        let mut looks = Looks::default();
        assert_eq!(pass(&mut looks, &[(7, &[0, 1])], 99), done(&[], &[0, 1], false));
        assert_eq!(
            pass(&mut looks, &[(7, &[1]), (8, &[0])], 99),
            done(&[(1, 7)], &[0, 1], true),
            "another process has 0"
        );
        assert_eq!(pass(&mut looks, &[(8, &[0])], 99), done(&[(0, 8)], &[0, 1], true));
        assert_eq!(pass(&mut looks, &[], 99), done(&[], &[0], true));
        assert_eq!(pass(&mut looks, &[], 99), done(&[], &[], true));
    }

    #[test]
    fn a_look_goes_on_behind_the_last_process_when_the_budget_is_spent() {
        let mut looks = Looks::default();
        let all: [(u32, &[u32]); 3] = [(7, &[0]), (8, &[0, 1, 2]), (9, &[4])];
        for (seen_before, is_whole) in [(false, false), (true, true)] {
            // Each process costs one, and each link.
            assert_eq!(pass(&mut looks, &all, 4), Progress::Spent, "the links of 8 do not fit");
            assert_eq!(pass(&mut looks, &all, 4), Progress::Spent);
            let again: &[(u32, u32)] = if seen_before { &[(0, 7), (1, 8), (2, 8), (4, 9)] } else { &[] };
            assert_eq!(pass(&mut looks, &all, 4), done(again, &[0, 1, 2, 4], is_whole));
        }
    }

    #[test]
    fn a_device_is_not_closed_while_some_processes_cannot_be_listed() {
        let mut looks = Looks::default();
        let empty = |looks: &mut Looks, complete| looks.go_on((&[], complete), &mut 9, |_, _| unreachable!());
        assert_eq!(pass(&mut looks, &[(7, &[0])], 99), done(&[], &[0], false));
        assert_eq!(empty(&mut looks, false), done(&[], &[0], false));
        assert_eq!(empty(&mut looks, true), done(&[], &[], false), "one of the two looks lacks processes");
        assert_eq!(empty(&mut looks, true), done(&[], &[], true));
    }

    #[test]
    fn the_looks_at_a_run_that_has_ended_are_forgotten() {
        let (mut all, run) = (AllLooks::default(), RunId(uuid::Uuid::from_u128(1)));
        let _first = pass(all.of(run), &[(7, &[1])], 99);
        all.retain(&BTreeSet::new());
        assert_eq!(pass(all.of(run), &[(7, &[1])], 99), done(&[], &[1], false));
    }

    #[test]
    fn a_run_of_many_processes_is_remembered_by_a_few_of_them() {
        let mut looks = Looks::default();
        let all: Vec<(u32, &[u32])> = (1..1_000).map(|pid| (pid, &[0_u32][..])).collect();
        let _first = pass(&mut looks, &all, 9_999);
        assert_eq!(looks.before.as_ref().unwrap().open[&0].len(), OPENERS);
        assert_eq!(pass(&mut looks, &all, 9_999), done(&[(0, 1)], &[0], true));
    }
}
