//! Runs that several daemons recorded: all of it is replayed, and what is missing is named.

use super::*;
use crate::commands::export::archive::Writer;

/// What two daemons recorded of one run: the first ended without closing its recording. Both decided; the log has all of it.
struct TwoDaemons {
    folder: tempfile::TempDir,
    entries: [Vec<Recorded>; 2],
    log: Vec<Logged>,
}

impl TwoDaemons {
    fn new() -> TwoDaemons {
        let (run, first) = recorded(LOSSES);
        let adopted = Run { decisions: 2, incidents: 2, ..run.clone() };
        let second = decided(&adopted, 100, &[1.0, 20.0, 1.0]);
        let folder = tempfile::tempdir().unwrap();
        let mut log = logged(&run, &first, None);
        let mut later = Log::default();
        later.add(
            100_000_000,
            Record::RunAdopted { run: adopted.clone(), found: "running".into(), part: 1, frozen_until_ns: None },
        );
        for entry in &second {
            if let Recorded::Decision(decision) = entry {
                later.add(
                    decision.at.0 / 1_000,
                    Record::Decision { decision: decision.clone(), rule: None, blind: None, drill: false },
                );
            }
        }
        log.extend(later.entries);
        let made = TwoDaemons { folder, entries: [first, second], log };
        made.write(0, &run, false);
        made.write(1, &adopted, true);
        made
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.path().join(found::name(number))
    }

    fn write(&self, number: u32, run: &Run, finish: bool) {
        let header = json!({
            "format": "failsafe-recording", "version": 1, "engine": failsafe_core::replay::ENGINE, "part": number,
            "run": run, "policy": policy("10.0")
        });
        let mut recorder = Recorder::create(&self.path(number), &header, 1 << 20).unwrap();
        for entry in &self.entries[number as usize] {
            recorder.record(1, entry).unwrap();
        }
        if finish {
            recorder.finish().unwrap();
        }
    }

    /// All recordings against the log, as the daemon's.
    fn replayed(&self, file: &Path) -> Report {
        judge_against(file, None, |given| {
            given.latest = file.is_dir();
            Audit::of(given, &self.log)
        })
        .unwrap()
    }

    /// The recordings as `export` writes them.
    fn exported(&self, numbers: &[u32]) -> PathBuf {
        let path = self.folder.path().join("exported.fsrec");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = Writer::new(&file);
        for number in 0..2 {
            let has = numbers.contains(&number);
            let problem = if has { String::new() } else { "No such file or directory (os error 2)".to_owned() };
            writer.begin(pb::RecordingPart { number, of: 2, problem, missing: !has }).unwrap();
            if has {
                writer.write(&std::fs::read(self.path(number)).unwrap()).unwrap();
            }
        }
        let sent = writer.finish(crate::testing::RUN).unwrap();
        assert_eq!(sent.bytes, path.metadata().unwrap().len());
        path
    }
}

#[test]
fn all_recordings_of_a_run_are_replayed_in_order_from_its_folder_and_from_an_archive() {
    let run = TwoDaemons::new();
    for path in [run.folder.path().to_owned(), run.exported(&[0, 1])] {
        let report = run.replayed(&path);
        assert_eq!(report.exit(), Exit::Done, "{}", report.text());
        let json = report.json();
        assert_eq!((json["recorded"].as_array().unwrap().len(), json["identical"].as_bool()), (3, Some(true)));
        assert_eq!((json["audit_log"]["same_decisions"].as_u64(), json["inputs"].as_u64()), (Some(3), Some(10)));
        let names: Vec<&str> =
            json["recordings"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["0000.fsrec", "0001.fsrec"]);
        assert!(report.text().ends_with("\nidentical\n"), "{}", report.text());
    }
}

#[test]
fn a_difference_in_an_earlier_recording_is_found() {
    let mut run = TwoDaemons::new();
    let first = run.entries[0].iter_mut().filter_map(|e| if let Recorded::Decision(d) = e { Some(d) } else { None });
    first.last().unwrap().because = vec![4];
    let Recorded::Input(Input::RunStarted(began)) = run.entries[0][0].clone() else { panic!() };
    std::fs::remove_file(run.path(0)).unwrap();
    run.write(0, &began, true);
    let report = judge(run.folder.path(), None, None).unwrap();
    assert_eq!((report.exit(), report.json()["differs_at"].as_u64()), (Exit::Error, Some(1)));
    assert!(report.text().contains("DIFFERS at decision 2, in 0000.fsrec"), "{}", report.text());
    let other = judge(run.folder.path(), Some(policy("14.0")), Some("other.toml".into())).unwrap();
    let lines = |mark: &str| other.text().lines().filter(|line| line.starts_with(mark)).count();
    assert_eq!((lines("- +"), lines("  +")), (1, 2), "{}", other.text());
}

#[test]
fn a_recording_that_is_missing_is_named_and_its_decisions_are_not_called_identical() {
    let run = TwoDaemons::new();
    let archive = run.exported(&[1]);
    std::fs::remove_file(run.path(0)).unwrap();
    for path in [run.folder.path().to_owned(), archive] {
        let report = run.replayed(&path);
        let text = report.text();
        assert_eq!(report.exit(), Exit::Partial, "{text}");
        assert!(text.contains("0000.fsrec  NOT READ: there is no such file"), "{text}");
        assert!(text.contains("  0000.fsrec: decision 2 because of rule diverged"), "{text}");
        assert!(!text.contains("\nidentical\n"), "{text}");
        let json = report.json();
        assert_eq!((json["identical"].as_bool(), json["not_covered"].as_array().unwrap().len()), (Some(false), 2));
        assert_eq!((json["recordings"][1]["missing"].as_bool(), json["differs_at"].as_u64()), (Some(true), None));
    }
    // Without a log, the numbers show it.
    let alone = judge(run.folder.path(), None, None).unwrap();
    assert!(alone.exit() == Exit::Partial && !alone.text().contains("\nidentical\n"), "{}", alone.text());
}

#[test]
fn a_recording_that_was_closed_and_then_removed_is_tampering() {
    let run = TwoDaemons::new();
    let mut log = Log::default();
    let hash = Some("ab".repeat(32));
    let recording = RecordingSeal { part: 0, frames: 9, hash, complete: true, problem: None };
    let id = crate::testing::RUN.parse().unwrap();
    log.add(99_500_000, Record::RecordingClosed { run: id, recording });
    let mut entries = run.log.clone();
    entries.splice(3..3, log.entries);
    std::fs::remove_file(run.path(0)).unwrap();
    let report = judge_against(run.folder.path(), None, |given| Audit::of(given, &entries)).unwrap();
    assert_eq!(report.exit(), Exit::Tampered, "{}", report.text());
    assert!(report.text().contains("0000.fsrec is missing, but the audit log has its hash"), "{}", report.text());
}

#[test]
fn a_recording_that_is_damaged_or_of_another_run_is_named_and_the_others_are_replayed() {
    let run = TwoDaemons::new();
    let whole = std::fs::read(run.path(0)).unwrap();
    let mut bytes = whole.clone();
    let first = failsafe_journal::RecordingReader::open(&run.path(0)).unwrap().next().unwrap().unwrap();
    bytes[usize::try_from(first.offset).unwrap() + 20] ^= 1;
    std::fs::write(run.path(0), &bytes).unwrap();
    let report = run.replayed(run.folder.path());
    assert_eq!(report.exit(), Exit::Tampered, "{}", report.text());
    assert!(
        report.text().contains("0000.fsrec  NOT READ: ") && report.text().contains("damaged at byte"),
        "{}",
        report.text()
    );
    assert!(report.text().contains("  0000.fsrec: decision 1 because"), "{}", report.text());
    assert_eq!(report.json()["recorded"].as_array().unwrap().len(), 1, "the other recording is replayed");
    // The second recording in place of the first.
    std::fs::copy(run.path(1), run.path(0)).unwrap();
    let report = run.replayed(run.folder.path());
    assert_eq!(report.exit(), Exit::Tampered, "{}", report.text());
    assert!(report.text().contains("its header has the number 1"), "{}", report.text());
    // A folder cannot be read as a file.
    std::fs::remove_file(run.path(0)).unwrap();
    std::fs::create_dir(run.path(0)).unwrap();
    let report = run.replayed(run.folder.path());
    assert_eq!(report.exit(), Exit::Partial, "{}", report.text());
}

#[test]
fn one_of_several_recordings_alone_does_not_cover_the_run() {
    let run = TwoDaemons::new();
    for number in [0, 1] {
        let report = run.replayed(&run.path(number));
        assert_eq!(report.exit(), Exit::Partial, "{}", report.text());
        let other = format!("{}: decision ", found::name(1 - number));
        assert!(
            report.text().contains(&other) && report.text().contains("name the run, its folder"),
            "{}",
            report.text()
        );
    }
}

#[test]
fn an_archive_that_was_cut_or_has_a_recording_twice_is_not_whole() {
    let run = TwoDaemons::new();
    let path = run.exported(&[0, 1]);
    let whole = std::fs::read(&path).unwrap();
    let second = whole.len() / 512 / 2 * 512;
    for cut in [whole.len() - 2 * 512 - 512, second] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let Ok(report) = judge_against(&path, None, |given| Audit::of(given, &run.log)) else { continue };
        assert_ne!(report.exit(), Exit::Done, "cut at {cut}: {}", report.text());
        assert!(!report.text().contains("\nidentical\n"), "cut at {cut}: {}", report.text());
    }
    std::fs::write(&path, [&whole[..whole.len() - 1024 - 1024], &whole[..]].concat()).unwrap();
    let fail = judge(&path, None, None).unwrap_err();
    assert!(fail.message.contains("0000.fsrec twice"), "{fail}");
}
