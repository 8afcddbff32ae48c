//! Catalogs of the segments of an audit log.
#![no_main]

use failsafe_journal::segments::catalog_briefs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(briefs) = catalog_briefs(bytes) else { return };
    for pair in briefs.windows(2) {
        // What a segment continues is the end of the one before.
        assert_eq!(pair[0].head, pair[1].prev);
        assert_eq!(pair[0].hash, pair[1].previous_summary);
    }
    let _ends: Vec<_> = briefs.iter().map(|brief| (brief.start(), brief.end())).collect();
});
