//! Checkpoints of the audit log, signed with the node's key; and the public keys, in a file for who verifies on this node.

use crate::signing::{KeyError, NodeKey, NodeSigner, SigningKeys};
use failsafe_attest::PublicKey;
use failsafe_journal::{
    storage::{
        bounded,
        folder::{MODE, replace_synced},
    },
    tree::signed::{KEY_NAME, KEYS_FILE, Signing},
};
use failsafe_tlog::{Keys, Signer, VerifierKey};
use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

/// What vouches for the log while it is written.
#[derive(Clone)]
pub struct Vouch {
    /// The node's keys.
    pub keys: Arc<SigningKeys>,
    /// How often a checkpoint is signed, if there are new entries.
    pub checkpoint: Duration,
    /// A heartbeat entry is written after this time without an entry.
    pub heartbeat: Duration,
}

impl Vouch {
    /// How the log's thread signs.
    pub(super) fn signing(&self) -> Signing {
        let keys = self.keys.clone();
        let signer = move || {
            let signer = keys.signer().map_err(|error| error.to_string())?;
            let key = verifier(&signer.public())?;
            Ok(Box::new(LogSigner { signer, key }) as Box<dyn Signer>)
        };
        Signing { signer: Box::new(signer), every: self.checkpoint }
    }

    /// The keys of earlier and present checkpoints. Why there are none, as a finding.
    pub(super) fn known(&self, findings: &mut Vec<String>) -> Keys {
        match self.keys.listed() {
            Ok(listed) => Keys::of(listed.iter().filter_map(|key| verifier(&key.public).ok()).collect()),
            Err(error) => {
                findings.push(format!("the checkpoints of the audit log cannot be verified and signed: {error}"));
                Keys::default()
            }
        }
    }

    /// Writes the public keys to the state folder.
    pub(super) fn publish(&self, state_dir: &Path) -> Result<(), String> {
        let listed = self.keys.listed().map_err(|error: KeyError| error.to_string())?;
        publish(&listed, state_dir)
    }
}

/// Signs with a new key from now on. It is among the public keys in the state folder before anything is signed with it.
///
/// # Errors
/// As for [`SigningKeys::rotate`].
pub fn rotate(keys: &SigningKeys, state_dir: &Path, now_ns: i64) -> Result<NodeKey, KeyError> {
    keys.rotate(now_ns, |listed| publish(listed, state_dir))
}

fn publish(listed: &[NodeKey], state_dir: &Path) -> Result<(), String> {
    let mut text = String::from(
        "# Public keys of this node: KEYID BASE64 COMMENT. They verify the checkpoints of its audit log.\n",
    );
    // In a file with the keys of several nodes the comment says whose log it is.
    let host = nix::unistd::gethostname().unwrap_or_else(|_| "this node".into());
    for NodeKey { public, retired_ns, .. } in listed {
        let state = if retired_ns.is_some() { "retired" } else { "active" };
        let host = host.to_string_lossy();
        // Writing to a text does not fail.
        let _text = writeln!(text, "{} {} {host}, {state}", public.id(), public.base64());
    }
    let path = state_dir.join(KEYS_FILE);
    // As at most starts: then the start waits for no disk.
    if bounded::read(&path, text.len() as u64).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    replace_synced(&path, text.as_bytes(), MODE).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn verifier(key: &PublicKey) -> Result<VerifierKey, String> {
    VerifierKey::new(KEY_NAME, key.bytes()).map_err(|error| error.to_string())
}

struct LogSigner {
    signer: NodeSigner,
    key: VerifierKey,
}

impl Signer for LogSigner {
    fn key(&self) -> &VerifierKey {
        &self.key
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signer.sign(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_new_key_is_published_before_it_is_used_and_not_used_if_it_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SigningKeys::open(dir.path(), 1);
        let listed = || fs::read_to_string(dir.path().join(KEYS_FILE)).unwrap_or_default();
        // What a crash left, or somebody put there to have another file written.
        let (part, other) = (dir.path().join("log.keys.part"), dir.path().join("other"));
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &part).unwrap();
        let new = rotate(&keys, dir.path(), 5).unwrap().public;
        assert!(listed().contains(&new.base64()), "{}", listed());
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        let seen = keys.rotate(6, |keys| {
            publish(keys, dir.path())?;
            assert!(listed().contains(&keys[0].public.base64()));
            Ok(())
        });
        let new = seen.unwrap().public;
        let before = listed();
        fs::create_dir(&part).unwrap();
        assert!(rotate(&keys, dir.path(), 7).unwrap_err().to_string().contains("log.keys"));
        assert!(keys.signer().unwrap().public() == new && listed() == before);
        assert_eq!(SigningKeys::open(dir.path(), 8).signer().unwrap().public(), new, "nor after a restart");
    }
}
