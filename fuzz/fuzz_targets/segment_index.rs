//! Indices of sealed segments.
#![no_main]

use failsafe_journal::segments::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(index) = Index::decode(bytes) {
        let _read = index.rows().count();
    }
});
