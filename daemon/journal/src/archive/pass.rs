//! One pass over the segments of an archive: each one is verified, and its files and tiles are compared or written.

use failsafe_tlog::tile::{BadTile, Builder, Made};
use std::path::{Path, PathBuf};

use super::files::{Files, Mode};
use super::{ArchiveError, Archived, Open, SEGMENTS, Source};
use crate::entry::Hash;
use crate::segments::{REMOVED_FILE, Removed, digest, index_path, segment_path, summary_path};
use crate::storage::bounded;
use crate::tree::signed::{SignedTree, checkpoint_path};
use crate::tree::{Tree, edge};
use crate::view::View;
use crate::walk::Chain;

pub struct Pass<'a> {
    source: &'a Source,
    pub files: Files,
    open: &'a Open<'a>,
    /// Trees that the log must contain, with borders as their ends.
    known: &'a [&'a SignedTree],
    dir: PathBuf,
    tree: Tree,
    tiles: Option<Builder>,
    no_bundle: u64,
    first: u64,
    pub segments: usize,
}

impl<'a> Pass<'a> {
    pub fn new(
        source: &'a Source,
        files: Files,
        open: &'a Open<'a>,
        known: &'a [&'a SignedTree],
    ) -> Result<Pass<'a>, ArchiveError> {
        let begin = source.removed.as_ref().map_or(0, |removed| removed.entries);
        let first = known.last().map_or(0, |signed| signed.first);
        let tree = match source.segments.first() {
            Some((at, from)) if begin > first => edge::read(from, *at).map_err(ArchiveError::Log)?,
            _ => Tree::beginning_at(first),
        };
        if tree.first != first || tree.entries() != begin {
            return Err(ArchiveError::Log(format!(
                "its tree begins with entry {first}, but the edge in front of entry {begin} is of another tree"
            )));
        }
        let tiles = (begin == first).then(Builder::new);
        let dir = files.path(SEGMENTS);
        Ok(Pass { source, files, open, known, dir, tree, tiles, no_bundle: 0, first: begin, segments: 0 })
    }

    pub fn run(mut self) -> Result<Pass<'a>, ArchiveError> {
        let source = self.source;
        let mut chain = source.removed.as_ref().map_or_else(Chain::default, Removed::end);
        let mut previous = source.removed.as_ref().map_or([0; 32], |removed| removed.last_summary);
        if let (Some(_), Some((_, from))) = (&source.removed, source.segments.first()) {
            let (from, to) = (from.join(REMOVED_FILE), self.dir.join(REMOVED_FILE));
            // The log's own file changes with each removal; that of the archive stays.
            if self.files.mode() == Mode::Write && to.symlink_metadata().is_err() {
                self.files.copy(&from, &to)?;
            }
        }
        for (first, from) in &source.segments {
            if *first != chain.next_index {
                return Err(ArchiveError::Gap { from: chain.next_index, to: first.saturating_sub(1) });
            }
            self.border(*first, from)?;
            (chain, previous) = self.segment(*first, from, chain, previous)?;
        }
        let last = source.segments.last().map(|(_, from)| from.as_path());
        self.border(chain.next_index, last.unwrap_or(Path::new("")))?;
        for made in self.tiles.as_ref().map(Builder::partial).unwrap_or_default() {
            self.tile(made)?;
        }
        let reached = self.tree.entries();
        match self.known.last() {
            Some(signed) if signed.entries() != reached => Err(ArchiveError::Log(format!(
                "it ends at entry {reached}, but the checkpoint was signed for {} entries",
                signed.entries()
            ))),
            _ => Ok(self),
        }
    }

    pub fn archived(self, signed: &SignedTree) -> Archived {
        Archived {
            signed: signed.clone(),
            first: self.first,
            segments: self.segments,
            files: self.files.written,
            bytes: self.files.bytes,
            tiles: self.tiles.is_some(),
            no_bundle: self.no_bundle,
        }
    }

    /// The edge and the checkpoint in front of entry `at`.
    fn border(&mut self, at: u64, from: &Path) -> Result<(), ArchiveError> {
        for signed in self.known.iter().filter(|signed| signed.entries() == at) {
            self.contains(signed, "the signed checkpoint")?;
        }
        if at > self.tree.first && self.files.mode() != Mode::Require {
            self.files.put(&edge::edge_path(&self.dir, at), &edge::encode(&self.tree))?;
        }
        let path = checkpoint_path(from, at);
        if self.files.mode() == Mode::Require || path.symlink_metadata().is_err() {
            return Ok(());
        }
        let signed = (self.open)(&path).map_err(ArchiveError::Log)?;
        self.contains(&signed, &path.display().to_string())?;
        let note = bounded::read(&path, bounded::LARGEST).map_err(ArchiveError::at(&path))?;
        self.files.put(&checkpoint_path(&self.dir, at), &note)
    }

    fn contains(&self, signed: &SignedTree, what: &str) -> Result<(), ArchiveError> {
        let root = self.tree.frontier.root();
        if (signed.first, signed.entries(), signed.root) == (self.tree.first, self.tree.entries(), root) {
            return Ok(());
        }
        Err(ArchiveError::Log(format!(
            "it does not contain {what}: its first {} entries have root hash {}, not {}",
            self.tree.entries(),
            hex::encode(root),
            hex::encode(signed.root)
        )))
    }

    fn segment(
        &mut self,
        first: u64,
        from: &Path,
        chain: Chain,
        previous: Hash,
    ) -> Result<(Chain, Hash), ArchiveError> {
        let mut failed = None;
        let digested = digest::digest_seen(from, first, Some(chain), previous, |entry| {
            if failed.is_none() {
                failed = self.entry(entry).err();
            }
        });
        if let Some(failed) = failed {
            return Err(failed);
        }
        let (summary, index) = digested.map_err(|why| match from == self.dir {
            true => ArchiveError::Archive(why),
            false => ArchiveError::Log(why),
        })?;
        self.segments += 1;
        if self.files.mode() != Mode::Require {
            self.files.copy(&segment_path(from, first), &segment_path(&self.dir, first))?;
            self.files.put(&summary_path(&self.dir, first), &summary.encode())?;
            self.files.put(&index_path(&self.dir, first), &index)?;
        }
        Ok((summary.end(), summary.hash()))
    }

    fn entry(&mut self, entry: &View<'_>) -> Result<(), ArchiveError> {
        self.tree.push(entry.leaf_hash);
        let Some(tiles) = &mut self.tiles else { return Ok(()) };
        for made in tiles.push(entry.bytes.to_vec()) {
            self.tile(made)?;
        }
        Ok(())
    }

    fn tile(&mut self, (tile, made): Made) -> Result<(), ArchiveError> {
        match made {
            Ok(bytes) => self.files.put(&self.files.path(&tile.path()), &bytes),
            Err(BadTile::TooLong { .. }) => {
                self.no_bundle += 1;
                Ok(())
            }
            Err(other) => Err(ArchiveError::Log(other.to_string())),
        }
    }
}
