//! What each user has used of each quota: the same counts as those of the limits, by user.
//!
//! Who asks gets what may be seen: root and the administrators' group all users, everybody else the own counts. Bounded: [`SHOWN`] users,
//! those closest to one of their limits, and the number of the others.

use super::limits::{Held, Usage};
use failsafe_proto::v1;
use std::collections::BTreeMap;

/// Users that are shown.
const SHOWN: usize = 256;

/// The counts of all users, or of one: of that one also what it has not used.
pub(super) fn by_user(usages: &[Usage], only: Option<u32>) -> (Vec<v1::UserUsage>, u64) {
    let mut users: BTreeMap<u32, Vec<v1::QuotaUse>> = BTreeMap::new();
    for Usage { name, held: Held { most, unit, users: held }, .. } in usages.iter().filter(|usage| usage.held.most > 0)
    {
        let one = |used: usize| v1::QuotaUse {
            limit: (*name).to_owned(),
            unit: (*unit).to_owned(),
            used: used as u64,
            most: *most as u64,
        };
        match only {
            Some(uid) => users.entry(uid).or_default().push(one(held.get(&uid).copied().unwrap_or(0))),
            None => held
                .iter()
                .filter(|(_, used)| **used > 0)
                .for_each(|(uid, used)| users.entry(*uid).or_default().push(one(*used))),
        }
    }
    let mut users: Vec<v1::UserUsage> = users.into_iter().map(|(uid, quotas)| v1::UserUsage { uid, quotas }).collect();
    let left_off = users.len().saturating_sub(SHOWN);
    if left_off > 0 {
        users.sort_by_key(|user| std::cmp::Reverse(closest(user)));
        users.truncate(SHOWN);
        users.sort_by_key(|user| user.uid);
    }
    (users, left_off as u64)
}

/// The largest part of a quota that a user has used, in thousandths.
fn closest(user: &v1::UserUsage) -> u64 {
    user.quotas.iter().map(|quota| quota.used.saturating_mul(1_000) / quota.most.max(1)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::limits::Quota;

    fn usage(name: &'static str, most: usize, users: &[(u32, usize)]) -> Usage {
        let held = Held { most, unit: "things", users: users.iter().copied().collect() };
        Usage { held, ..Usage::of(name, "things", Quota::default()) }
    }

    fn shown(users: &[v1::UserUsage]) -> Vec<(u32, String)> {
        let quota = |quota: &v1::QuotaUse| format!("{} {}/{}", quota.limit, quota.used, quota.most);
        let quotas = |user: &v1::UserUsage| user.quotas.iter().map(quota).collect::<Vec<_>>().join(", ");
        users.iter().map(|user| (user.uid, quotas(user))).collect()
    }

    #[test]
    fn each_user_is_shown_with_what_it_uses_and_one_that_asks_for_itself_sees_nobody_else() {
        let usages = [
            usage("connections", 128, &[(7, 3), (8, 1)]),
            usage("descriptors", 0, &[]),
            usage("streams", 32, &[(8, 2), (9, 0)]),
        ];
        let (all, left_off) = by_user(&usages, None);
        assert_eq!(left_off, 0);
        assert_eq!(
            shown(&all),
            [(7, "connections 3/128".to_owned()), (8, "connections 1/128, streams 2/32".to_owned())],
            "without what is not used"
        );
        let (own, _) = by_user(&usages, Some(7));
        assert_eq!(shown(&own), [(7, "connections 3/128, streams 0/32".to_owned())]);
        let (none, _) = by_user(&usages, Some(5));
        assert_eq!(shown(&none), [(5, "connections 0/128, streams 0/32".to_owned())]);
    }

    #[test]
    fn those_closest_to_a_limit_are_shown_where_there_are_too_many() {
        let many: Vec<(u32, usize)> = (0..1_000).map(|uid| (uid, 1)).chain([(2_000, 9)]).collect();
        let (users, left_off) = by_user(&[usage("connections", 10, &many)], None);
        assert_eq!((users.len(), left_off), (SHOWN, 1_001 - SHOWN as u64));
        assert!(users.is_sorted_by_key(|user| user.uid) && users.last().is_some_and(|user| user.uid == 2_000));
    }
}
