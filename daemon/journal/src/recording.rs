//! Reading a recording. It trusts nothing: lengths are bounded by the file, checksums and the chain of hashes are checked, and
//! how the recording ends is part of what it says ([`RecordingEnd`]).
//!
//! The chain shows that frames were dropped, moved or changed within the file. A cut at the border of a frame, and a file that
//! somebody chained anew, show only by the frames and the hash that the audit log has: see [`RecordingReader::hash`].

use std::io;
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_json::Value;

use crate::entry::Hash;
use crate::frame::{Window, u32_at};
use crate::recorder::{
    CHAINED_VERSION, FIRST_RESERVED_KIND, FRAME_HEADER_BYTES, KIND_END, KIND_TRUNCATED, LAST_READERS, Links, MAGIC,
    MAX_FRAME_BYTES, OLDEST_VERSION, PREAMBLE_BYTES, Stopped, VERSION,
};
use crate::storage::file::FileError;
use crate::storage::{FileStorage, ReadAt};

/// Iterates over the inputs of a recording, in order. Ends at a marker, at the end of the file, or after an error.
#[derive(Debug)]
pub struct RecordingReader<S> {
    window: Window<S>,
    version: u32,
    header: Value,
    header_text: Vec<u8>,
    offset: u64,
    frames: u64,
    /// `None`: the format has no hashes.
    links: Option<Links>,
    end: Option<RecordingEnd>,
}

/// One recorded input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the file.
    pub offset: u64,
    /// What the recorder was told.
    pub kind: u8,
    /// Postcard bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Decodes the payload, all of it.
    ///
    /// # Errors
    /// [`RecordingError::Decode`]: not a `T`, or more than a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RecordingError> {
        self.decode_as(std::marker::PhantomData)
    }

    /// [`decode`](Self::decode) by a seed, which can keep why it failed: postcard loses the text of an error.
    ///
    /// # Errors
    /// As there.
    pub fn decode_as<'a, T: DeserializeSeed<'a>>(&'a self, seed: T) -> Result<T::Value, RecordingError> {
        let fail = |source| RecordingError::Decode { offset: self.offset, kind: self.kind, source };
        let mut payload = postcard::Deserializer::from_bytes(&self.payload);
        let input = seed.deserialize(&mut payload).map_err(fail)?;
        match payload.finalize().map_err(fail)? {
            [] => Ok(input),
            _ => Err(fail(postcard::Error::DeserializeBadEncoding)),
        }
    }
}

/// How a recording ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordingEnd {
    /// Complete: the end marker is there.
    Finished,
    /// It ended early and says why.
    Stopped(Stopped),
    /// Behind a whole frame, without a marker: still being written, or its writer died.
    Open,
    /// Inside a frame: still being written, or its writer died.
    Torn {
        /// Where the incomplete frame begins.
        offset: u64,
        /// Bytes from there to the end.
        bytes: u64,
    },
    /// An error was returned.
    Damaged,
}

impl RecordingReader<FileStorage> {
    /// Opens a recording and reads its header.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        Self::new(FileStorage::open_read_only(path).map_err(RecordingError::Open)?)
    }
}

impl<S: ReadAt> RecordingReader<S> {
    /// Reads the header of the recording in `source`.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn new(source: S) -> Result<Self, RecordingError> {
        let mut window = Window::new(source);
        let preamble = window.get(0, PREAMBLE_BYTES).map_err(RecordingError::Io)?;
        if !preamble.starts_with(&MAGIC) {
            return Err(RecordingError::NotARecording);
        }
        let word = |at| u32_at(preamble, at).ok_or(RecordingError::Header("incomplete".into()));
        let (version, len, crc) = (word(8)?, word(12)?, word(16)?);
        let checked = crc32c::crc32c(preamble.get(8..16).unwrap_or_default());
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(RecordingError::Version(version));
        }
        if len as usize > MAX_FRAME_BYTES {
            return Err(RecordingError::HeaderChanged(format!("length {len} exceeds {MAX_FRAME_BYTES}")));
        }
        let json = window.get(PREAMBLE_BYTES as u64, len as usize).map_err(RecordingError::Io)?;
        if json.len() < len as usize {
            return Err(RecordingError::Header("incomplete".into()));
        }
        if crc32c::crc32c_append(checked, json) != crc {
            return Err(RecordingError::HeaderChanged("checksum mismatch".into()));
        }
        let header = serde_json::from_slice(json).map_err(|e| RecordingError::Header(e.to_string()))?;
        let header_text = json.to_vec();
        let begin = PREAMBLE_BYTES + len as usize;
        let links = match version {
            CHAINED_VERSION.. => Some(Links::of_header(window.get(0, begin).map_err(RecordingError::Io)?)),
            _ => None,
        };
        Ok(Self { window, version, header, header_text, offset: begin as u64, frames: 0, links, end: None })
    }

    /// The format version of the file.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The header that the recorder was given.
    #[must_use]
    pub fn header(&self) -> &Value {
        &self.header
    }

    /// The header as it was written.
    #[must_use]
    pub fn header_text(&self) -> &[u8] {
        &self.header_text
    }

    /// How the recording ends, once the iterator has.
    #[must_use]
    pub fn end(&self) -> Option<&RecordingEnd> {
        self.end.as_ref()
    }

    /// Inputs read so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The hash of the last frame read, a marker included; `None` for versions without hashes. Once the iterator has ended it is
    /// that of the recording.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        self.links.map(|links| links.last())
    }

    fn read(&mut self) -> Result<Result<Frame, RecordingEnd>, RecordingError> {
        let offset = self.offset;
        let left = self.window.source.len().map_err(RecordingError::Io)?.saturating_sub(offset);
        if left == 0 {
            return Ok(Err(RecordingEnd::Open));
        }
        let torn = RecordingEnd::Torn { offset, bytes: left };
        let damaged = |why| RecordingError::Damaged { offset, why };
        let head_bytes = if self.links.is_some() { FRAME_HEADER_BYTES } else { 8 };
        let head = self.window.get(offset, head_bytes).map_err(RecordingError::Io)?;
        let (Some(len), Some(crc)) = (u32_at(head, 0), u32_at(head, 4)) else { return Ok(Err(torn)) };
        if !(1..=MAX_FRAME_BYTES).contains(&(len as usize)) {
            // A power cut can leave zeros where data was not written yet.
            return if self.zeros_from(offset)? { Ok(Err(torn)) } else { Err(damaged("frame length out of range")) };
        }
        if head.len() < head_bytes {
            return Ok(Err(torn));
        }
        let link = head[8..].to_vec();
        let whole = head_bytes as u64 + u64::from(len);
        let body = self.window.get(offset + head_bytes as u64, len as usize).map_err(RecordingError::Io)?;
        if body.len() < len as usize {
            return Ok(Err(torn));
        }
        if crc32c::crc32c_append(crc32c::crc32c(&link), body) != crc {
            return if left == whole { Ok(Err(torn)) } else { Err(damaged("checksum mismatch")) };
        }
        if let Some(links) = &mut self.links
            && links.advance(body)[..] != link[..]
        {
            // No crash writes a frame with the right checksum that does not continue the one before.
            return Err(RecordingError::Chain { offset, frames: self.frames });
        }
        let Some((&kind, payload)) = body.split_first() else { return Ok(Err(torn)) };
        let ended = match kind {
            KIND_END if payload.is_empty() => Some(RecordingEnd::Finished),
            KIND_TRUNCATED => {
                let stopped = serde_json::from_slice(payload).map_err(|_| damaged("marker is not readable"))?;
                Some(RecordingEnd::Stopped(stopped))
            }
            reserved if reserved >= FIRST_RESERVED_KIND => return Err(damaged("frame kind is not known")),
            _ => None,
        };
        let next = offset + whole;
        match ended {
            Some(_) if left > whole => {
                Err(RecordingError::Damaged { offset: next, why: "bytes behind the end marker" })
            }
            Some(end) => Ok(Err(end)),
            None => {
                let payload = payload.to_vec();
                (self.offset, self.frames) = (next, self.frames + 1);
                Ok(Ok(Frame { offset, kind, payload }))
            }
        }
    }

    fn zeros_from(&mut self, mut offset: u64) -> Result<bool, RecordingError> {
        loop {
            let bytes = self.window.get(offset, 64 << 10).map_err(RecordingError::Io)?;
            if bytes.is_empty() || bytes.iter().any(|b| *b != 0) {
                return Ok(bytes.is_empty());
            }
            offset += bytes.len() as u64;
        }
    }
}

impl<S: ReadAt> Iterator for RecordingReader<S> {
    type Item = Result<Frame, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        match self.read() {
            Ok(Ok(frame)) => Some(Ok(frame)),
            Ok(Err(end)) => {
                self.end = Some(end);
                None
            }
            Err(error) => {
                self.end = Some(RecordingEnd::Damaged);
                Some(Err(error))
            }
        }
    }
}

/// A recording that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file could not be opened.
    #[error("open recording")]
    Open(#[source] FileError),
    /// The medium failed.
    #[error("read recording")]
    Io(#[source] io::Error),
    /// Something else.
    #[error("not a recording")]
    NotARecording,
    /// A format that this version does not know.
    #[error("recording format version {0} cannot be read: {why}", why = not_read(*.0))]
    Version(u32),
    /// The header is incomplete or damaged.
    #[error("recording header: {0}")]
    Header(String),
    /// The header is not the one that was written.
    #[error("the header of the recording was changed: {0}")]
    HeaderChanged(String),
    /// Something that a crash of the writer does not leave behind.
    #[error("recording damaged at byte {offset}: {why}")]
    Damaged {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A frame with the right checksum that does not continue the one before.
    #[error(
        "recording changed at byte {offset}: frame {frames} does not continue the frame before it; frames were removed, moved, \
         replaced or come from another recording"
    )]
    Chain {
        /// Where the frame begins.
        offset: u64,
        /// Frames before it.
        frames: u64,
    },
    /// The payload is not what was asked for.
    #[error("decode frame of kind {kind} at byte {offset}")]
    Decode {
        /// Where the frame begins.
        offset: u64,
        /// Its kind.
        kind: u8,
        /// Why.
        #[source]
        source: postcard::Error,
    },
}

fn not_read(version: u32) -> String {
    let reads = format!("this program reads versions {OLDEST_VERSION} to {VERSION}");
    match LAST_READERS.iter().find(|(old, _)| *old == version) {
        Some((_, commit)) => format!("{reads}; use failsafectl built from commit {commit}, the last that reads it"),
        None if version > VERSION => format!("{reads}; use failsafectl of the release that wrote it"),
        None => reads,
    }
}
