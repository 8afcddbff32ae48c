//! Metrics in the format of prometheus, each text read twice. What is taken has the form of the daemon's lines.
#![no_main]

use failsafe_intake::{histogram::Earlier, prometheus::text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut earlier = Earlier::default();
    for _ in 0..2 {
        check::lines(&text(bytes, &mut earlier));
    }
});

#[path = "check/lines.rs"]
mod check;
