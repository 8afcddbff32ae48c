//! Checkpoints (c2sp.org/tlog-checkpoint): the size and root of a log's tree, as the text of a signed note.

use crate::hash::{self, Hash};
use crate::note::{BadNote, Keys, NotVerified, Note, Signer, VerifierKey};

/// What a log's tree was at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Identity of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
    /// Lines behind these, without meaning here.
    pub extensions: Vec<String>,
}

/// Text that is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// Not a signed note.
    #[error("the checkpoint is not a signed note: {0}")]
    Note(#[from] BadNote),
    /// Not by a known key.
    #[error("the checkpoint is not verified: {0}")]
    NotVerified(#[from] NotVerified),
    /// The first line.
    #[error("the first line of the checkpoint must be the log's origin; it is empty")]
    Origin,
    /// The second line.
    #[error("the second line of the checkpoint must be the size of the tree, a decimal number without leading zeros")]
    Size,
    /// The third line.
    #[error("the third line of the checkpoint must be the root hash, the base64 text of 32 bytes")]
    Root,
    /// An empty line.
    #[error("line {0} of the checkpoint is empty")]
    Empty(usize),
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let Checkpoint { origin, size, root, extensions } = self;
        let mut text = format!("{origin}\n{size}\n{}\n", hash::encode(root));
        for line in extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Signs the checkpoint.
    #[must_use]
    pub fn sign(&self, signer: &dyn Signer) -> Note {
        Note::sign(self.text(), signer)
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// [`BadCheckpoint`].
    pub fn parse(text: &str) -> Result<Checkpoint, BadCheckpoint> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or(BadCheckpoint::Origin)?;
        let size = lines.next().and_then(hash::decimal).ok_or(BadCheckpoint::Size)?;
        let root = lines.next().and_then(hash::decode).ok_or(BadCheckpoint::Root)?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if let Some(at) = extensions.iter().position(String::is_empty) {
            return Err(BadCheckpoint::Empty(at + 4));
        }
        Ok(Checkpoint { origin: origin.to_owned(), size, root, extensions })
    }

    /// Reads a signed checkpoint and verifies that it is by one of `keys`. Returns the key too.
    ///
    /// # Errors
    /// [`BadCheckpoint`].
    pub fn open(note: &[u8], keys: &Keys) -> Result<(Checkpoint, VerifierKey), BadCheckpoint> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let key = note.verify(keys)?;
        Ok((checkpoint, key))
    }

    /// Reads a signed checkpoint without verifying who signed it.
    ///
    /// # Errors
    /// [`BadCheckpoint`].
    pub fn unverified(note: &[u8]) -> Result<Checkpoint, BadCheckpoint> {
        Checkpoint::parse(Note::parse(note)?.text())
    }
}
