//! The folder of a witness:
//!
//! ```text
//!  DIR/witness.key             name and secret key, mode 0600
//!      ORIGIN-HASH.checkpoint  the checkpoint that was cosigned last of the log, with the cosignature
//!      lock                    held while a request is judged
//! ```
//!
//! Invariants: a cosignature is handed out only after its checkpoint is kept, durably; a file that is missing is a log that was
//! never cosigned, and one that is damaged, or not cosigned by this key, is an error.

use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use failsafe_journal::{
    StateLock,
    storage::{bounded, folder::replace_synced},
};
use failsafe_tlog::{Checkpoint, Cosigner, Note, WitnessKey, note::MAX_BYTES, witness::Cosigned};
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

const KEY: &str = "witness.key";
const HEAD: &str = "failsafe-witness-key 1";
/// Largest file with a key.
const MAX_KEY_BYTES: u64 = 4_096;
/// Of all files.
const MODE: u32 = 0o600;

/// The key of a witness.
pub(super) struct WitnessSigner {
    secret: SigningKey,
    public: WitnessKey,
}

impl WitnessSigner {
    /// The key in the folder.
    pub fn read(dir: &Path) -> Result<WitnessSigner, Fail> {
        let path = dir.join(KEY);
        let shown = clean(&path.display().to_string());
        let text = secret(&path).map_err(|error| {
            let fail = Fail::because(format!("cannot read the key of the witness {shown}"), &error);
            match error.kind() {
                io::ErrorKind::NotFound => {
                    fail.advise("make a witness with `failsafectl log witness key DIR --name NAME`")
                }
                _ => fail,
            }
        })?;
        parse(&text).map_err(|why| {
            Fail::new(Exit::Error, format!("the key of the witness {shown} is damaged: {why}")).advise(
                "restore the file from a backup; a new key is another witness, and what this one cosigned is not known to it",
            )
        })
    }

    /// The key in the folder, which is made with a new key if there is none.
    pub fn make(dir: &Path, name: &str) -> Result<WitnessSigner, Fail> {
        if name.contains("://") {
            let why = format!("--name {}: a name has no scheme", clean(name));
            return Err(
                Fail::new(Exit::Usage, why).advise("write a host that you own and a path: witness.example.org/w1")
            );
        }
        let shown = clean(&dir.display().to_string());
        let cannot = |error: &dyn std::error::Error| Fail::because(format!("cannot make the witness {shown}"), error);
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(&error)),
            _ => {}
        }
        let _lock = StateLock::acquire(dir).map_err(|error| cannot(&error))?;
        let path = dir.join(KEY);
        if path.symlink_metadata().is_ok() {
            let found = WitnessSigner::read(dir)?;
            return match found.public.name() == name {
                true => Ok(found),
                false => Err(Fail::new(
                    Exit::Error,
                    format!("the witness {shown} has the name {}, not {}", clean(found.public.name()), clean(name)),
                )
                .advise("a name belongs to one key: name another folder")),
            };
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| cannot(&io::Error::other(error)))?;
        let secret = SigningKey::from_bytes(&seed);
        let public = WitnessKey::new(name, secret.verifying_key().as_bytes())
            .map_err(|error| Fail::new(Exit::Usage, format!("--name {}: {error}", clean(name))))?;
        let text = format!("{HEAD}\n{name} {}\n", STANDARD.encode(seed));
        replace_synced(&path, text.as_bytes(), MODE).map_err(|error| cannot(&error))?;
        Ok(WitnessSigner { secret, public })
    }

    pub fn public(&self) -> &WitnessKey {
        &self.public
    }
}

impl Cosigner for WitnessSigner {
    fn key(&self) -> &WitnessKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

/// The text of a file that only its owner may read.
fn secret(path: &Path) -> io::Result<String> {
    let file = bounded::open_regular(path, OpenOptions::new().read(true), OFlag::O_NOFOLLOW)?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!("others may read it (mode {:04o}, expected 0600)", mode & 0o7777)));
    }
    let mut text = String::new();
    file.take(MAX_KEY_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Result<WitnessSigner, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(format!("line 1: expected `{HEAD}`"));
    }
    let form = "line 2: expected `NAME SECRET`";
    let (name, seed) = lines.next().and_then(|line| line.split_once(' ')).ok_or(form)?;
    let seed: [u8; 32] = STANDARD.decode(seed).ok().and_then(|seed| seed.try_into().ok()).ok_or(form)?;
    let secret = SigningKey::from_bytes(&seed);
    let public =
        WitnessKey::new(name, secret.verifying_key().as_bytes()).map_err(|error| format!("line 2: {error}"))?;
    Ok(WitnessSigner { secret, public })
}

/// The folder, locked.
pub(super) struct Folder {
    dir: PathBuf,
    signer: WitnessSigner,
    _lock: StateLock,
}

impl Folder {
    pub fn open(dir: &Path) -> Result<Folder, Fail> {
        let signer = WitnessSigner::read(dir)?;
        let lock = StateLock::acquire(dir).map_err(|error| Fail::because("the witness is in use", &error))?;
        Ok(Folder { dir: dir.to_owned(), signer, _lock: lock })
    }

    pub fn signer(&self) -> &WitnessSigner {
        &self.signer
    }

    /// Where the checkpoint of the log with this origin is.
    pub fn path(&self, origin: &str) -> PathBuf {
        self.dir.join(format!("{}.checkpoint", hex::encode(Sha256::digest(origin))))
    }

    /// What was cosigned last of the log with this origin.
    pub fn last(&self, origin: &str) -> Result<Option<Checkpoint>, Fail> {
        let path = self.path(origin);
        let shown = clean(&path.display().to_string());
        let damaged = |why: String| {
            Fail::new(Exit::Error, format!("{shown}, what this witness cosigned last, is damaged: {why}"))
                .advise("nothing is cosigned; restore the file from a backup")
        };
        let note = match bounded::read(&path, MAX_BYTES as u64) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fail::because(format!("cannot read {shown}"), &error)),
        };
        let note = Note::parse(&note).map_err(|error| damaged(error.to_string()))?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|error| damaged(error.to_string()))?;
        match self.signer.public.cosigned(&note) {
            Ok(Some(_)) if checkpoint.origin == origin => Ok(Some(checkpoint)),
            Ok(Some(_)) => Err(damaged(format!("it is of the log {}", checkpoint.origin))),
            Ok(None) => Err(damaged("it has no cosignature of this witness".to_owned())),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// Keeps what was cosigned.
    pub fn keep(&self, cosigned: &Cosigned) -> Result<(), Fail> {
        let path = self.path(&cosigned.checkpoint.origin);
        replace_synced(&path, &cosigned.note, MODE).map_err(|error| {
            Fail::because(format!("cannot keep the checkpoint in {}: nothing is cosigned", path.display()), &error)
        })
    }
}
