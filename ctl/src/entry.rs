//! Entries of the audit log as commands use them: from the daemon's stream or from the file, decoded where this version
//! knows their meaning.
//!
//! Invariant: [`Logged::bytes`] are the log's own, untouched; in [`Logged::body`] control characters that a run may have put
//! into names and arguments are already made visible, so that rendering cannot forget it.

use crate::{exit::Fail, text::clean};
use failsafe_core::{record::Record, time::MonoTime};
use failsafe_journal::{Entry, Filter, Query, Search, search::SearchError};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// One entry.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Position in the log.
    pub index: u64,
    /// Wall clock, nanoseconds since the epoch.
    pub wall_ns: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
    /// The boot that `mono_ns` belongs to.
    pub boot_id: String,
    /// `decision`, `outcome`, ...
    pub kind: String,
    /// The run, if it is about one.
    pub run: Option<String>,
    /// The incident, if it is about one.
    pub incident: Option<String>,
    /// What it says.
    pub body: Body,
    /// The exact bytes.
    pub bytes: Arc<[u8]>,
}

/// The body of an entry.
#[derive(Debug, Clone)]
pub enum Body {
    /// A record that this version knows.
    Known(Box<Record>),
    /// The journal's own entry, or one of another version.
    Other(Value),
}

impl Logged {
    /// Decodes the bytes of an entry.
    ///
    /// # Errors
    /// They are no entry in canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Logged, Fail> {
        Entry::parse(bytes).map(Logged::from).map_err(|error| Fail::because("the daemon sent a broken entry", &error))
    }

    /// The record, if this version knows it.
    pub fn record(&self) -> Option<&Record> {
        match &self.body {
            Body::Known(record) => Some(record),
            Body::Other(_) => None,
        }
    }

    /// What was found amiss with the log, if the entry is the journal's own about that.
    pub fn finding(&self) -> Option<&str> {
        let Body::Other(body) = &self.body else { return None };
        body["what"].as_str().filter(|_| self.kind == "gap" && body["cause"] == "integrity")
    }

    /// The wall time of an instant of the same boot, nanoseconds since the epoch.
    pub fn wall_of(&self, at: MonoTime) -> i128 {
        i128::from(self.wall_ns) + i128::from(at.0) - i128::from(self.mono_ns)
    }
}

impl From<Entry> for Logged {
    fn from(entry: Entry) -> Logged {
        let Entry { index, wall_ns, mono_ns, boot_id, kind, run, incident, mut body, bytes, .. } = entry;
        make_visible(&mut body);
        let body = match serde_json::from_value(body.clone()) {
            Ok(record) => Body::Known(Box::new(record)),
            Err(_) => Body::Other(body),
        };
        Logged { index, wall_ns, mono_ns, boot_id, kind, run, incident, body, bytes }
    }
}

fn make_visible(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(list) => list.iter_mut().for_each(make_visible),
        Value::Object(map) => {
            *map = std::mem::take(map)
                .into_iter()
                .map(|(key, mut value)| {
                    make_visible(&mut value);
                    (clean(&key), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Where the audit log lies in a state folder.
pub fn log_file(state_dir: &Path) -> PathBuf {
    state_dir.join("audit").join(failsafe_journal::storage::LOG_FILE)
}

/// Opens the log `file`.
///
/// # Errors
/// It cannot be opened.
pub fn open(file: &Path, query: Query) -> Result<Search, Fail> {
    Search::open(file, query).map_err(|error| {
        Fail::because("cannot read the audit log", &error)
            .advise("name the state folder with --state-dir or FAILSAFE_STATE_DIR, or the log's file with --file")
    })
}

/// All entries of the log `file` that pass. On stderr, what is amiss with the log.
///
/// # Errors
/// It cannot be opened or read.
pub fn load(file: &Path, filter: Filter) -> Result<Vec<Logged>, Fail> {
    let failed = |error: SearchError| Fail::because(format!("cannot read the audit log {}", file.display()), &error);
    let mut search = Search::open(file, Query { filter, ..Query::default() }).map_err(failed)?;
    let entries = search.by_ref().map(|entry| entry.map(Logged::from).map_err(failed)).collect();
    let missing = search.missing_in_words().map(|what| format!("{what}; `failsafectl log verify` says why"));
    for what in search.problems().iter().chain(&missing) {
        note!("failsafectl: warning: {}: {}", clean(&file.display().to_string()), clean(what));
    }
    entries
}

/// Entries of several queries, each once, in the order of the log.
pub fn in_order(entries: impl IntoIterator<Item = Logged>) -> Vec<Logged> {
    let mut entries: Vec<Logged> = entries.into_iter().collect();
    entries.sort_by_key(|entry| entry.index);
    entries.dedup_by_key(|entry| entry.index);
    entries
}

/// The runs that `reference` may mean, by the log: exact id or name first, then prefixes. The last that began comes last.
pub fn find_run(entries: &[Logged], reference: &str) -> Result<Option<String>, Fail> {
    let started: Vec<(String, &str)> = entries
        .iter()
        .filter_map(|entry| match entry.record()? {
            Record::RunStarted { run, .. } => Some((run.id.to_string(), run.name.as_str())),
            _ => None,
        })
        .collect();
    if let Some((id, _)) = started.iter().rev().find(|(id, name)| id == reference || *name == reference) {
        return Ok(Some(id.clone()));
    }
    let begins = |(id, name): &&(String, &str)| id.starts_with(reference) || name.starts_with(reference);
    let found: Vec<&(String, &str)> = started.iter().filter(begins).collect();
    match found.as_slice() {
        [] => Ok(None),
        [(id, _)] => Ok(Some(id.clone())),
        many => {
            let list: Vec<String> = many.iter().map(|(id, name)| format!("{name} {id}")).collect();
            Err(Fail::usage(format!("`{}` may mean {}", clean(reference), list.join(", "))))
        }
    }
}
