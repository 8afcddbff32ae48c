//! Signed notes (c2sp.org/signed-note): text with one or more signatures, of which those by known keys are verified.
//!
//! Only Ed25519 (type 0x01) is implemented. A signature by another key or of another type is ignored, as the specification
//! demands; a note without any valid signature by a known key is refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// Most bytes of a note.
pub const MAX_BYTES: usize = 1 << 20;
/// Most signatures of a note.
pub const MAX_SIGNATURES: usize = 100;
/// Identifier of Ed25519 signatures.
pub(crate) const ED25519: u8 = 0x01;

/// Signs notes with one key. Where the key lies is its owner's matter.
pub trait Signer: Send {
    /// The key's public half, with its name.
    fn key(&self) -> &VerifierKey;

    /// The Ed25519 signature over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// A public key under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    /// Type of its signatures.
    kind: u8,
    public: VerifyingKey,
}

/// Keys that a verifier knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    named: Vec<VerifierKey>,
    /// Those of which signatures under any name are taken.
    any_name: Vec<[u8; 32]>,
}

/// A note of which the signatures are not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    pub(crate) bytes: Vec<u8>,
}

/// Text that is no signed note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    /// Too long.
    #[error("the note has {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the note is not UTF-8 text, from byte {0} on")]
    Utf8(usize),
    /// A character that must not be in it.
    #[error("the note has a control character at byte {0}")]
    Control(usize),
    /// No empty line before the signatures, or nothing behind it.
    #[error("the note has no signatures: an empty line and at least one signature line must end it")]
    Unsigned,
    /// It breaks off.
    #[error("the note does not end with a line break")]
    CutOff,
    /// Too many signatures.
    #[error("the note has {0} signatures; the limit is {MAX_SIGNATURES}")]
    TooMany(usize),
    /// Not a signature line.
    #[error("signature line {0} of the note is malformed: expected an em dash, a key name and base64")]
    Line(usize),
}

/// A note that is not by a known key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// The signature of a known key does not fit the text.
    #[error("the signature by key {0} is not valid: the text or the signature was changed")]
    Invalid(String),
    /// No signature is by a known key.
    #[error("no signature is by a known key; it is signed by {0}")]
    Unknown(String),
}

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not three parts.
    #[error("a key has the form NAME+ID+KEY")]
    Form,
    /// A name that cannot stand in a note.
    #[error("the name of a key must not be empty and must have no spaces, plus signs and control characters")]
    Name,
    /// Not eight hex digits.
    #[error("the id of a key has 8 lower-case hex digits")]
    Id,
    /// Not base64 of a type byte and 32 bytes.
    #[error("the last part of a key is the base64 text of 33 bytes: its type and an Ed25519 public key")]
    Material,
    /// A type that does not fit, or that this version does not know.
    #[error("the key has type {found:#04x}; expected {expected:#04x} ({})", kind_name(*.expected))]
    Type {
        /// In the text.
        found: u8,
        /// What a key must have here.
        expected: u8,
    },
    /// Not a point of the curve, or one that anybody can sign for.
    #[error("the key is not a usable Ed25519 public key")]
    Weak,
    /// The id is that of another name or key.
    #[error("the id of the key is {found}, but its name and key have id {expected}: one of them was changed")]
    Mismatch {
        /// In the text.
        found: String,
        /// Computed.
        expected: String,
    },
    /// In a file of keys.
    #[error("line {line}: {why}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: Box<BadKey>,
    },
}

impl VerifierKey {
    /// A key under `name`.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn new(name: &str, public: &[u8; 32]) -> Result<VerifierKey, BadKey> {
        VerifierKey::of_kind(name, ED25519, public)
    }

    pub(crate) fn of_kind(name: &str, kind: u8, public: &[u8; 32]) -> Result<VerifierKey, BadKey> {
        if !name_is_valid(name) {
            return Err(BadKey::Name);
        }
        let key = VerifyingKey::from_bytes(public).ok().filter(|key| !key.is_weak()).ok_or(BadKey::Weak)?;
        let digest = Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(public).finalize();
        let mut id = [0; 4];
        id.copy_from_slice(&digest[..4]);
        Ok(VerifierKey { name: name.to_owned(), id, kind, public: key })
    }

    /// Reads `NAME+ID+KEY`.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(text: &str) -> Result<VerifierKey, BadKey> {
        VerifierKey::parse_kind(text, ED25519)
    }

    pub(crate) fn parse_kind(text: &str, expected: u8) -> Result<VerifierKey, BadKey> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BadKey::Form);
        };
        if id.len() != 8 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(BadKey::Id);
        }
        let material = STANDARD.decode(material).map_err(|_| BadKey::Material)?;
        let (kind, public) = material.split_first().ok_or(BadKey::Material)?;
        if *kind != expected {
            return Err(BadKey::Type { found: *kind, expected });
        }
        let key = VerifierKey::of_kind(name, expected, public.try_into().map_err(|_| BadKey::Material)?)?;
        match hex::encode(key.id) {
            expected if expected == id => Ok(key),
            expected => Err(BadKey::Mismatch { found: id.to_owned(), expected }),
        }
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Whether the key signed this message.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.public.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    /// The 32 bytes of the Ed25519 public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }
}

/// `NAME+ID+KEY`.
impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let material = [&[self.kind][..], self.public.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(material))
    }
}

impl Keys {
    /// These keys.
    #[must_use]
    pub fn of(keys: Vec<VerifierKey>) -> Keys {
        Keys { named: keys, any_name: Vec::new() }
    }

    /// These too, under whatever name they sign: the caller trusts a key, and does not know how its log is called. Only
    /// [`Note::verify`] uses them: a policy and a witness decide by names.
    #[must_use]
    pub fn with_any_name(mut self, keys: impl IntoIterator<Item = [u8; 32]>) -> Keys {
        self.any_name.extend(keys);
        self
    }

    /// Those that may have made this signature.
    fn of_signature(&self, signature: &NoteSignature) -> impl Iterator<Item = VerifierKey> {
        let named = self.named.iter().filter(|key| key.name == signature.name && key.id == signature.id).cloned();
        let any = self.any_name.iter().filter_map(|key| VerifierKey::new(&signature.name, key).ok());
        named.chain(any.filter(|key| key.id == signature.id))
    }

    /// Reads a file of keys: one `NAME+ID+KEY` a line; empty lines and lines that begin with `#` are comments.
    ///
    /// # Errors
    /// [`BadKey::Line`].
    pub fn parse(text: &str) -> Result<Keys, BadKey> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|(at, line)| {
            VerifierKey::parse(line).map_err(|why| BadKey::Line { line: at + 1, why: Box::new(why) })
        });
        Ok(Keys::of(keys.collect::<Result<_, _>>()?))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.any_name.is_empty()
    }

    /// The keys that are known under one name.
    pub fn iter(&self) -> impl Iterator<Item = &VerifierKey> {
        self.named.iter()
    }
}

impl Note {
    /// Signs `text`, which must end with a line break.
    #[must_use]
    pub fn sign(text: String, signer: &dyn Signer) -> Note {
        let key = signer.key();
        let bytes = signer.sign(text.as_bytes()).to_vec();
        Note { text, signatures: vec![NoteSignature { name: key.name.clone(), id: key.id, bytes }] }
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`BadNote`].
    pub fn parse(bytes: &[u8]) -> Result<Note, BadNote> {
        if bytes.len() > MAX_BYTES {
            return Err(BadNote::TooLong(bytes.len()));
        }
        let note = std::str::from_utf8(bytes).map_err(|error| BadNote::Utf8(error.valid_up_to()))?;
        if let Some(at) = bytes.iter().position(|byte| *byte < 0x20 && *byte != b'\n') {
            return Err(BadNote::Control(at));
        }
        let Some(lines) = note.strip_suffix('\n') else { return Err(BadNote::CutOff) };
        let (text, lines) = lines.rsplit_once("\n\n").ok_or(BadNote::Unsigned)?;
        let lines: Vec<&str> = lines.split('\n').collect();
        if lines == [""] {
            return Err(BadNote::Unsigned);
        }
        if lines.len() > MAX_SIGNATURES {
            return Err(BadNote::TooMany(lines.len()));
        }
        let signatures = lines.iter().enumerate().map(|(at, line)| signature(line).ok_or(BadNote::Line(at + 1)));
        Ok(Note { text: format!("{text}\n"), signatures: signatures.collect::<Result<_, _>>()? })
    }

    /// Removes the signatures that are by none of these keys.
    pub(crate) fn retain(&mut self, keys: &Keys) {
        self.signatures.retain(|signature| keys.iter().any(|key| key.name == signature.name && key.id == signature.id));
    }

    /// Adds a signature line.
    pub(crate) fn add(&mut self, signature: NoteSignature) {
        self.signatures.push(signature);
    }

    /// The bytes of the note.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut note = format!("{}\n", self.text);
        self.signatures.iter().for_each(|signature| note.push_str(&signature.line()));
        note.into_bytes()
    }

    /// The text, which proves nothing before [`verify`](Self::verify).
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Verifies the signatures by `keys`. Returns the key of the first, under the name that it signed with.
    ///
    /// # Errors
    /// [`NotVerified`]: there is none, or one of them is not valid.
    pub fn verify(&self, keys: &Keys) -> Result<VerifierKey, NotVerified> {
        let mut by = None;
        for signature in &self.signatures {
            for key in keys.of_signature(signature) {
                let invalid = || NotVerified::Invalid(key.name.clone());
                let bytes: &[u8; 64] = signature.bytes.as_slice().try_into().map_err(|_| invalid())?;
                if !key.signed(self.text.as_bytes(), bytes) {
                    return Err(invalid());
                }
                by.get_or_insert(key);
            }
        }
        by.ok_or_else(|| {
            let names = self
                .signatures
                .iter()
                .map(|signature| format!("{} (id {})", signature.name, hex::encode(signature.id)));
            NotVerified::Unknown(names.collect::<Vec<_>>().join(", "))
        })
    }
}

impl NoteSignature {
    /// Its line in a note, with the line break.
    #[must_use]
    pub fn line(&self) -> String {
        let NoteSignature { name, id, bytes } = self;
        format!("\u{2014} {name} {}\n", STANDARD.encode([&id[..], bytes].concat()))
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        ED25519 => "Ed25519",
        _ => "Ed25519 cosignatures",
    }
}

fn signature(line: &str) -> Option<NoteSignature> {
    let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, bytes) = bytes.split_first_chunk::<4>()?;
    (name_is_valid(name) && !bytes.is_empty()).then(|| NoteSignature {
        name: name.to_owned(),
        id: *id,
        bytes: bytes.to_vec(),
    })
}

fn name_is_valid(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c == '+' || c.is_control())
}
