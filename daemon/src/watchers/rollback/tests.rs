//! The counter of a software TPM (swtpm) beside a log that is continued, restored from a copy, and interrupted.

use super::*;
use crate::{config::AuditLog, log::LogOwner, testing::swtpm::Swtpm, tpm::Settings};
use failsafe_journal::verify;
use std::{fs, path::Path};

/// A state folder and its TPM, one boot after another.
struct Node {
    swtpm: Swtpm,
    state: tempfile::TempDir,
    boots: u32,
}

/// A daemon of one boot.
struct Boot {
    owner: LogOwner,
    rollback: Rollback,
    tpm: Arc<NodeTpm>,
    shared: Arc<Shared>,
}

impl Node {
    fn start(test: &str) -> Option<Node> {
        Some(Node { swtpm: Swtpm::start(test)?, state: tempfile::tempdir().unwrap(), boots: 0 })
    }

    fn folder(&self) -> &Path {
        self.state.path()
    }

    fn log(&self) -> LogOwner {
        let (bounds, second) = (AuditLog::default().bounds(), self.folder().join("second-head"));
        LogOwner::open(self.folder(), &second, &format!("boot-{}", self.boots), bounds, None).unwrap().0
    }

    fn tpm(&self) -> Arc<NodeTpm> {
        let settings = Settings { device: self.swtpm.socket(), pcrs: vec![0, 7], disabled: false };
        Arc::new(NodeTpm::new(settings))
    }

    /// The daemon starts again in the same boot.
    fn again(&self) -> Boot {
        let (owner, tpm, shared) = (self.log(), self.tpm(), Arc::<Shared>::default());
        let rollback = Rollback::new(owner.log(), tpm.clone(), &format!("boot-{}", self.boots), shared.clone());
        Boot { owner, rollback, tpm, shared }
    }

    fn boot(&mut self) -> Boot {
        self.boots += 1;
        self.again()
    }

    /// A copy of the whole state folder.
    fn copy(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(self.folder(), to.path());
        to
    }

    fn restore(&self, from: &tempfile::TempDir) {
        fs::remove_dir_all(self.folder()).unwrap();
        copy(from.path(), self.folder());
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl Boot {
    /// What is amiss.
    fn look(&mut self) -> Option<String> {
        self.rollback.look(&AtomicBool::new(false)).0
    }

    fn value(&self) -> u64 {
        match self.shared.get() {
            Counter::Agreed(value) => value,
            other => panic!("{other:?}"),
        }
    }

    /// Looks once, finds nothing amiss, and stops; the value that was agreed on.
    fn agrees(mut self) -> u64 {
        assert_eq!(self.look(), None);
        self.ends()
    }

    fn ends(self) -> u64 {
        let value = self.value();
        self.owner.close();
        value
    }

    /// Ends without a look. The TPM has one connection at a time: that of this daemon ends too.
    fn stops(self) {
        self.owner.close();
    }

    /// Writes an entry of a log that was interrupted.
    fn write(&self, draft: &Draft) {
        self.owner.log().submit(draft).wait(Duration::from_secs(60)).unwrap();
    }
}

#[test]
fn the_counter_counts_once_for_each_boot() {
    let Some(mut node) = Node::start("the_counter_counts_once_for_each_boot") else { return };
    let first = node.boot().agrees();
    assert_eq!(node.again().agrees(), first, "it counted again in the same boot");
    let mut second = node.boot();
    for _ in 0..3 {
        assert_eq!(second.look(), None);
        assert_eq!(second.value(), first + 1);
    }
    assert_eq!(second.tpm.counter(), Ok(Some(first + 1)));
    second.stops();
}

#[test]
fn an_older_copy_of_the_whole_state_folder_is_found_and_named_by_log_verify() {
    let test = "an_older_copy_of_the_whole_state_folder_is_found_and_named_by_log_verify";
    let Some(mut node) = Node::start(test) else { return };
    let first = node.boot().agrees();
    let older = node.copy();
    assert_eq!(node.boot().agrees(), first + 1);
    node.restore(&older);
    let mut boot = node.boot();
    let found = boot.look().unwrap();
    assert!(found.starts_with(&format!("the log was rolled back: it states {first}")), "{found}");
    assert_eq!(boot.ends(), first + 2, "the log is continued");
    let report = verify(&node.folder().join("audit")).unwrap();
    assert_eq!(report.findings.iter().map(|finding| &finding.what).collect::<Vec<_>>(), [&found]);
    assert_eq!(node.boot().agrees(), first + 3, "it is reported once");
}

#[test]
fn a_new_state_folder_beside_a_used_counter_is_found() {
    let Some(mut node) = Node::start("a_new_state_folder_beside_a_used_counter_is_found") else { return };
    node.boot().agrees();
    fs::remove_dir_all(node.folder()).unwrap();
    fs::create_dir(node.folder()).unwrap();
    let mut boot = node.boot();
    assert!(boot.look().unwrap().contains("the log states no value"));
    boot.ends();
}

#[test]
fn a_power_loss_between_any_two_steps_is_no_rollback() {
    let Some(mut node) = Node::start("a_power_loss_between_any_two_steps_is_no_rollback") else { return };
    // In front of the first counter, and behind it.
    let boot = node.boot();
    boot.write(&draft(None, boot.owner.log().stamp()));
    boot.stops();
    let boot = node.boot();
    let value = boot.tpm.count().unwrap();
    boot.stops();
    assert_eq!(node.boot().agrees(), value + 1);
    // Between the entry and the counter.
    let boot = node.boot();
    boot.write(&draft(Some(value + 2), boot.owner.log().stamp()));
    boot.stops();
    assert_eq!(node.again().agrees(), value + 2);
}

#[test]
fn a_counter_that_was_removed_is_found_and_made_anew() {
    let Some(mut node) = Node::start("a_counter_that_was_removed_is_found_and_made_anew") else { return };
    let first = node.boot().agrees();
    let (done, text) = node.swtpm.tool("tpm2_nvundefine", &["-C", "o", "0x0181f5af"]);
    assert!(done, "{text}");
    let mut boot = node.boot();
    assert!(boot.look().unwrap().contains("the TPM has no counter"));
    assert!(boot.ends() > first);
}

#[test]
fn a_tpm_that_is_missing_is_one_finding_and_the_counter_goes_on_when_it_is_back() {
    let test = "a_tpm_that_is_missing_is_one_finding_and_the_counter_goes_on_when_it_is_back";
    let Some(mut node) = Node::start(test) else { return };
    let first = node.boot().agrees();
    let (device, hidden) = (node.swtpm.socket(), node.swtpm.folder().join("hidden"));
    fs::rename(&device, &hidden).unwrap();

    let mut boot = node.boot();
    assert_eq!(boot.look(), None, "its driver may load later");
    let missing = format!("the log states {first} for the counter of the TPM, but the node has no TPM");
    assert!(matches!(boot.shared.get(), Counter::Missing(why) if why.starts_with(&missing)), "{:?}", boot.shared.get());
    boot.rollback.driver = Duration::ZERO;
    let found = boot.look().unwrap();
    assert!(found.contains(&missing), "{found}");
    assert_eq!(boot.look(), None, "it is reported once");
    boot.stops();
    // Another daemon finds the entry.
    let mut boot = node.again();
    boot.rollback.driver = Duration::ZERO;
    assert_eq!(boot.look(), None, "it is reported once");
    assert!(matches!(boot.shared.get(), Counter::Missing(_)));
    let report = verify(&node.folder().join("audit")).unwrap();
    assert_eq!(report.findings.iter().map(|finding| &finding.what).collect::<Vec<_>>(), [&found]);

    fs::rename(&hidden, &device).unwrap();
    assert_eq!(boot.look(), None);
    assert_eq!(boot.value(), first + 1, "the same daemon uses the TPM that is back");
    boot.stops();
    fs::rename(&device, &hidden).unwrap();
    let mut boot = node.again();
    boot.rollback.driver = Duration::ZERO;
    assert!(boot.look().is_some(), "it is missing again");
    boot.stops();
}

#[test]
fn a_tpm_that_does_not_answer_is_one_finding() {
    let Some(mut node) = Node::start("a_tpm_that_does_not_answer_is_one_finding") else { return };
    let first = node.boot().agrees();
    let (device, hidden) = (node.swtpm.socket(), node.swtpm.folder().join("hidden"));
    fs::rename(&device, &hidden).unwrap();
    // In the place of the device.
    fs::write(&device, "").unwrap();

    let mut boot = node.boot();
    assert_eq!(boot.look(), None, "another program may use it");
    let failed = format!("the log states {first} for the counter of the TPM, but ");
    assert!(matches!(boot.shared.get(), Counter::Failed(why) if why.starts_with(&failed)), "{:?}", boot.shared.get());
    // A device that is missing for one look does not begin the time anew, and neither does a file.
    let since = boot.rollback.silent.unwrap();
    fs::remove_file(&device).unwrap();
    assert_eq!(boot.look(), None);
    assert!(matches!(boot.shared.get(), Counter::Missing(_)), "{:?}", boot.shared.get());
    fs::write(&device, "").unwrap();
    assert_eq!(boot.look(), None);
    assert_eq!(boot.rollback.silent, Some(since));
    boot.rollback.driver = Duration::ZERO;
    let found = boot.look().unwrap();
    assert!(found.contains(&failed), "{found}");
    assert_eq!(boot.look(), None, "it is reported once");
    boot.stops();

    fs::rename(&hidden, &device).unwrap();
    let mut boot = node.again();
    assert_eq!(boot.look(), None);
    assert_eq!((boot.value(), boot.rollback.silent), (first + 1, None), "the TPM that answers again is used");
    boot.stops();
}

#[test]
fn a_node_that_never_had_a_tpm_has_no_finding() {
    let (state, nowhere) = (tempfile::tempdir().unwrap(), "/nowhere/tpmrm0".into());
    let (bounds, second) = (AuditLog::default().bounds(), state.path().join("second-head"));
    let owner = LogOwner::open(state.path(), &second, "boot-1", bounds, None).unwrap().0;
    let tpm = Arc::new(NodeTpm::new(Settings { device: nowhere, pcrs: vec![0, 7], disabled: false }));
    let shared = Arc::<Shared>::default();
    let mut rollback = Rollback::new(owner.log(), tpm, "boot-1", shared.clone());
    rollback.driver = Duration::ZERO;
    assert_eq!(rollback.look(&AtomicBool::new(false)), (None, AGAIN));
    assert!(matches!(shared.get(), Counter::Unused(_)));
    owner.close();
}

#[test]
fn a_tpm_that_makes_no_counter_still_quotes_and_is_on_record() {
    let Some(mut node) = Node::start("a_tpm_that_makes_no_counter_still_quotes_and_is_on_record") else { return };
    let (done, text) = node.swtpm.tool("tpm2_changeauth", &["-c", "o", "secret"]);
    assert!(done, "{text}");
    let mut boot = node.boot();
    assert_eq!(boot.look(), None);
    assert!(matches!(boot.shared.get(), Counter::Failed(why) if why.contains("has a password")));
    assert!(boot.tpm.key().is_ok());
    let last = counter::last(boot.owner.log().path()).unwrap().unwrap();
    assert_eq!(counter::of(&last), Some(Stated::Nothing));
    assert!(last.body["failed"].as_str().unwrap().contains("password"));
    boot.stops();
}
