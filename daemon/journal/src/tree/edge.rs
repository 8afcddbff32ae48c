//! The edge of the tree at the border of two segments, as a file. Derived data: it is made again from the entries where it is
//! missing, and the signed checkpoints show whether it is right.

use failsafe_tlog::Frontier;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::Tree;
use crate::segments::{Removed, numbered};
use crate::storage::bounded;

/// Version of edges that this crate writes.
const VERSION: u32 = 1;

/// The content of an edge's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// 1.
    pub version: u32,
    /// The entry that is leaf 0 of the tree.
    pub first: u64,
    /// Number of leaves.
    pub size: u64,
    /// Roots of the complete subtrees, largest first, in hex.
    pub hashes: Vec<String>,
}

/// The edge in front of entry `at`.
#[must_use]
pub fn edge_path(dir: &Path, at: u64) -> PathBuf {
    dir.join(format!("{at:020}.tree"))
}

/// The bytes of an edge's file.
#[must_use]
pub fn encode(tree: &Tree) -> Vec<u8> {
    let (first, size) = (tree.first, tree.frontier.size());
    let edge = Edge { version: VERSION, first, size, hashes: tree.frontier.hashes().iter().map(hex::encode).collect() };
    // Integers and texts always have a JSON form.
    serde_json::to_vec(&edge).unwrap_or_default()
}

/// The tree at the border in front of entry `at`.
///
/// # Errors
/// Why it is not known, in words.
pub fn read(dir: &Path, at: u64) -> Result<Tree, String> {
    let path = edge_path(dir, at);
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let bytes = bounded::read(&path, bounded::LARGEST).map_err(|error| named(&error))?;
    let edge: Edge = serde_json::from_slice(&bytes).map_err(|error| named(&error))?;
    if edge.version != VERSION {
        return Err(named(&format!("version {} is not known", edge.version)));
    }
    let hash = |text: &String| hex::decode(text).ok()?.try_into().ok();
    let hashes = edge.hashes.iter().map(|text| hash(text).ok_or_else(|| named(&"a hash is not 64 hex digits")));
    let frontier = Frontier::restore(edge.size, hashes.collect::<Result<_, _>>()?).map_err(|error| named(&error))?;
    let tree = Tree { first: edge.first, frontier };
    if tree.entries() == at { Ok(tree) } else { Err(named(&format!("it is the edge at entry {}", tree.entries()))) }
}

/// The tree at the last border, at or in front of entry `at_most`, of which the edge is known; else at the log's beginning.
///
/// # Errors
/// The log begins behind removed entries, and the edge there is not known, in words: the tree cannot be continued.
pub fn nearest(dir: &Path, removed: Option<&Removed>, at_most: u64) -> Result<Tree, String> {
    let begin = removed.map_or(0, |removed| removed.entries);
    let mut borders = numbered(dir, "tree");
    borders.retain(|at| (begin..=at_most).contains(at));
    let known = borders.iter().rev().find_map(|at| read(dir, *at).ok());
    match known {
        Some(tree) => Ok(tree),
        None if begin == 0 => Ok(Tree::default()),
        None => Err(format!(
            "the edge of the tree in front of entry {begin}, where the log begins, is missing or damaged: {}",
            read(dir, begin).err().unwrap_or_default()
        )),
    }
}
