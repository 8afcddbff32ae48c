//! Who is never bounded by a rule over the sessions of users: root, and the administrators' group. Such a rule would lock them out.

use crate::{causes::chain, platform::users};
use failsafe_core::discover::user_of_slice;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// For how long an answer of the host's databases holds.
const HOLDS: Duration = Duration::from_secs(60);
/// Most answers that are kept.
const MOST: usize = 4_096;

/// The administrators' group, with who was looked up.
#[derive(Debug)]
pub(super) struct Admins {
    group: String,
    known: BTreeMap<u32, (Instant, Result<bool, String>)>,
}

impl Admins {
    /// Nobody was looked up yet.
    pub fn new(group: String) -> Admins {
        Admins { group, known: BTreeMap::new() }
    }

    /// Whose sessions the path holds, where that is an administrator; `None`: it holds nobody's, or an ordinary user's.
    ///
    /// # Errors
    /// It cannot be known.
    pub fn around(&mut self, path: &str) -> Result<Option<u32>, String> {
        let Some(uid) = user_of_slice(path) else { return Ok(None) };
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let group = &self.group;
        let look = || (Instant::now(), users::is_member(uid, group).map_err(|why| chain(&why)));
        let (at, found) = self.known.entry(uid).or_insert_with(look);
        if at.elapsed() >= HOLDS {
            (*at, *found) = look();
        }
        match found {
            Ok(member) => Ok((*member || uid == 0).then_some(uid)),
            Err(why) => Err(format!("it is not known whether uid {uid} is in the group {group}: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_members_of_the_group_are_administrators_in_their_own_slice_only() {
        let mut admins = Admins::new("root".into());
        assert_eq!(admins.around("user.slice/user-0.slice/session-1.scope"), Ok(Some(0)));
        assert_eq!(admins.around("user.slice/user-65534.slice"), Ok(None));
        assert_eq!(admins.around("jobs/user-0.slice"), Ok(None));
        assert_eq!(Admins::new("failsafe-no-such-group".into()).around("user.slice/user-0.slice"), Ok(Some(0)));
    }
}
