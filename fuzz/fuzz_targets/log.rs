//! Log files: frames, checksums, entries. What is read as an entry has exactly one form.
#![no_main]

use failsafe_journal::{Entry, parse_frames, verify::verify_source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (entries, _ending) = parse_frames(bytes);
    for entry in entries {
        assert!(Entry::parse(&entry.bytes).is_ok_and(|again| again.leaf_hash == entry.leaf_hash));
    }
    let _report = verify_source(bytes);
});
