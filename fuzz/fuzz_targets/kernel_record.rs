//! Records of the kernel log, one in each line, and files with patterns for them.
#![no_main]

use failsafe_core::{
    MonoTime,
    klog::{Lines, record},
};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// The built-in patterns. They keep recent records, so that every input begins with a copy.
static BUILT_IN: LazyLock<Lines> = LazyLock::new(|| Lines::built_in().expect("the built-in patterns"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Lines::parse("p.toml", text) {
        Ok(mut lines) => drop(lines.hear(text, MonoTime(1))),
        Err(wrong) => assert!(!wrong.list.is_empty() && !wrong.to_string().is_empty(), "refused without a reason"),
    }
    let mut lines = BUILT_IN.clone();
    for line in text.lines() {
        if let Some(record) = record(line) {
            let _fact = lines.hear(&record.message, MonoTime(record.micros.saturating_mul(1_000)));
        }
    }
});
