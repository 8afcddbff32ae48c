//! The stored statements of runs: `runs/ID/statement-AT.json`, beside the recording, and removed with it.
//!
//! Invariants: a run has at most [`INCIDENTS`] statements about incidents; a statement has at most [`MAX_BYTES`]; nothing that was
//! stored is replaced.

use super::store::Store;
use failsafe_core::{RunId, decision::IncidentId, record::At};
use failsafe_journal::storage::{bounded, folder::replace_synced};
use std::{fs, io, path::PathBuf};

/// Incidents of a run of which a statement is stored: the first ones.
pub const INCIDENTS: u32 = 16;
/// Largest statement that is stored, bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Read and written by the daemon alone.
const MODE: u32 = 0o600;

/// Which statement of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The one of its start.
    Start,
    /// The one of an incident, by its number in the run.
    Incident(u32),
    /// The one of its end.
    End,
}

impl Which {
    /// What a request names: `start`, `end`, or an incident of the run by its id or number.
    pub fn parse(text: &str, run: RunId) -> Option<Which> {
        match text {
            "start" => Some(Which::Start),
            "end" => Some(Which::End),
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                number.parse().ok().filter(|n| *n > 0).map(Which::Incident)
            }
            id => {
                let number = id.rsplit_once('-')?.1.parse().ok()?;
                (IncidentId::new(run, number).to_string() == id).then_some(Which::Incident(number))
            }
        }
    }

    /// As the log names it.
    pub fn at(self) -> At {
        match self {
            Which::Start => At::Start,
            Which::Incident(_) => At::Incident,
            Which::End => At::End,
        }
    }

    /// The incident.
    pub fn incident(self, run: RunId) -> Option<IncidentId> {
        match self {
            Which::Incident(n) => Some(IncidentId::new(run, n)),
            Which::Start | Which::End => None,
        }
    }

    fn path(self, store: &Store, run: RunId) -> PathBuf {
        let name = match self {
            Which::Incident(n) => format!("statement-incident-{n}.json"),
            other => format!("statement-{}.json", other.at().name()),
        };
        store.beside(run, &name)
    }

    /// Whether it is stored.
    pub fn is_kept(self, store: &Store, run: RunId) -> bool {
        fs::symlink_metadata(self.path(store, run)).is_ok()
    }

    /// The stored envelope; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(self, store: &Store, run: RunId) -> io::Result<Option<Vec<u8>>> {
        match bounded::read(&self.path(store, run), MAX_BYTES as u64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the envelope.
    ///
    /// # Errors
    /// It is too large, or cannot be written. A folder that is gone is not made again.
    pub fn keep(self, store: &Store, run: RunId, envelope: &[u8]) -> io::Result<()> {
        if envelope.len() > MAX_BYTES {
            let message = format!("it has {} bytes, at most {MAX_BYTES} are stored", envelope.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        replace_synced(&self.path(store, run), envelope, MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_start_the_end_or_an_incident_of_this_run() {
        let (run, other) = (RunId(uuid::Uuid::now_v7()), RunId(uuid::Uuid::from_u128(7)));
        let id = |run| IncidentId::new(run, 3).to_string();
        assert_eq!(Which::parse("start", run), Some(Which::Start));
        assert_eq!(Which::parse("end", run), Some(Which::End));
        assert_eq!(Which::parse("3", run), Some(Which::Incident(3)));
        assert_eq!(Which::parse(&id(run), run), Some(Which::Incident(3)));
        for wrong in ["", "0", "middle", "inc-x-3", "99999999999", &id(other)] {
            assert_eq!(Which::parse(wrong, run), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_stored_is_read_back_and_too_large_a_statement_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let run = RunId(uuid::Uuid::now_v7());
        assert!(Which::Start.keep(&store, run, b"x").is_err(), "a folder that is gone is not made again");
        fs::create_dir_all(store.beside(run, "x").parent().unwrap()).unwrap();
        assert!(Which::Start.read(&store, run).unwrap().is_none() && !Which::Start.is_kept(&store, run));
        Which::Start.keep(&store, run, b"x").unwrap();
        Which::Incident(2).keep(&store, run, b"y").unwrap();
        assert_eq!(Which::Start.read(&store, run).unwrap().as_deref(), Some(&b"x"[..]));
        assert_eq!(Which::Incident(2).read(&store, run).unwrap().as_deref(), Some(&b"y"[..]));
        assert!(Which::Start.is_kept(&store, run) && !Which::End.is_kept(&store, run));
        let why = Which::End.keep(&store, run, &vec![0; MAX_BYTES + 1]).unwrap_err().to_string();
        assert!(why.contains("4194305 bytes"), "{why}");
    }
}
