//! Catalogs of the segments of an audit log.
#![no_main]

use failsafe_journal::{Filter, segments::catalog_briefs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(briefs) = catalog_briefs(bytes) else { return };
    let run = Filter { run: Some("run-1".to_owned()), ..Filter::default() };
    let several = Filter { kinds: vec!["run".to_owned(), "gap".to_owned()], since_ns: Some(5), ..Filter::default() };
    for brief in briefs {
        let _ends = (brief.start(), brief.end());
        assert!(brief.may_have(&Filter::default()));
        let _found = [brief.may_have(&run), brief.may_have(&several)];
    }
});
