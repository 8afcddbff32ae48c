//! What is kept of a run's factors beside its recording: the last known value of each, over restarts of the daemon.
//!
//! Invariant: the file is written whole by one thread at a time: the start of the run, and then the thread that follows it.

use super::store::{Store, StoreError, read_json, write_json};
use failsafe_attest::Known;
use failsafe_core::RunId;
use serde::{Deserialize, Serialize};

/// The version of the file's form.
const FORMAT: u32 = 1;
/// The file.
const FACTORS: &str = "factors.json";

/// `factors.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFactors {
    /// [`FORMAT`].
    format: u32,
    /// The run.
    run: RunId,
    /// When the first reading was taken, nanoseconds since the epoch; 0: not yet.
    #[serde(default)]
    pub first_ns: i64,
    /// When the last one was.
    #[serde(default)]
    pub last_ns: i64,
    /// The last known values.
    #[serde(default)]
    pub known: Known,
}

impl KeptFactors {
    /// Nothing is known yet.
    pub fn new(run: RunId) -> KeptFactors {
        KeptFactors { format: FORMAT, run, first_ns: 0, last_ns: 0, known: Known::default() }
    }

    /// Reads what is kept of a run. `None`: nothing is, or it cannot be read; then the next reading is the first.
    pub fn read(store: &Store, run: RunId) -> Option<KeptFactors> {
        match read_json::<KeptFactors>(&store.beside(run, FACTORS)) {
            Ok(kept) if kept.run == run && kept.format == FORMAT => Some(kept),
            Ok(_) => {
                tracing::warn!(%run, "factors.json is of another run or of another version, and is not used");
                None
            }
            Err(error) if error.is_missing() => None,
            Err(error) => {
                tracing::warn!(%run, error = error.chain(), "the known factors of the run cannot be read");
                None
            }
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`StoreError`]; the old file then still stands.
    pub fn write(&self, store: &Store) -> Result<(), StoreError> {
        write_json(&store.beside(self.run, FACTORS), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::{Fact, Json, Table};

    #[test]
    fn known_factors_survive_and_those_of_another_run_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let run = RunId(uuid::Uuid::now_v7());
        assert_eq!(KeptFactors::read(&store, run), None);
        let mut kept = KeptFactors::new(run);
        let facts = [Fact::measured("run/cpu/count", "a test", Ok(Json::Int(4)))];
        kept.known.take(&facts, &Table::built_in().unwrap(), |_| true);
        assert!(kept.write(&store).is_err(), "a folder that is gone is not made again");
        std::fs::create_dir_all(store.beside(run, FACTORS).parent().unwrap()).unwrap();
        kept.write(&store).unwrap();
        assert_eq!(KeptFactors::read(&store, run), Some(kept));
        let other = RunId(uuid::Uuid::now_v7());
        std::fs::create_dir_all(store.beside(other, FACTORS).parent().unwrap()).unwrap();
        std::fs::copy(store.beside(run, FACTORS), store.beside(other, FACTORS)).unwrap();
        assert_eq!(KeptFactors::read(&store, other), None);
        std::fs::write(store.beside(run, FACTORS), "{").unwrap();
        assert_eq!(KeptFactors::read(&store, run), None);
    }
}
