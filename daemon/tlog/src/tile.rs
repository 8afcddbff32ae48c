//! The layout of c2sp.org/tlog-tiles: hashes of the tree in files of up to 256, and entries in bundles of up to 256.

use crate::frontier::Frontier;
use crate::hash::{Hash, leaf_hash};

/// Hashes or entries of a full tile.
pub const WIDTH: u64 = 256;
/// The highest level that has a path.
const MAX_LEVEL: u8 = 63;

/// What a tile has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hashes of this level; 0 has those of the leaves.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// One tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// What it has.
    pub kind: Kind,
    /// Its number in its level.
    pub number: u64,
    /// How many, from 1 to [`WIDTH`].
    pub width: u16,
}

/// A tile that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTile {
    /// Not the path of a tile.
    #[error("{0} is not the path of a tile")]
    Path(String),
    /// An entry that the format has no room for.
    #[error("entry {index} has {bytes} bytes; an entry bundle has room for 65535 bytes an entry")]
    TooLong {
        /// The entry's place in the bundle.
        index: usize,
        /// Its size.
        bytes: usize,
    },
    /// Not the bytes of a bundle.
    #[error("the entry bundle breaks off at byte {0}")]
    CutOff(usize),
    /// Not the bytes of hashes.
    #[error("a tile of hashes has a multiple of 32 bytes, at most 8192; this one has {0}")]
    Size(usize),
}

impl Tile {
    /// All tiles of a tree of `size` leaves: those of the hashes by level, then the entry bundles.
    pub fn of(size: u64) -> impl Iterator<Item = Tile> {
        let levels = (0..8).map(move |level: u8| (level, size >> (8 * u32::from(level)))).take_while(|(_, n)| *n > 0);
        let hashes = levels.flat_map(|(level, count)| row(Kind::Hashes(level), count));
        hashes.chain(row(Kind::Entries, size))
    }

    /// Its path below the log's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        let kind = match self.kind {
            Kind::Hashes(level) => level.to_string(),
            Kind::Entries => "entries".to_owned(),
        };
        let mut number = format!("{:03}", self.number % 1_000);
        let mut rest = self.number / 1_000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1_000);
            rest /= 1_000;
        }
        match u64::from(self.width) {
            WIDTH => format!("tile/{kind}/{number}"),
            width => format!("tile/{kind}/{number}.p/{width}"),
        }
    }

    /// Reads what [`path`](Self::path) wrote, and nothing else.
    ///
    /// # Errors
    /// [`BadTile::Path`].
    pub fn parse(path: &str) -> Result<Tile, BadTile> {
        read(path).filter(|tile| tile.path() == path).ok_or_else(|| BadTile::Path(path.to_owned()))
    }
}

fn row(kind: Kind, count: u64) -> impl Iterator<Item = Tile> {
    let full = (0..count / WIDTH).map(move |number| Tile { kind, number, width: 256 });
    let rest = u16::try_from(count % WIDTH).ok().filter(|rest| *rest > 0);
    full.chain(rest.map(move |width| Tile { kind, number: count / WIDTH, width }))
}

fn read(path: &str) -> Option<Tile> {
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => Kind::Entries,
        level => Kind::Hashes(level.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
    };
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (number, width.parse().ok().filter(|width| (1..256).contains(width))?),
        None => (rest, 256),
    };
    let number = number.split('/').try_fold(0_u64, |number, part| {
        let digits: u64 = part.strip_prefix('x').unwrap_or(part).parse().ok()?;
        number.checked_mul(1_000)?.checked_add(digits)
    })?;
    Some(Tile { kind, number, width })
}

/// Reads the hashes of a tile: its bytes are theirs, one after the other.
///
/// # Errors
/// [`BadTile::Size`].
pub fn decode_hashes(bytes: &[u8]) -> Result<Vec<Hash>, BadTile> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.is_empty() || hashes.len() as u64 > WIDTH {
        return Err(BadTile::Size(bytes.len()));
    }
    Ok(hashes.to_vec())
}

/// The root of a full or partial tile: what the tile of the level above has in its place, where it is full.
#[must_use]
pub fn root(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    frontier.root()
}

/// The bytes of an entry bundle.
///
/// # Errors
/// [`BadTile::TooLong`].
pub fn encode_entries<'e>(entries: impl IntoIterator<Item = &'e [u8]>) -> Result<Vec<u8>, BadTile> {
    let mut bundle = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let length = u16::try_from(entry.len()).map_err(|_| BadTile::TooLong { index, bytes: entry.len() })?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// Reads the entries of a bundle.
///
/// # Errors
/// [`BadTile::CutOff`].
pub fn decode_entries(bundle: &[u8]) -> Result<Vec<&[u8]>, BadTile> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        let cut = || BadTile::CutOff(bundle.len() - rest.len());
        let (length, behind) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (entry, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(cut)?;
        entries.push(entry);
        rest = behind;
    }
    Ok(entries)
}

/// The tiles of a tree whose leaves pass by once, in memory that grows with the logarithm of the tree and one bundle of entries.
#[derive(Debug, Default)]
pub struct Builder {
    /// Of each level, the tile that is not full yet, and its number.
    levels: Vec<(Vec<Hash>, u64)>,
    entries: Vec<Vec<u8>>,
    bundles: u64,
}

/// One tile and its bytes; of an entry bundle that the format has no room for, the reason.
pub type Made = (Tile, Result<Vec<u8>, BadTile>);

impl Builder {
    /// Without leaves.
    #[must_use]
    pub fn new() -> Builder {
        Builder::default()
    }

    /// The next entry. Returns the tiles that are full with it.
    pub fn push(&mut self, entry: Vec<u8>) -> Vec<Made> {
        let mut made = Vec::new();
        let mut hash = leaf_hash(&entry);
        for level in 0..=MAX_LEVEL {
            if self.levels.len() <= usize::from(level) {
                self.levels.push((Vec::new(), 0));
            }
            let Some((hashes, number)) = self.levels.get_mut(usize::from(level)) else { break };
            hashes.push(hash);
            if (hashes.len() as u64) < WIDTH {
                break;
            }
            made.push((Tile { kind: Kind::Hashes(level), number: *number, width: 256 }, Ok(hashes.concat())));
            hash = root(hashes);
            hashes.clear();
            *number += 1;
        }
        self.entries.push(entry);
        if self.entries.len() as u64 == WIDTH {
            made.push(self.bundle(256));
            self.entries.clear();
            self.bundles += 1;
        }
        made
    }

    /// The tiles that are not full, at this size of the tree.
    #[must_use]
    pub fn partial(&self) -> Vec<Made> {
        let width = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let levels = self.levels.iter().zip(0_u8..).filter(|((hashes, _), _)| !hashes.is_empty());
        let hashes = levels.map(|((hashes, number), level)| {
            (Tile { kind: Kind::Hashes(level), number: *number, width: width(hashes.len()) }, Ok(hashes.concat()))
        });
        let bundle = (!self.entries.is_empty()).then(|| self.bundle(width(self.entries.len())));
        hashes.chain(bundle).collect()
    }

    fn bundle(&self, width: u16) -> Made {
        let tile = Tile { kind: Kind::Entries, number: self.bundles, width };
        (tile, encode_entries(self.entries.iter().map(Vec::as_slice)))
    }
}
