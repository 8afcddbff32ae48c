//! Checkpoints of the audit log, signed with the node's key; and the public keys, in a file for who verifies on this node.

use crate::signing::{KeyError, NodeKey, NodeSigner, SigningKeys};
use failsafe_journal::{
    storage::{
        bounded,
        folder::{MODE, replace_synced},
    },
    tree::signed::{KEY_NAME, KEYS_FILE, Signing},
};
use failsafe_tlog::{Keys, Signer, VerifierKey};
use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

/// Characters of a host's name, and of a key's id, in the name of a log.
const HOST: usize = 220;
const KEY: usize = 8;

/// What vouches for the log while it is written.
#[derive(Clone)]
pub struct Vouch {
    /// The node's keys.
    pub keys: Arc<SigningKeys>,
    /// The name of the key for a new log.
    pub name: String,
    /// How often a checkpoint is signed, if there are new entries.
    pub checkpoint: Duration,
    /// A heartbeat entry is written after this time without an entry.
    pub heartbeat: Duration,
}

impl Vouch {
    /// How the log's thread signs.
    pub(super) fn signing(&self) -> Signing {
        let keys = self.keys.clone();
        let signer = move |name: &str| {
            let signer = keys.signer().map_err(|error| error.to_string())?;
            let key = VerifierKey::new(name, signer.public().bytes()).map_err(|error| error.to_string())?;
            Ok(Box::new(LogSigner { signer, key }) as Box<dyn Signer>)
        };
        Signing { name: self.name.clone(), signer: Box::new(signer), every: self.checkpoint }
    }

    /// The keys of earlier and present checkpoints. Why there are none, as a finding.
    pub(super) fn known(&self, findings: &mut Vec<String>) -> Keys {
        match self.keys.listed() {
            Ok(listed) => Keys::default().with_any_name(listed.iter().map(|key| *key.public.bytes())),
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

/// The name of the key of a new log: `HOST/failsafe`, where HOST is the name of the host.
pub fn default_name(keys: &SigningKeys) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let key = keys.listed().ok().and_then(|all| Some(all.first()?.public.id().to_string()));
    name_of(&host.to_string_lossy(), key.as_deref().unwrap_or("unknown"))
}

/// A host name that says nothing about the node gets a part of the key's id. The name does not begin with that of earlier logs,
/// `failsafe`: a witness lets their keys sign for all names below it.
fn name_of(host: &str, key: &str) -> String {
    let host: String = host.chars().map(|c| if name_char(c) { c } else { '-' }).take(HOST).collect();
    let says_nothing = matches!(host.as_str(), "" | "log" | KEY_NAME) || host.split('.').next() == Some("localhost");
    if !says_nothing {
        return format!("{host}/{KEY_NAME}");
    }
    let host = if host.is_empty() { "unnamed" } else { &host };
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).take(KEY).collect();
    format!("{host}-{key}/{KEY_NAME}")
}

/// Whether it can stand in the name of a host.
fn name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// What is wrong with a configured name.
pub fn wrong_name(name: &str) -> Option<&'static str> {
    let parts = || name.split('/');
    if name.is_empty() || name.len() > 253 {
        Some("expected 1 to 253 characters")
    } else if !parts().all(|part| !part.is_empty() && part.chars().all(name_char)) {
        Some(
            "expected letters, digits, `-`, `.` and `_` in parts with a slash between them, such as \"node7.example.org/failsafe\"",
        )
    } else if parts().any(|part| part == "log") {
        Some("`log` must not be one of its parts: the daemon appends `/log/ID`")
    } else {
        None
    }
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
    fn the_name_of_a_log_has_that_of_the_host_and_is_a_valid_key_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = default_name(&SigningKeys::open(folder.path(), 1));
        assert!(name.ends_with("/failsafe") && wrong_name(&name).is_none(), "{name}");
        assert!(wrong_name("node7.example.org/failsafe").is_none());
        for wrong in ["", "a b", "a+b", "/a", "a/", "a//b", "a/log", "log/a", "nöde", &"a".repeat(254)] {
            assert!(wrong_name(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn a_host_name_that_is_not_unique_gets_a_part_of_the_keys_id() {
        let name = |host: &str| {
            let name = name_of(host, "4f1c0e9a77");
            assert!(wrong_name(&name).is_none() && name.split('/').next() != Some(KEY_NAME), "{name}");
            name
        };
        assert_eq!(name("node7.example.org"), "node7.example.org/failsafe");
        assert_eq!(name("failsafe.example.org"), "failsafe.example.org/failsafe");
        assert_eq!(name("failsafe"), "failsafe-4f1c0e9a/failsafe");
        assert_eq!(name("log"), "log-4f1c0e9a/failsafe");
        assert_eq!(name("localhost"), "localhost-4f1c0e9a/failsafe");
        assert_eq!(name("localhost.localdomain"), "localhost.localdomain-4f1c0e9a/failsafe");
        assert_eq!(name(""), "unnamed-4f1c0e9a/failsafe");
        assert_eq!(name(&"a".repeat(300)).len(), 229);
    }

    /// Signs one more entry in a new process of the daemon; the checkpoint.
    fn signed(folder: &Path, name: &str) -> (String, String) {
        let keys = Arc::new(SigningKeys::open(folder, 1));
        let (checkpoint, heartbeat) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        let vouch = Vouch { keys, name: name.to_owned(), checkpoint, heartbeat };
        let bounds = crate::config::AuditLog::default().bounds();
        let (owner, findings) =
            crate::log::LogOwner::open(folder, &folder.join("second-head"), "boot", bounds, Some(vouch)).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        let draft = failsafe_journal::Draft::new("test", owner.log().stamp(), serde_json::json!({}));
        owner.log().submit(&draft).wait(Duration::from_secs(60)).unwrap();
        owner.close();
        let text = fs::read_to_string(folder.join(failsafe_journal::tree::signed::CHECKPOINT_FILE)).unwrap();
        let origin = text.lines().next().unwrap().to_owned();
        let by = text.lines().last().unwrap().split(' ').nth(1).unwrap().to_owned();
        (origin, by)
    }

    #[test]
    fn a_log_keeps_the_name_that_it_was_begun_with() {
        for name in ["failsafe", "node7/failsafe"] {
            let dir = tempfile::tempdir().unwrap();
            let (origin, by) = signed(dir.path(), name);
            assert!(origin.starts_with(&format!("{name}/log/")) && by == name, "{origin} {by}");
            assert_eq!(signed(dir.path(), "renamed/failsafe"), (origin, by));
        }
    }

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
