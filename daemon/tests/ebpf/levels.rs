//! Runs at many depths of the cgroup hierarchy: none of them takes room from another.

use std::net::TcpListener;
use std::process::Stdio;

use failsafe_ebpf::abi::LEVELS;
use failsafe_matchers::egress::EgressPolicy;
use failsafed::guard::Error;

use super::bench::{OPEN_NET, TestCgroup, enforce, ready};

/// A cgroup so many levels below another, each level in the one before it.
fn below(top: &TestCgroup, levels: u32) -> Vec<TestCgroup> {
    (0..levels).fold(Vec::new(), |mut all, level| {
        let child = all.last().unwrap_or(top).child(&format!("l{level}"));
        all.push(child);
        all
    })
}

fn refused(cgroup: &TestCgroup, port: u16) -> bool {
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    !cgroup.command("/bin/bash").args(["-c", &script]).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn runs_at_more_levels_than_there_were_places_for_are_all_bounded() {
    let Some(mut bench) = ready("levels") else { return };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let nothing: EgressPolicy = enforce(&[]);
    let trees: Vec<_> = (0..20).map(|n| (bench.cgroup(&format!("t{n}")), n)).collect();
    let leaves: Vec<_> = trees.iter().map(|(top, n)| below(top, n + 1)).collect();
    for ((_, n), chain) in trees.iter().zip(&leaves) {
        bench.try_add(chain.last().unwrap(), *n, &nothing).unwrap();
    }
    let open = bench.cgroup("open");
    assert!(!refused(&open, port), "outside every run the connection is made");
    for chain in &leaves {
        let leaf = chain.last().unwrap();
        assert!(refused(leaf, port), "level {}", leaf.level());
        assert!(refused(&leaf.child("inner"), port), "below level {}", leaf.level());
    }
    // The levels between other runs' are taken off the list one by one, and those that stay are bounded at each step.
    for slot in [0, 10, 19, 5] {
        bench.ebpf.remove_run(slot).unwrap();
        for (slot_there, chain) in (0..).zip(&leaves) {
            let gone = bench.counters_of(slot_there).is_none();
            assert_eq!(refused(chain.last().unwrap(), port), !gone, "slot {slot_there} after slot {slot} ended");
        }
    }
}

#[test]
fn a_cgroup_too_deep_to_follow_is_refused_alone_and_by_its_name() {
    let Some(mut bench) = ready("deep") else { return };
    let top = bench.cgroup("top");
    let most = u32::try_from(LEVELS).unwrap() - 1;
    let chain = below(&top, most + 1 - top.level());
    let (deepest, last) = (&chain[chain.len() - 1], &chain[chain.len() - 2]);
    assert_eq!((deepest.level(), last.level()), (most + 1, most));
    let error = bench.try_add(deepest, 0, OPEN_NET).unwrap_err();
    assert!(matches!(error, Error::Level { level, .. } if level == most + 1), "{error}");
    assert!(error.to_string().contains("level 64") && error.to_string().contains("1 to 63"), "{error}");
    bench.try_add(last, 0, OPEN_NET).unwrap();
}
