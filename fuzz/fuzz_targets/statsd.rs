//! Metrics in the format of statsd. What is taken has the form of the daemon's lines.
#![no_main]

use failsafe_intake::statsd::datagram;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check::lines(&datagram(bytes)));

#[path = "check/lines.rs"]
mod check;
