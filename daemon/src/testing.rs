//! What unit tests share.

use failsafe_core::{MonoTime, input::Run, policy::PolicyDigest};

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
