//! A valid log and a valid recording, damaged at random: no reader panics, and what is read of them was written.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::frame::{header, push_frame};
use failsafe_journal::verify::verify_source;
use failsafe_journal::{Draft, Entry, LogReader, RecordingReader, Stamp, parse_frames};
use proptest::prelude::*;
use serde_json::json;

#[path = "../../../tests/damage.rs"]
mod damage;
use damage::{damage, damaged};

const RECORDING: &[u8] = include_bytes!("../../../tests/fixtures/recordings/v9.fsrec");

/// A log file and the bytes of its entries.
fn log() -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut image = header().to_vec();
    let (mut entries, mut prev) = (Vec::new(), [0; 32]);
    for n in 0..6 {
        let stamp = Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() };
        let sealed =
            Draft::new("run", stamp, json!({ "n": n, "text": "x".repeat(40) })).prepare().unwrap().seal(n, &prev);
        push_frame(&mut image, &sealed.bytes);
        prev = Entry::parse(&sealed.bytes).unwrap().leaf_hash;
        entries.push(sealed.bytes.to_vec());
    }
    (image, entries)
}

proptest! {
    #[test]
    fn what_is_read_of_a_damaged_log_was_written(changes in damage(400)) {
        let (good, written) = log();
        let bad = damaged(good, &changes);
        let (entries, _) = parse_frames(&bad);
        prop_assert!(entries.len() <= written.len());
        for (read, written) in entries.iter().zip(&written) {
            prop_assert_eq!(&*read.bytes, written.as_slice());
        }
        let report = verify_source(bad.as_slice()).unwrap();
        prop_assert!(report.entries as usize <= written.len());
        let _read = LogReader::new(bad.as_slice()).take(100).count();
    }

    #[test]
    fn a_damaged_recording_is_read_to_its_damage(changes in damage(400)) {
        let bad = damaged(RECORDING.to_vec(), &changes);
        if let Ok(reader) = RecordingReader::new(bad.as_slice()) {
            let _frames = reader.take(10_000).count();
        }
    }
}
