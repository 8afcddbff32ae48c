//! OTLP requests, each sent twice. What is taken has the form of the daemon's lines, and is bounded.
#![no_main]

use failsafe_intake::{MOST, histogram::Earlier, otlp::Form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for form in [Form::Protobuf, Form::Json] {
        let mut earlier = Earlier::default();
        for _ in 0..2 {
            if let Ok(taken) = form.read(bytes, &mut earlier) {
                assert!(taken.values.len() <= MOST);
                check::lines(&taken);
            }
        }
    }
});

#[path = "check/lines.rs"]
mod check;
