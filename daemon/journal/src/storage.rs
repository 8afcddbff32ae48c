//! Where the audit log's bytes lie: one file, append only. The narrow traits are the journal's only door to the disk, so
//! that power cuts and full disks can be played in tests ([`sim`]).

pub mod bounded;
pub mod file;
pub mod folder;
pub mod sim;

use std::io;

use crate::entry::Hash;
use crate::head::Head;
use crate::segments::{Builder, Removed, Summary};
use crate::tree::{SignedTree, Tree};
use crate::walk::Chain;

pub use file::{FileStorage, LOG_FILE, set_aside};
pub use folder::{Layout, LogFolder, Retention};

/// Reading at an offset.
pub trait ReadAt {
    /// Reads into `buf` from `offset`; may read less; 0 at the end.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Size in bytes.
    ///
    /// # Errors
    /// Those of the medium.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// Those of [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// An append-only medium.
pub trait Storage: ReadAt {
    /// Writes at the end, once; may write less than asked.
    ///
    /// # Errors
    /// Those of the medium; then nothing was written by this call.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Makes everything written so far survive a power cut. After a failure it is unknown what would survive, and a later
    /// success does not cover it: what was unsynced has to be cut off and written again.
    ///
    /// # Errors
    /// Those of the medium.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// Those of the medium.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// What the first entry of the file continues.
    fn start(&self) -> Chain {
        Chain::default()
    }

    /// Size at which the file is to be sealed; `None`: it grows without end.
    fn seal_at(&self) -> Option<u64> {
        None
    }

    /// Makes the file, which holds the entries of `builder` up to `end` in `bytes` and is synced, a sealed segment, and
    /// begins an empty file behind it. After an error, [`start`](Self::start) tells whether the file was changed.
    ///
    /// # Errors
    /// Those of the medium.
    fn seal(&mut self, builder: &Builder, end: Chain, bytes: u64) -> io::Result<Summary> {
        let _unused = (builder, end, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The segments at the log's beginning that are to be removed at `now_ns`, and what is to be kept of them. Those of `live`,
    /// and all behind one of them, stay. Where checkpoints are kept, `signed` is the number of entries that the last one vouches
    /// for: what is behind them is removed for its size only, not for its age. Nor is anything without `by_age`.
    fn removable(
        &mut self,
        now_ns: u64,
        by_age: bool,
        signed: u64,
        live: &dyn Fn(&Summary) -> bool,
    ) -> Option<(Removed, Vec<Summary>)> {
        let _unused = (now_ns, by_age, signed, live);
        None
    }

    /// What [`removable`](Self::removable) found amiss since the last call. The same reason not to go on is given once.
    fn noticed(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Wall time of the last entry before the file's first.
    fn last_wall_ns(&self) -> Option<u64> {
        None
    }

    /// Removes what [`removable`](Self::removable) gave.
    ///
    /// # Errors
    /// Those of the medium; what is left is removed at the next start.
    fn remove(&mut self, removed: &Removed) -> io::Result<()> {
        let _unused = removed;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The log was verified, and what is amiss is durable. `sound`: nothing is, so that what an interrupted removal left can be
    /// removed.
    ///
    /// # Errors
    /// Those of the medium; the next start tries again.
    fn opened(&mut self, sound: bool) -> io::Result<()> {
        let _unused = sound;
        Ok(())
    }

    /// Keeps the log's head outside the log.
    fn note_head(&mut self, head: Head) {
        let _unused = head;
    }

    /// The heads that were kept when the medium was opened, as far as they could be read.
    fn noted_heads(&self) -> &[Head] {
        &[]
    }

    /// What is amiss if the log has entries, and states that `stated` of them were signed, but no head of it was kept; in words.
    fn head_lost(&self, stated: u64) -> Option<String> {
        let _unused = stated;
        None
    }

    /// What opening the medium found amiss, in words.
    fn findings(&self) -> &[String] {
        &[]
    }

    /// The catalog of the sealed segments.
    fn catalog(&self) -> CatalogState {
        CatalogState { is_stated: true, ..CatalogState::default() }
    }

    /// Leaf hash of an entry before the file's first.
    fn hash_at(&self, index: u64) -> Option<Hash> {
        let _unused = index;
        None
    }

    /// Index of the log's first entry: not 0 where earlier ones were removed.
    fn begin(&self) -> u64 {
        0
    }

    /// The tree at the last border of segments, at or in front of entry `at_most`, at which it is known.
    ///
    /// # Errors
    /// The tree cannot be continued, in words.
    fn tree_before(&self, at_most: u64) -> Result<Tree, String> {
        let _unused = at_most;
        Ok(Tree::default())
    }

    /// The leaf of entry `at`, which is in a sealed segment. `None`: it is not there.
    ///
    /// # Errors
    /// Those of the medium, and damage to the segment.
    fn sealed_leaf(&mut self, at: u64) -> io::Result<Option<SealedLeaf>> {
        let _unused = at;
        Ok(None)
    }

    /// Keeps the edge of the tree at a border.
    ///
    /// # Errors
    /// Those of the medium.
    fn keep_tree(&mut self, tree: &Tree) -> io::Result<()> {
        let _unused = tree;
        Ok(())
    }

    /// What was signed last, when the medium was opened.
    fn signed(&self) -> Option<&SignedTree> {
        None
    }

    /// What is amiss if an entry of the log states that a checkpoint of `stated` entries was signed; in words.
    fn unlike_stated(&self, stated: u64) -> Option<String> {
        let _unused = stated;
        None
    }

    /// Keeps a signed checkpoint, durably; also as that of the border in front of entry `border`.
    ///
    /// # Errors
    /// Those of the medium; the one before is then still there.
    fn keep_checkpoint(&mut self, note: &[u8], border: Option<u64>) -> io::Result<()> {
        let _unused = (note, border);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether opening the medium found checkpoints that are not of this log, or that cannot be read: they are to be put aside.
    fn aside_due(&self) -> bool {
        false
    }

    /// Moves all that was signed, and the edges of the tree, out of the way.
    ///
    /// # Errors
    /// Those of the medium.
    fn put_signed_aside(&mut self, wall_ns: u64) -> io::Result<()> {
        let _unused = wall_ns;
        Ok(())
    }
}

/// The catalog of the sealed segments, as an entry of the file is to state it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogState {
    /// Its link behind the last sealed segment; `None`: there is no catalog.
    pub link: Option<Hash>,
    /// An entry of the file stated it when the medium was opened.
    pub is_stated: bool,
    /// Why it was not continued when the last segment was sealed, but made again, in words.
    pub made_again: Option<String>,
}

/// An entry of a sealed segment, as the tree needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedLeaf {
    /// Its leaf hash.
    pub leaf: Hash,
    /// Its size.
    pub bytes: u64,
    /// Whether it is the first of its segment.
    pub at_border: bool,
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }
}

impl<S: ReadAt> ReadAt for &mut S {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        S::read_at(self, offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        S::len(self)
    }
}
