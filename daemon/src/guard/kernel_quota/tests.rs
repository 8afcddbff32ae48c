//! Quotas of the kernel tables: no user alone keeps another from a run within its own share.

use proptest::prelude::*;

use super::*;

const DESTINATIONS: Resource = Resource::Destinations4;

fn quota(total: u64) -> KernelQuota {
    let totals = Resource::ALL.iter().map(|(resource, _)| (*resource, total)).collect();
    KernelQuota::new(TableShares { per_user_percent: 25, reserve_percent: 12 }, totals)
}

fn need(entries: u64) -> Need {
    Need::from([(DESTINATIONS, entries), (Resource::Runs, 1)])
}

#[test]
fn what_a_user_holds_is_no_reason_that_a_discovered_run_has_no_tables() {
    let mut quota = quota(1_000);
    quota.take(0, Holder::User(7), need(250)).unwrap();
    assert!(quota.take(1, Holder::User(7), need(1)).is_err());
    quota.take(1, Holder::Discovered(7), need(200)).unwrap();
    quota.take(2, Holder::AdoptedDiscovered(7), need(40)).unwrap();
    let error = quota.take(3, Holder::Discovered(7), need(11)).unwrap_err();
    assert!(matches!(error, QuotaError::OfUser { uid: 7, held: 240, .. }), "{error}");
    quota.take(3, Holder::Discovered(8), need(100)).unwrap();
    quota.take(4, Holder::Discovered(NO_UID), need(300)).unwrap();
    assert!(quota.take(5, Holder::Discovered(NO_UID), need(200)).is_err(), "not more than there is");
}

#[test]
fn nine_runs_of_one_user_leave_room_for_everybody_else() {
    let mut quota = quota(65_536);
    let mut taken = 0;
    for slot in 0..9 {
        match quota.take(slot, Holder::User(1_000), need(15_500)) {
            Ok(()) => taken += 1,
            Err(error) => {
                let text = error.to_string();
                for part in ["IPv4 destinations", "uid 1000", "needs 15500", "hold 15500 of 16384", "end one of them"] {
                    assert!(text.contains(part), "{part}: {text}");
                }
            }
        }
    }
    assert_eq!(taken, 1);
    quota.take(20, Holder::User(1_001), need(15_500)).unwrap();
    quota.take(21, Holder::Administrator, need(30_000)).unwrap();
}

#[test]
fn users_together_do_not_reach_the_reserve() {
    let mut quota = quota(1_000);
    for uid in 0..3 {
        quota.take(uid, Holder::User(uid), need(250)).unwrap();
    }
    let error = quota.take(9, Holder::User(9), need(200)).unwrap_err();
    assert_eq!(error, QuotaError::OfUsers { resource: DESTINATIONS, need: 200, held: 750, limit: 880, reserve: 120 });
    quota.take(10, Holder::Administrator, need(250)).unwrap();
    let error = quota.take(11, Holder::Administrator, need(1)).unwrap_err();
    assert_eq!(error, QuotaError::OfNode { resource: DESTINATIONS, need: 1, held: 1_000, limit: 1_000 });
}

#[test]
fn a_run_of_an_earlier_daemon_is_counted_and_never_refused() {
    let mut quota = quota(100);
    for slot in 0..3 {
        quota.take(slot, Holder::Adopted(1_000), need(90)).unwrap();
    }
    assert!(matches!(quota.take(3, Holder::User(1_000), need(1)), Err(QuotaError::OfUser { held: 270, .. })));
    (0..3).for_each(|slot| quota.give(slot));
    quota.take(3, Holder::User(1_000), need(25)).unwrap();
}

#[test]
fn shares_that_let_one_user_shut_another_out_are_a_mistake() {
    let wrong = |per_user_percent, reserve_percent| TableShares { per_user_percent, reserve_percent }.wrong().is_some();
    assert!(!wrong(25, 12) && !wrong(40, 20));
    assert!(wrong(0, 12) && wrong(25, 0) && wrong(50, 12) && wrong(90, 5));
}

fn any_holder() -> impl Strategy<Value = Holder> {
    prop_oneof![4 => (0..4_u32).prop_map(Holder::User), 1 => Just(Holder::Administrator)]
}

proptest! {
    #[test]
    fn whatever_is_taken_and_given_the_shares_hold(
        steps in prop::collection::vec((0..12_u32, any_holder(), 0..400_u64, any::<bool>()), 0..60),
    ) {
        let mut quota = quota(1_000);
        for (slot, holder, entries, gives) in steps {
            let before = quota.usage();
            if gives {
                quota.give(slot);
            } else if quota.take(slot, holder, need(entries)).is_err() {
                prop_assert_eq!(&quota.usage(), &before, "what is refused changes nothing");
            }
            let Usage { used, used_by_users, users, .. } = quota.usage_of(DESTINATIONS);
            prop_assert!(used <= 1_000 && used_by_users <= 880 && users.values().all(|held| *held <= 250));
        }
        for slot in 0..12 {
            quota.give(slot);
        }
        prop_assert!(quota.usage().iter().all(|usage| usage.used == 0));
    }

    #[test]
    fn one_user_shuts_nobody_out(takes in prop::collection::vec((0..40_u32, 0..400_u64), 0..60), wanted in 1..250_u64) {
        let mut quota = quota(1_000);
        for (slot, entries) in takes {
            let _ = quota.take(slot, Holder::User(1_000), need(entries));
        }
        prop_assert!(quota.clone().take(50, Holder::User(1_001), need(wanted)).is_ok());
        prop_assert!(quota.take(51, Holder::Administrator, need(120)).is_ok());
    }
}
