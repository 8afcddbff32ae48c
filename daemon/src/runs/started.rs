//! With what a run was started, for whoever starts it again: `runs/ID/start.json`.
//!
//! Invariants: secrets are redacted before anything is kept, and what was redacted is marked; of variables that the table of factors
//! does not name, only the name is kept; the size is bounded, and what does not fit is not kept in part; what is read counts only if its
//! digest is in the audit log.

use super::store::{Store, StoreError, read_json, write_json};
use crate::redact::Redactor;
use failsafe_attest::{Fact, Json, Known, Table};
use failsafe_core::{RunId, record::Record};
use failsafe_journal::{Filter, Query, Search, kind, search::SearchError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The version of the file's form.
const FORMAT: u32 = 1;
/// The file.
const STARTED: &str = "start.json";
/// Most bytes of the texts that are kept of a run.
pub const MAX_BYTES: usize = 64 << 10;

/// As the caller of a start says; it is the caller's word.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The command with its arguments.
    pub command: Vec<String>,
    /// The folder that it is executed in.
    pub directory: String,
    /// Variables that can change results, with their values.
    pub environment: BTreeMap<String, String>,
    /// The names of all variables.
    pub variables: BTreeSet<String>,
}

/// `start.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// [`FORMAT`].
    format: u32,
    /// The run.
    run: RunId,
    /// The command, redacted.
    pub command: Vec<String>,
    /// Places of the arguments in which something was redacted, from 0.
    pub redacted: BTreeSet<usize>,
    /// The folder; empty: it was redacted, or not given.
    pub directory: String,
    /// Variables that can change results, with their values where those were not redacted.
    pub environment: BTreeMap<String, Option<String>>,
    /// The names of all variables.
    pub variables: BTreeSet<String>,
    /// Why command and environment are not kept; none: they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

impl Started {
    /// Of a run that is being started.
    pub fn of(run: RunId, said: &Said, table: &Table, redact: &Redactor) -> Started {
        let none = Started {
            format: FORMAT,
            run,
            command: Vec::new(),
            redacted: BTreeSet::new(),
            directory: String::new(),
            environment: BTreeMap::new(),
            variables: BTreeSet::new(),
            left_out: None,
        };
        if said.command.is_empty() {
            let why = "whoever started it did not say with what (an older failsafectl, or a scheduler)";
            return Started { left_out: Some(why.to_owned()), ..none };
        }
        let bytes: usize = said
            .command
            .iter()
            .chain(said.environment.iter().flat_map(|(name, value)| [name, value]))
            .chain(&said.variables)
            .chain([&said.directory])
            .map(String::len)
            .sum();
        if bytes > MAX_BYTES {
            let why = format!("command and environment have {bytes} bytes, at most {MAX_BYTES} are kept");
            return Started { left_out: Some(why), ..none };
        }
        let mut command = said.command.clone();
        redact.argv(&mut command, &[]);
        let changed = command.iter().zip(&said.command).enumerate().filter(|(_, (kept, said))| kept != said);
        let redacted = changed.map(|(n, _)| n).collect();
        let named = |name: &str| table.environment().any(|known| known == name);
        let environment = said.environment.iter().filter(|(name, _)| named(name));
        let environment = environment.map(|(name, value)| (name.clone(), shown(redact, name, value))).collect();
        let directory = shown(redact, "directory", &said.directory).unwrap_or_default();
        Started { command, redacted, directory, environment, variables: said.variables.clone(), ..none }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep(&self, store: &Store) -> Result<(), StoreError> {
        write_json(&store.beside(self.run, STARTED), self)
    }

    /// Its entry in the audit log, which is written before the file.
    pub fn record(&self, name: String) -> Record {
        Record::StartKept { run: self.run, name, digest: self.digest() }
    }

    /// `sha256:HEX` of its content.
    fn digest(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"failsafe-start-v1\n");
        // It holds text and numbers only.
        hash.update(serde_json::to_vec(self).unwrap_or_default());
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// Whether it is as it was when the run was started, by the audit log at `log`; `None`: the log does not have its digest.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn is_as_logged(&self, log: &Path) -> Result<Option<bool>, SearchError> {
        let runs = Some([self.run.to_string()].into());
        let filter = Filter { runs, kinds: vec![kind::RUN.to_owned()], ..Filter::default() };
        let mut logged = None;
        for entry in Search::open(log, Query { filter, ..Query::default() })? {
            if let Ok(Record::StartKept { run, digest, .. }) = serde_json::from_value(entry?.body)
                && run == self.run
            {
                logged = Some(digest);
            }
        }
        Ok(logged.map(|logged| logged == self.digest()))
    }

    /// Reads what is kept of a run.
    ///
    /// # Errors
    /// Why there is nothing.
    pub fn read(store: &Store, run: RunId) -> Result<Started, String> {
        match read_json::<Started>(&store.beside(run, STARTED)) {
            Ok(Started { left_out: Some(why), .. }) => Err(why),
            Ok(started) if started.run == run && started.format == FORMAT => Ok(started),
            Ok(_) => Err("start.json is of another run or of another version".to_owned()),
            Err(error) if error.is_missing() => {
                Err("it was registered, was started by an older version, or its files were removed".to_owned())
            }
            Err(error) => Err(error.chain()),
        }
    }

    /// What is known of command and environment, to be compared with.
    pub fn known(&self, table: &Table) -> Known {
        let command = Json::List(self.command.iter().cloned().map(Json::Text).collect());
        let mut facts = vec![fact("run/command", command), fact("run/env", Json::from("read"))];
        for name in table.environment() {
            let value = match self.environment.get(name) {
                None => Json::Null,
                Some(Some(value)) => Json::Text(value.clone()),
                // Two redacted values cannot be compared.
                Some(None) => continue,
            };
            facts.push(fact(&format!("run/env/{name}"), value));
        }
        let mut known = Known::default();
        let _first = known.take(&facts, table, |_| true);
        known
    }
}

fn fact(path: &str, value: Json) -> Fact {
    Fact::claimed(path, STARTED, Ok(value))
}

/// A value, where nothing of it has to be redacted.
fn shown(redact: &Redactor, name: &str, value: &str) -> Option<String> {
    let pair = vec![format!("{name}={value}")];
    let mut kept = pair.clone();
    redact.argv(&mut kept, &[]);
    (kept == pair && redact.text(value) == value).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(command: &[&str]) -> Said {
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Said {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            directory: "/work".into(),
            environment: [
                named("OMP_NUM_THREADS", "2"),
                named("XLA_FLAGS", "--token=sk-0123456789abcdef0123"),
                named("AWS_SECRET_ACCESS_KEY", "x"),
            ]
            .into(),
            variables: ["HOME".to_owned(), "OMP_NUM_THREADS".to_owned()].into(),
        }
    }

    #[test]
    fn secrets_are_marked_and_only_named_variables_have_values() {
        let (table, redact, run) = (Table::built_in().unwrap(), Redactor::default(), RunId(uuid::Uuid::now_v7()));
        let started = Started::of(run, &said(&["train", "--token", "abcdef", "--lr=1"]), &table, &redact);
        let text = serde_json::to_string(&started).unwrap();
        assert!(!text.contains("abcdef\"") && !text.contains("sk-0123") && !text.contains("AWS"), "{text}");
        assert_eq!(started.redacted, [2].into());
        assert_eq!(started.environment["OMP_NUM_THREADS"].as_deref(), Some("2"));
        assert_eq!(started.environment["XLA_FLAGS"], None);
        assert_eq!((started.directory.as_str(), started.variables.len()), ("/work", 2));
    }

    #[test]
    fn what_is_kept_reads_back_and_what_is_not_kept_has_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (table, redact) = (Table::built_in().unwrap(), Redactor::default());
        let run = || {
            let run = RunId(uuid::Uuid::now_v7());
            std::fs::create_dir_all(store.beside(run, "x").parent().unwrap()).unwrap();
            run
        };
        let id = run();
        assert!(Started::read(&store, id).unwrap_err().contains("was registered"));
        let started = Started::of(id, &said(&["train"]), &table, &redact);
        started.keep(&store).unwrap();
        assert_eq!(Started::read(&store, id), Ok(started));
        let large = run();
        Started::of(large, &said(&["x", &"a".repeat(MAX_BYTES)]), &table, &redact).keep(&store).unwrap();
        assert!(Started::read(&store, large).unwrap_err().contains("at most 65536 are kept"));
        let silent = run();
        Started::of(silent, &Said::default(), &table, &redact).keep(&store).unwrap();
        assert!(Started::read(&store, silent).unwrap_err().contains("did not say with what"));
    }

    #[test]
    fn what_was_changed_since_the_start_is_seen_by_the_audit_log() {
        let dir = tempfile::tempdir().unwrap();
        let bounds = crate::config::AuditLog::default().bounds();
        let open = || crate::log::LogOwner::open(dir.path(), &dir.path().join("head"), "b", bounds, None).unwrap().0;
        let (table, redact) = (Table::built_in().unwrap(), Redactor::default());
        let [run, other] = [1, 2].map(|_| RunId(uuid::Uuid::now_v7()));
        let started = Started::of(run, &said(&["train"]), &table, &redact);
        let owner = open();
        assert_eq!(started.is_as_logged(owner.log().path()).unwrap(), None);
        owner.log().record(&Started::of(other, &said(&["x"]), &table, &redact).record("y".into()), Some(other), None);
        owner.log().record_durably(&started.record("job".into()), Some(run)).unwrap();
        assert_eq!(started.is_as_logged(owner.log().path()).unwrap(), Some(true));
        let mut forged = started.clone();
        forged.command = vec!["rm".into()];
        assert_eq!(forged.is_as_logged(owner.log().path()).unwrap(), Some(false));
        let moved = Started { run: other, ..started };
        assert_eq!(moved.is_as_logged(owner.log().path()).unwrap(), Some(false), "of another run");
        assert!(moved.is_as_logged(&dir.path().join("none").join("audit.log")).is_err());
    }
}
