//! Users for people: the name beside the uid.

use nix::unistd::{Uid, User};
use std::{collections::BTreeMap, sync::Mutex};

/// Names that were looked up already: a look-up may ask a directory service.
static KNOWN: Mutex<BTreeMap<u32, Option<String>>> = Mutex::new(BTreeMap::new());

/// The owner of a cgroup of which no user is known.
const NO_UID: u32 = u32::MAX;

/// The uid, where it is one.
pub fn known(uid: u32) -> Option<u32> {
    Some(uid).filter(|uid| *uid != NO_UID)
}

/// The uid alone, or `unknown`.
pub fn id(uid: u32) -> String {
    known(uid).map_or_else(|| "unknown".to_owned(), |uid| uid.to_string())
}

/// `1000 (alice)`, or `1000` where this machine knows no name for it.
pub fn shown(uid: u32) -> String {
    with(uid, known(uid).and_then(name))
}

/// The name of a user, where this machine knows one.
pub fn name(uid: u32) -> Option<String> {
    // Tests give the same text on every machine.
    if cfg!(test) && uid != 0 {
        return None;
    }
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    known
        .entry(uid)
        .or_insert_with(|| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| super::clean(&user.name)))
        .clone()
}

fn with(uid: u32, name: Option<String>) -> String {
    name.map_or_else(|| id(uid), |name| format!("{uid} ({name})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_name_where_there_is_one() {
        assert_eq!(shown(0), "0 (root)");
        assert_eq!(with(4_000_000_000, None), "4000000000");
        assert_eq!((shown(u32::MAX), id(u32::MAX), known(u32::MAX)), ("unknown".into(), "unknown".into(), None));
    }
}
