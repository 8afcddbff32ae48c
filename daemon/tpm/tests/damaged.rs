//! Structures of a TPM, damaged at random, and random answers of a TPM: nothing panics, a structure that is accepted has one form,
//! and a quote of which a bit was flipped is not signed.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_tpm::{Public, Quoted, Tpm, Transport, endorsement::structure, signature, wire::put_sized};
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _, signature::Verifier as _};
use proptest::prelude::*;
use std::io;

#[path = "../../../tests/damage.rs"]
mod damage;
use damage::{damage, damaged};

/// Gives the same answer to each command, as often as a command can be sent.
struct Answers<'a>(&'a [u8], u32);

impl Transport for Answers<'_> {
    fn exchange(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        self.1 = self.1.checked_sub(1).ok_or_else(|| io::Error::other("no more answers"))?;
        Ok(self.0.to_vec())
    }
}

fn secret() -> SigningKey {
    SigningKey::from_slice(&[3; 32]).unwrap()
}

fn public() -> Public {
    Public::of_point(secret().verifying_key().to_encoded_point(false).as_bytes()[1..].try_into().unwrap())
}

/// The bytes of a quote over PCRs 0, 7 and 10.
fn attest() -> Vec<u8> {
    let mut bytes = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
    put_sized(&mut bytes, &public().qualified_name());
    put_sized(&mut bytes, &[7; 32]);
    bytes.extend([0; 16]);
    bytes.push(1);
    bytes.extend([0; 8]);
    bytes.extend([0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0x04, 0]);
    put_sized(&mut bytes, &[9; 32]);
    bytes
}

/// A signature over it, as a TPM gives it.
fn signed(attest: &[u8]) -> Vec<u8> {
    let signature: Signature = secret().sign(attest);
    let mut bytes = vec![0, 0x18, 0, 0x0b];
    signature.to_bytes().chunks(32).for_each(|half| put_sized(&mut bytes, half));
    bytes
}

/// Whether a quote is read, and signed by the key.
fn accepted(attest: &[u8], signed: &[u8]) -> bool {
    let Ok(numbers) = signature(signed) else { return false };
    let Ok(signature) = Signature::from_slice(&numbers) else { return false };
    Quoted::parse(attest).is_ok() && secret().verifying_key().verify(attest, &signature).is_ok()
}

/// An answer with this body.
fn answer(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, tag];
    bytes.extend(u32::try_from(10 + body.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// The bytes of a certificate, with what fills its index up.
fn certificate() -> Vec<u8> {
    [&[0x30, 0x81, 200][..], &[7; 200], &[0xff; 40]].concat()
}

/// What a TPM answers to `TPM2_CreatePrimary`, `TPM2_Quote`, and when it is locked out.
fn answers() -> Vec<Vec<u8>> {
    let sized = |bytes: &[u8]| (u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.to_vec());
    let mut parameters = Vec::new();
    put_sized(&mut parameters, public().area());
    let (length, parameters) = sized(&parameters);
    let made = [&[0x80, 0, 0, 1][..], &length, &parameters].concat();
    let mut parameters = Vec::new();
    put_sized(&mut parameters, &attest());
    parameters.extend(signed(&attest()));
    let (length, parameters) = sized(&parameters);
    let quote = [&length[..], &parameters].concat();
    // What `TPM2_NV_ReadPublic` and `TPM2_NV_Read` answer about a certificate.
    let mut index = [0x01_u8, 0xc0, 0, 2, 0, 0x0b, 0x20, 0x04, 0, 0, 0, 0].to_vec();
    index.extend(u16::try_from(certificate().len()).unwrap().to_be_bytes());
    let mut public = Vec::new();
    put_sized(&mut public, &index);
    put_sized(&mut public, &[0; 34]);
    let mut part = Vec::new();
    put_sized(&mut part, &certificate());
    let (length, parameters) = sized(&part);
    let read = [&length[..], &parameters].concat();
    vec![
        answer(1, &public),
        answer(2, &read),
        answer(2, &made),
        answer(2, &quote),
        vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x21],
    ]
}

/// Every parser on these bytes.
fn read(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(public) = Public::parse(bytes) {
        prop_assert_eq!(public.area(), bytes);
        prop_assert_eq!(Public::of_point(public.point()), public);
    }
    if let Ok(quoted) = Quoted::parse(bytes) {
        prop_assert!(quoted.pcrs.is_sorted_by(|one, next| one < next));
    }
    if let Ok(certificate) = structure(bytes) {
        prop_assert_eq!(structure(certificate), Ok(certificate));
        prop_assert!(bytes.starts_with(certificate));
    }
    let _numbers = signature(bytes);
    let tpm = || Tpm::new(Answers(bytes, 8));
    let _about = tpm().about();
    let _endorsements = tpm().endorsements();
    let _counter = tpm().counter();
    let _counted = tpm().count();
    if let Ok(pcrs) = tpm().pcrs(&[0, 7, 10]) {
        prop_assert_eq!(pcrs.0.len(), 3);
    }
    if let Ok(key) = tpm().key() {
        let _quote = tpm().quote(&key, &[0, 7, 10], &[0; 32]);
        let _gone = tpm().flush(&key);
    }
    Ok(())
}

#[test]
fn every_flipped_bit_of_a_quote_or_its_signature_is_detected() {
    let (attest, signature) = (attest(), signed(&attest()));
    assert!(accepted(&attest, &signature));
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    for bit in 0..attest.len() * 8 {
        assert!(!accepted(&flipped(&attest, bit), &signature), "bit {bit} of the quote");
    }
    for bit in 0..signature.len() * 8 {
        assert!(!accepted(&attest, &flipped(&signature, bit)), "bit {bit} of the signature");
    }
    // A key with another bit is another key, or none.
    let public = public();
    for bit in 0..public.area().len() * 8 {
        let other = Public::parse(&flipped(public.area(), bit));
        assert!(other.is_err() || other.is_ok_and(|other| other.digest() != public.digest()), "bit {bit} of the key");
    }
}

proptest! {
    #[test]
    fn random_bytes_panic_no_parser(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes)?;
    }

    #[test]
    fn a_random_body_of_an_answer_panics_no_parser(tag in 1..3_u8, body in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&answer(tag, &body))?;
    }

    #[test]
    fn damaged_structures_and_answers_panic_no_parser(changes in damage(32)) {
        for good in answers().into_iter().chain([attest(), signed(&attest()), public().area().to_vec(), certificate()]) {
            read(&damaged(good, &changes))?;
        }
    }

    #[test]
    fn a_damaged_quote_is_refused(changes in damage(32)) {
        let (good, signature) = (attest(), signed(&attest()));
        let bad = damaged(good.clone(), &changes);
        prop_assert!(bad == good || !accepted(&bad, &signature));
    }
}
