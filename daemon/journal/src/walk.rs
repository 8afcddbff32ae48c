//! The one judgement of a log's bytes, shared by opening, verifying and reading: frames, checksums, canonical form, index
//! continuity and `prev` links, and where they end: cleanly, in a torn tail, or in tampering.
//!
//! The line between the last two: a crash can only spoil what was not yet synced, which is at the end. So bytes that are no
//! frame are a **torn tail** if no whole frame stands anywhere behind them; otherwise they are **tampering**. A frame with
//! the right checksum that does not fit the chain is always tampering: no crash writes that.

use std::io;

use crate::entry::{Entry, Hash, ParseError};
use crate::frame::{Bad, Scanner, Step};
use crate::storage::ReadAt;
use crate::view::View;

/// Walks a log from its first entry.
#[derive(Debug)]
pub struct Walker<S> {
    scanner: Scanner<S>,
    chain: Chain,
    /// What the file must continue; `None`: whatever its header says.
    expected: Option<Chain>,
    begun: bool,
}

/// Where a walk stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// At the end of the file, behind a valid entry (or nothing).
    Clean,
    /// In a torn tail, which reaches to the end of the file.
    Torn {
        /// Where the tail begins.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// What is wrong with it.
        why: Bad,
    },
    /// In something that no crash leaves behind.
    Tampered(Problem),
}

/// The first thing in a log that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}, entry {index}: {why}")]
pub struct Problem {
    /// Where the frame begins in the file.
    pub offset: u64,
    /// The index that the entry there should have.
    pub index: u64,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong at a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No valid header, or a format that this version does not know.
    #[error("{0}")]
    Header(Bad),
    /// An invalid frame with a valid one behind it.
    #[error("{bad}, but a valid entry follows at byte {next}")]
    Frame {
        /// What is wrong with the frame.
        bad: Bad,
        /// Where the valid one begins.
        next: u64,
    },
    /// The file does not continue what lies before it.
    #[error("the file begins at entry {}, not at entry {}, or continues another log", .0.found, .0.expected)]
    Start(Start),
    /// The checksum is right, the entry is not.
    #[error("{0}")]
    Entry(ParseError),
    /// An entry is missing, repeated or moved.
    #[error("index is {found}, not {expected}")]
    Index {
        /// In the entry.
        found: u64,
        /// By position.
        expected: u64,
    },
    /// The entry before was replaced, or this one comes from another log.
    #[error("prev is {}, but the entry before has leaf hash {}", hex::encode(.0.found), hex::encode(.0.expected))]
    Prev(Box<PrevMismatch>),
}

/// Where a file begins and where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Index of the first entry, by the header.
    pub found: u64,
    /// The index that should follow.
    pub expected: u64,
}

/// The hashes of a broken link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrevMismatch {
    /// In the entry.
    pub found: Hash,
    /// Leaf hash of the entry before.
    pub expected: Hash,
}

/// Index and hash that the next entry must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// Index of the next entry, which is the number of entries so far.
    pub next_index: u64,
    /// Leaf hash of the last entry; zeros if there is none.
    pub head: Hash,
}

impl Chain {
    /// Checks `bytes` as the next entry and moves on.
    ///
    /// # Errors
    /// [`Why`] it is not the next entry; the chain then stays.
    pub fn accept<'a>(&mut self, bytes: &'a [u8]) -> Result<View<'a>, Why> {
        let view = View::parse(bytes).map_err(Why::Entry)?;
        if view.index != self.next_index {
            return Err(Why::Index { found: view.index, expected: self.next_index });
        }
        if view.prev != self.head {
            return Err(Why::Prev(Box::new(PrevMismatch { found: view.prev, expected: self.head })));
        }
        *self = Self { next_index: view.index + 1, head: view.leaf_hash };
        Ok(view)
    }
}

impl<S: ReadAt> Walker<S> {
    /// Starts at the file header, and takes its word for what the file continues.
    pub fn new(source: S) -> Self {
        Self { scanner: Scanner::new(source), chain: Chain::default(), expected: None, begun: false }
    }

    /// Starts at the header of a file that must continue `chain`.
    pub fn continuing(source: S, chain: Chain) -> Self {
        Self { scanner: Scanner::new(source), chain, expected: Some(chain), begun: false }
    }

    /// Gives each valid entry, with its frame's offset, to `visit`, up to the ending. May be called again to go on where
    /// it stopped, if the file has grown.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn run(&mut self, mut visit: impl FnMut(u64, &View<'_>)) -> io::Result<Ending> {
        loop {
            if let Some(problem) = self.begin()? {
                return Ok(Ending::Tampered(problem));
            }
            match self.scanner.look()? {
                Step::End => return Ok(Ending::Clean),
                Step::Bad(bad) => return self.judge(bad),
                Step::Frame { offset, bytes } => match self.chain.accept(bytes) {
                    Ok(view) => visit(offset, &view),
                    Err(why) => {
                        return Ok(Ending::Tampered(Problem { offset, index: self.chain.next_index, why }));
                    }
                },
            }
        }
    }

    fn begin(&mut self) -> io::Result<Option<Problem>> {
        if self.begun {
            return Ok(None);
        }
        let Some(start) = self.scanner.begin()? else { return Ok(None) };
        self.begun = true;
        match self.expected {
            Some(expected) if expected != start => {
                let why = Why::Start(Start { found: start.next_index, expected: expected.next_index });
                Ok(Some(Problem { offset: 0, index: expected.next_index, why }))
            }
            _ => {
                self.chain = start;
                Ok(None)
            }
        }
    }

    /// What the next entry must continue.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Where the walk stands: behind the last valid frame, or inside an entry that does not fit.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.scanner.offset()
    }

    /// The bytes being walked.
    pub fn source(&self) -> &S {
        self.scanner.source()
    }

    /// Ends the walk and gives the bytes back.
    pub fn into_source(self) -> S {
        self.scanner.into_source()
    }

    fn judge(&mut self, bad: Bad) -> io::Result<Ending> {
        let (offset, index) = (self.scanner.offset(), self.chain.next_index);
        let tampered = |why| Ok(Ending::Tampered(Problem { offset, index, why }));
        if let Bad::Header | Bad::Version(_) = bad {
            return tampered(Why::Header(bad));
        }
        if let Some(next) = self.scanner.find_frame_behind()? {
            return tampered(Why::Frame { bad, next });
        }
        let bytes = self.scanner.source().len()?.saturating_sub(offset);
        Ok(Ending::Torn { offset, bytes, why: bad })
    }
}

/// Parses a whole log image: a pure function of its bytes, for fuzzing. Never panics.
#[must_use]
pub fn parse_frames(image: &[u8]) -> (Vec<Entry>, Ending) {
    let mut entries = Vec::new();
    let mut walker = Walker::new(image);
    // Reading a slice does not fail.
    let ending = walker.run(|_, view| entries.extend(view.entry())).unwrap_or(Ending::Clean);
    (entries, ending)
}
