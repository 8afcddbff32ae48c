//! A TPM's quote beside an envelope: what a statement says of the node's TPM, the key of the TPM, and how a quote is verified.
//!
//! ```text
//! payload ─► PAE ─► SHA-256 ─┐
//! nonce ─────────────────────┴─► qualifying data ─► TPM2_Quote over PCRs ─► `tpmQuote` in the envelope
//! ```
//!
//! The payload names the key that quotes, or why nobody does. So a quote that was removed is noticed. A quote proves the values
//! of its PCRs at the time of the statement, and nothing else: only factors `node/tpm/pcr/sha256/N` may be `tpm-quoted`, and each
//! is compared with the quote.

use crate::{
    envelope::{PAYLOAD_TYPE, pae},
    factor::{Assurance, Fact, Factor, Status},
    json::Json,
    key::{AllowedKeys, KeyId},
    statement::Predicate,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use failsafe_tpm::{Pcrs, Public, Quoted, quoted::PCRS, signature, wire::WireError};
pub use failsafe_tpm::{activation::MAX_CREDENTIAL, endorsement::MAX_CERTIFICATE};
use p256::{
    EncodedPoint,
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a TPM's key is.
pub const TPM_KEY: &str = "TPM key";
/// How a TPM's key begins in a list of allowed keys.
pub const TPM_PREFIX: &str = "tpm:";
/// How the certificate of an endorsement key begins in a list of allowed keys.
pub const EK_PREFIX: &str = "ek:";
/// The word before the comment of such a line, where a credential for this endorsement key was activated with the key of the quotes.
pub const ACTIVATED: &str = "activated";
/// The factor that says whether there is a TPM.
pub const TPM_FACTOR: &str = "node/tpm";
/// The factors that a quote covers begin like this; the number of the PCR follows.
pub const PCR_FACTOR: &str = "node/tpm/pcr/sha256/";
/// PCRs that software can reset at any time.
const RESETTABLE: [u8; 2] = [16, 23];
/// With what the hashed bytes begin.
const DOMAIN: &[u8] = b"failsafe-tpm-quote-v1\0";

/// Whether a TPM quoted the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmStatus {
    /// A quote stands beside the envelope.
    Quoted,
    /// The node has no TPM.
    Absent,
    /// The configuration does not use it.
    Disabled,
    /// It gave no quote.
    Failed,
}

/// What a statement says of the node's TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmOf {
    /// Whether there is a quote.
    pub status: TpmStatus,
    /// The key that quotes; empty: none does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyid: String,
    /// Why none does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl TpmOf {
    /// A quote by this key stands beside the envelope.
    pub fn quoted(key: &TpmKey) -> TpmOf {
        TpmOf { status: TpmStatus::Quoted, keyid: key.id().0, reason: String::new() }
    }

    /// Nobody quotes.
    pub fn none(status: TpmStatus, reason: &str) -> TpmOf {
        TpmOf { status, keyid: String::new(), reason: reason.to_owned() }
    }

    fn is_quoted(&self) -> bool {
        self.status == TpmStatus::Quoted
    }
}

/// A quote as it stands beside an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TpmQuote {
    /// The key's public area (`TPMT_PUBLIC`), Base64.
    pub public_area: String,
    /// What the TPM signed (`TPMS_ATTEST`), Base64.
    pub attest: String,
    /// The signature (`TPMT_SIGNATURE`), Base64.
    pub signature: String,
    /// The values of the PCRs, ascending.
    pub pcrs: Vec<PcrValue>,
}

/// The value of a PCR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrValue {
    /// Its number.
    pub pcr: u8,
    /// Its value in the SHA-256 bank, hex.
    pub sha256: String,
}

impl TpmQuote {
    /// With what a TPM gave.
    pub fn of(key: &TpmKey, pcrs: &Pcrs, quote: &failsafe_tpm::Quote) -> TpmQuote {
        TpmQuote {
            public_area: STANDARD.encode(key.public.area()),
            attest: STANDARD.encode(&quote.attest),
            signature: STANDARD.encode(&quote.signature),
            pcrs: pcrs.0.iter().map(|(pcr, value)| PcrValue { pcr: *pcr, sha256: hex::encode(value) }).collect(),
        }
    }
}

/// A quote that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote {
    /// By which key.
    pub key: KeyId,
    /// The comment of the key in the list of allowed keys; `None`: it is not on the list, or there is none. Then anybody may have
    /// made the quote: a program can do what a TPM does.
    pub allowed: Option<String>,
    /// The values of the PCRs.
    pub pcrs: Pcrs,
    /// What the TPM signed.
    pub quoted: Quoted,
}

/// Why a quote is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// It was removed.
    #[error("the statement names a TPM quote by key {0}, and there is none: it was removed")]
    Missing(String),
    /// The statement does not know of it.
    #[error("there is a TPM quote, and the statement names none: it was added")]
    Unexpected,
    /// Not Base64 or hex.
    #[error("the field `{0}` of the TPM quote is not valid")]
    Text(&'static str),
    /// The key.
    #[error("the key of the TPM quote is no restricted P-256 signing key: {0}")]
    Key(WireError),
    /// The key's point.
    #[error("the key of the TPM quote is no point of the curve P-256")]
    Point,
    /// The key is another one than the statement says.
    #[error("the TPM quote is by key {found}, the statement names {named}")]
    OtherKey {
        /// The quote's.
        found: KeyId,
        /// The statement's.
        named: String,
    },
    /// What was signed.
    #[error("what the TPM signed is no quote: {0}")]
    Attest(WireError),
    /// The form of the signature.
    #[error("the signature of the TPM quote has another form: {0}")]
    SignatureForm(WireError),
    /// The signature.
    #[error("the signature of the TPM quote does not match: the quote was altered, or another key signed it")]
    Signature,
    /// It is about something else.
    #[error("the TPM quote is about another statement or another nonce")]
    Binding,
    /// The key's place in the TPM.
    #[error("the TPM quote names another key as its signer, or one outside the endorsement hierarchy")]
    Signer,
    /// The values.
    #[error("the values of the PCRs are not those that the TPM quoted")]
    Values,
    /// A factor.
    #[error("the factor `{0}` is not what the TPM quoted")]
    Factor(String),
}

/// A TPM's attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmKey {
    public: Public,
    verifying: VerifyingKey,
}

impl TpmKey {
    /// From its public area.
    ///
    /// # Errors
    /// It is no restricted P-256 signing key.
    pub fn parse(area: &[u8]) -> Result<TpmKey, QuoteError> {
        TpmKey::of(Public::parse(area).map_err(QuoteError::Key)?)
    }

    /// The same from a public area that was read.
    ///
    /// # Errors
    /// Its point is not on the curve.
    pub fn of(public: Public) -> Result<TpmKey, QuoteError> {
        let point = EncodedPoint::from_untagged_bytes(public.point().into());
        let verifying = VerifyingKey::from_encoded_point(&point).map_err(|_| QuoteError::Point)?;
        Ok(TpmKey { public, verifying })
    }

    /// From Base64, as in a list of allowed keys.
    ///
    /// # Errors
    /// As for [`TpmKey::parse`].
    pub fn from_base64(text: &str) -> Result<TpmKey, QuoteError> {
        TpmKey::parse(&STANDARD.decode(text).map_err(|_| QuoteError::Text("publicArea"))?)
    }

    /// Its public area.
    pub fn area(&self) -> &[u8] {
        self.public.area()
    }

    /// As Base64.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.public.area())
    }

    /// Its id: the SHA-256 of its public area.
    pub fn id(&self) -> KeyId {
        KeyId(hex::encode(self.public.digest()))
    }
}

/// What a TPM signs along with its PCRs, so that the quote belongs to one payload and one nonce.
pub fn qualifying(nonce: &[u8], payload: &[u8]) -> [u8; 32] {
    // The nonce has at most 64 bytes.
    let length = u8::try_from(nonce.len()).unwrap_or(u8::MAX);
    let hash = Sha256::new().chain_update(DOMAIN).chain_update([length]).chain_update(nonce);
    hash.chain_update(Sha256::digest(pae(PAYLOAD_TYPE, payload))).finalize().into()
}

/// The facts of PCRs. `quoted`: a quote covers them.
pub fn pcr_facts(pcrs: &Pcrs, quoted: bool) -> impl Iterator<Item = Fact> + '_ {
    let assurance = if quoted { Assurance::TpmQuoted } else { Assurance::OsMeasured };
    pcrs.0.iter().map(move |(pcr, value)| Fact {
        path: format!("{PCR_FACTOR}{pcr}"),
        value: Ok(Json::from(hex::encode(value).as_str())),
        source: "TPM".to_owned(),
        assurance,
    })
}

/// What is wrong with what a statement says of a TPM.
pub(crate) fn wrong(predicate: &Predicate) -> Option<String> {
    let quoted = predicate.tpm.as_ref().is_some_and(TpmOf::is_quoted);
    if let Some(tpm) = &predicate.tpm
        && (tpm.keyid.is_empty() == quoted || tpm.reason.is_empty() != quoted)
    {
        return Some("it names a key of a TPM and no quote, or no reason why there is none".to_owned());
    }
    let says_so = |factor: &&Factor| factor.assurance == Assurance::TpmQuoted;
    let not = |factor: &Factor| !quoted || factor.status != Status::Ok || !factor.path.starts_with(PCR_FACTOR);
    let wrong = predicate.factors.iter().filter(says_so).find(|factor| not(factor));
    wrong.map(|factor| format!("`{}` is no value that a TPM quoted", factor.path))
}

/// Verifies the quote beside a statement, which was verified already. `None`: the statement names none, and there is none.
///
/// # Errors
/// [`QuoteError`].
pub fn verify(
    quote: Option<&TpmQuote>,
    predicate: &Predicate,
    payload: &[u8],
    allowed: Option<&AllowedKeys>,
) -> Result<Option<VerifiedQuote>, QuoteError> {
    let named = predicate.tpm.as_ref().filter(|tpm| tpm.is_quoted());
    let (named, quote) = match (named, quote) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(QuoteError::Unexpected),
        (Some(named), None) => return Err(QuoteError::Missing(named.keyid.clone())),
        (Some(named), Some(quote)) => (named, quote),
    };
    let base64 = |name, text: &str| STANDARD.decode(text).map_err(|_| QuoteError::Text(name));
    let key = TpmKey::parse(&base64("publicArea", &quote.public_area)?)?;
    if key.id().0 != named.keyid {
        return Err(QuoteError::OtherKey { found: key.id(), named: named.keyid.clone() });
    }
    let attest = base64("attest", &quote.attest)?;
    let quoted = Quoted::parse(&attest).map_err(QuoteError::Attest)?;
    let numbers = signature(&base64("signature", &quote.signature)?).map_err(QuoteError::SignatureForm)?;
    let signature = Signature::from_slice(&numbers).map_err(|_| QuoteError::Signature)?;
    key.verifying.verify(&attest, &signature).map_err(|_| QuoteError::Signature)?;
    // The statement's own nonce: that it is the one the verifier chose is for the verifier to compare.
    let nonce = hex::decode(&predicate.nonce).map_err(|_| QuoteError::Binding)?;
    if quoted.qualifying != qualifying(&nonce, payload) {
        return Err(QuoteError::Binding);
    }
    if quoted.signer != key.public.qualified_name() {
        return Err(QuoteError::Signer);
    }
    let pcrs = values(&quote.pcrs)?;
    // Nothing is proved by no PCR, nor by those that software can reset.
    if quoted.pcrs.is_empty() || quoted.pcrs.iter().any(|pcr| RESETTABLE.contains(pcr)) {
        return Err(QuoteError::Values);
    }
    if !pcrs.0.keys().eq(&quoted.pcrs) || pcrs.digest() != quoted.digest {
        return Err(QuoteError::Values);
    }
    compare(predicate, &pcrs)?;
    let allowed = allowed.and_then(|list| list.tpm(&key.id())).map(str::to_owned);
    Ok(Some(VerifiedQuote { key: key.id(), allowed, pcrs, quoted }))
}

/// The value of a PCR, from the only text for it: 64 lowercase hexadecimal digits.
pub(crate) fn pcr_value(text: &str) -> Option<[u8; 32]> {
    let mut value = [0; 32];
    hex::decode_to_slice(text, &mut value).ok()?;
    (hex::encode(value) == text).then_some(value)
}

fn values(listed: &[PcrValue]) -> Result<Pcrs, QuoteError> {
    let ascending = listed.windows(2).all(|pair| pair[0].pcr < pair[1].pcr);
    let value = |one: &PcrValue| {
        let value = pcr_value(&one.sha256).filter(|_| one.pcr < PCRS);
        value.map(|value| (one.pcr, value))
    };
    let read: Option<_> = listed.iter().map(value).collect();
    read.filter(|_| ascending).map(Pcrs).ok_or(QuoteError::Text("pcrs"))
}

/// The statement has exactly the quoted values, each marked as quoted.
fn compare(predicate: &Predicate, pcrs: &Pcrs) -> Result<(), QuoteError> {
    let stated = predicate.factors.iter().filter(|factor| factor.path.starts_with(PCR_FACTOR));
    let mut left = pcrs.0.clone();
    for factor in stated {
        let number = factor.path.strip_prefix(PCR_FACTOR).and_then(|number| number.parse::<u8>().ok());
        let value = number.and_then(|number| left.remove(&number)).map(hex::encode);
        let same = value.is_some_and(|value| factor.value == Json::from(value.as_str()));
        let same = same && number.is_some_and(|number| factor.path == format!("{PCR_FACTOR}{number}"));
        if !same || factor.assurance != Assurance::TpmQuoted {
            return Err(QuoteError::Factor(factor.path.clone()));
        }
    }
    left.keys().next().map_or(Ok(()), |pcr| Err(QuoteError::Factor(format!("{PCR_FACTOR}{pcr}"))))
}

#[cfg(test)]
mod tests;
