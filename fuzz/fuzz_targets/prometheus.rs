//! Metrics in the format of prometheus. What is taken has the form of the daemon's lines.
#![no_main]

use failsafe_intake::prometheus::text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check::lines(&text(bytes)));

#[path = "check/lines.rs"]
mod check;
