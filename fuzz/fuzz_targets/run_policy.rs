//! Policies of runs: read or refused with places in the text; what is read is explained, stored and read back with the same digest.
#![no_main]

use failsafe_core::{Policy, policy::parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse::check("p.toml", text) {
        Ok(checked) => check::policy(&checked.policy),
        Err(wrong) => {
            assert!(!wrong.list.is_empty(), "refused without a reason");
            let lines = text.lines().count().max(1) + 1;
            assert!(wrong.list.iter().all(|one| one.line <= lines && one.column > 0), "{wrong}");
            let _shown = wrong.to_string();
        }
    }
});

mod check {
    use super::Policy;

    pub fn policy(policy: &Policy) {
        super::page::explain(policy);
        let _needs = policy.needs();
        let observing = policy.observing();
        assert!(observing.rules.iter().all(|rule| observing.observes(rule)), "an observing policy enforces");
        let stored = serde_json::to_vec(policy).expect("a policy is stored");
        let again: Policy = serde_json::from_slice(&stored).expect("a stored policy is read");
        assert_eq!(again.digest(), policy.digest());
    }
}

#[path = "check/explain.rs"]
mod page;
