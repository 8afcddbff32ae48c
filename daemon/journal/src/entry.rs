//! One entry of the audit log: what a caller gives ([`Draft`]), what the log makes of it once ([`Sealed`]) and what a
//! reader gets back ([`Entry`]).
//!
//! Invariant: `Entry::parse(bytes)` accepts exactly the texts that [`Prepared::seal`] can produce, so equal meaning is
//! equal bytes and the leaf hash identifies an entry.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::canonical;
use crate::clock::Stamp;
use crate::view::View;

/// Largest entry, in bytes. Below 2^24, so the top byte of every frame's length is zero; JSON text has no zero byte, hence
/// no text that a run can put into an entry looks like a frame.
pub const MAX_ENTRY_BYTES: usize = 8 << 20;

/// Longest `boot_id`, `kind`, `run` or `incident`, in bytes.
pub const MAX_FIELD_BYTES: usize = 256;

/// SHA-256 digest.
pub type Hash = [u8; 32];

/// Kinds that failsafe writes. The journal itself gives meaning only to [`GAP`](kind::GAP),
/// [`RECOVERED`](kind::RECOVERED), [`SEGMENT`](kind::SEGMENT) and [`HEARTBEAT`](kind::HEARTBEAT); others pass through, and a reader must expect kinds it does not know.
pub mod kind {
    /// A rule's judgement of a run.
    pub const DECISION: &str = "decision";
    /// What an action achieved.
    pub const OUTCOME: &str = "outcome";
    /// An operator's or scheduler's command.
    pub const CONTROL: &str = "control";
    /// A policy loaded, pinned or refused.
    pub const POLICY: &str = "policy";
    /// A run began or ended.
    pub const RUN: &str = "run";
    /// Sight or records were lost for a time.
    pub const GAP: &str = "gap";
    /// A torn tail was cut off when the log was opened.
    pub const RECOVERED: &str = "recovered";
    /// The daemon's own life.
    pub const DAEMON: &str = "daemon";
    /// A segment of the log was sealed or removed.
    pub const SEGMENT: &str = "segment";
    /// The log is being written, though there is nothing else to record.
    pub const HEARTBEAT: &str = "heartbeat";
    /// What the counter of the TPM has, or is about to have.
    pub const COUNTER: &str = "counter";
}

/// What a caller wants recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// One of [`kind`], or another word of `a-z`, `0-9`, `_`, `-`, `.`.
    pub kind: Cow<'static, str>,
    /// Id of the run concerned.
    pub run: Option<String>,
    /// Id of the incident concerned.
    pub incident: Option<String>,
    /// A JSON object. A float that is NaN or infinite has no JSON form: `serde_json` makes it null, so spell it out.
    pub body: Value,
    /// Wall clock of what is recorded, nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Monotonic clock of what is recorded, nanoseconds.
    pub mono_ns: u64,
    /// Boot that `mono_ns` belongs to.
    pub boot_id: String,
}

impl Draft {
    /// A draft about no run and no incident.
    #[must_use]
    pub fn new(kind: impl Into<Cow<'static, str>>, stamp: Stamp, body: Value) -> Self {
        let Stamp { wall_ns, mono_ns, boot_id } = stamp;
        Self { kind: kind.into(), run: None, incident: None, body, wall_ns, mono_ns, boot_id }
    }

    /// The same draft, about `run`.
    #[must_use]
    pub fn run(mut self, run: impl Into<String>) -> Self {
        self.run = Some(run.into());
        self
    }

    /// The same draft, about `incident`.
    #[must_use]
    pub fn incident(mut self, incident: impl Into<String>) -> Self {
        self.incident = Some(incident.into());
        self
    }

    /// Checks the draft and writes everything but its place in the log.
    ///
    /// # Errors
    /// [`DraftError`]: the draft can never be an entry.
    pub fn prepare(&self) -> Result<Prepared, DraftError> {
        if !is_word(&self.kind) {
            return Err(DraftError::Kind(self.kind.chars().take(64).collect()));
        }
        for (name, text) in
            [("boot_id", Some(&self.boot_id)), ("run", self.run.as_ref()), ("incident", self.incident.as_ref())]
        {
            if text.is_some_and(|text| text.len() > MAX_FIELD_BYTES) {
                return Err(DraftError::Field(name));
            }
        }
        if !self.body.is_object() {
            return Err(DraftError::Body);
        }
        let mut tail = String::with_capacity(256);
        let optional = |tail: &mut String, text: &Option<String>| match text {
            Some(text) => canonical::write_str(tail, text),
            None => tail.push_str("null"),
        };
        tail.push_str(&format!(",\"wall_ns\":{},\"mono_ns\":{},\"boot_id\":", self.wall_ns, self.mono_ns));
        canonical::write_str(&mut tail, &self.boot_id);
        tail.push_str(",\"kind\":");
        canonical::write_str(&mut tail, &self.kind);
        tail.push_str(",\"run\":");
        optional(&mut tail, &self.run);
        tail.push_str(",\"incident\":");
        optional(&mut tail, &self.incident);
        tail.push_str(",\"body\":");
        canonical::write(&mut tail, &self.body).map_err(|canonical::TooDeep| DraftError::TooDeep)?;
        tail.push('}');
        if tail.len() + LONGEST_HEAD > MAX_ENTRY_BYTES {
            return Err(DraftError::TooLarge(tail.len()));
        }
        let (kind, run, incident) = (self.kind.to_string(), self.run.clone(), self.incident.clone());
        Ok(Prepared { tail, about: Arc::new(About { wall_ns: self.wall_ns, kind, run, incident }) })
    }
}

/// `{"index":18446744073709551615,"prev":"` + 64 hex digits + `"`.
const LONGEST_HEAD: usize = 103;

/// A draft that will never be accepted, whatever the state of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The kind is not a plain word.
    #[error("kind `{0}` is not a word of a-z, 0-9, `_`, `-`, `.` of at most 64 characters")]
    Kind(String),
    /// A text field is longer than [`MAX_FIELD_BYTES`].
    #[error("field `{0}` is longer than {MAX_FIELD_BYTES} bytes")]
    Field(&'static str),
    /// The body is not an object.
    #[error("body is not a JSON object")]
    Body,
    /// The body is nested too deep.
    #[error("body is nested deeper than {} levels", canonical::MAX_DEPTH)]
    TooDeep,
    /// The entry would exceed [`MAX_ENTRY_BYTES`]; the given size is that of the draft.
    #[error("draft of {0} bytes exceeds the entry limit of {MAX_ENTRY_BYTES} bytes")]
    TooLarge(usize),
}

/// A checked draft: the canonical text of all fields after `prev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    tail: String,
    about: Arc<About>,
}

/// What an index holds of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Wall clock of what is recorded, nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// See [`kind`].
    pub kind: String,
    /// Id of the run concerned.
    pub run: Option<String>,
    /// Id of the incident concerned.
    pub incident: Option<String>,
}

impl Prepared {
    /// Upper bound of the entry's size, in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.tail.len() + LONGEST_HEAD
    }

    /// Gives the draft its place. This is the only producer of entry bytes.
    #[must_use]
    pub fn seal(&self, index: u64, prev: &Hash) -> Sealed {
        let text = format!("{{\"index\":{index},\"prev\":\"{}\"{}", hex::encode(prev), self.tail);
        let bytes: Arc<[u8]> = Arc::from(text.into_bytes());
        Sealed { index, leaf_hash: leaf_hash(&bytes), bytes, about: Arc::clone(&self.about) }
    }
}

/// An entry with its final bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Position in the log, from 0.
    pub index: u64,
    /// RFC 6962 leaf hash of `bytes`.
    pub leaf_hash: Hash,
    /// The canonical text.
    pub bytes: Arc<[u8]>,
    /// What an index holds of it.
    pub about: Arc<About>,
}

/// An entry as read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position in the log, from 0.
    pub index: u64,
    /// Leaf hash of the entry before; zeros for the first.
    pub prev: Hash,
    /// Wall clock of what is recorded, nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Monotonic clock of what is recorded, nanoseconds.
    pub mono_ns: u64,
    /// Boot that `mono_ns` belongs to.
    pub boot_id: String,
    /// See [`kind`].
    pub kind: String,
    /// Id of the run concerned.
    pub run: Option<String>,
    /// Id of the incident concerned.
    pub incident: Option<String>,
    /// The body, always an object.
    pub body: Value,
    /// RFC 6962 leaf hash of `bytes`.
    pub leaf_hash: Hash,
    /// The bytes as they lie in the log.
    pub bytes: Arc<[u8]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    index: u64,
    prev: String,
    wall_ns: u64,
    mono_ns: u64,
    boot_id: String,
    kind: String,
    run: Option<String>,
    incident: Option<String>,
    body: Map<String, Value>,
}

/// Bytes that are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not the fields of an entry.
    #[error("not an entry: {0}")]
    Json(String),
    /// `prev` is not 64 hex digits.
    #[error("prev is not a SHA-256 digest in hex")]
    Prev,
    /// A field holds what no draft may hold.
    #[error("not an entry: {0}")]
    Draft(DraftError),
    /// Right meaning, wrong bytes.
    #[error("not in canonical form, first difference at byte {0} of the entry")]
    NotCanonical(usize),
}

impl Entry {
    /// The entry of bytes that were checked before.
    pub(crate) fn of(view: &View<'_>) -> Result<Self, ParseError> {
        let View { index, prev, leaf_hash, bytes, .. } = *view;
        let Wire { wall_ns, mono_ns, boot_id, kind, run, incident, body, .. } =
            serde_json::from_slice(bytes).map_err(|e| ParseError::Json(e.to_string()))?;
        let (body, bytes) = (Value::Object(body), Arc::from(bytes));
        Ok(Self { index, prev, wall_ns, mono_ns, boot_id, kind, run, incident, body, leaf_hash, bytes })
    }

    /// Parses canonical bytes.
    ///
    /// # Errors
    /// [`ParseError`], also where the bytes mean an entry but are not its canonical text.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| ParseError::Json(e.to_string()))?;
        let mut prev = Hash::default();
        hex::decode_to_slice(&wire.prev, &mut prev).map_err(|_| ParseError::Prev)?;
        let draft = Draft {
            kind: Cow::Owned(wire.kind),
            run: wire.run,
            incident: wire.incident,
            body: Value::Object(wire.body),
            wall_ns: wire.wall_ns,
            mono_ns: wire.mono_ns,
            boot_id: wire.boot_id,
        };
        let sealed = draft.prepare().map_err(ParseError::Draft)?.seal(wire.index, &prev);
        if &*sealed.bytes != bytes {
            let same = sealed.bytes.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            return Err(ParseError::NotCanonical(same));
        }
        let Draft { kind, run, incident, body, wall_ns, mono_ns, boot_id } = draft;
        let Sealed { index, leaf_hash, bytes, .. } = sealed;
        Ok(Self {
            index,
            prev,
            wall_ns,
            mono_ns,
            boot_id,
            kind: kind.into_owned(),
            run,
            incident,
            body,
            leaf_hash,
            bytes,
        })
    }
}

/// `SHA-256(0x00 || bytes)`, RFC 6962 section 2.1.
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

pub(crate) fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn draft() -> Draft {
        let stamp = Stamp { wall_ns: 7, mono_ns: 5, boot_id: "b".into() };
        Draft::new(kind::DECISION, stamp, json!({"loss": 2.31, "at": u64::MAX})).run("r1")
    }

    /// The text and the hash are contracts; the hash was computed by Python's hashlib.
    #[test]
    fn golden_bytes() {
        let sealed = draft().prepare().unwrap().seal(3, &[0xab; 32]);
        let text = format!(
            r#"{{"index":3,"prev":"{}","wall_ns":7,"mono_ns":5,"boot_id":"b","kind":"decision","run":"r1","incident":null,"body":{{"at":18446744073709551615,"loss":2.31}}}}"#,
            "ab".repeat(32)
        );
        assert_eq!(std::str::from_utf8(&sealed.bytes).unwrap(), text);
        assert_eq!(hex::encode(sealed.leaf_hash), "3e2f31dbbe0916312b44fdc01e5deeaeaf9f15ed80cb4612593aa310ef32c23e");
        let entry = Entry::parse(&sealed.bytes).unwrap();
        assert_eq!((entry.index, entry.run.as_deref(), entry.leaf_hash), (3, Some("r1"), sealed.leaf_hash));
    }

    /// RFC 6962 / RFC 9162 test vector: the leaf hash of the empty string.
    #[test]
    fn leaf_hash_vector() {
        assert_eq!(hex::encode(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn other_texts_of_the_same_meaning_are_refused() {
        let sealed = draft().prepare().unwrap().seal(3, &[0xab; 32]);
        let text = String::from_utf8(sealed.bytes.to_vec()).unwrap();
        for (from, to) in [
            ("2.31", "2.310"),
            ("2.31", "231e-2"),
            ("\"at\"", "\"\\u0061t\""),
            ("\"index\":3", "\"index\": 3"),
            ("abab", "ABab"),
            ("\"run\":\"r1\",", "\"run\":\"r0\",\"run\":\"r1\","),
            ("\"incident\":null,", ""),
            ("}}", "},\"x\":1}"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert!(Entry::parse(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn bad_drafts() {
        let bad = |change: fn(&mut Draft)| {
            let mut draft = draft();
            change(&mut draft);
            draft.prepare().unwrap_err()
        };
        assert!(matches!(bad(|d| d.kind = "Two words".into()), DraftError::Kind(_)));
        assert!(matches!(bad(|d| d.kind = "".into()), DraftError::Kind(_)));
        assert!(matches!(bad(|d| d.body = json!([])), DraftError::Body));
        assert!(matches!(bad(|d| d.run = Some("x".repeat(257))), DraftError::Field("run")));
        assert!(matches!(bad(|d| d.body = json!({"x": "y".repeat(MAX_ENTRY_BYTES)})), DraftError::TooLarge(_)));
    }
}
