//! Recordings of each version that is read, kept as files: `tests/fixtures/recordings/README.md` says how they were made. Each
//! replays to the decisions in it, and each entry is what the JSON beside it has.

use super::{Audit, Exit, Recording, RunRecordings, judge};
use failsafe_core::replay::Recorded;
use failsafe_journal::{
    Recorder, RecordingReader,
    recorder::{OLDEST_VERSION, VERSION},
};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/recordings").join(name)
}

/// The recording of each version, and the entries of it. Versions 6 to 8 hold the same, and version 9 whole actors besides.
const GOLDEN: [(u32, &str, &str); 5] = [
    (5, "v5.fsrec", "v5.jsonl"),
    (6, "v6.fsrec", "v6.jsonl"),
    (7, "v7.fsrec", "v6.jsonl"),
    (8, "v8.fsrec", "v6.jsonl"),
    (9, "v9.fsrec", "v9.jsonl"),
];

fn kept(entries: &str) -> Vec<Recorded> {
    let text = std::fs::read_to_string(fixture(entries)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes the entries of `v9.jsonl` as this source does, with the header of version 7.
fn write(path: &Path) {
    let header = RecordingReader::open(&fixture("v7.fsrec")).unwrap().header().clone();
    let mut recorder = Recorder::create(path, &header, u64::MAX).unwrap();
    for entry in kept("v9.jsonl") {
        recorder.record(1, &entry).unwrap();
    }
    recorder.finish().unwrap();
}

#[test]
#[ignore = "writes a file of the repository: only for a new version"]
fn write_the_file_of_the_current_version() {
    write(&fixture(&format!("v{VERSION}.fsrec")));
}

#[test]
fn the_current_version_is_written_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("now.fsrec");
    write(&file);
    let same = std::fs::read(&file).unwrap() == std::fs::read(fixture(&format!("v{VERSION}.fsrec"))).unwrap();
    assert!(
        same,
        "this source writes version {VERSION} otherwise than before: a field was added, removed or moved, or a number has moved. \
         Recordings of users would be misread. Raise VERSION in daemon/journal/src/recorder.rs, and keep a reader for version \
         {VERSION}"
    );
}

#[test]
fn every_version_that_is_read_replays_to_the_same_decisions() {
    let versions: Vec<u32> = GOLDEN.iter().map(|(version, ..)| *version).collect();
    assert_eq!(versions, (OLDEST_VERSION..=VERSION).collect::<Vec<_>>(), "add a golden file of the new version");
    for (version, file, entries) in GOLDEN {
        let file = fixture(file);
        let report = judge(&file, None, |_| Ok(Audit::skipped("a file alone"))).unwrap();
        assert_eq!((report.exit(), report.text().ends_with("\nidentical\n")), (Exit::Done, true), "{}", report.text());
        assert!(report.text().contains("\nrecording  complete\n"), "{}", report.text());

        let mut recording = Recording::open(RunRecordings::at(&file).unwrap().sources.remove(0)).unwrap();
        assert_eq!(recording.version(), version);
        let read: Vec<Recorded> = (&mut recording).map(Result::unwrap).collect();
        let kept = kept(entries);
        assert_eq!(read.len(), kept.len(), "version {version}");
        for (at, (read, kept)) in read.iter().zip(&kept).enumerate() {
            assert_eq!(
                read, kept,
                "version {version}, entry {at}: a number or a field has moved, see recording.rs of the core"
            );
        }
        let decisions = kept.iter().filter(|entry| matches!(entry, Recorded::Decision(_))).count();
        assert!(decisions > 30, "version {version}: {decisions} decisions");
    }
}

#[test]
fn versions_that_are_no_longer_read_are_refused_with_the_last_commit_that_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    for (version, what) in [
        (
            2u32,
            "version 2 cannot be read: this program reads versions 5 to 9; use failsafectl built from commit d7756f2eb39a",
        ),
        (3, "commit 51698e35a643"),
        (4, "commit f6610afbbd87"),
        (
            10,
            "version 10 cannot be read: this program reads versions 5 to 9; use failsafectl of the release that wrote it",
        ),
    ] {
        let mut bytes = std::fs::read(fixture("v6.fsrec")).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let file = folder.path().join("old.fsrec");
        std::fs::write(&file, &bytes).unwrap();
        let Err(fail) = Recording::open(RunRecordings::at(&file).unwrap().sources.remove(0)) else {
            panic!("version {version} was read")
        };
        assert!(fail.exit == Exit::Error && fail.message.contains(what), "{fail}");
    }
}
