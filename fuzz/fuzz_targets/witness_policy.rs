//! Policies of logs and witnesses, checkpoints with cosignatures, keys of witnesses, and requests to a witness.
#![no_main]

use failsafe_tlog::{ConsistencyFile, Cosigner, Note, Policy, VerifierKey, WitnessKey, witness::judge};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// The policy of the seeds: one log, and a quorum of one witness.
static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    Policy::parse(include_bytes!("../corpus/witness_policy/seed-0")).expect("the policy of the seeds")
});
/// The checkpoint of the seeds, which that log signed and that witness cosigned.
static COSIGNED: &[u8] = include_bytes!("../corpus/witness_policy/seed-1");
static WITNESS: &str = include_str!("../corpus/witness_policy/seed-2");

/// Signs nothing: what is judged is the request.
struct Nobody(WitnessKey);

impl Cosigner for Nobody {
    fn key(&self) -> &WitnessKey {
        &self.0
    }

    fn sign(&self, _message: &[u8]) -> [u8; 64] {
        [0; 64]
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(policy) = Policy::parse(bytes) {
        let _keys: Vec<String> = policy.logs().iter().map(VerifierKey::to_string).collect();
        let _judged = policy.accept(COSIGNED);
    }
    if let Ok(accepted) = POLICY.accept(bytes) {
        let good = POLICY.accept(COSIGNED).expect("the checkpoint of the seeds");
        assert_eq!(accepted.checkpoint, good.checkpoint, "a checkpoint that nobody signed");
        assert!(!accepted.cosigned.is_empty(), "the quorum is a witness");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = WitnessKey::parse(text)
    {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(request) = ConsistencyFile::parse(bytes) {
        let cosigner = Nobody(WitnessKey::parse(WITNESS).expect("the witness of the seeds"));
        if let Ok(cosigned) = judge(&request, None, POLICY.logs(), 1, &cosigner) {
            assert!(Note::parse(&cosigned.note).is_ok());
            assert_eq!(request.old, 0, "a witness that cosigned nothing starts with the whole log");
        }
    }
});
