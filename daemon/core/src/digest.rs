//! The digest by which a policy is identified.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// SHA-256 over `failsafe-policy-v2\n` and the policy as JSON with its fields in declared order, shown as `sha256:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyDigest(pub [u8; 32]);

impl PolicyDigest {
    /// Of the policy's canonical content: the JSON as it was written. A reader that has more fields than the writer compares this,
    /// and does not take the content that it would write for the one that was written.
    pub fn of_content(json: &[u8]) -> PolicyDigest {
        PolicyDigest(Sha256::new().chain_update(b"failsafe-policy-v2\n").chain_update(json).finalize().into())
    }

    /// The first 12 hex digits, for tables.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl FromStr for PolicyDigest {
    type Err = String;
    fn from_str(text: &str) -> Result<PolicyDigest, String> {
        let mut bytes = [0; 32];
        text.strip_prefix("sha256:")
            .filter(|digits| hex::decode_to_slice(digits, &mut bytes).is_ok())
            .map(|_| PolicyDigest(bytes))
            .ok_or_else(|| format!("`{text}` is not a policy digest such as sha256:<64 hex digits>"))
    }
}

impl Serialize for PolicyDigest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyDigest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<PolicyDigest, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
