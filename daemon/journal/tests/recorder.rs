//! Recordings: round trip, size cap, full disk, torn and damaged files, copies of a file in the writing.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::recorder::{FIRST_RESERVED_KIND, RecordError, StopReason};
use failsafe_journal::recording::RecordingError;
use failsafe_journal::storage::sim::SimStorage;
use failsafe_journal::{Frame, Recorded, Recorder, RecordingEnd, RecordingReader};
use serde::{Deserialize, Serialize};
use serde_json::json;

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
    let mut reader = RecordingReader::open(&path).unwrap();
    for (n, frame) in reader.by_ref().enumerate() {
        let frame = frame.unwrap();
        assert_eq!((frame.kind, frame.decode::<Input>().unwrap()), ((n % 5) as u8, input(n as u64)));
        assert!(matches!(frame.decode::<bool>(), Err(RecordingError::Decode { .. })), "a payload is decoded whole");
    }
    assert_eq!((reader.frames(), reader.end()), (1000, Some(&RecordingEnd::Finished)));
    assert_eq!(reader.hash(), Some(summary.hash));
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

/// Where each frame begins, and where the last ends.
fn borders(image: &[u8]) -> Vec<usize> {
    let frames = read(image).0.into_iter().map(|frame| usize::try_from(frame.offset).unwrap());
    let mut borders: Vec<usize> = frames.collect();
    let end_marker = 17;
    borders.extend([image.len() - end_marker, image.len()]);
    borders
}

fn hash(image: &[u8]) -> Option<[u8; 32]> {
    let mut reader = RecordingReader::new(image).unwrap();
    let sound = reader.by_ref().all(|frame| frame.is_ok());
    reader.hash().filter(|_| sound)
}

#[test]
fn a_frame_that_is_dropped_repeated_or_moved_is_found() {
    let image = recording(20);
    let borders = borders(&image);
    let frame = |n: usize| &image[borders[n]..borders[n + 1]];
    let broken = |image: &[u8], what: &str| {
        let mut reader = RecordingReader::new(image).unwrap();
        let error = reader.by_ref().find_map(Result::err);
        assert!(matches!(error, Some(RecordingError::Chain { .. })), "{what}: {error:?}");
    };
    for n in 0..20 {
        let (before, behind) = (&image[..borders[n]], &image[borders[n + 1]..]);
        broken(&[before, behind].concat(), &format!("without frame {n}"));
        broken(&[before, frame(n), frame(n), behind].concat(), &format!("frame {n} twice"));
        if n > 0 {
            let before = &image[..borders[n - 1]];
            broken(&[before, frame(n), frame(n - 1), behind].concat(), &format!("frame {n} before {}", n - 1));
        }
    }
    // The last frame alone is no torn tail either: its own checksum is right.
    broken(&[&image[..borders[0]], frame(20)].concat(), "only the end marker");
}

#[test]
fn what_the_chain_alone_does_not_show_changes_the_hash() {
    let image = recording(20);
    let borders = borders(&image);
    let whole = hash(&image).unwrap();
    for n in 0..=20 {
        assert_ne!(hash(&image[..borders[n]]), Some(whole), "cut before frame {n}");
    }
    let other = |header: serde_json::Value, frames: std::ops::Range<u64>| {
        let sim = SimStorage::new();
        let mut recorder = Recorder::create_on(sim.clone(), &header, u64::MAX).unwrap();
        for at in frames {
            recorder.record(1, &input(at)).unwrap();
        }
        recorder.end();
        let before = recorder.hash();
        let summary = recorder.finish().unwrap();
        assert_eq!((Some(before), before), (hash(&sim.image()), summary.hash));
        sim.image()
    };
    assert_eq!(hash(&other(json!({"run": "r"}), 0..20)), Some(whole), "the same inputs");
    assert_ne!(hash(&other(json!({"run": "s"}), 0..20)), Some(whole), "another run's header");
    assert_ne!(hash(&other(json!({"run": "r"}), 0..19)), Some(whole), "chained anew without the last frame");
}

/// Versions 5 and 6 had frames without a hash.
#[test]
fn a_recording_of_version_6_is_read() {
    let (frames, _) = read(&recording(5));
    let header = br#"{"run":"r"}"#;
    let mut image = b"FSREC\0\0\0".to_vec();
    let mut checked = 6u32.to_le_bytes().to_vec();
    checked.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&checked), header);
    image.extend([&checked[..], &crc.to_le_bytes(), header].concat());
    let bodies = frames.iter().map(|frame| [&[frame.kind], &frame.payload[..]].concat()).chain([vec![0xf1]]);
    for body in bodies {
        image.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        image.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        image.extend_from_slice(&body);
    }
    let mut reader = RecordingReader::new(&image[..]).unwrap();
    let read: Vec<Vec<u8>> = reader.by_ref().map(|frame| frame.unwrap().payload).collect();
    assert_eq!(read, frames.iter().map(|frame| frame.payload.clone()).collect::<Vec<_>>());
    assert_eq!((reader.end(), reader.hash()), (Some(&RecordingEnd::Finished), None));
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
        let image = sim.image();
        let mut reader = RecordingReader::new(&image[..]).unwrap();
        assert_eq!(
            (reader.by_ref().count(), reader.hash()),
            (20, Some(summary.hash)),
            "what was retried has the same hash"
        );
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
