//! Opening, repairing, verifying and reading a log: what a crash may do to it is repaired and said, anything else is found.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use std::io::{Read, Seek, SeekFrom, Write};

use failsafe_journal::clock::Stamp;
use failsafe_journal::frame::{self, HEADER_BYTES, push_frame};
use failsafe_journal::storage::{FileStorage, LOG_FILE, sim::SimStorage};
use failsafe_journal::verify::{Verdict, verify_source};
use failsafe_journal::walk::{Ending, Why};
use failsafe_journal::{
    AuditLog, CommitError, Draft, Entry, Filter, LogReader, OpenError, Recovery, kind, parse_frames, verify,
};
use serde_json::json;

fn clock() -> Stamp {
    Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ns: 42, boot_id: "boot".into() }
}

fn draft(n: u64) -> Draft {
    Draft::new(kind::DECISION, clock(), json!({"n": n, "loss": 0.1 * n as f64, "text": "é\n\u{1}"}))
        .run(format!("run-{}", n % 2))
}

fn open(storage: SimStorage) -> (AuditLog<SimStorage>, Recovery) {
    AuditLog::open(storage, &clock()).unwrap()
}

/// An image of `n` entries, and the offset at which each frame begins, with the end of the last.
fn image(n: u64) -> (Vec<u8>, Vec<usize>) {
    let sim = SimStorage::new();
    let (mut log, _) = open(sim.clone());
    let mut offsets = vec![sim.image().len()];
    for at in 0..n {
        log.append(&draft(at)).unwrap();
        log.commit().unwrap();
        offsets.push(sim.image().len());
    }
    (sim.image(), offsets)
}

fn entries(image: &[u8]) -> Vec<Entry> {
    let (entries, ending) = parse_frames(image);
    assert_eq!(ending, Ending::Clean);
    entries
}

#[test]
fn entries_are_linked_and_survive_reopening() {
    let (image, _) = image(3);
    let before = entries(&image);
    let sim = SimStorage::holding(&image);
    let (mut log, recovery) = open(sim.clone());
    assert_eq!(recovery, Recovery { entries: 3, ..Recovery::default() });
    log.append(&draft(3)).unwrap();
    log.commit().unwrap();
    let after = entries(&sim.image());
    assert_eq!(after[..3], before[..]);
    assert_eq!(after[0].prev, [0; 32]);
    for pair in after.windows(2) {
        assert_eq!((pair[1].index, pair[1].prev), (pair[0].index + 1, pair[0].leaf_hash));
    }
    assert_eq!(after[1].body["loss"], json!(0.1));
}

#[test]
fn group_commit_is_one_sync() {
    let sim = SimStorage::new();
    let (mut log, _) = open(sim.clone());
    let before = sim.syncs();
    for at in 0..100 {
        log.append(&draft(at)).unwrap();
    }
    assert_eq!(sim.image().len(), HEADER_BYTES, "nothing is written before the commit");
    assert_eq!(log.commit().unwrap().len(), 100);
    assert_eq!(sim.syncs(), before + 1);
    assert_eq!(entries(&sim.image()).len(), 100);
}

#[test]
fn cut_at_every_offset_keeps_every_whole_entry() {
    let (image, offsets) = image(4);
    for cut in 0..=image.len() {
        let whole = offsets[1..].iter().filter(|end| **end <= cut).count() as u64;
        let on_border = cut == 0 || offsets.contains(&cut);
        let report = verify_source(&image[..cut]).unwrap();
        assert_eq!(report.entries, whole);
        assert_eq!(report.is_ok(), on_border && whole > 0, "cut at {cut}");
        assert_eq!(report.verdict == Verdict::Empty, on_border && whole == 0, "cut at {cut}");
        assert!(on_border || matches!(report.verdict, Verdict::Torn { index, .. } if index == whole));

        let sim = SimStorage::holding(&image[..cut]);
        let (mut log, recovery) = open(sim.clone());
        assert_eq!((recovery.entries, recovery.dropped.is_some()), (whole, !on_border));
        log.append(&draft(99)).unwrap();
        log.commit().unwrap();
        let found = entries(&sim.image());
        assert_eq!(found.len() as u64, whole + u64::from(!on_border) + 1);
        assert_eq!(found.last().unwrap().body["n"], json!(99));
        if !on_border {
            let said = &found[usize::try_from(whole).unwrap()];
            let begins = offsets.iter().copied().filter(|at| *at <= cut).max().unwrap_or(0);
            assert_eq!(said.kind, kind::RECOVERED);
            assert_eq!(said.body["dropped_bytes"], json!(cut - begins));
            assert_eq!(said.body["offset"], json!(begins));
            let excerpt = said.body["excerpt"].as_str().unwrap();
            assert!(cut < begins + 20 || excerpt.starts_with("{\"index\":"), "cut at {cut}: {excerpt}");
        }
    }
}

#[test]
fn every_flipped_byte_is_found_where_it_is() {
    let (image, offsets) = image(4);
    let last = offsets[3];
    for at in 0..image.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = image.clone();
            bad[at] ^= flip;
            let report = verify_source(&bad[..]).unwrap();
            let frame = offsets.iter().copied().filter(|begin| *begin <= at).max().unwrap_or(0);
            let index = offsets.iter().position(|begin| *begin == frame).unwrap_or(0) as u64;
            let opened = AuditLog::open(SimStorage::holding(&bad), &clock());
            match report.verdict {
                Verdict::Tampered(problem) if at < last => {
                    assert_eq!((problem.offset, problem.index), (frame as u64, index), "byte {at}: {problem}");
                    let Err(OpenError::Tampered { offset, .. }) = opened else {
                        panic!("opened with byte {at} flipped")
                    };
                    assert_eq!(offset, frame as u64);
                }
                Verdict::Torn { offset, index: 3, .. } if at >= last => {
                    assert_eq!(offset, last as u64);
                    assert!(opened.unwrap().1.dropped.is_some());
                }
                other => panic!("byte {at} flipped by {flip:#x}: {other:?}"),
            }
        }
    }
}

/// Someone who recomputes checksums: caught by the chain.
#[test]
fn forged_entries_are_found() {
    let (image, offsets) = image(4);
    let frames: Vec<&[u8]> = offsets.windows(2).map(|w| &image[w[0]..w[1]]).collect();
    let header = &image[..HEADER_BYTES];
    let mut edited = Vec::new();
    let text = String::from_utf8(frames[1][8..].to_vec()).unwrap().replace("run-1", "run-9");
    push_frame(&mut edited, text.as_bytes());
    let spaced = {
        let mut out = Vec::new();
        push_frame(&mut out, &[&frames[3][8..], b" "].concat());
        out
    };
    let cases: [(&str, Vec<&[u8]>, u64); 6] = [
        ("removed", vec![frames[0], frames[2], frames[3]], 1),
        ("swapped", vec![frames[0], frames[2], frames[1], frames[3]], 1),
        ("repeated", vec![frames[0], frames[1], frames[1], frames[2]], 2),
        ("edited", vec![frames[0], &edited, frames[2]], 2),
        ("first removed", vec![frames[1], frames[2]], 0),
        ("last not canonical", vec![frames[0], frames[1], frames[2], &spaced], 3),
    ];
    for (name, parts, index) in cases {
        let bad = [header, &parts.concat()].concat();
        let Verdict::Tampered(problem) = verify_source(&bad[..]).unwrap().verdict else { panic!("{name} not found") };
        assert_eq!(problem.index, index, "{name}: {problem}");
        assert!(matches!(AuditLog::open(SimStorage::holding(&bad), &clock()), Err(OpenError::Tampered { .. })));
    }
}

/// Text that a run controls cannot pass for a frame and turn a torn tail into tampering.
#[test]
fn a_frame_inside_a_body_is_no_frame() {
    let (image, offsets) = image(2);
    let inner = String::from_utf8_lossy(&image[offsets[0]..offsets[1]]).into_owned();
    let sim = SimStorage::new();
    let (mut log, _) = open(sim.clone());
    log.append(&Draft::new("run", clock(), json!({"argv": inner.repeat(20)}))).unwrap();
    log.commit().unwrap();
    let mut torn = sim.image();
    torn.truncate(torn.len() - 1);
    assert!(matches!(verify_source(&torn[..]).unwrap().verdict, Verdict::Torn { .. }));
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let (image, _) = image(2);
    for zeros in [1, 7, 8, 4096, 100_000] {
        let padded = [&image[..], &vec![0; zeros]].concat();
        let (_, recovery) = open(SimStorage::holding(&padded));
        assert_eq!(recovery.dropped.unwrap().bytes, zeros as u64);
    }
}

#[test]
fn other_files_are_left_alone() {
    for other in [&b"hello, this is somebody's notes"[..], b"x", &[0xff; 4096]] {
        let sim = SimStorage::holding(other);
        let Err(OpenError::Tampered { offset: 0, why: Why::Header(_), .. }) = AuditLog::open(sim.clone(), &clock())
        else {
            panic!("opened {other:?}")
        };
        assert_eq!(sim.image(), other);
    }
}

#[test]
fn full_disk_then_space_loses_nothing() {
    let (reference, _) = image(6);
    let start = entries(&reference).len();
    for room in 0..400 {
        for (short, failing_truncates) in [(None, 0), (Some(7), 0), (None, 1), (None, 3)] {
            let sim = SimStorage::holding(&reference);
            let (mut log, _) = open(sim.clone());
            sim.set_capacity(Some(reference.len() + room));
            sim.set_longest_write(short);
            sim.fail_truncates(failing_truncates);
            let mut sealed = Vec::new();
            let mut failures = 0;
            for at in 0..3 {
                sealed.push(log.append(&draft(at)).unwrap());
                failures += u32::from(log.commit().is_err());
            }
            // Whatever stands in the file now, a crash leaves a log that opens.
            let (_, recovery) = open(sim.power_cut(usize::MAX, true));
            assert!(recovery.entries >= start as u64);
            sim.set_capacity(None);
            for _ in 0..=failing_truncates {
                failures += u32::from(log.commit().is_err());
            }
            assert!(failures > 0);
            log.commit().unwrap();
            let found = entries(&sim.image());
            assert_eq!(found.len(), start + 3);
            for (entry, sealed) in found[start..].iter().zip(&sealed) {
                assert_eq!((&entry.bytes, entry.leaf_hash), (&sealed.bytes, sealed.leaf_hash));
            }
        }
    }
}

/// After a failed sync the kernel holds the pages clean: they must be written again, not just synced again.
#[test]
fn failed_sync_is_not_believed_later() {
    let sim = SimStorage::new();
    let (mut log, _) = open(sim.clone());
    sim.fail_syncs(1);
    log.append(&draft(0)).unwrap();
    assert!(log.commit().is_err());
    assert_eq!(log.commit().unwrap().len(), 1);
    let after = sim.power_cut(0, true).image();
    assert_eq!(entries(&after).len(), 1);
}

#[test]
fn opening_on_a_full_disk_works_and_catches_up() {
    let (image, _) = image(2);
    for torn in [0, HEADER_BYTES / 2, image.len() - 3] {
        let sim = SimStorage::holding(&image[..torn]);
        sim.set_capacity(Some(torn));
        let (mut log, recovery) = open(sim.clone());
        assert!(recovery.deferred.unwrap().contains("No space"), "torn at {torn}");
        log.append(&draft(7)).unwrap();
        assert!(log.commit().is_err());
        sim.set_capacity(None);
        log.commit().unwrap();
        let found = entries(&sim.image());
        assert_eq!(found.iter().any(|e| e.kind == kind::RECOVERED), torn > 0);
        assert_eq!(found.last().unwrap().body["n"], json!(7));
    }
}

#[test]
fn a_log_changed_under_the_writer_is_not_written_on() {
    let sim = SimStorage::new();
    let (mut log, _) = open(sim.clone());
    log.append(&draft(0)).unwrap();
    log.commit().unwrap();
    let good = sim.image();
    for change in [good.len() - 1, 0, good.len() + 1] {
        sim.tamper(|image| image.resize(change, b'x'));
        log.append(&draft(1)).unwrap();
        assert!(matches!(log.commit(), Err(CommitError::Changed { .. })));
        assert_eq!(sim.image().len(), change);
    }
}

#[test]
fn real_file_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LOG_FILE);
    for round in 0..3 {
        let (mut log, recovery) = AuditLog::open(FileStorage::open(dir.path()).unwrap(), &clock()).unwrap();
        assert_eq!(recovery.dropped.is_some(), round > 0);
        log.append(&draft(round)).unwrap();
        log.append(&draft(round + 10)).unwrap();
        log.commit().unwrap();
        assert!(verify(dir.path()).unwrap().is_ok());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[9, 0, 0, 0, 1]).unwrap();
        assert!(matches!(verify(dir.path()).unwrap().verdict, Verdict::Torn { bytes: 5, .. }));
    }
    let reader = LogReader::open(&path).unwrap();
    let kinds: Vec<String> = reader.map(|entry| entry.unwrap().kind).collect();
    assert_eq!(
        kinds,
        ["decision", "decision", "recovered", "decision", "decision", "recovered", "decision", "decision"]
    );

    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(60)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    let Verdict::Tampered(problem) = verify(dir.path()).unwrap().verdict else { panic!("flip not found") };
    assert_eq!((problem.offset, problem.index), (HEADER_BYTES as u64, 0));
    assert!(LogReader::open(&path).unwrap().next().unwrap().is_err());
}

#[test]
fn reader_filters_seeks_and_tails() {
    let (image, offsets) = image(6);
    let all: Vec<u64> = LogReader::new(&image[..]).map(|e| e.unwrap().index).collect();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    let filter = Filter { run: Some("run-1".into()), ..Filter::default() };
    let odd: Vec<u64> = LogReader::new(&image[..]).with_filter(filter).map(|e| e.unwrap().index).collect();
    assert_eq!(odd, [1, 3, 5]);
    let other = Filter { kinds: vec!["gap".into()], ..Filter::default() };
    assert_eq!(LogReader::new(&image[..]).with_filter(other).count(), 0);
    for from in 0..8 {
        let reader = LogReader::new(&image[..]).from_index(from).unwrap();
        assert_eq!(reader.map(|e| e.unwrap().index).collect::<Vec<_>>(), (from..6).collect::<Vec<_>>());
    }

    let sim = SimStorage::holding(&image[..offsets[1] + 11]);
    let mut reader = LogReader::new(sim.clone());
    assert_eq!(reader.next().unwrap().unwrap().index, 0);
    assert!(reader.next().is_none());
    assert!(reader.cut_tail().is_some());
    sim.tamper(|seen| *seen = image.clone());
    assert_eq!(reader.by_ref().map(|e| e.unwrap().index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(reader.cut_tail().is_none());
}

#[test]
fn a_reader_follows_across_a_crash_and_repair() {
    let (image, offsets) = image(2);
    let sim = SimStorage::holding(&image[..offsets[2] - 5]);
    let mut reader = LogReader::new(sim.clone());
    assert_eq!(reader.by_ref().map(|e| e.unwrap().index).collect::<Vec<_>>(), [0]);
    open(sim.clone());
    assert_eq!(reader.next().unwrap().unwrap().kind, kind::RECOVERED);
}

#[test]
fn empty_log_is_a_header() {
    let sim = SimStorage::new();
    let (log, recovery) = open(sim.clone());
    assert_eq!((log.pending(), recovery), (0, Recovery::default()));
    assert_eq!(sim.power_cut(0, true).image(), frame::header());
}
