//! The measurement list of IMA: how many entries it has, and its digest. The list itself is not part of a statement: it names every
//! file that was executed on the node. `attest verify --ima` replays a copy of it against PCR 10.
//!
//! The kernel walks the list from its beginning at each read of a page, so a long list is expensive. It is read only for those who
//! get its digest, for [`READ_FOR`] at most, and not again until it has another number of entries: entries are only ever added.

use super::{files, shown};
use failsafe_attest::{Fact, Json, Missing};
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read},
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Largest list that is read, bytes: about half a million entries.
const MOST: u64 = 64 << 20;
/// How long the list is read.
const READ_FOR: Duration = Duration::from_secs(2);
/// Largest file with the number of entries, bytes.
const MOST_COUNT: u64 = 64;

/// The number of entries, and the digest.
type Found = Result<(i64, String), Missing>;

/// The list as it was read last, with the number of entries that the kernel gave for it.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Option<(i64, Found)>>);

/// The facts about the list; `remembered`: `None` if it is not read.
pub(super) fn read(sys: &Path, remembered: Option<&Remembered>) -> Vec<Fact> {
    let security = sys.join("kernel/security");
    let list = security.join("ima/ascii_runtime_measurements");
    let both = |why: Missing| [Err(why.clone()), Err(why)];
    let found = remembered.map(|remembered| remembered.read(&list, READ_FOR));
    let [entries, digest] = match found {
        None => both(Missing::not_asked("the list is read only for statements with identity factors")),
        Some(Ok(Some((entries, sha256)))) => {
            [Ok(Json::Int(entries)), Ok(Json::from(format!("sha256:{sha256}").as_str()))]
        }
        // An empty folder is where securityfs is not mounted: IMA may be on.
        Some(Ok(None)) if files::names(&security).is_ok_and(|names| names.is_some_and(|names| !names.is_empty())) => {
            [Ok(Json::Null), Ok(Json::Null)]
        }
        Some(Ok(None)) => {
            both(Missing::unavailable(format!("{} does not exist: securityfs is not mounted", list.display())))
        }
        Some(Err(why)) => both(why),
    };
    vec![
        Fact::measured("node/ima/entries", shown(&list), entries),
        Fact::measured("node/ima/digest", shown(&list), digest),
    ]
}

impl Remembered {
    /// What is known of this list, or is read of it now. `None`: there is no such file.
    fn read(&self, list: &Path, within: Duration) -> Result<Option<(i64, String)>, Missing> {
        let before = count_beside(list);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = last.as_ref().filter(|(count, _)| Some(*count) == before) {
            return found.clone().map(Some);
        }
        let Some(file) = open(list)? else { return Ok(None) };
        let found = measured(list, file, within);
        // The name of a file may have a line break: the kernel knows the number better than the lines show it.
        let steady = before.filter(|before| count_beside(list) == Some(*before));
        let found = match steady {
            Some(count) => found.map(|(_, sha256)| (count, sha256)),
            None => found,
        };
        *last = steady.map(|count| (count, found.clone()));
        found.map(Some)
    }
}

/// The number of entries of a list, by the file beside it.
fn count_beside(list: &Path) -> Option<i64> {
    let file = files::open(&list.with_file_name("runtime_measurements_count")).ok()?;
    let mut text = String::new();
    file.take(MOST_COUNT).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn open(list: &Path) -> Result<Option<std::fs::File>, Missing> {
    match files::open(list) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::missing(list, &error)),
    }
}

/// The number of lines and the digest of a file, read in parts.
fn measured(path: &Path, file: impl Read, within: Duration) -> Found {
    let fail = |error: io::Error| files::missing(path, &error);
    let (mut file, mut part, began) = (file.take(MOST + 1), vec![0; 64 << 10], Instant::now());
    let (mut hash, mut lines, mut bytes) = (Sha256::new(), 0, 0);
    loop {
        let n = file.read(&mut part).map_err(fail)?;
        if n == 0 {
            return Ok((lines, hex::encode(hash.finalize())));
        }
        bytes += n as u64;
        if bytes > MOST {
            return Err(Missing::unavailable(format!("{} has more than {MOST} bytes, the limit", path.display())));
        }
        if began.elapsed() >= within {
            let (path, limit) = (path.display(), within.as_secs());
            return Err(Missing::unavailable(format!("{path} could not be read within {limit} s, the limit")));
        }
        lines += part[..n].iter().filter(|byte| **byte == b'\n').count() as i64;
        hash.update(&part[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};
    use failsafe_attest::Status;

    const LIST: &str = include_str!("../../../tests/fixtures/ima/ascii_runtime_measurements");
    const PATH: &str = "kernel/security/ima/ascii_runtime_measurements";
    const COUNT: &str = "kernel/security/ima/runtime_measurements_count";

    fn fresh(sys: &Path) -> Vec<Fact> {
        read(sys, Some(&Remembered::default()))
    }

    fn sha256(text: &str) -> Result<Json, Missing> {
        Ok(Json::from(format!("sha256:{}", hex::encode(Sha256::digest(text))).as_str()))
    }

    #[test]
    fn the_list_is_counted_and_hashed_and_its_absence_is_known_only_where_securityfs_is_mounted() {
        let dir = fixture(&[(PATH, LIST)]);
        let facts = fresh(dir.path());
        assert_eq!(value(&facts, "node/ima/entries"), Ok(Json::Int(8)));
        assert_eq!(value(&facts, "node/ima/digest"), sha256(LIST));

        let off = fixture(&[("kernel/security/lsm", "lockdown,capability,bpf\n")]);
        assert_eq!(value(&fresh(off.path()), "node/ima/entries"), Ok(Json::Null));

        let not_mounted = fixture(&[("kernel/notes", "")]);
        std::fs::create_dir(not_mounted.path().join("kernel/security")).unwrap();
        let why = value(&fresh(not_mounted.path()), "node/ima/digest").unwrap_err();
        assert!(why.status == Status::Unavailable && why.reason.contains("securityfs is not mounted"), "{why:?}");

        let folder = fixture(&[("kernel/security/ima/ascii_runtime_measurements/x", "")]);
        assert_eq!(value(&fresh(folder.path()), "node/ima/entries").unwrap_err().status, Status::Unavailable);
    }

    #[test]
    fn a_list_is_read_again_only_when_it_has_another_number_of_entries() {
        let dir = fixture(&[(PATH, LIST), (COUNT, "8\n")]);
        let remembered = Remembered::default();
        let digest = || value(&read(dir.path(), Some(&remembered)), "node/ima/digest");
        assert_eq!(digest(), sha256(LIST));
        // What no kernel does shows that the file is not read.
        std::fs::write(dir.path().join(PATH), "another text\n").unwrap();
        assert_eq!(digest(), sha256(LIST));
        std::fs::write(dir.path().join(COUNT), "9\n").unwrap();
        assert_eq!(digest(), sha256("another text\n"));
        // Without a number nothing is remembered.
        std::fs::write(dir.path().join(COUNT), "none").unwrap();
        std::fs::write(dir.path().join(PATH), LIST).unwrap();
        assert_eq!(digest(), sha256(LIST));
        std::fs::write(dir.path().join(PATH), "").unwrap();
        assert_eq!(digest(), sha256(""));
    }

    #[test]
    fn a_line_break_in_a_name_is_no_entry() {
        let dir = fixture(&[(PATH, "10 00 ima-ng sha1:00 /tmp/a\nb\n"), (COUNT, "1\n")]);
        assert_eq!(value(&fresh(dir.path()), "node/ima/entries"), Ok(Json::Int(1)));
    }

    #[test]
    fn a_list_that_is_read_for_too_long_is_unavailable_and_not_read_again() {
        let dir = fixture(&[(PATH, LIST), (COUNT, "8\n")]);
        let (list, remembered) = (dir.path().join(PATH), Remembered::default());
        let slow = remembered.read(&list, Duration::ZERO).unwrap_err();
        assert!(slow.status == Status::Unavailable && slow.reason.contains("within 0 s, the limit"), "{slow:?}");
        assert_eq!(remembered.read(&list, READ_FOR), Err(slow));
    }

    #[test]
    fn a_list_that_nobody_asks_for_is_not_read() {
        let dir = fixture(&[(PATH, LIST)]);
        let why = value(&read(dir.path(), None), "node/ima/digest").unwrap_err();
        assert_eq!(why.status, Status::NotAsked);
    }
}
