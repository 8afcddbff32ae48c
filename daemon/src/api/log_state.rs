//! How the audit log stands: what its writer knows, and what the node's health holds against it until somebody resets that.

use super::Context;
use crate::watchers::keep::AUDIT_LOG;
use failsafe_core::health::View;

/// `healthy`, or what is wrong.
pub(super) fn state(context: &Context) -> String {
    let written = context.log.state();
    match reported(&context.node_health.view()) {
        Some(found) if written == "healthy" => format!("degraded: {found}"),
        _ => written,
    }
}

/// What was found amiss, in words, each once.
pub(super) fn findings(context: &Context) -> Vec<String> {
    let mut found = context.log.findings();
    let reported = reported(&context.node_health.view());
    found.extend(reported.filter(|text| !found.contains(text)));
    found
}

fn reported(view: &View) -> Option<String> {
    view.node.reasons.iter().find(|reason| reason.code == AUDIT_LOG).map(|reason| reason.text.clone())
}
