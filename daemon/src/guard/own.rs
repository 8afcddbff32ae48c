//! failsafe's own files, which the programs keep from runs of root, as `ebpf/src/own.h` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use failsafe_ebpf::abi::{self, Effects, effect, key_what};

use super::error::Error;
use super::files::device_of;
use super::maps::number_key;
use super::object::Object;
use crate::platform::bpf::Pod;
use failsafe_matchers::keys::NumberKey;
use failsafe_matchers::rules::{NOTHING, stricter};

/// The table of no run.
const OWN: u32 = 0;
const MINE: Effects = Effects { read: effect::DENY, write: effect::DENY, ..NOTHING };
const ABOVE: Effects = Effects { read: effect::DENY, ..NOTHING };

/// What runs may not change, nor mount anything over.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// With all that is below them.
    pub folders: Vec<PathBuf>,
    /// Sockets.
    pub files: Vec<PathBuf>,
    /// Mounts that are protected as such: only what lies above them is named.
    pub mounts: Vec<PathBuf>,
}

/// The entries of failsafe's own files that are in the maps.
#[derive(Default)]
pub(super) struct OwnFiles(BTreeSet<NumberKey>);

impl OwnFiles {
    /// See [`super::ebpf::Ebpf::guard_own`].
    pub fn guard(&mut self, object: &mut Object, own: &Own) -> Result<(), Error> {
        let (entries, found) = entries(own);
        let before = std::mem::replace(&mut self.0, entries.keys().copied().collect());
        let mut keys = object.hash::<Pod<abi::Key>, Pod<Effects>>("keys")?;
        for (number, effects) in &entries {
            keys.insert(number_key(OWN, *number), Pod(*effects), 0).map_err(Error::map("keys"))?;
        }
        // The numbers of files that are gone may be those of others next.
        for number in before.into_iter().filter(|number| !entries.contains_key(number)) {
            let _ = keys.remove(&number_key(OWN, number));
        }
        found
    }
}

fn entries(own: &Own) -> (BTreeMap<NumberKey, Effects>, Result<(), Error>) {
    let mut out: BTreeMap<NumberKey, Effects> = BTreeMap::new();
    let mut enter = |what, path: &Path, effects| {
        let meta = fs::metadata(path)?;
        for key in [(what, meta.ino(), device_of(&meta)), (key_what::TREE, 0, device_of(&meta))] {
            let entry = out.entry(key).or_insert(NOTHING);
            *entry = stricter(*entry, effects);
        }
        Ok(())
    };
    let mut found = Ok(());
    let kinds = [(&own.folders, Some(key_what::TREE)), (&own.files, Some(key_what::INODE)), (&own.mounts, None)];
    for (path, what) in kinds.iter().flat_map(|(paths, what)| paths.iter().map(move |path| (path, *what))) {
        let entered = fs::canonicalize(path).and_then(|path| {
            what.map_or(Ok(()), |what| enter(what, &path, MINE))?;
            path.ancestors().skip(1).try_for_each(|above| enter(key_what::INODE, above, ABOVE))
        });
        let fail = |source| Error::Cgroup { path: path.clone(), operation: "look at", source };
        found = found.and(entered.map_err(fail));
    }
    (out, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_held_and_what_lies_above_it_not_covered() {
        let dir = tempfile::tempdir().unwrap();
        let (state, socket) = (dir.path().join("state"), dir.path().join("run/ctl.sock"));
        fs::create_dir_all(state.join("audit")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(&socket, "").unwrap();
        let gone = dir.path().join("gone");
        let own =
            Own { folders: vec![state.clone(), gone], files: vec![socket.clone()], mounts: vec![state.join("audit")] };
        let (entries, found) = entries(&own);
        assert!(found.unwrap_err().to_string().contains("gone"));
        let at = |what, path: &Path| {
            let meta = fs::metadata(path).unwrap();
            entries.get(&(what, meta.ino(), device_of(&meta))).copied().unwrap_or(NOTHING)
        };
        assert_eq!(at(key_what::TREE, &state), MINE);
        assert_eq!(at(key_what::INODE, &state), ABOVE, "above the mount that is named");
        assert_eq!(at(key_what::INODE, &socket), MINE);
        for above in [dir.path(), &dir.path().join("run"), Path::new("/")] {
            assert_eq!(at(key_what::INODE, above), ABOVE, "{}", above.display());
        }
        assert_eq!(at(key_what::INODE, &state.join("audit")), NOTHING);
        let dev = device_of(&fs::metadata(&state).unwrap());
        assert_ne!(entries[&(key_what::TREE, 0, dev)], NOTHING, "the file system holds some of it");
    }
}
