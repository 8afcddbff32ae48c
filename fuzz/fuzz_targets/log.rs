//! Log files: frames, checksums, entries. What is read as an entry has exactly one form.
#![no_main]

use failsafe_journal::{Entry, parse_frames, verify::verify_source, view::View};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The fast way to read an entry judges all bytes as the slow one does.
    assert_eq!(View::parse(bytes).map(|view| view.leaf_hash), Entry::parse(bytes).map(|entry| entry.leaf_hash));
    let (entries, _ending) = parse_frames(bytes);
    for entry in entries {
        assert!(Entry::parse(&entry.bytes).is_ok_and(|again| again.leaf_hash == entry.leaf_hash));
    }
    let _report = verify_source(bytes);
});
