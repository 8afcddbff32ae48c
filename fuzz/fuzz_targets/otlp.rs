//! OTLP requests. What is taken has the form of the daemon's lines, and is bounded.
#![no_main]

use failsafe_intake::{MOST, otlp::Form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for form in [Form::Protobuf, Form::Json] {
        if let Ok(taken) = form.read(bytes) {
            assert!(taken.values.len() <= MOST);
            check::lines(&taken);
        }
    }
});

#[path = "check/lines.rs"]
mod check;
