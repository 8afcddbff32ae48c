//! Public keys of nodes, their ids, and the file of keys that a verifier accepts.
//!
//! Invariant: the id of a key is the SHA-256 of the key, so an id names one key only. Each line of an allowed-keys file is
//! checked for that.

use crate::tpm::{ACTIVATED, EK_PREFIX, MAX_CERTIFICATE, TPM_PREFIX, TpmKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// What the daemon's key is: a key in a file, which root can copy. No hardware protects it.
pub const SOFTWARE_KEY: &str = "software key";
/// Largest allowed-keys file, bytes.
pub const MAX_KEYS_FILE: usize = 1 << 20;

/// The id of a key: the SHA-256 of its 32 bytes, in 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From its 32 bytes; `None`: they are no point of the curve.
    pub fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        VerifyingKey::from_bytes(bytes.try_into().ok()?).ok().map(PublicKey)
    }

    /// From Base64, with padding.
    pub fn from_base64(text: &str) -> Option<PublicKey> {
        PublicKey::from_bytes(&STANDARD.decode(text).ok()?)
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// As Base64, with padding.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.bytes())
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        KeyId(hex::encode(Sha256::digest(self.bytes())))
    }

    /// Whether `signature` is this key's, over exactly these bytes. Malleable signatures and weak keys are refused.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> PublicKey {
        PublicKey(key)
    }
}

/// What is wrong with an allowed-keys file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysFileError {
    /// Too large.
    #[error("the file has {0} bytes, expected at most {MAX_KEYS_FILE}")]
    TooLarge(usize),
    /// A line.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// No key at all.
    #[error("the file has no key: expected lines `KEYID BASE64 COMMENT`")]
    Empty,
}

/// The keys that a verifier accepts, each with its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedKeys {
    keys: BTreeMap<KeyId, (PublicKey, String)>,
    /// Keys of TPMs, by their comments.
    tpm: BTreeMap<KeyId, String>,
    /// Certificates of the endorsement keys of these TPMs, DER, not verified.
    endorsements: BTreeMap<KeyId, Vec<ListedCertificate>>,
}

/// A certificate of an endorsement key, as the list has it. It is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCertificate {
    /// DER.
    pub der: Vec<u8>,
    /// The line says that a credential for this endorsement key was activated with the key of the quotes: whoever wrote the line
    /// vouches for that.
    pub activated: bool,
}

impl AllowedKeys {
    /// Reads lines `KEYID BASE64 COMMENT`; `KEYID tpm:BASE64 COMMENT` for keys of TPMs, and `KEYID ek:BASE64 COMMENT` for the
    /// certificates of the endorsement keys of their TPMs, with the word `activated` before the comment where that was found out.
    /// Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that is no such line.
    pub fn parse(text: &str) -> Result<AllowedKeys, KeysFileError> {
        if text.len() > MAX_KEYS_FILE {
            return Err(KeysFileError::TooLarge(text.len()));
        }
        let (mut keys, mut tpm) = (BTreeMap::new(), BTreeMap::new());
        let mut endorsements: BTreeMap<KeyId, (usize, Vec<ListedCertificate>)> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| KeysFileError::Line { line: number + 1, why };
            let Line { id, key, comment } = Line::parse(line).map_err(wrong)?;
            let twice = match key {
                Key::Software(key) => keys.insert(id.clone(), (key, comment)).is_some(),
                Key::Tpm => tpm.insert(id.clone(), comment).is_some(),
                Key::Endorsement(certificate) => {
                    let listed = &mut endorsements.entry(id.clone()).or_insert((number + 1, Vec::new())).1;
                    match listed.iter_mut().find(|one| one.der == certificate.der) {
                        Some(same) => same.activated |= certificate.activated,
                        None => listed.push(certificate),
                    }
                    false
                }
            };
            if twice {
                return Err(wrong(format!("the key {id} is listed twice")));
            }
        }
        if let Some((id, (line, _))) = endorsements.iter().find(|(id, _)| !tpm.contains_key(id)) {
            let (line, why) = (*line, format!("there is no line `{id} {TPM_PREFIX}...` of the TPM key"));
            return Err(KeysFileError::Line { line, why });
        }
        let endorsements = endorsements.into_iter().map(|(id, (_, certificates))| (id, certificates)).collect();
        match keys.is_empty() && tpm.is_empty() {
            true => Err(KeysFileError::Empty),
            false => Ok(AllowedKeys { keys, tpm, endorsements }),
        }
    }

    /// The certificates of the endorsement keys of the TPM that has this key, by the list. They are not verified.
    pub fn endorsements(&self, id: &KeyId) -> &[ListedCertificate] {
        self.endorsements.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The key of an id, and its comment.
    pub fn get(&self, id: &KeyId) -> Option<(&PublicKey, &str)> {
        self.keys.get(id).map(|(key, comment)| (key, comment.as_str()))
    }

    /// The comment of the TPM key of an id, if it is on the list.
    pub fn tpm(&self, id: &KeyId) -> Option<&str> {
        self.tpm.get(id).map(String::as_str)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len() + self.tpm.len()
    }

    /// Never true of a file that was read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// A line of the file.
struct Line {
    id: KeyId,
    key: Key,
    comment: String,
}

enum Key {
    Software(PublicKey),
    Tpm,
    /// A certificate of the TPM of a key, not a key itself.
    Endorsement(ListedCertificate),
}

impl Line {
    fn parse(line: &str) -> Result<Line, String> {
        let mut words = line.splitn(3, char::is_whitespace);
        let (Some(named), Some(key)) = (words.next(), words.next()) else {
            return Err("expected `KEYID BASE64 COMMENT`".to_owned());
        };
        let comment = words.next().unwrap_or_default().trim().to_owned();
        if let Some(certificate) = key.strip_prefix(EK_PREFIX) {
            let decoded = STANDARD.decode(certificate).ok();
            let decoded = decoded.filter(|der| failsafe_tpm::endorsement::structure(der) == Ok(der.as_slice()));
            let der = decoded.filter(|der| der.len() <= MAX_CERTIFICATE).ok_or_else(|| {
                format!("what follows `{EK_PREFIX}` is no certificate (DER of at most {MAX_CERTIFICATE} bytes, Base64)")
            })?;
            let activated = comment.split_whitespace().next() == Some(ACTIVATED);
            let certificate = ListedCertificate { der, activated };
            return Ok(Line { id: KeyId(named.to_owned()), key: Key::Endorsement(certificate), comment });
        }
        let (id, key) = match key.strip_prefix(TPM_PREFIX) {
            Some(area) => (TpmKey::from_base64(area).map_err(|error| error.to_string())?.id(), Key::Tpm),
            None => {
                let key = PublicKey::from_base64(key)
                    .ok_or("the second word is no Ed25519 public key in Base64 (32 bytes)")?;
                (key.id(), Key::Software(key))
            }
        };
        if id.0 != named {
            return Err(format!("the key has the id {id}, not {named}"));
        }
        Ok(Line { id, key, comment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn public(seed: u8) -> PublicKey {
        PublicKey(SigningKey::from_bytes(&[seed; 32]).verifying_key())
    }

    #[test]
    fn an_allowed_keys_file_is_read_with_comments_and_blank_lines() {
        let (a, b) = (public(1), public(2));
        let text = format!("# nodes\n\n{} {} node 1, rack 7\n  {} {}\n", a.id(), a.base64(), b.id(), b.base64());
        let keys = AllowedKeys::parse(&text).unwrap();
        assert_eq!((keys.len(), keys.get(&a.id())), (2, Some((&a, "node 1, rack 7"))));
        assert_eq!(keys.get(&b.id()), Some((&b, "")));
        assert_eq!(keys.get(&public(3).id()), None);
    }

    #[test]
    fn certificates_of_endorsement_keys_belong_to_a_tpm_key_of_the_list() {
        // Any point: that it is on the curve is checked when the list is read.
        let secret = p256::ecdsa::SigningKey::from_slice(&[3; 32]).unwrap();
        let point = secret.verifying_key().to_encoded_point(false);
        let public = failsafe_tpm::Public::of_point(point.as_bytes()[1..].try_into().unwrap());
        let key = TpmKey::of(public).unwrap();
        let der = |byte| [&[0x30, 0x81, 200][..], &[byte; 200]].concat();
        let line = |byte| format!("{} ek:{} its TPM\n", key.id(), STANDARD.encode(der(byte)));
        let text = format!("{}{} tpm:{} node 1\n{}", line(1), key.id(), key.base64(), line(2));
        let keys = AllowedKeys::parse(&text).unwrap();
        let listed = |byte, activated| ListedCertificate { der: der(byte), activated };
        let expected = [listed(1, false), listed(2, false)];
        assert_eq!((keys.endorsements(&key.id()), keys.len()), (&expected[..], 1));
        // Only the word itself, only before the comment, and once for each certificate.
        for (comment, activated) in
            [("activated", true), ("activated its TPM", true), ("activated, x", false), ("not activated", false)]
        {
            let text = format!("{text}{}", line(2).replace("its TPM", comment));
            let keys = AllowedKeys::parse(&text).unwrap();
            assert_eq!(keys.endorsements(&key.id()), [listed(1, false), listed(2, activated)], "{comment}");
        }
        assert!(keys.endorsements(&public_id()).is_empty());
        let why = |text: &str| AllowedKeys::parse(text).unwrap_err().to_string();
        assert!(why(&line(1)).contains("line 1: there is no line"), "{}", why(&line(1)));
        let cut = text.replacen("ek:M", "ek:", 1);
        assert!(why(&cut).contains("line 1: what follows `ek:` is no certificate"), "{}", why(&cut));
    }

    fn public_id() -> KeyId {
        public(1).id()
    }

    #[test]
    fn each_wrong_line_is_named() {
        let (a, b) = (public(1), public(2));
        let good = format!("{} {} a\n", a.id(), a.base64());
        for (line, expected) in [
            (format!("{} {} x\n", b.id(), a.base64()), "line 2: the key has the id"),
            (good.clone(), "line 2: the key"),
            ("abc\n".to_owned(), "line 2: expected `KEYID BASE64 COMMENT`"),
            (format!("{} AAAA x\n", a.id()), "line 2: the second word is no Ed25519 public key"),
        ] {
            let why = AllowedKeys::parse(&format!("{good}{line}")).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
        assert_eq!(AllowedKeys::parse("# nothing\n"), Err(KeysFileError::Empty));
        assert!(AllowedKeys::parse(&"#\n".repeat(MAX_KEYS_FILE)).is_err());
    }
}
