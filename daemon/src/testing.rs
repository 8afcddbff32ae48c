//! What unit tests share.

use crate::runs::start::Wanted;
use failsafe_core::{
    Action, Decision, MonoTime,
    decision::{Cause, Confidence, DecisionId, IncidentId, Mode, Severity, Upkeep},
    input::Run,
    policy::{PolicyDigest, parse::parse},
};
use std::{convert::Infallible, time::Duration};

#[path = "../tpm/tests/swtpm/node.rs"]
#[expect(dead_code, reason = "tests of failsafe-tpm use the rest")]
pub mod swtpm;

#[path = "../../tests/patience.rs"]
mod patience;

/// Waits until it `holds`, 20 seconds at most.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let found = patience::poll(Duration::from_secs(20), || Ok::<_, Infallible>(holds().then_some(())));
    assert!(found.is_ok_and(|found| found.is_some()), "waited 20 s in vain until {what}");
}

/// A run with this id, of this user, pinned to this policy.
pub fn run(id: &str, owner_uid: u32, policy: PolicyDigest) -> Run {
    Run {
        id: id.parse().unwrap(),
        name: "trainer".into(),
        labels: Default::default(),
        owner_uid,
        cgroup: "c".into(),
        cgroup_id: 7,
        boot_id: "b".into(),
        policy,
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Default::default(),
    }
}

/// A decision on this action, which no rule and nobody made.
pub fn decision(action: Action) -> Decision {
    let run = failsafe_core::RunId(uuid::Uuid::from_u128(1));
    Decision {
        id: DecisionId { run, n: 1 },
        incident: IncidentId::new(run, 1),
        at: MonoTime(1),
        cause: Cause::Upkeep { what: Upkeep::Escape },
        actions: vec![action],
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Critical,
        mode: Mode::Enforce,
        policy: PolicyDigest([1; 32]),
    }
}

/// A run of root with this name, under a policy without rules, that is to be made.
pub fn wanted(name: &str) -> Wanted {
    Wanted {
        name: name.into(),
        labels: Default::default(),
        policy: parse("p", "[policy]\nname = \"p\"\nowner = \"o\"\n").unwrap(),
        gpus: Default::default(),
        mig: Default::default(),
        owner_uid: 0,
        unlimited: true,
        learnt: Vec::new(),
    }
}
