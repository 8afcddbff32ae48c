//! The history of runs by the open runs that files of the log begin with, compared with that by all entries.

use super::*;
use crate::{log::OpenRuns, testing};
use failsafe_core::{PolicyDigest, record::OwnerBy};
use failsafe_journal::{
    AuditLog, Draft, Stamp,
    storage::{LOG_FILE, Layout, LogFolder},
};
use proptest::prelude::*;

/// What happens to a log.
#[derive(Debug, Clone)]
enum Step {
    /// A run begins in this cgroup.
    Start(u64),
    /// One of the runs ends.
    End(usize),
    /// Something that is about no run.
    Other,
    /// The file is sealed.
    Seal,
    /// A daemon ends, and the next one reads the log.
    Restart,
    /// The same, in another boot.
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5u64).prop_map(Step::Start),
        4 => (0..12usize).prop_map(Step::End),
        1 => Just(Step::Other),
        3 => Just(Step::Seal),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
    ]
}

struct Node {
    dir: tempfile::TempDir,
    log: AuditLog<LogFolder>,
    open: OpenRuns,
    boot: u32,
    runs: Vec<Run>,
}

impl Node {
    fn new() -> Node {
        // Where syncing costs nothing, if there is such a place.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let layout = Layout { segment_bytes: 1, reserve_bytes: 0, ..Layout::default() };
        let clock = Stamp { wall_ns: 1, mono_ns: 1, boot_id: "0".into() };
        let (log, _) = AuditLog::open(LogFolder::open(dir.path(), layout).unwrap(), &clock).unwrap();
        let open = OpenRuns::default();
        open.complete([]);
        Node { dir, log, open, boot: 0, runs: Vec::new() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(LOG_FILE)
    }

    fn boot_id(&self) -> String {
        self.boot.to_string()
    }

    fn stamp(&self) -> Stamp {
        Stamp { wall_ns: 1, mono_ns: 1, boot_id: self.boot_id() }
    }

    fn record(&mut self, record: &Record, run: Option<RunId>) {
        self.open.note(record);
        let mut draft = Draft::new(record.kind(), self.stamp(), serde_json::to_value(record).unwrap());
        draft.run = run.map(|run| run.to_string());
        self.log.append(&draft).unwrap();
        self.log.commit().unwrap();
        if let (Record::RunEnded { .. }, Some(run)) = (record, run) {
            self.open.ended(run);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(cgroup_id) => {
                let id = uuid::Uuid::from_u128(self.runs.len() as u128 + 1).to_string();
                let mut run = testing::run(&id, 0, PolicyDigest([1; 32]));
                (run.cgroup_id, run.boot_id) = (cgroup_id, self.boot_id());
                run.registered_wall_ns = self.runs.len() as i64;
                let policy_name = "p v1".to_owned();
                let record = Record::RunStarted { run: run.clone(), policy_name, broken: vec![], repair: vec![] };
                self.record(&record, Some(run.id));
                self.runs.push(run);
            }
            Step::End(n) => {
                let Some(run) = self.runs.get(n).map(|run| run.id) else { return };
                let name = "trainer".to_owned();
                let record = Record::RunEnded {
                    run,
                    name,
                    recording: None,
                    suppressed: vec![],
                    unwatched: None,
                    frozen_ns: None,
                };
                self.record(&record, Some(run));
            }
            Step::Other => self.record(&Record::DaemonStopped, None),
            Step::Seal => {
                let list = self.open.list();
                let fields = || list.map(|runs| (OPEN_RUNS.to_owned(), serde_json::json!(runs))).into_iter().collect();
                self.log.seal_if_due_with(self.stamp(), fields);
                self.log.commit().unwrap();
            }
            Step::Restart | Step::Reboot => {
                self.boot += u32::from(matches!(step, Step::Reboot));
                self.open = OpenRuns::default();
                let boot = self.boot_id();
                let history = History::read(&self.path(), &boot, &BTreeSet::new(), &BTreeSet::new());
                assert!(history.is_whole());
                self.open.complete(history.open().filter(|run| run.boot_id == boot).map(|run| run.id));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a start is to know is the same by the open runs that files begin with and by all entries of the log.
    #[test]
    fn the_runs_that_files_begin_with_are_those_of_the_whole_log(
        steps in prop::collection::vec(step(), 0..40),
        wanted in prop::collection::btree_set(0..12usize, 0..4),
        roots in prop::collection::btree_set(1..5u64, 0..3),
    ) {
        let mut node = Node::new();
        steps.into_iter().for_each(|step| node.take(step));
        let (path, boot) = (node.path(), node.boot_id());
        let wanted: BTreeSet<RunId> = wanted.into_iter().filter_map(|n| Some(node.runs.get(n)?.id)).collect();
        let found = History::read(&path, &boot, &wanted, &roots);
        let whole = History::of_concerned(&path, &boot, &wanted, &roots, Stated::default());
        prop_assert!(found.is_whole() && whole.is_whole());
        prop_assert_eq!(found.open().collect::<Vec<_>>(), whole.open().collect::<Vec<_>>());
        for root in roots {
            prop_assert_eq!(found.of_cgroup(&boot, root), whole.of_cgroup(&boot, root), "cgroup {}", root);
        }
        for run in wanted.into_iter().chain(whole.open().map(|run| run.id)) {
            prop_assert_eq!(found.of(run), whole.of(run), "{}", run);
        }
    }
}

#[test]
fn beginnings_of_before_the_last_statement_are_not_read() {
    let mut node = Node::new();
    node.take(Step::Start(1));
    node.take(Step::Start(2));
    node.take(Step::End(0));
    node.take(Step::Seal);
    let stated = Stated::find(&node.path(), "0").unwrap();
    assert_eq!(stated.runs, [node.runs[1].id].into());
    // The entry that states them, and nothing before it.
    let from = Search::open(&node.path(), Query { from: stated.from, ..Query::default() }).unwrap();
    assert_eq!(from.map(Result::unwrap).map(|entry| entry.kind).collect::<Vec<_>>(), [kind::SEGMENT]);
    assert_eq!(Stated::find(&node.path(), "1").unwrap().runs, BTreeSet::new(), "in another boot");
}

#[test]
fn a_log_that_cannot_be_read_to_its_end_states_no_open_runs() {
    let mut node = Node::new();
    node.take(Step::Start(1));
    let read = |path: &Path| History::read(path, "0", &BTreeSet::new(), &BTreeSet::new());
    assert!(read(&node.path()).is_whole());
    assert!(!read(Path::new("/nonexistent/audit.log")).is_whole());
    let mut bytes = std::fs::read(node.path()).unwrap();
    bytes[40] ^= 1;
    std::fs::write(node.path(), bytes).unwrap();
    assert!(!read(&node.path()).is_whole());
}

#[test]
fn a_log_without_entries_of_a_sealed_segment_states_no_open_runs() {
    let mut node = Node::new();
    node.take(Step::Start(1));
    node.take(Step::Seal);
    node.take(Step::Start(2));
    let wanted: BTreeSet<RunId> = node.runs.iter().map(|run| run.id).collect();
    let whole = || History::read(&node.path(), "0", &wanted, &BTreeSet::new()).is_whole();
    assert!(whole());
    // Cut to its header: the file is valid, and shorter than the catalog states.
    let segment = failsafe_journal::segments::segment_path(node.dir.path(), 0);
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..16]).unwrap();
    assert!(!whole());
    std::fs::remove_file(&segment).unwrap();
    assert!(!whole());
}

#[test]
fn the_owner_that_became_known_later_is_the_owner_of_the_run() {
    let id = uuid::Uuid::from_u128(1).to_string();
    for (at_start, after) in [(NO_UID, 65_534), (1_000, 1_000)] {
        let run = testing::run(&id, at_start, PolicyDigest([1; 32]));
        let mut past = Past { start: Some(run.clone()), ..Past::default() };
        past.takes(Record::RunOwner { run: run.id, owner_uid: 65_534, by: OwnerBy::Processes }, 1, 1);
        assert_eq!(past.start.unwrap().owner_uid, after);
    }
}
