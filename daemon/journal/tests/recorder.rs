//! Recordings: round trip, size cap, full disk, torn and damaged files, copies of a file in the writing.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::recorder::{FIRST_RESERVED_KIND, RecordError, StopReason};
use failsafe_journal::recording::RecordingError;
use failsafe_journal::storage::sim::SimStorage;
use failsafe_journal::{Frame, Recorded, Recorder, RecordingEnd, RecordingReader};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Input {
    Signal { seq: u64, value: f64 },
    Note(String),
}

fn input(n: u64) -> Input {
    if n % 3 == 2 { Input::Note(format!("note {n}")) } else { Input::Signal { seq: n, value: n as f64 * 0.1 } }
}

fn read(image: &[u8]) -> (Vec<Frame>, RecordingEnd) {
    let mut reader = RecordingReader::new(image).unwrap();
    let frames: Vec<Frame> = reader.by_ref().map(Result::unwrap).collect();
    (frames, reader.end().unwrap().clone())
}

fn recording(n: u64) -> Vec<u8> {
    let sim = SimStorage::new();
    let mut recorder = Recorder::create_on(sim.clone(), &json!({"run": "r"}), u64::MAX).unwrap();
    for at in 0..n {
        recorder.record(1, &input(at)).unwrap();
    }
    recorder.finish().unwrap();
    sim.image()
}

#[test]
fn round_trip_on_a_real_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.fsrec");
    let header = json!({"run": "0192", "policy": "[[rule]]\n", "host": "n1"});
    let mut recorder = Recorder::create(&path, &header, 1 << 20).unwrap();
    assert!(matches!(Recorder::create(&path, &header, 1 << 20), Err(RecordError::Create(_))), "never over another");
    assert_eq!(RecordingReader::open(&path).unwrap().header(), &header, "the header is there from the start");
    for n in 0..1000 {
        assert_eq!(recorder.record((n % 5) as u8, &input(n)).unwrap(), Recorded::Written);
    }
    assert!(matches!(recorder.record(FIRST_RESERVED_KIND, &0), Err(RecordError::ReservedKind(_))));
    let summary = recorder.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((summary.frames, summary.bytes, summary.stopped), (1000, bytes.len() as u64, None));
    assert_eq!(summary.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
    let mut reader = RecordingReader::open(&path).unwrap();
    for (n, frame) in reader.by_ref().enumerate() {
        let frame = frame.unwrap();
        assert_eq!((frame.kind, frame.decode::<Input>().unwrap()), ((n % 5) as u8, input(n as u64)));
        assert!(matches!(frame.decode::<bool>(), Err(RecordingError::Decode { .. })), "a payload is decoded whole");
    }
    assert_eq!((reader.frames(), reader.end()), (1000, Some(&RecordingEnd::Finished)));
}

#[test]
fn nothing_reaches_the_file_before_flush_and_a_copy_is_readable_then() {
    let sim = SimStorage::new();
    let mut recorder = Recorder::create_on(sim.clone(), &json!({}), u64::MAX).unwrap();
    let header = sim.image().len();
    for n in 0..10 {
        recorder.record(0, &input(n)).unwrap();
        assert_eq!(sim.image().len(), header);
    }
    recorder.flush().unwrap();
    let (frames, end) = read(&sim.image());
    assert_eq!((frames.len(), end), (10, RecordingEnd::Open));
    recorder.record(0, &input(10)).unwrap();
    drop(recorder);
    let (frames, end) = read(&sim.image());
    assert_eq!((frames.len(), end), (11, RecordingEnd::Open), "unfinished shows as such");
}

#[test]
fn size_cap_ends_it_with_a_marker() {
    for cap in [0, 600, 1500, 5000] {
        let sim = SimStorage::new();
        let mut recorder = Recorder::create_on(sim.clone(), &json!({"run": "r"}), cap).unwrap();
        let written = (0..1000).take_while(|n| recorder.record(0, &input(*n)).unwrap() == Recorded::Written).count();
        assert_eq!(recorder.record(0, &input(0)).unwrap(), Recorded::Stopped);
        assert_eq!(recorder.stopped().unwrap().frames, written as u64);
        let summary = recorder.finish().unwrap();
        assert_eq!(summary.stopped.unwrap().reason, StopReason::MaxBytes);
        assert!(cap < 600 || summary.bytes <= cap, "{} bytes", summary.bytes);
        let (frames, end) = read(&sim.image());
        assert_eq!((frames.len(), frames.len() as u64), (written, summary.frames));
        assert!(matches!(end, RecordingEnd::Stopped(stopped) if stopped.reason == StopReason::MaxBytes));
        assert!(cap < 1500 || written > 10);
    }
}

#[test]
fn every_cut_is_readable_up_to_it() {
    let image = recording(20);
    let (whole, _) = read(&image);
    let header = usize::try_from(whole[0].offset).unwrap();
    for cut in 0..image.len() {
        match RecordingReader::new(&image[..cut]) {
            Err(_) => assert!(cut < header),
            Ok(mut reader) => {
                let frames: Vec<Frame> = reader.by_ref().map(Result::unwrap).collect();
                assert_eq!(frames[..], whole[..frames.len()]);
                assert!(matches!(reader.end(), Some(RecordingEnd::Open | RecordingEnd::Torn { .. })), "cut at {cut}");
            }
        }
    }
    let zeros = [&image[..image.len() - 5], &[0; 3000]].concat();
    let mut reader = RecordingReader::new(&zeros[..]).unwrap();
    assert!(reader.by_ref().last().unwrap().is_err(), "a marker with bytes behind it is no crash");
}

#[test]
fn every_flip_is_found() {
    let image = recording(20);
    let (whole, _) = read(&image);
    for at in 0..image.len() {
        let mut bad = image.clone();
        bad[at] ^= 0x10;
        let Ok(mut reader) = RecordingReader::new(&bad[..]) else { continue };
        let frames: Vec<_> = reader.by_ref().collect();
        let good = frames.iter().filter_map(|frame| frame.as_ref().ok());
        assert!(good.zip(&whole).all(|(a, b)| a == b), "byte {at}");
        assert_ne!(reader.end(), Some(&RecordingEnd::Finished), "byte {at}");
    }
}

#[test]
fn full_disk_then_space() {
    for room in 0..200 {
        let sim = SimStorage::new();
        let mut recorder = Recorder::create_on(sim.clone(), &json!({}), u64::MAX).unwrap();
        sim.set_capacity(Some(sim.image().len() + room));
        for n in 0..20 {
            assert_eq!(recorder.record(0, &input(n)).unwrap(), Recorded::Written);
            if n % 4 == 0 {
                let _full = recorder.flush();
            }
        }
        assert!(recorder.flush().is_err() && recorder.failure().unwrap().contains("No space"));
        sim.set_capacity(None);
        let summary = recorder.finish().unwrap();
        let (frames, end) = read(&sim.image());
        assert_eq!((frames.len(), end), (20, RecordingEnd::Finished));
        assert_eq!(summary.sha256, <[u8; 32]>::from(Sha256::digest(sim.image())));
    }
}

#[test]
fn a_disk_that_stays_full_ends_it() {
    let sim = SimStorage::new();
    let mut recorder = Recorder::create_on(sim.clone(), &json!({}), u64::MAX).unwrap();
    sim.set_capacity(Some(sim.image().len()));
    let big = "x".repeat(1 << 20);
    let written = (0..100).take_while(|_| recorder.record(0, &big).unwrap() == Recorded::Written).count();
    assert!(written < 20, "memory is bounded");
    sim.set_capacity(None);
    let stopped = recorder.finish().unwrap().stopped.unwrap();
    assert!(stopped.reason == StopReason::Storage && stopped.error.unwrap().contains("No space"));
    let (frames, end) = read(&sim.image());
    assert!(frames.len() == written && matches!(end, RecordingEnd::Stopped(_)), "no holes");
}
