//! What is known and how far the log was read, in one file: both change together, so that after a restart no entry is passed over,
//! and none gives a second message with another id.

use super::{book::Book, queue};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// The form of the file.
const VERSION: u32 = 1;

/// What is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Index of the first entry of the log that was not read.
    pub next: u64,
    /// What is known.
    pub book: Book,
    /// The hash of the entry before `next`; none: not known.
    #[serde(default)]
    pub last: Option<String>,
    /// The time of the newest entry that was read, nanoseconds since the epoch.
    pub heard_ns: i64,
    /// A log is read that was cut or replaced: how far it leads to messages that were queued before.
    #[serde(default)]
    pub again: Option<Again>,
    /// The number of the last message in the queues.
    pub queued: u64,
    /// Which targets got messages about what is open.
    pub routed: BTreeMap<String, BTreeSet<String>>,
}

/// Entries below this index that are not newer led to messages already, in the log that was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The end of the log when it was found to be another one.
    pub end: u64,
    /// The time of the newest entry of the earlier log, nanoseconds since the epoch.
    pub heard_ns: i64,
}

impl State {
    /// At the beginning of a log, with nothing known.
    pub fn new() -> State {
        State {
            version: VERSION,
            next: 0,
            book: Book::default(),
            last: None,
            heard_ns: 0,
            again: None,
            queued: 0,
            routed: BTreeMap::new(),
        }
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

impl Store {
    /// In this folder.
    pub fn new(folder: &Path) -> Store {
        Store(folder.join("notify.json"))
    }

    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<Option<State>> {
        let text = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let state: State = serde_json::from_slice(&text)?;
        if state.version != VERSION {
            return Err(io::Error::other(format!("expected version {VERSION}, not {}", state.version)));
        }
        Ok(Some(state))
    }

    /// Replaces it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, state: &State) -> io::Result<()> {
        queue::durable(&self.0, &serde_json::to_vec(state)?)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
