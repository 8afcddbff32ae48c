//! Writing a recording: every input of one run, in order, for replay. A `*.fsrec` file stands alone: its header says what it
//! is of and under which policy, and any beginning of it is readable, so it can be copied while it grows.
//!
//! [`Recorder::record`] only encodes into memory; the disk is touched by [`Recorder::flush`], which the owner calls every so
//! often, and by `record` itself once [`FLUSH_AT`] bytes wait. Recordings are not synced until [`Recorder::finish`]: what the
//! audit log needs is in the audit log.
//!
//! Invariants:
//! - A recording has no holes. When it cannot go on (size cap, or a disk that stays unwritable) it ends, with a marker that says
//!   why, because a replay of inputs with a hole would quietly decide something else.
//! - The hash of each frame covers the frames before it and the header. The last hash is kept in the audit log, so that a frame
//!   that is dropped, changed or moved later, a cut, and another run's recording are found ([`Links`]).

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::entry::Hash;
use crate::storage::file::FileError;
use crate::storage::{FileStorage, Storage};

/// First bytes of every recording.
pub const MAGIC: [u8; 8] = *b"FSREC\0\0\0";
/// Format version that this crate writes.
pub const VERSION: u32 = 9;
/// Oldest version that this crate reads. Version 6 added variants to enums of the core (`Value::Claimed`, `Input::Silent`,
/// `Input::SeriesEnded`) behind those of version 5. Version 7 chains the frames. Up to version 7 the number of a variant was its
/// position in the source; since version 8 it is that of a table in the core, which begins as these positions, so that one decoder
/// reads all. Version 9 has an actor where earlier ones have a user id and a process id: the decoder needs the version.
pub const OLDEST_VERSION: u32 = 5;
/// Versions that are no longer read, with the last commit of the project that reads each. A version 2 and a version 4 each had
/// several layouts under one number, which a reader cannot tell apart.
pub const LAST_READERS: [(u32, &str); 4] =
    [(1, "e5cb22e5ce24"), (2, "d7756f2eb39a"), (3, "51698e35a643"), (4, "f6610afbbd87")];
/// The first version of which the frames are chained.
pub const CHAINED_VERSION: u32 = 7;
/// Magic, version u32le, header length u32le, crc32c u32le of version, length and header.
pub const PREAMBLE_BYTES: usize = 20;
/// Bytes before the kind of a frame of [`VERSION`]: length u32le, crc32c u32le, [`LINK_BYTES`] of the frame's hash.
pub const FRAME_HEADER_BYTES: usize = 8 + LINK_BYTES;
/// How much of its hash a frame carries. The whole last hash is in the audit log.
pub const LINK_BYTES: usize = 8;
/// Largest frame (kind and payload) and largest header, in bytes.
pub const MAX_FRAME_BYTES: usize = 8 << 20;
/// Bytes in memory at which `record` writes them.
pub const FLUSH_AT: usize = 256 << 10;
/// Room for frames that a recording keeps while nothing waits.
const KEPT_ROOM: usize = 512;
/// Bytes in memory at which a recording on an unwritable disk ends.
pub const MAX_BUFFERED: usize = 16 << 20;
/// Kinds from here on are the recorder's own.
pub const FIRST_RESERVED_KIND: u8 = 0xf0;
/// The recording ends early; payload: JSON of [`Stopped`].
pub const KIND_TRUNCATED: u8 = 0xf0;
/// The recording is complete; payload: none.
pub const KIND_END: u8 = 0xf1;

/// Kept free below the cap for the marker.
const MARKER_ROOM: u64 = 512;

/// Writes one recording.
#[derive(Debug)]
pub struct Recorder<S: Storage = FileStorage> {
    storage: S,
    buffer: Vec<u8>,
    /// Bytes that are in the file.
    flushed: u64,
    dirty: bool,
    max_bytes: u64,
    frames: u64,
    stopped: Option<Stopped>,
    /// A marker is its last frame.
    ended: bool,
    links: Links,
    failure: Option<String>,
}

/// The hashes of a recording, one after the other: that of the header, then one for each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links(Hash);

impl Links {
    /// Begins behind a header; `head` are all bytes of the file up to the first frame.
    #[must_use]
    pub fn of_header(head: &[u8]) -> Links {
        Links(Sha256::digest(head).into())
    }

    /// Moves on to a frame with this kind and payload, and returns what the frame carries of its hash.
    pub fn advance(&mut self, body: &[u8]) -> [u8; LINK_BYTES] {
        self.0 = Sha256::new().chain_update(self.0).chain_update(body).finalize().into();
        let mut link = [0; LINK_BYTES];
        link.copy_from_slice(&self.0[..LINK_BYTES]);
        link
    }

    /// The hash of the last frame.
    #[must_use]
    pub fn last(&self) -> Hash {
        self.0
    }
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is part of the recording.
    Written,
    /// The recording has ended before it; see [`Recorder::stopped`].
    Stopped,
}

/// Why a recording ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// `max_bytes` or `storage`.
    pub reason: StopReason,
    /// Frames before the marker.
    pub frames: u64,
    /// The disk's error, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The kinds of [`Stopped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The size cap is reached.
    MaxBytes,
    /// The disk could not be written for too long.
    Storage,
    /// The recordings of the run's user reached their limit together.
    Quota,
}

/// A finished recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Frames, markers not counted.
    pub frames: u64,
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// The hash of its last frame, the marker included, for the audit log.
    pub hash: Hash,
    /// Why it ended early, if it did.
    pub stopped: Option<Stopped>,
}

impl Recorder<FileStorage> {
    /// Begins the recording `path`, which must not exist. `header` is stored as JSON. The file grows to `max_bytes` at most,
    /// or to the size of the header and a marker if that is more.
    ///
    /// # Errors
    /// [`RecordError`]; a file that was created is removed again.
    pub fn create(path: &Path, header: &impl Serialize, max_bytes: u64) -> Result<Self, RecordError> {
        let storage = FileStorage::create_new(path).map_err(RecordError::Create)?;
        Self::create_on(storage, header, max_bytes).inspect_err(|_| {
            let _left = std::fs::remove_file(path);
        })
    }
}

impl<S: Storage> Recorder<S> {
    /// [`create`](Recorder::create) on any empty medium.
    ///
    /// # Errors
    /// As there.
    pub fn create_on(storage: S, header: &impl Serialize, max_bytes: u64) -> Result<Self, RecordError> {
        let json = serde_json::to_vec(header).map_err(RecordError::Header)?;
        if json.len() > MAX_FRAME_BYTES {
            return Err(RecordError::TooLarge { what: "header", bytes: json.len() });
        }
        let mut checked = VERSION.to_le_bytes().to_vec();
        checked.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&checked), &json);
        let head = [&MAGIC[..], &checked, &crc.to_le_bytes(), &json].concat();
        let mut recorder = Self {
            storage,
            links: Links::of_header(&head),
            buffer: head,
            flushed: 0,
            dirty: false,
            max_bytes,
            frames: 0,
            stopped: None,
            ended: false,
            failure: None,
        };
        recorder.flush()?;
        Ok(recorder)
    }

    /// Adds one input of a `kind` below [`FIRST_RESERVED_KIND`]. A disk that fails does not fail this: what waits is kept
    /// in memory up to [`MAX_BUFFERED`], then the recording ends.
    ///
    /// # Errors
    /// [`RecordError`]: this input cannot be recorded; the recording is as before.
    pub fn record<T: Serialize + ?Sized>(&mut self, kind: u8, input: &T) -> Result<Recorded, RecordError> {
        if kind >= FIRST_RESERVED_KIND {
            return Err(RecordError::ReservedKind(kind));
        }
        if self.ended {
            return Ok(Recorded::Stopped);
        }
        let body = postcard::to_extend(input, vec![kind]).map_err(RecordError::Encode)?;
        if body.len() > MAX_FRAME_BYTES {
            return Err(RecordError::TooLarge { what: "input", bytes: body.len() });
        }
        if self.bytes() + FRAME_HEADER_BYTES as u64 + body.len() as u64 + MARKER_ROOM > self.max_bytes {
            self.stop(StopReason::MaxBytes);
            return Ok(Recorded::Stopped);
        }
        if self.buffer.len() + body.len() > MAX_BUFFERED {
            self.stop(StopReason::Storage);
            return Ok(Recorded::Stopped);
        }
        self.push_frame(&body);
        self.frames += 1;
        if self.buffer.len() >= FLUSH_AT && self.failure.is_none() {
            // While the disk fails, only the owner's flush tries it, not every input.
            let _kept_in_failure = self.flush();
        }
        Ok(Recorded::Written)
    }

    /// Hands what waits in memory to the kernel, so that readers see it.
    ///
    /// # Errors
    /// [`RecordError::Io`]; all is kept and the next flush tries again.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        let flushed = self.write_out();
        self.failure = flushed.as_ref().err().map(|error| crate::writer::chain_text(error));
        flushed
    }

    /// Ends the recording with a marker, in memory. Its [`hash`](Self::hash) is final then, whatever the disk does.
    pub fn end(&mut self) {
        if !self.ended {
            self.push_frame(&[KIND_END]);
            self.ended = true;
        }
    }

    /// Ends the recording with a marker, writes it out and syncs it.
    ///
    /// # Errors
    /// [`RecordError::Io`]; the recording is then without its end.
    pub fn finish(mut self) -> Result<Summary, RecordError> {
        self.end();
        self.flush()?;
        self.storage.sync().map_err(RecordError::io("sync"))?;
        Ok(Summary { frames: self.frames, bytes: self.flushed, hash: self.hash(), stopped: self.stopped.take() })
    }

    /// Ends the recording early, because the recordings of its user reached their limit together.
    pub fn stop_at_quota(&mut self) {
        if !self.ended {
            self.stop(StopReason::Quota);
        }
    }

    /// Why the recording ended early, once it has.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// The error of the last flush, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Inputs recorded.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The hash of the last frame.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.links.last()
    }

    /// Size of the recording, in bytes, with what waits in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn stop(&mut self, reason: StopReason) {
        let error = self.failure.as_ref().filter(|_| reason == StopReason::Storage);
        let error = error.map(|error| error.chars().take(100).collect());
        let stopped = Stopped { reason, frames: self.frames, error };
        let mut body = vec![KIND_TRUNCATED];
        // Two integers and a short text always serialise.
        body.extend(serde_json::to_vec(&stopped).unwrap_or_default());
        self.push_frame(&body);
        (self.stopped, self.ended) = (Some(stopped), true);
    }

    fn push_frame(&mut self, body: &[u8]) {
        let link = self.links.advance(body);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&link), body);
        self.buffer.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&link);
        self.buffer.extend_from_slice(body);
    }

    fn write_out(&mut self) -> Result<(), RecordError> {
        if self.dirty {
            self.storage.truncate(self.flushed).map_err(RecordError::io("truncate"))?;
            self.dirty = false;
        }
        let mut written = 0;
        while written < self.buffer.len() {
            match self.storage.append(&self.buffer[written..]) {
                Ok(n) if n > 0 => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    // What was written stays: any beginning of a recording is valid.
                    self.buffer.drain(..written);
                    self.flushed += written as u64;
                    self.dirty = true;
                    let error = other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    return Err(RecordError::io("write")(error));
                }
            }
        }
        self.flushed += written as u64;
        self.buffer.clear();
        // A node has a thousand recordings at once, most of them of idle runs.
        self.buffer.shrink_to(KEPT_ROOM);
        Ok(())
    }
}

impl<S: Storage> Drop for Recorder<S> {
    /// Writes out what waits, without an end marker: the recording shows that it was not finished.
    fn drop(&mut self) {
        let _lost = self.write_out();
    }
}

/// A recording that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be created.
    #[error("create recording")]
    Create(#[source] FileError),
    /// The file could not be written.
    #[error("{operation} recording")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The header has no JSON form.
    #[error("encode recording header")]
    Header(#[source] serde_json::Error),
    /// The input has no postcard form.
    #[error("encode input")]
    Encode(#[source] postcard::Error),
    /// Larger than [`MAX_FRAME_BYTES`].
    #[error("{what} of {bytes} bytes exceeds the limit of {MAX_FRAME_BYTES} bytes")]
    TooLarge {
        /// Header or input.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// The kind is the recorder's own.
    #[error("frame kind {0:#x} is reserved")]
    ReservedKind(u8),
}

impl RecordError {
    fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}
