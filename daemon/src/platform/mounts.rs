//! Where the kernel's file systems are mounted, read from `/proc/self/mountinfo` (proc(5)).
//!
//! Owns nothing. On a hybrid host `/sys/fs/cgroup` is not cgroup v2, so nothing in the daemon may assume a path:
//! it asks here. The crate `procfs` parses each line. It refuses a whole file for one line that it does not understand, and a
//! user can mount a FUSE file system at a path that is not UTF-8, so the lines are parsed one by one.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::MountInfo;

/// The mounts of one mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    /// In the kernel's order: a later one on the same target hides an earlier one.
    pub all: Vec<Mount>,
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The folder of the file system that is mounted (`/` unless it is a bind mount or another namespace's).
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// File system type, e.g. `cgroup2`.
    pub fs_type: String,
    /// Whether the mount or its file system is read-only.
    pub read_only: bool,
}

/// Why the mounts could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading mounts from {path}")]
pub struct MountsError {
    /// The mountinfo file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

impl Mounts {
    /// Reads `<proc_root>/self/mountinfo`.
    ///
    /// # Errors
    /// When the file cannot be read. A line that `procfs` cannot parse, or that is not UTF-8, is skipped.
    pub fn read(proc_root: &Path) -> Result<Self, MountsError> {
        let path = proc_root.join("self/mountinfo");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(source) => Err(MountsError { path, source }),
        }
    }

    /// Parses the text of a mountinfo file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        Self { all: bytes.split(|b| *b == b'\n').filter_map(parse_line).collect() }
    }

    /// The cgroup v2 hierarchy: a mount of its whole tree if there is one, else the last one mounted.
    #[must_use]
    pub fn cgroup2(&self) -> Option<&Mount> {
        self.best("cgroup2")
    }

    /// The BPF file system, for pins.
    #[must_use]
    pub fn bpffs(&self) -> Option<&Mount> {
        self.best("bpf")
    }

    /// The tracing file system.
    #[must_use]
    pub fn tracefs(&self) -> Option<&Mount> {
        self.best("tracefs")
    }

    /// The file system where LSMs say which of them are active.
    #[must_use]
    pub fn securityfs(&self) -> Option<&Mount> {
        self.best("securityfs")
    }

    fn best(&self, fs_type: &str) -> Option<&Mount> {
        let mut found: Option<&Mount> = None;
        for mount in self.all.iter().filter(|m| m.fs_type == fs_type) {
            let whole = mount.root == Path::new("/");
            // A whole, writable mount wins over a partial or read-only one, whatever came later.
            if found.is_none_or(|f| rank(whole, mount.read_only) >= rank(f.root == Path::new("/"), f.read_only)) {
                found = Some(mount);
            }
        }
        found
    }
}

fn rank(whole: bool, read_only: bool) -> u8 {
    u8::from(whole) * 2 + u8::from(!read_only)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mount = MountInfo::from_line(std::str::from_utf8(line).ok()?).ok()?;
    let read_only = |options: &HashMap<String, Option<String>>| options.contains_key("ro");
    Some(Mount {
        root: unescape(mount.root.as_bytes()),
        target: unescape(mount.mount_point.as_os_str().as_bytes()),
        read_only: read_only(&mount.mount_options) || read_only(&mount.super_options),
        fs_type: mount.fs_type,
    })
}

/// The kernel writes blank, tab, newline and backslash as `\` and three octal digits; `procfs` leaves them so.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw
50 27 0:38 /a/b /mnt/odd\\040name\\134x ro,relatime - cgroup2 cgroup2 rw
60 27 0:50 / /sys/fs/bpf rw - bpf none ro,mode=700
61 27 0:51 / /sys/kernel/tracing rw - tracefs tracefs rw
garbage
70 27 0:60 / /home/u/\xff rw,nosuid - fuse.sshfs u@h rw
62 27 0:52 / /sys/kernel/security rw -
";

    #[test]
    fn finds_the_whole_writable_cgroup2_mount_on_a_hybrid_host() {
        let mounts = Mounts::parse(HYBRID);
        let cgroup2 = mounts.cgroup2().unwrap();
        assert_eq!(cgroup2.target, Path::new("/sys/fs/cgroup/unified"));
        assert!(!cgroup2.read_only);
        let partial = mounts.all.iter().find(|m| m.root == Path::new("/a/b")).unwrap();
        assert_eq!(partial.target, Path::new("/mnt/odd name\\x"));
        assert!(partial.read_only);
        assert!(mounts.bpffs().unwrap().read_only, "read-only of the superblock counts");
        assert_eq!(mounts.tracefs().unwrap().target, Path::new("/sys/kernel/tracing"));
        assert_eq!(mounts.securityfs(), None, "a line without its type is skipped");
        assert_eq!(mounts.all.len(), 7);
    }

    #[test]
    fn reads_from_a_root_path_and_names_it_when_missing() {
        let dir = tempfile::tempdir().unwrap();
        let err = Mounts::read(dir.path()).unwrap_err();
        assert!(err.to_string().contains("self/mountinfo"), "{err}");
        std::fs::create_dir(dir.path().join("self")).unwrap();
        std::fs::write(dir.path().join("self/mountinfo"), HYBRID).unwrap();
        assert!(Mounts::read(dir.path()).unwrap().cgroup2().is_some());
        assert!(Mounts::parse(b"\xff\xfe - - \\9\\").all.is_empty());
    }
}
