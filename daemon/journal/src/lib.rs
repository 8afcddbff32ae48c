//! failsafe's two persistent contracts: the **audit log** (who or what stopped a run, on which exact condition) and
//! the **recording** (every input of a run, for replay). The daemon writes both; `failsafectl` reads and verifies
//! both without the daemon. The byte formats are described in `docs/journal-format.md`.
//!
//! ```text
//!  Draft --submit--> group::AuditWriter (thread) --append--> writer::AuditLog --append/sync--> storage::Storage
//!                        |  one fdatasync per batch             index, prev, canonical bytes       file | sim
//!                        +--> Ticket, observer                                                       |
//!  reader::LogReader, verify::verify  <-- walk::Walker (frames, crc, chain, canonical form) <--------+
//!
//!  T --record--> recorder::Recorder --> *.fsrec --> recording::RecordingReader
//! ```
//!
//! Invariants:
//! - An entry's bytes are produced once, by [`writer::AuditLog`], and never encoded again: not for streaming, not for
//!   a retry after a full disk, not for hashing. Its leaf hash is that of RFC 6962 over exactly these bytes, so a
//!   Merkle tree can be laid over an existing log.
//! - A checkpoint is signed only of durable entries, and only of a log that contains what was signed before ([`tree`]).
//! - What was reported durable survives a crash; what was not may be lost, but only from the end.
//! - Only an invalid tail is ever cut off, and a `recovered` entry says so. Anything else invalid is tampering, and is
//!   left as found.
//! - Reading bytes from outside never panics.
//! - No async runtime: this crate has no tokio, and its only thread is the one of [`group::AuditWriter`].
#![forbid(unsafe_code)]

pub mod archive;
pub mod canonical;
pub mod clock;
pub mod counter;
pub mod entry;
pub mod frame;
pub mod group;
pub mod head;
pub mod instance;
pub mod lock;
mod plausible;
pub mod reader;
pub mod recorder;
pub mod recording;
mod removal;
pub mod search;
pub mod segments;
mod statement;
pub mod storage;
pub mod tree;
pub mod verify;
pub mod view;
pub mod walk;
pub mod writer;

pub use clock::{Clock, Stamp, SystemClock};
pub use entry::{Draft, DraftError, Entry, Hash, Sealed, kind, leaf_hash};
pub use group::{AuditHandle, AuditWriter, Durable, Options, Status, Ticket, WaitError};
pub use lock::{LockError, StateLock};
pub use reader::{Filter, LogReader};
pub use recorder::{Recorded, Recorder};
pub use recording::{Frame, RecordingEnd, RecordingReader};
pub use search::{Query, Search};
pub use tree::{SignedTree, Signing, Tree};
pub use verify::{Report, Verdict, verify};
pub use walk::parse_frames;
pub use writer::{AuditLog, CommitError, OpenError, Recovery, finding};
