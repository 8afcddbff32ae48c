//! A key that signs the checkpoints of a test's log, and times of entries.

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_journal::Stamp;
use failsafe_tlog::{Signer, VerifierKey};

pub struct TestSigner(pub SigningKey, pub VerifierKey);

impl Signer for TestSigner {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// The same key each time.
pub fn signer() -> TestSigner {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = VerifierKey::new("failsafe.test/node", &key.verifying_key().to_bytes()).unwrap();
    TestSigner(key, public)
}

pub fn stamp(n: u64) -> Stamp {
    Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() }
}
