//! Consistency proofs.
#![no_main]

use failsafe_tlog::{Checkpoint, ConsistencyFile, Keys};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(proof) = ConsistencyFile::parse(bytes) else { return };
    assert!(ConsistencyFile::parse(&proof.encode()).is_ok_and(|again| again == proof));
    assert!(proof.open(&Keys::default()).is_err());
    if let Ok(new) = Checkpoint::unverified(&proof.checkpoint) {
        // Another earlier tree of this size would need a collision of SHA-256.
        let old = Checkpoint { size: proof.old, root: [7; 32], ..new.clone() };
        assert!(proof.verify(&old, &new).is_err());
    }
});
