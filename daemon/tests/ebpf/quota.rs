//! TableShares of the kernel's tables, on the real maps.

use std::net::Ipv4Addr;

use failsafe_matchers::egress::{EgressMode, EgressPolicy};
use failsafed::config::TableShares;
use failsafed::guard::kernel_quota::Resource;
use failsafed::guard::{Config, Error, Holder, QuotaError};
use failsafed::sensors::ebpf::LOOKS_EVERY;

use super::bench::{allow, ready_as};

/// Four percent of the table of destinations.
const SHARE: u64 = 2_621;

/// So many destinations, each its own.
fn many(n: u32) -> EgressPolicy {
    let rules = (0..n).map(|n| allow(&format!("{}/32", Ipv4Addr::from(0x0a00_0000 + n)), 443, None));
    EgressPolicy { mode: EgressMode::Enforce, rules: rules.collect(), judge_replies: false }
}

#[test]
fn one_user_with_many_destinations_leaves_room_for_the_others() {
    let shares = TableShares { per_user_percent: 4, reserve_percent: 12 };
    let Some(mut bench) = ready_as("quota", LOOKS_EVERY, Config { shares, ..Config::default() }) else { return };
    let (policy, cgroups) = (many(1_400), ["a", "b", "c", "d"].map(|name| bench.cgroup(name)));
    bench.try_add_of(Holder::User(1_000), &cgroups[0], 0, &policy).unwrap();
    for slot in 1..4 {
        let error = bench.try_add_of(Holder::User(1_000), &cgroups[1], slot, &policy).unwrap_err();
        let full = matches!(error, Error::Quota(QuotaError::OfUser { uid: 1_000, held: 1_400, limit: SHARE, .. }));
        assert!(full && !error.to_string().contains("No space left"), "{error}");
    }
    bench.try_add_of(Holder::User(1_001), &cgroups[2], 5, &policy).unwrap();
    bench.try_add_of(Holder::Administrator, &cgroups[3], 6, &many(3_000)).unwrap();

    // What a run had is free when it ends, and what was refused holds nothing.
    bench.ebpf.remove_run(0).unwrap();
    bench.try_add_of(Holder::User(1_000), &cgroups[1], 1, &policy).unwrap();
    let usage = bench.ebpf.table_usage();
    let destinations = usage.iter().map(|(usage, _)| usage).find(|u| u.resource == Resource::Destinations4).unwrap();
    assert!(usage.iter().any(|(usage, refused)| usage.resource == Resource::Destinations4 && *refused > 0));
    assert_eq!((destinations.used, destinations.used_by_users, destinations.total), (5_800, 2_800, 65_536));
}
