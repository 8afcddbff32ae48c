//! A signed statement, damaged at random: nothing panics, and nothing is verified that was not signed.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_attest::{About, AllowedKeys, Fact, Json, PublicKey, Scope, Statement, Table, envelope, seal};
use proptest::prelude::*;

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

/// Changes of a file: bytes set, a part removed or repeated, and the end cut off.
fn damage() -> impl Strategy<Value = Vec<(u8, usize, usize, u8)>> {
    prop::collection::vec((0..5_u8, any::<usize>(), 0..64_usize, any::<u8>()), 1..6)
}

fn damaged(mut bytes: Vec<u8>, changes: &[(u8, usize, usize, u8)]) -> Vec<u8> {
    for (how, at, len, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let from = at % bytes.len();
        let to = (from + len).min(bytes.len());
        match how {
            0 => bytes[from] ^= 1 << (byte % 8),
            1 => bytes[from] = *byte,
            2 => drop(bytes.drain(from..to)),
            3 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(from..from, part);
            }
            _ => bytes.truncate(from),
        }
    }
    bytes
}

proptest! {
    #[test]
    fn a_damaged_envelope_is_refused_or_has_the_signed_statement(changes in damage()) {
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
    fn a_damaged_list_of_keys_never_panics(changes in damage()) {
        let bad = damaged(sealed().1.into_bytes(), &changes);
        if let Ok(text) = std::str::from_utf8(&bad) {
            let _keys = AllowedKeys::parse(text);
        }
    }
}
