//! The measurement list of IMA: how many entries it has, and its digest. The list itself is not part of a statement: it names every
//! file that was executed on the node. `attest verify --ima` replays a copy of it against PCR 10.

use super::{files, shown};
use failsafe_attest::{Fact, Json, Missing};
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read},
    path::Path,
};

/// Largest list that is read, bytes: about half a million entries.
const MOST: u64 = 64 << 20;

pub(super) fn read(sys: &Path) -> Vec<Fact> {
    let security = sys.join("kernel/security");
    let list = security.join("ima/ascii_runtime_measurements");
    let [entries, digest] = match measured(&list) {
        Ok(Some((entries, sha256))) => [Ok(Json::Int(entries)), Ok(Json::from(format!("sha256:{sha256}").as_str()))],
        // An empty folder is where securityfs is not mounted: IMA may be on.
        Ok(None) if files::names(&security).is_ok_and(|names| names.is_some_and(|names| !names.is_empty())) => {
            [Ok(Json::Null), Ok(Json::Null)]
        }
        Ok(None) => {
            let why = format!("{} does not exist: securityfs is not mounted", list.display());
            [Err(Missing::unavailable(&why)), Err(Missing::unavailable(&why))]
        }
        Err(why) => [Err(why.clone()), Err(why)],
    };
    vec![
        Fact::measured("node/ima/entries", shown(&list), entries),
        Fact::measured("node/ima/digest", shown(&list), digest),
    ]
}

/// The number of lines and the digest of a file, read in parts; `None`: there is no such file.
fn measured(path: &Path) -> Result<Option<(i64, String)>, Missing> {
    let fail = |error: io::Error| files::missing(path, &error);
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let (mut file, mut part) = (file.take(MOST + 1), vec![0; 64 << 10]);
    let (mut hash, mut lines, mut bytes) = (Sha256::new(), 0, 0);
    loop {
        let n = file.read(&mut part).map_err(fail)?;
        if n == 0 {
            return Ok(Some((lines, hex::encode(hash.finalize()))));
        }
        bytes += n as u64;
        if bytes > MOST {
            return Err(Missing::unavailable(format!("{} has more than {MOST} bytes, the limit", path.display())));
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

    #[test]
    fn the_list_is_counted_and_hashed_and_its_absence_is_known_only_where_securityfs_is_mounted() {
        let dir = fixture(&[("kernel/security/ima/ascii_runtime_measurements", LIST)]);
        let facts = read(dir.path());
        assert_eq!(value(&facts, "node/ima/entries"), Ok(Json::Int(8)));
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(LIST)));
        assert_eq!(value(&facts, "node/ima/digest"), Ok(Json::from(digest.as_str())));

        let off = fixture(&[("kernel/security/lsm", "lockdown,capability,bpf\n")]);
        assert_eq!(value(&read(off.path()), "node/ima/entries"), Ok(Json::Null));

        let not_mounted = fixture(&[("kernel/notes", "")]);
        std::fs::create_dir(not_mounted.path().join("kernel/security")).unwrap();
        let why = value(&read(not_mounted.path()), "node/ima/digest").unwrap_err();
        assert!(why.status == Status::Unavailable && why.reason.contains("securityfs is not mounted"), "{why:?}");

        let folder = fixture(&[("kernel/security/ima/ascii_runtime_measurements/x", "")]);
        assert_eq!(value(&read(folder.path()), "node/ima/entries").unwrap_err().status, Status::Unavailable);
    }
}
