//! A signed statement, damaged at random: nothing panics, and nothing is verified that was not signed.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_attest::{
    About, AllowedKeys, Fact, Json, PcrState, Pcrs, PublicKey, Scope, Statement, Table, TpmKey, TpmOf, TpmQuote,
    envelope,
    reference::Reference,
    seal,
    tpm::{PcrValue, pcr_facts, qualifying},
};
use failsafe_tpm::{Public, wire::put_sized};
use p256::ecdsa::{Signature, SigningKey as TpmSecret};
use proptest::prelude::*;
use std::sync::LazyLock;

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

fn pcrs() -> Pcrs {
    Pcrs([(0, [1; 32]), (7, [2; 32])].into())
}

/// A statement with a quote, and the list of keys for it.
fn quoted() -> (String, AllowedKeys) {
    static MADE: LazyLock<(String, AllowedKeys)> = LazyLock::new(make_quoted);
    MADE.clone()
}

fn make_quoted() -> (String, AllowedKeys) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (key, secret) = (SigningKey::from_bytes(&[1; 32]), TpmSecret::from_slice(&[3; 32]).unwrap());
    let public = PublicKey::from(key.verifying_key());
    let point = secret.verifying_key().to_encoded_point(false);
    let area = Public::of_point(point.as_bytes()[1..].try_into().unwrap());
    let tpm = TpmKey::of(area.clone()).unwrap();
    let about =
        About { scope: Scope::Node, taken_ns: 1, version: "0", signer: Some(public), nonce: &[7; 8], regime: None };
    let pcrs = pcrs();
    let facts = pcr_facts(&pcrs, true).chain([Fact::measured("node/cpu/model", "a test", Ok(Json::from("a CPU")))]);
    let statement = Statement::of(facts.collect(), &Table::built_in().unwrap(), &about).with_tpm(TpmOf::quoted(&tpm));
    let payload = statement.payload().unwrap();
    let mut attest = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
    put_sized(&mut attest, &area.qualified_name());
    put_sized(&mut attest, &qualifying(&[7; 8], payload.as_bytes()));
    attest.extend([0; 16]);
    attest.push(1);
    attest.extend([0; 8]);
    attest.extend([0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0, 0]);
    put_sized(&mut attest, &pcrs.digest());
    let signed: Signature = p256::ecdsa::signature::Signer::sign(&secret, &attest);
    let mut signature = vec![0, 0x18, 0, 0x0b];
    signed.to_bytes().chunks(32).for_each(|half| put_sized(&mut signature, half));
    let values = pcrs.0.iter().map(|(pcr, value)| PcrValue { pcr: *pcr, sha256: hex::encode(value) }).collect();
    let quote = TpmQuote {
        public_area: tpm.base64(),
        attest: STANDARD.encode(attest),
        signature: STANDARD.encode(signature),
        pcrs: values,
    };
    let sealed = envelope::seal_quoted(&payload, &public, |message| key.sign(message).to_bytes(), Some(quote)).unwrap();
    let list = format!("{} {} node\n{} tpm:{} its TPM\n", public.id(), public.base64(), tpm.id(), tpm.base64());
    (sealed, AllowedKeys::parse(&list).unwrap())
}

fn reference() -> Reference {
    static MADE: LazyLock<Reference> = LazyLock::new(make_reference);
    MADE.clone()
}

fn make_reference() -> Reference {
    let (sealed, keys) = quoted();
    let statement = envelope::verify(sealed.as_bytes(), Some(&keys)).unwrap().statement;
    Reference::of(&[&statement], &Table::built_in().unwrap(), None, &[]).unwrap().with_pcrs(&[pcrs()], &[])
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_quote_is_detected() {
    let (good, keys) = quoted();
    assert!(envelope::verify(good.as_bytes(), Some(&keys)).unwrap().quote.is_some());
    // The quote is behind the payload: with it, everything that is not Base64 of the payload.
    let quote = good.find("tpmQuote").unwrap();
    for at in quote..good.len() {
        let mut bad = good.clone().into_bytes();
        bad[at] ^= 1 << (at % 8);
        // The line break at the end is not signed.
        let blank = at == good.len() - 1 && bad[at].is_ascii_whitespace();
        assert!(blank || envelope::verify(&bad, Some(&keys)).is_err(), "bit {} of byte {at}", at % 8);
    }
}

proptest! {
    #[test]
    fn a_damaged_quote_is_refused_or_is_the_one_that_the_tpm_signed(changes in damage(64)) {
        let (good, keys) = quoted();
        let signed = envelope::verify(good.as_bytes(), Some(&keys)).unwrap();
        let bad = damaged(good.into_bytes(), &changes);
        if let Ok(verified) = envelope::verify(&bad, Some(&keys)) {
            prop_assert_eq!(verified, signed);
        }
    }

    #[test]
    fn damaged_reference_values_are_refused_or_have_one_form(changes in damage(64)) {
        let good = reference().text().unwrap();
        let bad = damaged(good.into_bytes(), &changes);
        if let Ok(read) = Reference::parse(&bad, 1 << 20) {
            prop_assert_eq!(Reference::parse(read.text().unwrap().as_bytes(), usize::MAX), Ok(read.clone()));
            // A damaged value is never one that the quote has by accident.
            let differs = |one: &failsafe_attest::PcrFinding| one.state != PcrState::Equal;
            let found = read.pcrs.check(Some(&pcrs()));
            prop_assert!(read.pcrs == reference().pcrs || found.iter().any(differs));
        }
    }

    #[test]
    fn random_bytes_panic_no_parser(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(envelope::verify(&bytes, Some(&quoted().1)).is_err());
        let _reference = Reference::parse(&bytes, 1 << 20);
        let _json = Json::parse(&bytes, 1 << 20);
    }

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
