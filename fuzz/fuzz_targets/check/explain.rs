//! `failsafectl policy explain`: the page of the CLI, with what it needs of its sibling modules.

#![allow(dead_code)]

use failsafe_core::{Policy, policy::Rule, visible::clean};

#[path = "../../../ctl/src/render/policy.rs"]
mod policy;
#[path = "../../../ctl/src/render/table.rs"]
mod table;

/// Panics where a policy cannot be explained, or its page would move the cursor of a terminal.
pub fn explain(found: &Policy) {
    let rules: Vec<&Rule> = found.rules.iter().collect();
    let page = policy::page(found, &rules);
    assert!(page.chars().all(|char| char == '\n' || !char.is_control()), "{page:?}");
    assert_eq!(policy::json(found, &rules)["rules"].as_array().map(Vec::len), Some(rules.len()));
}

fn fill(text: &str, _width: usize) -> Vec<String> {
    vec![text.to_owned()]
}

mod decision {
    use failsafe_core::Action;

    pub fn actions(actions: &[Action]) -> String {
        format!("{actions:?}")
    }
}

mod explain {
    use failsafe_core::decision::{Confidence, Severity};

    pub fn severity(severity: Severity) -> String {
        format!("{severity:?}")
    }

    pub fn confidence(confidence: Confidence) -> String {
        format!("{confidence:?}")
    }
}
