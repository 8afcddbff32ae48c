//! A signed statement, damaged at random: nothing panics, and nothing is verified that was not signed.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_attest::{About, AllowedKeys, Fact, Json, PublicKey, Scope, Statement, Table, envelope, seal};
use proptest::prelude::*;

#[path = "../../../tests/damage.rs"]
mod damage;
use damage::{damage, damaged};

fn sealed() -> (String, String) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = PublicKey::from(key.verifying_key());
    let facts = vec![Fact::measured("node/cpu/model", "a test", Ok(Json::from("a CPU")))];
    let about =
        About { scope: Scope::Node, taken_ns: 1, version: "0", signer: Some(public), nonce: &[7; 8], regime: None };
    let payload = Statement::of(facts, &Table::built_in().unwrap(), &about).payload().unwrap();
    let envelope = seal(&payload, &public, |message| key.sign(message).to_bytes()).unwrap();
    (envelope, format!("{} {} node\n", public.id(), public.base64()))
}

proptest! {
    #[test]
    fn a_damaged_envelope_is_refused_or_has_the_signed_statement(changes in damage(64)) {
        let (good, keys) = sealed();
        let keys = AllowedKeys::parse(&keys).unwrap();
        let signed = envelope::verify(good.as_bytes(), Some(&keys)).unwrap().statement.payload().unwrap();
        let bad = damaged(good.into_bytes(), &changes);
        if let Ok(verified) = envelope::verify(&bad, Some(&keys)) {
            prop_assert_eq!(verified.statement.payload().unwrap(), signed);
        }
        if let Ok(value) = Json::parse(&bad, 1 << 20) {
            let text = value.canonical();
            prop_assert_eq!(Json::parse(text.as_bytes(), usize::MAX).unwrap().canonical(), text);
        }
    }

    #[test]
    fn a_damaged_list_of_keys_never_panics(changes in damage(64)) {
        let bad = damaged(sealed().1.into_bytes(), &changes);
        if let Ok(text) = std::str::from_utf8(&bad) {
            let _keys = AllowedKeys::parse(text);
        }
    }
}
