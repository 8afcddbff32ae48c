//! Proof files: tlog-proof@v1. Nothing that no known key signed is proved.
#![no_main]

use failsafe_tlog::{Keys, ProofFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(proof) = ProofFile::parse(bytes) {
        assert!(ProofFile::parse(&proof.encode()).is_ok_and(|again| again == proof));
        assert!(proof.verify(&Keys::default()).is_err());
    }
});
