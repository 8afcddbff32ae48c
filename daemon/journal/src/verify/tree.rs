//! Comparing the tree of a log, entry by entry, with the checkpoints that were signed for it, and with the edges that are kept.

use std::path::Path;

use super::Verdict;
use crate::entry::Hash;
use crate::segments::numbered;
use crate::tree::{SignedTree, Tree, edge};
use crate::walk::Chain;

/// A checkpoint that a log has to contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it comes from, for messages.
    pub source: String,
    /// What it vouches for.
    pub tree: SignedTree,
    /// Whether it was kept elsewhere, and named by who verifies: then a log that cannot be compared with it does not pass.
    pub named: bool,
}

/// The tree over the entries of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeReport {
    /// The entry that is leaf 0.
    pub first: u64,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
    /// Checkpoints that the log contains.
    pub contained: usize,
    /// Checkpoints that the log does not contain: it has fewer entries, or others.
    pub not_contained: usize,
    /// Checkpoints of entries that retention removed: nothing is left to compare them with.
    pub removed: usize,
    /// The number of entries that were signed, as the last entry about it states; 0 if none does.
    pub stated: u64,
    /// Whether a signed checkpoint shows that the log continues the entries that were removed before its first one.
    pub continued: bool,
}

/// The tree of a log that is being read.
pub(super) struct Compared<'a> {
    dir: &'a Path,
    tree: Tree,
    /// Those to come, the one with the fewest entries last.
    claims: Vec<&'a Claim>,
    /// Borders to come of which the edge is kept, the first one last.
    borders: Vec<u64>,
    begin: u64,
    contained: usize,
    not_contained: usize,
    stated: u64,
    removed: Vec<&'a Claim>,
    wrong: Option<Verdict>,
}

impl<'a> Compared<'a> {
    pub fn new(dir: &'a Path, begin: &Chain, claims: &'a [Claim]) -> Compared<'a> {
        let begin = begin.next_index;
        let (mut claims, removed): (Vec<&Claim>, Vec<&Claim>) =
            claims.iter().partition(|claim| claim.tree.entries() >= begin);
        claims.sort_by_key(|claim| std::cmp::Reverse(claim.tree.entries()));
        let mut borders = numbered(dir, "tree");
        borders.retain(|at| *at > begin);
        borders.reverse();
        let (tree, wrong) = match edge::read(dir, begin) {
            Ok(tree) => (tree, None),
            // So it is where entries were removed before the log had a tree.
            Err(_) if claims.iter().all(|claim| claim.tree.first == begin) => (Tree::beginning_at(begin), None),
            Err(why) => {
                (Tree::beginning_at(begin), Some(Verdict::Segment(format!("the tree cannot be continued: {why}"))))
            }
        };
        let (contained, not_contained, stated) = (0, 0, 0);
        let mut compared =
            Compared { dir, tree, claims, borders, begin, contained, not_contained, stated, removed, wrong };
        compared.compare();
        compared
    }

    /// Adds the next entry, which may state how many were signed.
    pub fn push(&mut self, leaf_hash: Hash, signed: Option<u64>) {
        self.tree.push(leaf_hash);
        self.stated = signed.unwrap_or(self.stated);
        self.compare();
    }

    /// What was found. The claims that are left are of more entries than the log has.
    pub fn finish(self) -> (TreeReport, Option<Verdict>) {
        let Compared { tree, claims, begin, contained, not_contained, stated, removed, wrong, .. } = self;
        let not_contained = not_contained + claims.len();
        let (first, size, root) = (tree.first, tree.frontier.size(), tree.frontier.root());
        let short = claims.first().map(|claim| {
            Verdict::Shortened(format!(
                "the log has {} entries, but the checkpoint {} was signed for {}",
                tree.entries(),
                claim.source,
                claim.tree.entries()
            ))
        });
        let unseen = removed.iter().find(|claim| claim.named).map(|claim| {
            Verdict::NotCompared(format!(
                "the checkpoint {} was signed for {} entries, but the first {begin} entries of the log were removed by retention: \
                 nothing is left to compare it with",
                claim.source,
                claim.tree.entries()
            ))
        });
        // What is contained was compared with a tree that begins with the edge in front of the first entry.
        let continued = begin == 0 || (first < begin && contained > 0);
        let report =
            TreeReport { first, size, root, contained, not_contained, removed: removed.len(), stated, continued };
        (report, wrong.or(short).or(unseen))
    }

    fn compare(&mut self) {
        let at = self.tree.entries();
        if self.borders.pop_if(|border| *border <= at).is_some() {
            let kept = edge::read(self.dir, at);
            if kept.as_ref() != Ok(&self.tree) {
                let why = kept.err().unwrap_or_else(|| "its hashes are not those of the entries".into());
                let text = format!("the edge of the tree in front of entry {at} is wrong: {why}");
                self.wrong.get_or_insert(Verdict::Segment(text));
            }
        }
        while let Some(claim) = self.claims.pop_if(|claim| claim.tree.entries() <= at) {
            match differs(&self.tree, claim) {
                None => self.contained += 1,
                Some(why) => {
                    self.not_contained += 1;
                    self.wrong.get_or_insert(Verdict::Forked(why));
                }
            }
        }
    }
}

fn differs(tree: &Tree, Claim { source, tree: claimed, .. }: &Claim) -> Option<String> {
    if claimed.first != tree.first {
        return Some(format!(
            "the tree of the log begins with entry {}, but that of the checkpoint {source} with entry {}",
            tree.first, claimed.first
        ));
    }
    let root = tree.frontier.root();
    (claimed.root != root).then(|| {
        format!(
            "the first {} entries of the log have root hash {}, but the checkpoint {source} has {}",
            tree.entries(),
            hex::encode(root),
            hex::encode(claimed.root)
        )
    })
}
