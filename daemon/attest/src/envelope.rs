//! The envelope: DSSE v1 over the exact bytes of a statement, with one Ed25519 signature.
//!
//! Verification fails closed, in this order: size, form, type of the payload, key, signature, statement, quote. Nothing of a payload
//! is believed before its signature was verified; without a list of allowed keys only the public key is read from it, to verify
//! the signature with, and the result says that the key was not checked.

use crate::{
    json::{Json, JsonError},
    key::{AllowedKeys, KeyId, PublicKey},
    statement::{Statement, StatementError},
    tpm::{self, QuoteError, TpmQuote, VerifiedQuote},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// The type of a payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Largest envelope that is read, bytes.
pub const MAX_ENVELOPE: usize = 32 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
    /// DSSE says that readers skip fields that they do not know.
    #[serde(rename = "tpmQuote", default, skip_serializing_if = "Option::is_none")]
    tpm_quote: Option<TpmQuote>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

/// A statement of which the signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it states.
    pub statement: Statement,
    /// Who signed it.
    pub key: PublicKey,
    /// The comment of the key in the list of allowed keys; `None`: there was no list, so anybody may have signed it.
    pub allowed: Option<String>,
    /// What a TPM quoted with it.
    pub quote: Option<VerifiedQuote>,
}

/// Why an envelope is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is no envelope.
    #[error("the envelope cannot be read: {0}")]
    Envelope(JsonError),
    /// Another payload.
    #[error("the type of the payload is `{0}`, expected `{PAYLOAD_TYPE}`")]
    PayloadType(String),
    /// Several signatures, or none.
    #[error("the envelope has {0} signatures, expected 1")]
    Signatures(usize),
    /// A field is not Base64.
    #[error("the field `{0}` is not valid Base64 with padding")]
    Base64(&'static str),
    /// A signature of another length.
    #[error("the signature has {0} bytes, expected 64")]
    SignatureLength(usize),
    /// The key is not on the list.
    #[error("the key {0} is not in the list of allowed keys")]
    NotAllowed(String),
    /// There is no list, and the statement names no key.
    #[error("no list of allowed keys is given, and the statement has no Ed25519 public key")]
    NoKey,
    /// The key is another one than the envelope says.
    #[error("the envelope is signed by key {keyid}, the statement names {named}")]
    OtherKey {
        /// The envelope's.
        keyid: String,
        /// The statement's.
        named: KeyId,
    },
    /// It was altered, or signed by another key.
    #[error("the signature does not match: the statement was altered, or another key signed it")]
    Signature,
    /// The statement is not accepted.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The quote is not accepted.
    #[error(transparent)]
    Quote(#[from] QuoteError),
}

/// The bytes that are signed: DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Signs a payload and puts it into an envelope, one line of JSON.
///
/// # Errors
/// The result is no JSON; no payload causes this.
pub fn seal(payload: &str, key: &PublicKey, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Result<String, JsonError> {
    seal_quoted(payload, key, sign, None)
}

/// The same, with the quote that the payload names.
///
/// # Errors
/// As for [`seal`].
pub fn seal_quoted(
    payload: &str,
    key: &PublicKey,
    sign: impl FnOnce(&[u8]) -> [u8; 64],
    tpm_quote: Option<TpmQuote>,
) -> Result<String, JsonError> {
    let sig = sign(&pae(PAYLOAD_TYPE, payload.as_bytes()));
    let envelope = Envelope {
        payload_type: PAYLOAD_TYPE.to_owned(),
        payload: STANDARD.encode(payload),
        signatures: vec![Signature { keyid: key.id().0, sig: STANDARD.encode(sig) }],
        tpm_quote,
    };
    let mut text = serde_json::to_string(&envelope).map_err(|error| JsonError::Form(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// Verifies an envelope and reads its statement.
///
/// # Errors
/// [`VerifyError`]; nothing of the statement is then to be believed.
pub fn verify(bytes: &[u8], allowed: Option<&AllowedKeys>) -> Result<Verified, VerifyError> {
    let json = Json::parse(bytes, MAX_ENVELOPE).map_err(VerifyError::Envelope)?;
    let envelope: Envelope = json.into_type().map_err(VerifyError::Envelope)?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(VerifyError::PayloadType(envelope.payload_type));
    }
    let [Signature { keyid, sig }] = envelope.signatures.as_slice() else {
        return Err(VerifyError::Signatures(envelope.signatures.len()));
    };
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| VerifyError::Base64("payload"))?;
    let sig = STANDARD.decode(sig).map_err(|_| VerifyError::Base64("sig"))?;
    let signature = <[u8; 64]>::try_from(sig.as_slice()).map_err(|_| VerifyError::SignatureLength(sig.len()))?;
    let (key, comment) = match allowed {
        Some(list) => {
            let found = list.get(&KeyId(keyid.clone()));
            let (key, comment) = found.ok_or_else(|| VerifyError::NotAllowed(keyid.clone()))?;
            (*key, Some(comment.to_owned()))
        }
        None => (named_key(&payload, keyid)?, None),
    };
    if !key.verifies(&pae(PAYLOAD_TYPE, &payload), &signature) {
        return Err(VerifyError::Signature);
    }
    let statement = Statement::parse(&payload, MAX_ENVELOPE)?;
    let named = PublicKey::from_base64(&statement.predicate.signer.public_key).ok_or(VerifyError::NoKey)?;
    if named != key {
        return Err(VerifyError::OtherKey { keyid: keyid.clone(), named: named.id() });
    }
    let quote = tpm::verify(envelope.tpm_quote.as_ref(), &statement.predicate, &payload, allowed)?;
    Ok(Verified { statement, key, allowed: comment, quote })
}

/// The key that a payload, which nobody has verified yet, names itself.
fn named_key(payload: &[u8], keyid: &str) -> Result<PublicKey, VerifyError> {
    let json = Json::parse(payload, MAX_ENVELOPE).map_err(StatementError::Json)?;
    let signer = json.get("predicate").and_then(|predicate| predicate.get("signer"));
    let text = signer.and_then(|signer| signer.get("publicKey")).and_then(Json::text);
    let key = text.and_then(PublicKey::from_base64).ok_or(VerifyError::NoKey)?;
    if key.id().0 == keyid { Ok(key) } else { Err(VerifyError::OtherKey { keyid: keyid.to_owned(), named: key.id() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        statement::Scope,
        testing::{SEED, fact, public, sealed, statement},
    };

    fn envelope() -> Vec<u8> {
        sealed(&statement(Scope::Node, vec![fact("node/cpu/model", "A")])).into_bytes()
    }

    fn list() -> AllowedKeys {
        AllowedKeys::parse(&format!("{} {} node 1\n", public(SEED).id(), public(SEED).base64())).unwrap()
    }

    fn why(bytes: &[u8], keys: Option<&AllowedKeys>) -> String {
        verify(bytes, keys).unwrap_err().to_string()
    }

    /// The example of the DSSE specification.
    #[test]
    fn the_encoding_that_is_signed_is_that_of_dsse() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pae("é", b""), "DSSEv1 2 é 0 ".as_bytes());
    }

    #[test]
    fn a_good_envelope_is_verified_and_says_whether_its_key_was_checked() {
        let (bytes, list) = (envelope(), list());
        assert_eq!(verify(&bytes, Some(&list)).unwrap().allowed, Some("node 1".to_owned()));
        let unchecked = verify(&bytes, None).unwrap();
        assert_eq!((unchecked.allowed, unchecked.key), (None, public(SEED)));
    }

    #[test]
    fn every_altered_byte_is_detected() {
        let (bytes, list) = (envelope(), list());
        for keys in [None, Some(&list)] {
            for at in 0..bytes.len() {
                for flip in [0x01, 0x20, 0x80] {
                    let mut altered = bytes.clone();
                    altered[at] ^= flip;
                    assert!(verify(&altered, keys).is_err(), "byte {at} of {}, flipped by {flip:#x}", bytes.len());
                }
            }
            for cut in 0..bytes.len() - 1 {
                assert!(verify(&bytes[..cut], keys).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_message() {
        let good = String::from_utf8(envelope()).unwrap();
        let list = list();
        let other = AllowedKeys::parse(&format!("{} {} x\n", public(9).id(), public(9).base64())).unwrap();
        assert!(why(good.as_bytes(), Some(&other)).contains("is not in the list of allowed keys"));
        for (from, to, expected) in [
            ("application/vnd.in-toto+json", "application/json", "the type of the payload is `application/json`"),
            ("{\"payloadType\"", "{\"payload\":\"\",\"payloadType\"", "duplicate key: `payload`"),
            ("\"signatures\"", "\"signature\"", "expected form"),
            ("}]}\n", "}]}\nx", "bytes behind the end"),
            ("}]}", "},{\"keyid\":\"\",\"sig\":\"\"}]}", "has 2 signatures, expected 1"),
            ("\"sig\":\"", "\"sig\":\"!", "`sig` is not valid Base64"),
            ("\"sig\":\"", "\"sig\":\"AAAA", "the signature has 67 bytes"),
            ("\"payload\":\"", "\"payload\":\"=", "`payload` is not valid Base64"),
            ("\"keyid\":\"", "\"keyid\":\"0", "is not in the list"),
        ] {
            let why = why(good.replacen(from, to, 1).as_bytes(), Some(&list));
            assert!(why.contains(expected), "{from}: {why}");
        }
        assert!(why(&vec![b' '; MAX_ENVELOPE + 1], None).contains("expected at most"));
        assert!(why(good.replacen("\"keyid\":\"", "\"keyid\":\"0", 1).as_bytes(), None).contains("is signed by key 0"));
    }

    #[test]
    fn a_signed_payload_that_is_no_statement_or_names_another_key_is_refused() {
        let seal_as = |payload: &str| {
            let key = ed25519_dalek::SigningKey::from_bytes(&[SEED; 32]);
            seal(payload, &public(SEED), |message| ed25519_dalek::Signer::sign(&key, message).to_bytes()).unwrap()
        };
        let list = list();
        assert!(why(seal_as("{}").as_bytes(), Some(&list)).contains("the statement type is ``"));
        assert!(why(seal_as("{}").as_bytes(), None).contains("has no Ed25519 public key"));
        assert!(why(seal_as("{\"a\":1,\"a\":2}").as_bytes(), Some(&list)).contains("duplicate key: `a`"));
        let mut named = statement(Scope::Node, vec![fact("node/cpu/model", "A")]);
        named.predicate.signer.public_key = public(9).base64();
        assert!(why(seal_as(&named.payload().unwrap()).as_bytes(), Some(&list)).contains("the statement names"));
    }
}
