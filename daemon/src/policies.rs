//! The node's named policies: `NAME.toml` in one folder of root's.
//!
//! A name is resolved when a run is started or registered; the run is pinned to the content that was read then. Invariants: what
//! somebody other than root may write, or may replace, is not used; no link is followed; a pipe or a large file holds nobody up.

use failsafe_core::{Policy, discover::is_name, policy::parse::parse};
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat, stat},
};
use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Most bytes of a policy's file: as many as a request may have.
pub const MOST_BYTES: u64 = 256 << 10;
/// Most policies of a list.
pub const MOST_LISTED: usize = 256;
/// The ending of their files.
const ENDING: &str = ".toml";
/// The end of the name of a file of tests, without [`ENDING`].
const TESTS: &str = ".test";
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const OTHERS_READ: u32 = 0o004;

/// A policy that was read.
#[derive(Debug)]
pub struct NamedPolicy {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// The policy.
    pub policy: Policy,
    /// Whether every user may read the file.
    pub public: bool,
}

/// Why a named policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    /// No name.
    #[error("policy `{0}`: expected a name of 1 to 64 letters, digits, `-`, `_`, `.`; a file is given with its text")]
    BadName(String),
    /// There is none.
    #[error(
        "no policy is named `{name}`: {path} does not exist; `failsafectl policy list` shows the policies of this node"
    )]
    None {
        /// The name.
        name: String,
        /// The file that is missing.
        path: PathBuf,
    },
    /// Somebody other than root could have written it.
    #[error("{path} is not used: {why}; expected a file or folder of root that nobody else may write")]
    NotTrusted {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It cannot be read.
    #[error("cannot read {path}: {}", source.desc())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// It is no policy.
    #[error("{why}")]
    Invalid {
        /// Why not, with lines of the file.
        why: String,
        /// Whether every user may read the file.
        public: bool,
    },
}

/// Reads the policy of that name.
///
/// # Errors
/// [`NamedError`].
pub fn load(folder: &Path, name: &str) -> Result<NamedPolicy, NamedError> {
    if !is_name(name) {
        return Err(NamedError::BadName(name.chars().take(80).collect()));
    }
    let opened = match open_folder(folder) {
        Err(NamedError::Read { source: Errno::ENOENT, .. }) => None,
        opened => Some(opened?),
    };
    let path = folder.join(format!("{name}{ENDING}"));
    match opened {
        Some(opened) => read(&opened, name, path),
        None => Err(NamedError::None { name: name.into(), path }),
    }
}

/// All of the folder, by name, with how many there are beyond [`MOST_LISTED`]. A folder that does not exist has none.
///
/// # Errors
/// The folder cannot be read, or is not root's.
#[expect(clippy::type_complexity, reason = "a name with what came of it")]
pub fn list(folder: &Path) -> Result<(Vec<(String, Result<NamedPolicy, NamedError>)>, usize), NamedError> {
    let opened = match open_folder(folder) {
        Err(NamedError::Read { source: Errno::ENOENT, .. }) => return Ok((Vec::new(), 0)),
        opened => opened?,
    };
    let failed = |source: std::io::Error| NamedError::Read {
        path: folder.to_owned(),
        source: source.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
    };
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        // Beside a policy lie its tests, which are no policy.
        names.extend(name.filter(|name| is_name(name) && !name.ends_with(TESTS)).map(str::to_owned));
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(MOST_LISTED);
    names.truncate(MOST_LISTED);
    let read = |name: String| {
        let found = read(&opened, &name, folder.join(format!("{name}{ENDING}")));
        (name, found)
    };
    Ok((names.into_iter().map(read).collect(), more))
}

/// Opens the folder, and checks that nobody but root can put another one at its path.
fn open_folder(folder: &Path) -> Result<OwnedFd, NamedError> {
    let failed = |path: &Path, source| NamedError::Read { path: path.to_owned(), source };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(folder, flags, Mode::empty()).map_err(|e| failed(folder, e))?;
    trusted(folder, &fstat(&opened).map_err(|e| failed(folder, e))?, false)?;
    for above in folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        trusted(above, &stat(above).map_err(|e| failed(above, e))?, true)?;
    }
    Ok(opened)
}

fn trusted(path: &Path, found: &FileStat, above: bool) -> Result<(), NamedError> {
    let no = |why: String| Err(NamedError::NotTrusted { path: path.to_owned(), why });
    if found.st_uid != 0 {
        return no(format!("it belongs to uid {}", found.st_uid));
    }
    // In a folder with the sticky bit nobody replaces what is root's.
    if found.st_mode & OTHERS_WRITE != 0 && !(above && found.st_mode & STICKY != 0) {
        return no(format!("its mode is {:04o}: a group or everybody may write it", found.st_mode & 0o7777));
    }
    Ok(())
}

fn read(folder: &OwnedFd, name: &str, path: PathBuf) -> Result<NamedPolicy, NamedError> {
    let failed = |source| NamedError::Read { path: path.clone(), source };
    // Without O_NONBLOCK a pipe would hold the reader up.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = match openat(folder.as_fd(), format!("{name}{ENDING}").as_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Err(NamedError::None { name: name.into(), path }),
        Err(Errno::ELOOP) => {
            return Err(NamedError::NotTrusted { path, why: "it is a symbolic link".into() });
        }
        Err(source) => return Err(failed(source)),
    };
    let found = fstat(&file).map_err(failed)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(NamedError::NotTrusted { path, why: "it is no regular file".into() });
    }
    trusted(&path, &found, false)?;
    let public = found.st_mode & OTHERS_READ != 0;
    let invalid = |why: String| NamedError::Invalid { why, public };
    let mut bytes = Vec::new();
    let read = File::from(file).take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| failed(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(invalid(format!("{}: expected at most {} KiB", path.display(), MOST_BYTES >> 10)));
    }
    let text = String::from_utf8(bytes).map_err(|_| invalid(format!("{}: expected text in UTF-8", path.display())))?;
    let policy = parse(&path.display().to_string(), &text).map_err(|e| invalid(e.summary(2_000)))?;
    Ok(NamedPolicy { name: name.into(), path, text, policy, public })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    const POLICY: &str = "[policy]\nname = \"trainer\"\nversion = 3\nowner = \"ml\"\n";

    fn folder() -> Option<tempfile::TempDir> {
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        write(folder.path(), "trainer", POLICY);
        Some(folder)
    }

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn why(folder: &Path, name: &str) -> String {
        load(folder, name).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_policy_is_read_by_its_name() {
        let Some(folder) = folder() else { return };
        let found = load(folder.path(), "trainer").unwrap();
        assert_eq!((found.policy.name.as_str(), found.policy.version, found.public), ("trainer", 3, true));
        assert!(why(folder.path(), "other").contains("no policy is named `other`"));
        assert!(why(&folder.path().join("none"), "trainer").contains("no policy is named `trainer`"));
        for name in ["", "../trainer", "a/b", ".hidden", "-x", "a b", &"x".repeat(65)] {
            assert!(why(folder.path(), name).contains("expected a name"), "{name}");
        }
        write(folder.path(), "broken", "[policy]\nname = 7\n");
        let broken = why(folder.path(), "broken");
        assert!(broken.contains("broken.toml:2:"), "{broken}");
        fs::write(folder.path().join("notes.txt"), "").unwrap();
        fs::write(folder.path().join("trainer.test.toml"), "[[test]]\n").unwrap();
        let (all, more) = list(folder.path()).unwrap();
        let names: Vec<(&str, bool)> = all.iter().map(|(name, found)| (name.as_str(), found.is_ok())).collect();
        assert_eq!((names.as_slice(), more), ([("broken", false), ("trainer", true)].as_slice(), 0));
        assert!(list(&folder.path().join("none")).unwrap().0.is_empty());
    }

    #[test]
    fn what_others_may_write_or_replace_is_refused() {
        let Some(folder) = folder() else { return };
        let at = folder.path();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let path = write(at, "group", POLICY);
        mode(&path, 0o664);
        assert!(why(at, "group").contains("its mode is 0664"));
        let path = write(at, "theirs", POLICY);
        chown(&path, Some(1_000), None).unwrap();
        assert!(why(at, "theirs").contains("it belongs to uid 1000"));
        symlink(at.join("trainer.toml"), at.join("link.toml")).unwrap();
        assert!(why(at, "link").contains("symbolic link"));
        nix::unistd::mkfifo(&at.join("pipe.toml"), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(why(at, "pipe").contains("no regular file"));
        write(at, "large", &format!("# {}\n{POLICY}", "x".repeat(MOST_BYTES as usize)));
        assert!(why(at, "large").contains("at most 256 KiB"));
        let path = write(at, "secret", POLICY);
        mode(&path, 0o600);
        assert!(!load(at, "secret").unwrap().public);
        for wrong in [0o777, 0o775, 0o1777] {
            mode(at, wrong);
            assert!(why(at, "trainer").contains("a group or everybody may write it"), "{wrong:o}");
        }
        mode(at, 0o755);
        chown(at, Some(1_000), None).unwrap();
        assert!(why(at, "trainer").contains("it belongs to uid 1000") && list(at).is_err());
        chown(at, Some(0), None).unwrap();
        let inner = at.join("inner");
        fs::create_dir(&inner).unwrap();
        write(&inner, "trainer", POLICY);
        assert!(load(&inner, "trainer").is_ok());
        mode(at, 0o777);
        assert!(
            why(&inner, "trainer").contains("a group or everybody may write it"),
            "the folder above can be replaced"
        );
    }
}
