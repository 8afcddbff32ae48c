//! Recordings of runs, to their end or to what is wrong.
#![no_main]

use failsafe_journal::RecordingReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(reader) = RecordingReader::new(bytes) {
        let _frames = reader.take(10_000).count();
    }
});
