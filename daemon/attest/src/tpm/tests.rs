//! Quotes of a TPM: what is accepted, and that every change is refused with its own message.

use super::*;
use crate::{
    VerifyError,
    envelope::{self, seal_quoted},
    statement::{Scope, Statement},
    testing::{SEED, fact, public, statement},
};
use ed25519_dalek::Signer as _;
use p256::ecdsa::SigningKey;

/// What a TPM does, with a key that is no secret.
struct Simulated(SigningKey);

/// What is quoted, each part to be changed by a test.
struct Parts {
    signer: Vec<u8>,
    qualifying: Vec<u8>,
    pcrs: Pcrs,
    digest: [u8; 32],
}

impl Simulated {
    fn new(seed: u8) -> Simulated {
        Simulated(SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    fn key(&self) -> TpmKey {
        let point = self.0.verifying_key().to_encoded_point(false);
        TpmKey::of(Public::of_point(point.as_bytes()[1..].try_into().unwrap())).unwrap()
    }

    fn quote(&self, parts: &Parts) -> TpmQuote {
        let mut attest = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
        failsafe_tpm::wire::put_sized(&mut attest, &parts.signer);
        failsafe_tpm::wire::put_sized(&mut attest, &parts.qualifying);
        attest.extend([0; 16]);
        attest.push(1);
        attest.extend([0; 8]);
        attest.extend([0, 0, 0, 1, 0, 0x0b, 3]);
        let mut bits = [0_u8; 3];
        parts.pcrs.0.keys().for_each(|pcr| bits[usize::from(pcr / 8)] |= 1 << (pcr % 8));
        attest.extend(bits);
        failsafe_tpm::wire::put_sized(&mut attest, &parts.digest);
        let signed: Signature = p256::ecdsa::signature::Signer::sign(&self.0, &attest);
        let mut signature = vec![0, 0x18, 0, 0x0b];
        signed.to_bytes().chunks(32).for_each(|half| failsafe_tpm::wire::put_sized(&mut signature, half));
        TpmQuote {
            public_area: self.key().base64(),
            attest: STANDARD.encode(attest),
            signature: STANDARD.encode(signature),
            pcrs: parts.pcrs.0.iter().map(|(pcr, value)| PcrValue { pcr: *pcr, sha256: hex::encode(value) }).collect(),
        }
    }
}

fn pcrs() -> Pcrs {
    Pcrs([(0, [1; 32]), (10, [2; 32])].into())
}

fn stated(tpm: TpmOf, facts: impl IntoIterator<Item = Fact>) -> Statement {
    statement(Scope::Node, facts.into_iter().chain([fact("node/cpu/model", "A")]).collect()).with_tpm(tpm)
}

fn sealed(statement: &Statement, quote: Option<TpmQuote>) -> String {
    let key = ed25519_dalek::SigningKey::from_bytes(&[SEED; 32]);
    let payload = statement.payload().unwrap();
    seal_quoted(&payload, &public(SEED), |message| key.sign(message).to_bytes(), quote).unwrap()
}

/// A good envelope of which some part of the quote was changed before the TPM signed it.
fn quoted(change: impl FnOnce(&mut Parts)) -> String {
    let tpm = Simulated::new(3);
    let statement = stated(TpmOf::quoted(&tpm.key()), pcr_facts(&pcrs(), true));
    let payload = statement.payload().unwrap();
    let mut parts = Parts {
        signer: tpm.key().public.qualified_name(),
        qualifying: qualifying(&[1, 2], payload.as_bytes()).to_vec(),
        digest: pcrs().digest(),
        pcrs: pcrs(),
    };
    change(&mut parts);
    sealed(&statement, Some(tpm.quote(&parts)))
}

fn good() -> String {
    quoted(|_| ())
}

fn list(tpm: u8) -> AllowedKeys {
    let (key, other) = (public(SEED), Simulated::new(tpm).key());
    let text = format!("{} {} node 1\n{} tpm:{} its TPM\n", key.id(), key.base64(), other.id(), other.base64());
    AllowedKeys::parse(&text).unwrap()
}

fn why(envelope: &str) -> String {
    envelope::verify(envelope.as_bytes(), Some(&list(3))).unwrap_err().to_string()
}

#[test]
fn a_good_quote_is_verified_and_says_whether_its_key_is_on_the_list() {
    let allowed = |list: Option<&AllowedKeys>| {
        envelope::verify(good().as_bytes(), list).unwrap().quote.map(|quote| quote.allowed).unwrap()
    };
    assert_eq!(allowed(Some(&list(3))).as_deref(), Some("its TPM"));
    assert_eq!(allowed(Some(&list(4))), None);
    assert_eq!(allowed(None), None);
    let quote = envelope::verify(good().as_bytes(), None).unwrap().quote.unwrap();
    assert_eq!((quote.pcrs, quote.key), (pcrs(), Simulated::new(3).key().id()));
}

#[test]
fn every_altered_byte_of_an_envelope_with_a_quote_is_detected() {
    let (bytes, list) = (good().into_bytes(), list(3));
    for at in 0..bytes.len() {
        for flip in [0x01, 0x20] {
            let mut altered = bytes.clone();
            altered[at] ^= flip;
            assert!(envelope::verify(&altered, Some(&list)).is_err(), "byte {at} flipped by {flip:#x}");
        }
    }
}

/// Decoded, so that no flip is caught by Base64 or JSON alone.
#[test]
fn every_altered_byte_of_the_quote_its_signature_its_key_and_its_values_has_its_message() {
    let text = good();
    let envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
    let with = |field: &str, value: serde_json::Value| {
        let mut altered = envelope.clone();
        altered["tpmQuote"][field] = value;
        why(&serde_json::to_string(&altered).unwrap())
    };
    let expected: [(&str, &[&str]); 3] = [
        ("attest", &["what the TPM signed is no quote", "the signature of the TPM quote does not match"]),
        ("signature", &["the signature of the TPM quote"]),
        ("publicArea", &["the key of the TPM quote", "the TPM quote is by key"]),
    ];
    for (field, messages) in expected {
        let bytes = STANDARD.decode(envelope["tpmQuote"][field].as_str().unwrap()).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let why = with(field, STANDARD.encode(altered).into());
            assert!(messages.iter().any(|message| why.starts_with(message)), "{field}, byte {at}: {why}");
        }
    }
    for (n, pcr) in pcrs().0.keys().enumerate() {
        for at in 0..32 {
            let mut value = pcrs().0[pcr];
            value[at] ^= 1;
            let mut values = envelope["tpmQuote"]["pcrs"].clone();
            values[n]["sha256"] = hex::encode(value).into();
            assert_eq!(with("pcrs", values), "the values of the PCRs are not those that the TPM quoted", "{pcr}, {at}");
        }
    }
}

#[test]
fn a_quote_about_something_else_is_refused() {
    for (expected, envelope) in [
        ("is about another statement or another nonce", quoted(|parts| parts.qualifying[0] ^= 1)),
        ("is about another statement or another nonce", quoted(|parts| parts.qualifying.clear())),
        ("names another key as its signer", quoted(|parts| parts.signer[33] ^= 1)),
        ("the values of the PCRs are not those", quoted(|parts| parts.digest[0] ^= 1)),
        ("`node/tpm/pcr/sha256/0` is not what the TPM quoted", {
            quoted(|parts| {
                parts.pcrs = Pcrs([(0, [9; 32]), (10, [2; 32])].into());
                parts.digest = parts.pcrs.digest();
            })
        }),
        ("`node/tpm/pcr/sha256/10` is not what the TPM quoted", {
            quoted(|parts| {
                parts.pcrs = Pcrs([(0, [1; 32])].into());
                parts.digest = parts.pcrs.digest();
            })
        }),
        ("`node/tpm/pcr/sha256/7` is not what the TPM quoted", {
            quoted(|parts| {
                parts.pcrs.0.insert(7, [0; 32]);
                parts.digest = parts.pcrs.digest();
            })
        }),
    ] {
        assert!(why(&envelope).contains(expected), "{expected}: {}", why(&envelope));
    }
    let nonces = [&[1_u8, 2][..], &[1], &[1, 2, 0], &[]].map(|nonce| qualifying(nonce, b"x"));
    assert!(nonces.iter().enumerate().all(|(at, one)| !nonces[..at].contains(one)), "each nonce gives another one");
}

#[test]
fn a_quote_that_was_removed_added_or_exchanged_is_detected() {
    let tpm = Simulated::new(3);
    let statement = stated(TpmOf::quoted(&tpm.key()), pcr_facts(&pcrs(), true));
    assert!(why(&sealed(&statement, None)).contains("it was removed"));
    let parts = Parts { signer: Vec::new(), qualifying: Vec::new(), digest: [0; 32], pcrs: pcrs() };
    let other = why(&sealed(&statement, Some(Simulated::new(4).quote(&parts))));
    assert!(other.contains("the TPM quote is by key"), "{other}");
    let absent = stated(TpmOf::none(TpmStatus::Absent, "no device"), []);
    assert!(why(&sealed(&absent, Some(tpm.quote(&parts)))).contains("it was added"));
    let verified = envelope::verify(sealed(&absent, None).as_bytes(), Some(&list(3))).unwrap();
    assert_eq!((verified.quote, verified.statement.predicate.tpm.unwrap().reason.as_str()), (None, "no device"));
}

#[test]
fn nothing_but_a_quoted_pcr_may_call_itself_quoted() {
    let tpm = Simulated::new(3).key();
    let marked = |path: &str| Fact { assurance: Assurance::TpmQuoted, ..fact(path, "x") };
    for statement in [
        stated(TpmOf::quoted(&tpm), [marked("node/kernel/release")]),
        stated(TpmOf::none(TpmStatus::Absent, "no device"), [marked("node/tpm/pcr/sha256/0")]),
        stated(TpmOf::none(TpmStatus::Failed, ""), []),
        stated(TpmOf { reason: "x".to_owned(), ..TpmOf::quoted(&tpm) }, []),
    ] {
        let why = why(&sealed(&statement, None));
        assert!(why.contains("contradicts itself"), "{why}");
    }
    // Not marked although it is quoted: the reader would take it for less than it is, and the daemon does not do this.
    let plain = stated(TpmOf::quoted(&tpm), pcr_facts(&pcrs(), false));
    let parts = Parts {
        signer: tpm.public.qualified_name(),
        qualifying: qualifying(&[1, 2], plain.payload().unwrap().as_bytes()).to_vec(),
        digest: pcrs().digest(),
        pcrs: pcrs(),
    };
    assert!(why(&sealed(&plain, Some(Simulated::new(3).quote(&parts)))).contains("is not what the TPM quoted"));
}

#[test]
fn values_of_pcrs_have_one_form() {
    let one = |pcr, text: &str| PcrValue { pcr, sha256: text.to_owned() };
    let zero = "0".repeat(64);
    assert!(values(&[one(0, &zero), one(23, &zero)]).is_ok());
    for wrong in [
        vec![one(24, &zero)],
        vec![one(1, &zero), one(0, &zero)],
        vec![one(1, &zero), one(1, &zero)],
        vec![one(1, "00")],
        vec![one(1, &"A0".repeat(32))],
    ] {
        assert_eq!(values(&wrong), Err(QuoteError::Text("pcrs")), "{wrong:?}");
    }
}

#[test]
fn a_wrong_line_of_a_tpm_key_is_named() {
    let key = Simulated::new(3).key();
    let parse = |line: &str| AllowedKeys::parse(line).unwrap_err().to_string();
    assert!(parse(&format!("{} tpm:AAAA x", key.id())).contains("line 1: the key of the TPM quote is no restricted"));
    assert!(parse(&format!("00 tpm:{} x", key.base64())).contains("line 1: the key has the id"));
    let twice = format!("{} tpm:{} x\n", key.id(), key.base64()).repeat(2);
    assert!(parse(&twice).contains("line 2: the key"));
    assert!(matches!(
        envelope::verify(good().as_bytes(), Some(&AllowedKeys::parse(&twice[..twice.len() / 2]).unwrap())),
        Err(VerifyError::NotAllowed(_))
    ));
}
