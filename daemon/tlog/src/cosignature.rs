//! Cosignatures (c2sp.org/tlog-cosignature): with one, a witness states that a checkpoint was the largest consistent tree of its
//! log that the witness had seen at a time.
//!
//! Only Ed25519 (type 0x04) is implemented.

use crate::note::{BadKey, NotVerified, Note, NoteSignature, VerifierKey};

/// Identifier of Ed25519 cosignatures.
const COSIGNATURE: u8 = 0x04;
/// The time in front of a signature, seconds since the epoch.
const TIME_BYTES: usize = 8;
/// Latest time by the specification.
const MAX_TIME: u64 = i64::MAX as u64;

/// The public key of a witness, under its name. It is used for nothing but cosignatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey(VerifierKey);

/// Signs as a witness. Where the key lies is its owner's matter.
pub trait Cosigner {
    /// The key's public half, with its name.
    fn key(&self) -> &WitnessKey;

    /// The Ed25519 signature over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

impl WitnessKey {
    /// A key under `name`.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn new(name: &str, public: &[u8; 32]) -> Result<WitnessKey, BadKey> {
        Ok(WitnessKey(VerifierKey::of_kind(name, COSIGNATURE, public)?))
    }

    /// Reads `NAME+ID+KEY`.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(text: &str) -> Result<WitnessKey, BadKey> {
        Ok(WitnessKey(VerifierKey::parse_kind(text, COSIGNATURE)?))
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The 32 bytes of the Ed25519 public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.public()
    }

    /// The time of this witness's cosignature of `note`, seconds since the epoch; the latest, if there are several. `None`: there is
    /// none by this key.
    ///
    /// # Errors
    /// [`NotVerified::Invalid`]: one in its name is not valid.
    pub fn cosigned(&self, note: &Note) -> Result<Option<u64>, NotVerified> {
        let ours = |signature: &&NoteSignature| signature.name == self.0.name() && signature.id == self.0.id();
        let times =
            note.signatures().iter().filter(ours).map(|signature| {
                self.verify(note, signature).ok_or_else(|| NotVerified::Invalid(self.name().to_owned()))
            });
        Ok(times.collect::<Result<Vec<u64>, _>>()?.into_iter().max())
    }

    fn verify(&self, note: &Note, signature: &NoteSignature) -> Option<u64> {
        let (time, bytes) = signature.bytes.split_first_chunk::<TIME_BYTES>()?;
        let time = Some(u64::from_be_bytes(*time)).filter(|time| *time <= MAX_TIME)?;
        self.0.signed(message(time, note).as_bytes(), bytes.try_into().ok()?).then_some(time)
    }
}

/// `NAME+ID+KEY`.
impl std::fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The cosignature of `note` at `time`, seconds since the epoch. The caller has verified that the note is a checkpoint that extends
/// all that the witness cosigned before.
pub(crate) fn cosign(note: &Note, time: u64, cosigner: &dyn Cosigner) -> NoteSignature {
    let key = &cosigner.key().0;
    let signature = cosigner.sign(message(time, note).as_bytes());
    let bytes = [&time.to_be_bytes()[..], &signature].concat();
    NoteSignature { name: key.name().to_owned(), id: key.id(), bytes }
}

fn message(time: u64, note: &Note) -> String {
    format!("cosignature/v1\ntime {time}\n{}", note.text())
}
