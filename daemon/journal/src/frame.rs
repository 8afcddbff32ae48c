//! Framing of the audit log: a file header, then `len u32le | crc32c u32le | entry bytes` without gaps or padding.
//!
//! A file that begins with entry 0 has a header of [`VERSION`]. A later segment has one of [`SEGMENT_VERSION`], which also
//! holds the index of its first entry and the leaf hash of the entry before.
//!
//! [`Scanner`] reads frames in order and judges nothing but framing: whether an invalid frame is a torn tail or
//! tampering is decided in [`crate::walk`].

use std::io;

use crate::entry::MAX_ENTRY_BYTES;
use crate::storage::ReadAt;
use crate::walk::Chain;

/// First bytes of every audit log file.
pub const MAGIC: [u8; 8] = *b"FSAUDIT\0";
/// Version of a file that begins with entry 0.
pub const VERSION: u32 = 1;
/// Version of a file that continues another one. Frames and entries are those of [`VERSION`].
pub const SEGMENT_VERSION: u32 = 2;
/// Size of the file header: magic, version u32le, crc32c u32le of these 12 bytes.
pub const HEADER_BYTES: usize = 16;
/// Size of the header of a later segment: the same 16 bytes, first index u64le, 32 bytes of hash, crc32c u32le of these 56.
pub const SEGMENT_HEADER_BYTES: usize = 60;
/// Size of a frame's own header: length and checksum.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The file header of [`VERSION`].
#[must_use]
pub fn header() -> [u8; HEADER_BYTES] {
    preamble(VERSION)
}

/// The header of a file that begins at `start`: that of [`VERSION`] for the first entry, else that of [`SEGMENT_VERSION`].
#[must_use]
pub fn header_at(start: &Chain) -> Vec<u8> {
    if *start == Chain::default() {
        return header().to_vec();
    }
    let mut header = preamble(SEGMENT_VERSION).to_vec();
    header.extend_from_slice(&start.next_index.to_le_bytes());
    header.extend_from_slice(&start.head);
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

fn preamble(version: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Appends the frame of `entry` to `out`.
pub fn push_frame(out: &mut Vec<u8>, entry: &[u8]) {
    // An entry is at most MAX_ENTRY_BYTES, far below u32::MAX.
    let len = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(entry).to_le_bytes());
    out.extend_from_slice(entry);
}

/// What stands at the scanner's offset. `B` is how the entry's bytes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<B = Vec<u8>> {
    /// A whole frame with the right checksum.
    Frame {
        /// Where the frame begins in the file.
        offset: u64,
        /// The entry's bytes.
        bytes: B,
    },
    /// The file ends here.
    End,
    /// No valid frame, or no valid header when the offset is 0. The scanner stays where it is.
    Bad(Bad),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Shorter than a file header, and a beginning of one (or zeros).
    #[error("file header incomplete")]
    HeaderCut,
    /// Not the header of an audit log.
    #[error("file header damaged or not of an audit log")]
    Header,
    /// A header with the right checksum and another version.
    #[error("format version {0} is not known, only {VERSION} and {SEGMENT_VERSION}")]
    Version(u32),
    /// Fewer bytes than a frame header.
    #[error("frame header incomplete: {0} of {FRAME_HEADER_BYTES} bytes")]
    FrameHeaderCut(u64),
    /// A length that no entry has.
    #[error("frame length {0} is not between 1 and {MAX_ENTRY_BYTES}")]
    Length(u32),
    /// The frame would reach beyond the end of the file.
    #[error("frame incomplete: {have} of {len} bytes")]
    Cut {
        /// Entry bytes present.
        have: u64,
        /// Entry bytes announced.
        len: u32,
    },
    /// The bytes do not have the checksum that stands before them.
    #[error("checksum mismatch")]
    Checksum,
}

/// Reads frames from the beginning of a file.
#[derive(Debug)]
pub struct Scanner<S> {
    window: Window<S>,
    offset: u64,
    start: Option<Chain>,
}

impl<S: ReadAt> Scanner<S> {
    /// Starts at the file header.
    pub fn new(source: S) -> Self {
        Self { window: Window::new(source), offset: 0, start: None }
    }

    /// What the first entry of the file continues, once the header was read.
    #[must_use]
    pub fn start(&self) -> Option<Chain> {
        self.start
    }

    /// Reads the header if it was not read yet. `None`: there is no valid one.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn begin(&mut self) -> io::Result<Option<Chain>> {
        if self.offset == 0 && self.open()?.is_some() {
            self.window.forget();
        }
        Ok(self.start)
    }

    /// Goes to the frame at `offset`, which must be known to begin one.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Where the next frame begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes being scanned.
    pub fn source(&self) -> &S {
        &self.window.source
    }

    /// Ends the scan and gives the bytes back.
    pub fn into_source(self) -> S {
        self.window.source
    }

    /// Reads what stands at the offset and moves behind it if it is a frame.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn step(&mut self) -> io::Result<Step> {
        Ok(match self.look()? {
            Step::Frame { offset, bytes } => Step::Frame { offset, bytes: bytes.to_vec() },
            Step::End => Step::End,
            Step::Bad(bad) => Step::Bad(bad),
        })
    }

    /// [`step`](Self::step), without a copy of the entry.
    ///
    /// # Errors
    /// Only those of reading.
    pub(crate) fn look(&mut self) -> io::Result<Step<&[u8]>> {
        let (offset, len) = match self.find()? {
            Ok(found) => found,
            Err(None) => return Ok(Step::End),
            Err(Some(bad)) => {
                // The writer may cut these bytes off and put others there; the next look must not see the old ones.
                self.window.forget();
                return Ok(Step::Bad(bad));
            }
        };
        Ok(Step::Frame { offset, bytes: self.window.get(offset + FRAME_HEADER_BYTES as u64, len)? })
    }

    /// Where the next frame begins, and how long its entry is, which the window then holds. `Err(None)`: the file ends here.
    fn find(&mut self) -> io::Result<Result<(u64, usize), Option<Bad>>> {
        if self.offset == 0
            && let Some(bad) = self.open()?
        {
            return Ok(Err(bad));
        }
        let head = self.window.get(self.offset, FRAME_HEADER_BYTES)?;
        let Some((len, crc)) = frame_header(head) else {
            let have = head.len() as u64;
            return Ok(Err((have > 0).then_some(Bad::FrameHeaderCut(have))));
        };
        if !plausible(len) {
            return Ok(Err(Some(Bad::Length(len))));
        }
        let bytes = self.window.get(self.offset + FRAME_HEADER_BYTES as u64, len as usize)?;
        if bytes.len() < len as usize {
            return Ok(Err(Some(Bad::Cut { have: bytes.len() as u64, len })));
        }
        if crc32c::crc32c(bytes) != crc {
            return Ok(Err(Some(Bad::Checksum)));
        }
        let found = (self.offset, len as usize);
        self.offset += FRAME_HEADER_BYTES as u64 + u64::from(len);
        Ok(Ok(found))
    }

    /// Moves behind the next frame by its length alone, without reading its bytes. False where that is not possible; the
    /// scanner then stays where it is. For seeking in a log that is verified elsewhere.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn skip(&mut self) -> io::Result<bool> {
        if self.offset == 0 && self.open()?.is_some() {
            return Ok(false);
        }
        let Some((len, _)) = frame_header(self.window.get(self.offset, FRAME_HEADER_BYTES)?) else { return Ok(false) };
        let next = self.offset + FRAME_HEADER_BYTES as u64 + u64::from(len);
        if !plausible(len) || next > self.window.source.len()? {
            return Ok(false);
        }
        self.offset = next;
        Ok(true)
    }

    /// Looks for a frame with the right checksum whose entry looks like one, at any offset behind the current one.
    /// A file made to look full of frames ends the search early, with its first likeness as the answer.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn find_frame_behind(&mut self) -> io::Result<Option<u64>> {
        const OPENING: &[u8] = b"{\"index\":";
        const CHUNK: usize = 64 << 10;
        let mut budget = self.window.source.len()?.saturating_mul(4).saturating_add(64 << 20);
        let mut at = self.offset + 1;
        loop {
            let chunk = self.window.get(at, CHUNK)?.to_vec();
            let least = FRAME_HEADER_BYTES + OPENING.len();
            if chunk.len() < least {
                return Ok(None);
            }
            for start in 0..=chunk.len() - least {
                let head = &chunk[start..start + FRAME_HEADER_BYTES];
                if !chunk[start + FRAME_HEADER_BYTES..].starts_with(OPENING) {
                    continue;
                }
                let Some((len, crc)) = frame_header(head).filter(|(len, _)| plausible(*len)) else { continue };
                let offset = at + start as u64;
                if budget < u64::from(len) {
                    return Ok(Some(offset));
                }
                budget -= u64::from(len);
                let bytes = self.window.get(offset + FRAME_HEADER_BYTES as u64, len as usize)?;
                if bytes.len() == len as usize && crc32c::crc32c(bytes) == crc {
                    return Ok(Some(offset));
                }
            }
            // The last positions of this chunk are looked at again at the head of the next, with more behind them.
            at += (chunk.len() - least + 1) as u64;
        }
    }

    /// Reads the header. `None`: it is valid, and the scanner stands behind it. `Some(None)`: the file is empty.
    fn open(&mut self) -> io::Result<Option<Option<Bad>>> {
        let there = self.window.source.len()?;
        let found = self.window.get(0, SEGMENT_HEADER_BYTES)?;
        let cut = |cut: bool| Ok(Some(Some(if cut { Bad::HeaderCut } else { Bad::Header })));
        if found.is_empty() {
            return Ok(Some(None));
        }
        let (first, later) = (header(), preamble(SEGMENT_VERSION));
        let zeros = found.iter().all(|b| *b == 0);
        if found.len() < HEADER_BYTES {
            return cut(first.starts_with(found) || later.starts_with(found) || zeros);
        }
        if found.starts_with(&first) {
            (self.start, self.offset) = (Some(Chain::default()), HEADER_BYTES as u64);
            return Ok(None);
        }
        if found.starts_with(&later) {
            if found.len() < SEGMENT_HEADER_BYTES {
                return cut(true);
            }
            let Some(start) = segment_start(found) else { return cut(false) };
            (self.start, self.offset) = (Some(start), SEGMENT_HEADER_BYTES as u64);
            return Ok(None);
        }
        let sound = found.starts_with(&MAGIC) && Some(crc32c::crc32c(&found[..12])) == u32_at(found, 12);
        if sound {
            return Ok(Some(Some(Bad::Version(u32_at(found, 8).unwrap_or(0)))));
        }
        cut(zeros && [HEADER_BYTES as u64, SEGMENT_HEADER_BYTES as u64].contains(&there))
    }
}

fn segment_start(header: &[u8]) -> Option<Chain> {
    (Some(crc32c::crc32c(&header[..56])) == u32_at(header, 56)).then_some(())?;
    let next_index = u64::from_le_bytes(header.get(16..24)?.try_into().ok()?);
    Some(Chain { next_index, head: header.get(24..56)?.try_into().ok()? })
}

fn plausible(len: u32) -> bool {
    (1..=MAX_ENTRY_BYTES).contains(&(len as usize))
}

fn frame_header(bytes: &[u8]) -> Option<(u32, u32)> {
    Some((u32_at(bytes, 0)?, u32_at(bytes, 4)?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A piece of the file held in memory, so that a walk costs one read per [`Window::READ`] bytes, not two per frame.
#[derive(Debug)]
pub(crate) struct Window<S> {
    pub(crate) source: S,
    at: u64,
    held: Vec<u8>,
}

impl<S: ReadAt> Window<S> {
    const READ: usize = 128 << 10;

    pub(crate) fn new(source: S) -> Self {
        Self { source, at: 0, held: Vec::new() }
    }

    /// `want` bytes from `offset`, fewer only where the file ends. What is held is never assumed to be the end: the file
    /// may have grown since.
    pub(crate) fn get(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        let within = |held: &Vec<u8>, at: u64| {
            let start = usize::try_from(offset.checked_sub(at)?).ok()?;
            (start + want <= held.len()).then_some(start)
        };
        let start = match within(&self.held, self.at) {
            Some(start) => start,
            None => {
                self.refill(offset, want.max(Self::READ))?;
                0
            }
        };
        let end = (start + want).min(self.held.len());
        Ok(&self.held[start..end])
    }

    fn forget(&mut self) {
        self.held.clear();
    }

    fn refill(&mut self, offset: u64, want: usize) -> io::Result<()> {
        self.held.clear();
        self.at = offset;
        // Not more than there is: a length field must not make us allocate what the file does not hold.
        let there = usize::try_from(self.source.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        if there == 0 {
            // Who follows the log waits here most of the time, and holds no memory meanwhile.
            self.held = Vec::new();
        }
        self.held.resize(want.min(there), 0);
        let mut filled = 0;
        while filled < self.held.len() {
            match self.source.read_at(offset + filled as u64, &mut self.held[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.held.clear();
                    return Err(e);
                }
            }
        }
        self.held.truncate(filled);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_a_contract() {
        // Computed by an independent bitwise CRC-32C.
        assert_eq!(hex::encode(header()), "4653415544495400010000008564fec4");
    }

    #[test]
    fn a_later_segment_says_what_it_continues() {
        let start = Chain { next_index: 7, head: [0xab; 32] };
        let header = header_at(&start);
        assert_eq!(
            hex::encode(&header),
            format!(
                "465341554449540002000000bceddca60700000000000000{}{}",
                "ab".repeat(32),
                hex::encode(&header[56..])
            )
        );
        let mut scanner = Scanner::new(&header[..]);
        assert_eq!((scanner.begin().unwrap(), scanner.step().unwrap()), (Some(start), Step::End));
        for cut in 1..header.len() {
            assert_eq!(Scanner::new(&header[..cut]).step().unwrap(), Step::Bad(Bad::HeaderCut), "{cut}");
        }
        let mut other = header;
        other[20] ^= 1;
        assert_eq!(Scanner::new(&other[..]).step().unwrap(), Step::Bad(Bad::Header));
    }

    #[test]
    fn other_versions_are_named() {
        let mut other = header();
        other[8] = 9;
        let crc = crc32c::crc32c(&other[..12]);
        other[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Scanner::new(&other[..]).step().unwrap(), Step::Bad(Bad::Version(9)));
    }

    #[test]
    fn bytes_that_were_replaced_are_read_anew() {
        let sim = crate::storage::sim::SimStorage::holding(&[&header()[..], &[0; 64]].concat());
        let mut scanner = Scanner::new(sim.clone());
        assert_eq!(scanner.step().unwrap(), Step::Bad(Bad::Length(0)));
        sim.tamper(|image| {
            image.truncate(HEADER_BYTES);
            push_frame(image, b"{}");
        });
        assert!(matches!(scanner.step().unwrap(), Step::Frame { .. }));
    }

    #[test]
    fn search_finds_a_frame_across_chunk_borders() {
        for gap in [1usize, 17, 65_519, 65_520, 65_530, 65_536, 131_072, 200_001] {
            let mut image = header().to_vec();
            image.extend(std::iter::repeat_n(0xff, gap));
            let at = image.len() as u64;
            push_frame(&mut image, b"{\"index\":1}");
            let mut scanner = Scanner::new(&image[..]);
            assert!(matches!(scanner.step().unwrap(), Step::Bad(_)));
            assert_eq!(scanner.find_frame_behind().unwrap(), Some(at), "gap {gap}");
        }
    }
}
