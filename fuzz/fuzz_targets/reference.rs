//! Reference values of nodes and runs. What is read is written back in the same form.
#![no_main]

use failsafe_attest::{PcrVerdict, reference::Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(reference) = Reference::parse(bytes, 1 << 20) else { return };
    assert!(Reference::is_meant(bytes), "`node placeable --like` takes it for a statement");
    let text = reference.text().expect("values that were read from JSON");
    assert!(Reference::parse(text.as_bytes(), usize::MAX).is_ok_and(|again| again == reference));
    let verdict = PcrVerdict::of(&reference.pcrs.check(None));
    assert_eq!(verdict == PcrVerdict::NoReference, reference.pcrs.is_empty(), "PCRs without a quote are never equal");
});
