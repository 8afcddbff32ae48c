//! The node's signing key: an Ed25519 key in the state folder, and the public keys that came before it.
//!
//! One file, `STATE_DIR/signing-keys`, holds all of them, so that a rotation is one rename:
//!
//! ```text
//! failsafe-signing-keys 1
//! active KEYID SEED CREATED_NS
//! retired KEYID PUBLIC_KEY CREATED_NS RETIRED_NS
//! ```
//!
//! Invariants: the seed never leaves this module; a file that is damaged, or that others can read, is never replaced and never
//! stops the daemon: whatever needs a signature reports the error, which names the file. It is a software key: root can copy it.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use failsafe_attest::PublicKey;
use failsafe_journal::storage::folder::replace_synced;
use nix::fcntl::OFlag;
use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const FILE: &str = "signing-keys";
const HEAD: &str = "failsafe-signing-keys 1";
/// Largest file that is read, bytes: some thousand retired keys.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no key to sign with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot {op} the signing keys {path}: {why}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        why: String,
    },
    /// The file is not what was written.
    #[error(
        "the signing keys {path} are damaged: {why}; restore the file from a backup, or move it away and restart failsafed to \
         create a new key"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no room for another retired key.
    #[error(
        "the signing keys {path} would have more than {MAX_BYTES} bytes with another key, and could not be read again; the present \
         key stays in use"
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The public keys could not be told to who verifies.
    #[error("the new public key cannot be published, so it is not used: {0}")]
    Unpublished(String),
    /// Others than root may have read the key.
    #[error(
        "the signing keys {path} have mode {mode:04o} and owner {owner}, expected 0600 and {expected}: somebody else may have \
         read them; move the file away and restart failsafed to create a new key"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
        /// The daemon's user.
        expected: u32,
    },
}

/// A public key of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// The key.
    pub public: PublicKey,
    /// When it was created, wall clock ns.
    pub created_ns: i64,
    /// When another key took its place, wall clock ns; `None`: it signs.
    pub retired_ns: Option<i64>,
}

/// The active key and the retired ones, the newest first.
struct Loaded {
    secret: SigningKey,
    keys: Vec<NodeKey>,
}

/// The node's keys, read once. Signing takes no file and no disk.
pub struct SigningKeys {
    path: PathBuf,
    /// Held for the time of an assignment only: whoever signs or lists keys takes it, also threads that must not wait for a disk.
    loaded: Mutex<Result<Arc<Loaded>, KeyError>>,
    /// One rotation at a time; held while it writes.
    rotating: Mutex<()>,
}

impl SigningKeys {
    /// Reads the keys of a state folder, and creates them where there is no file. An error is kept and returned by each call
    /// that needs a key.
    pub fn open(state_dir: &Path, now_ns: i64) -> SigningKeys {
        let path = state_dir.join(FILE);
        let loaded = match read(&path) {
            Ok(Some(loaded)) => Ok(loaded),
            Ok(None) => create(&path, now_ns),
            Err(error) => Err(error),
        };
        SigningKeys { path, loaded: Mutex::new(loaded.map(Arc::new)), rotating: Mutex::new(()) }
    }

    /// The key that signs now. It stays the same through a rotation.
    ///
    /// # Errors
    /// There is none.
    pub fn signer(&self) -> Result<NodeSigner, KeyError> {
        self.loaded().map(NodeSigner)
    }

    /// Every key that this node has had, the newest first.
    ///
    /// # Errors
    /// The file could not be read when the daemon started.
    pub fn listed(&self) -> Result<Vec<NodeKey>, KeyError> {
        self.loaded().map(|loaded| loaded.keys.clone())
    }

    /// Signs with a new key from now on. The old public key stays listed as retired. `publish` gets the keys to be before one of
    /// them signs, so that nothing is signed that nobody can verify; and once more those of before, if storing failed.
    ///
    /// # Errors
    /// There is no key, or the new one cannot be published or stored: then the old one goes on signing.
    pub fn rotate(&self, now_ns: i64, publish: impl Fn(&[NodeKey]) -> Result<(), String>) -> Result<NodeKey, KeyError> {
        let _one_at_a_time = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.loaded()?;
        let secret = generate(&self.path)?;
        let new = NodeKey { public: public(&secret), created_ns: now_ns, retired_ns: None };
        let retired = old.keys.iter().map(|key| NodeKey { retired_ns: key.retired_ns.or(Some(now_ns)), ..key.clone() });
        let keys = std::iter::once(new.clone()).chain(retired).collect();
        let loaded = Loaded { secret, keys };
        let text = encode(&self.path, &loaded)?;
        publish(&loaded.keys).map_err(KeyError::Unpublished)?;
        if let Err(error) = write(&self.path, &text) {
            // One key too many among the public ones harms nobody.
            let _later = publish(&old.keys);
            return Err(error);
        }
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(loaded));
        Ok(new)
    }

    fn loaded(&self) -> Result<Arc<Loaded>, KeyError> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A key that can sign.
pub struct NodeSigner(Arc<Loaded>);

impl NodeSigner {
    /// Its public key.
    pub fn public(&self) -> PublicKey {
        public(&self.0.secret)
    }

    /// A signature over exactly these bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.secret.sign(message).to_bytes()
    }
}

fn public(secret: &SigningKey) -> PublicKey {
    PublicKey::from(secret.verifying_key())
}

fn generate(path: &Path) -> Result<SigningKey, KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| failed(path, "generate")(io::Error::other(error)))?;
    Ok(SigningKey::from_bytes(&seed))
}

fn create(path: &Path, now_ns: i64) -> Result<Loaded, KeyError> {
    let secret = generate(path)?;
    let keys = vec![NodeKey { public: public(&secret), created_ns: now_ns, retired_ns: None }];
    let loaded = Loaded { secret, keys };
    write(path, &encode(path, &loaded)?)?;
    tracing::info!(path = %path.display(), keyid = %public(&loaded.secret).id(), "created the node's signing key");
    Ok(loaded)
}

fn failed<'p>(path: &'p Path, op: &'static str) -> impl Fn(io::Error) -> KeyError + 'p {
    move |error| KeyError::Io { op, path: path.to_owned(), why: error.to_string() }
}

/// The keys of the file; `None`: there is no file.
fn read(path: &Path) -> Result<Option<Loaded>, KeyError> {
    let fail = failed(path, "read");
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let about = file.metadata().map_err(&fail)?;
    let damaged = |why: String| KeyError::Damaged { path: path.to_owned(), why };
    if !about.is_file() {
        return Err(damaged("it is not a regular file".to_owned()));
    }
    let (mode, owner, expected) = (about.mode() & 0o7777, about.uid(), nix::unistd::geteuid().as_raw());
    if mode & 0o077 != 0 || owner != expected {
        return Err(KeyError::Exposed { path: path.to_owned(), mode, owner, expected });
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => damaged("it is not UTF-8".to_owned()),
        _ => fail(error),
    })?;
    parse(&text).map(Some).map_err(damaged)
}

fn parse(text: &str) -> Result<Loaded, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(format!("line 1: expected `{HEAD}`"));
    }
    if !text.ends_with('\n') || text.len() as u64 > MAX_BYTES {
        return Err(format!("it has {} bytes and is cut off, or larger than {MAX_BYTES} bytes", text.len()));
    }
    let (mut secret, mut keys) = (None, Vec::new());
    for (number, line) in lines.enumerate() {
        let wrong = |why: &str| format!("line {}: {why}", number + 2);
        let words: Vec<&str> = line.split(' ').collect();
        let time = |text: &str| text.parse::<i64>().map_err(|_| wrong("a time is not a number of nanoseconds"));
        let key = match words[..] {
            ["active", id, seed, created] => {
                let seed = STANDARD.decode(seed).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let key = SigningKey::from_bytes(&seed.ok_or_else(|| wrong("the seed is not 32 bytes in Base64"))?);
                let public = public(&key);
                if secret.replace(key).is_some() {
                    return Err(wrong("a second active key"));
                }
                (id, NodeKey { public, created_ns: time(created)?, retired_ns: None })
            }
            ["retired", id, key, created, retired] => {
                let public = PublicKey::from_base64(key).ok_or_else(|| wrong("the key is no Ed25519 public key"))?;
                (id, NodeKey { public, created_ns: time(created)?, retired_ns: Some(time(retired)?) })
            }
            _ => return Err(wrong("expected `active ...` or `retired ...`")),
        };
        if key.1.public.id().0 != key.0 {
            return Err(wrong("the key does not have the id that stands beside it"));
        }
        keys.push(key.1);
    }
    secret.map(|secret| Loaded { secret, keys }).ok_or_else(|| "there is no active key".to_owned())
}

/// The text of the file, of a size that can be read again.
fn encode(path: &Path, loaded: &Loaded) -> Result<String, KeyError> {
    let fail = failed(path, "write");
    let mut text = format!("{HEAD}\n");
    for NodeKey { public, created_ns, retired_ns } in &loaded.keys {
        let line = match retired_ns {
            None => format!("active {} {} {created_ns}", public.id(), STANDARD.encode(loaded.secret.as_bytes())),
            Some(retired) => format!("retired {} {} {created_ns} {retired}", public.id(), public.base64()),
        };
        writeln!(text, "{line}").map_err(|error| fail(io::Error::other(error)))?;
    }
    if text.len() as u64 > MAX_BYTES { Err(KeyError::Full { path: path.to_owned() }) } else { Ok(text) }
}

fn write(path: &Path, text: &str) -> Result<(), KeyError> {
    replace_synced(path, text.as_bytes(), 0o600).map_err(failed(path, "write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn why(keys: &SigningKeys) -> String {
        keys.signer().err().unwrap().to_string()
    }

    #[test]
    fn a_key_is_created_once_with_mode_0600_and_signs_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let first = SigningKeys::open(dir.path(), 1).signer().unwrap().public();
        let again = SigningKeys::open(dir.path(), 2);
        assert_eq!(again.signer().unwrap().public(), first);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let signer = again.signer().unwrap();
        let (key, signature) = (signer.public(), signer.sign(b"message"));
        assert!(key == first && key.verifies(b"message", &signature) && !key.verifies(b"massage", &signature));
        assert_ne!(SigningKeys::open(tempfile::tempdir().unwrap().path(), 1).signer().unwrap().public(), first);
    }

    #[test]
    fn rotation_keeps_the_old_public_keys_and_survives_a_crash_between_write_and_rename() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SigningKeys::open(dir.path(), 1);
        let first = keys.signer().unwrap().public();
        fs::write(dir.path().join("signing-keys.part"), "half a file").unwrap();
        let second = keys.rotate(5, |_| Ok(())).unwrap();
        keys.rotate(9, |_| Ok(())).unwrap();
        let listed = SigningKeys::open(dir.path(), 10).listed().unwrap();
        assert_eq!(listed, keys.listed().unwrap());
        let retired: Vec<_> = listed.iter().map(|key| (key.created_ns, key.retired_ns)).collect();
        assert_eq!(retired, [(9, None), (5, Some(9)), (1, Some(5))]);
        assert!(listed[1].public == second.public && listed[2].public == first);
    }

    #[test]
    fn a_rotation_on_a_disk_that_hangs_keeps_nobody_from_signing() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(SigningKeys::open(dir.path(), 1));
        let old = keys.signer().unwrap().public();
        let (hang, hanging) = std::sync::mpsc::channel::<()>();
        let rotating = keys.clone();
        let (began, begins) = std::sync::mpsc::channel();
        let rotation = std::thread::spawn(move || {
            let slow = |_: &[NodeKey]| {
                began.send(()).unwrap();
                hanging.recv().map_err(|error| error.to_string())
            };
            rotating.rotate(5, slow).map(|key| key.public)
        });
        begins.recv().unwrap();
        let (asked, answer) = std::sync::mpsc::channel();
        let asking = keys.clone();
        std::thread::spawn(move || {
            asked.send((asking.signer().unwrap().public(), asking.listed().unwrap().len())).unwrap();
        });
        let seen = answer.recv_timeout(std::time::Duration::from_secs(10));
        hang.send(()).unwrap();
        assert_eq!(seen, Ok((old, 1)), "they waited for the rotation");
        assert_eq!(rotation.join().unwrap().unwrap(), keys.signer().unwrap().public());
    }

    #[test]
    fn a_rotation_after_which_the_file_could_not_be_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let secret = generate(&path).unwrap();
        let key = |retired_ns| NodeKey { public: public(&secret), created_ns: 1, retired_ns };
        let sized = |retired: usize| {
            let keys = std::iter::once(key(None)).chain(std::iter::repeat_n(key(Some(5)), retired)).collect();
            encode(&path, &Loaded { secret: secret.clone(), keys })
        };
        let most = (0..14).rev().fold(0, |n, bit| if sized(n + (1 << bit)).is_ok() { n + (1 << bit) } else { n });
        let full = sized(most).unwrap();
        write(&path, &full).unwrap();
        let keys = SigningKeys::open(dir.path(), 2);
        let why = keys.rotate(9, |_| panic!("it was published")).unwrap_err().to_string();
        assert!(why.contains("the present key stays in use"), "{why}");
        assert_eq!(fs::read_to_string(&path).unwrap(), full);
        assert!(keys.signer().unwrap().public() == public(&secret));
    }

    #[test]
    fn every_damaged_byte_of_the_key_is_an_error_that_names_the_file_and_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKeys::open(dir.path(), 1).signer().unwrap().public();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let times = whole.len() - 3;
        for at in 0..times {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let why = why(&SigningKeys::open(dir.path(), 2));
            assert!(why.contains("damaged") && why.contains("signing-keys"), "{at}: {why}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "it was replaced");
        }
        for cut in 0..times {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(why(&SigningKeys::open(dir.path(), 2)).contains("damaged"), "{cut}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(SigningKeys::open(dir.path(), 2).signer().unwrap().public(), key);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_no_regular_file_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        SigningKeys::open(dir.path(), 1).signer().unwrap().public();
        let path = dir.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(why(&SigningKeys::open(dir.path(), 2)).contains("have mode 0640"));
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(why(&SigningKeys::open(dir.path(), 2)).contains("cannot read the signing keys"));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(why(&SigningKeys::open(dir.path(), 2)).contains("not a regular file"));
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_leaves_no_key_and_is_reported() {
        let missing = tempfile::tempdir().unwrap().path().join("gone");
        let why = why(&SigningKeys::open(&missing, 1));
        assert!(why.contains("cannot write the signing keys"), "{why}");
    }
}
