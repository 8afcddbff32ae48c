//! Alertmanager: `POST /api/v2/alerts`. It knows an alert by its labels and forgets it when it restarts, so open alerts are sent
//! again and again.

use super::{Delivery, Target};
use crate::{
    config::About,
    notify::message::{Message, RunFacts, severity, time},
};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The path of the API.
pub const PATH: &str = "/api/v2/alerts";
/// An alert that is not sent again for as long is resolved by Alertmanager, in nanoseconds.
const LASTS: i64 = 3_600_000_000_000;

/// The alert. The labels of one key never change, or it would be another alert.
fn alert(message: &Message, now_ns: i64) -> Value {
    let name = match message.about {
        About::Incident => "FailsafeIncident",
        About::Health => "FailsafeHealth",
        About::Test => "FailsafeTest",
    };
    let mut labels = json!({
        "alertname": name,
        "instance": message.node,
        "severity": severity(message.first_severity),
        "key": message.key,
    });
    if let Some(RunFacts { id, name, owner_uid, .. }) = &message.run {
        labels["run"] = id.as_str().into();
        labels["run_name"] = name.as_str().into();
        labels["owner_uid"] = owner_uid.map(|uid| uid.to_string()).unwrap_or_default().into();
    }
    if let Some(rule) = &message.rule {
        labels["rule"] = rule.as_str().into();
    }
    let text = |values: &[String]| values.join("\n");
    let ends = if message.resolved { now_ns.max(message.began_ns + 1) } else { now_ns.saturating_add(LASTS) };
    json!({
        "labels": labels,
        "annotations": {
            "summary": message.summary,
            "description": message.condition,
            "values": text(&message.values),
            "done": text(&message.done),
            "standing": message.standing,
            "severity_now": severity(message.severity),
            "contact": message.contact,
            "playbook": message.playbook.as_deref().unwrap_or_default(),
            "next": message.next,
        },
        "startsAt": time(message.began_ns),
        "endsAt": time(ends),
    })
}

impl Target {
    pub(super) async fn alertmanager(&self, messages: &[Message]) -> Result<Delivery> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let all: Vec<Value> = messages.iter().map(|message| alert(message, now)).collect();
        self.post("application/json", self.bearer()?, serde_json::to_vec(&all)?, false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::tests::frozen;

    #[test]
    fn an_alert_keeps_its_labels_when_its_standing_changes_and_ends_when_it_is_resolved() {
        let first = frozen();
        let mut later = frozen();
        later.severity = failsafe_core::decision::Severity::Info;
        (later.standing, later.resolved, later.update) = ("thawed".into(), true, true);
        let (a, b) = (alert(&first, first.at_ns), alert(&later, later.at_ns + 5));
        assert_eq!(a["labels"], b["labels"]);
        assert_eq!(a["labels"]["severity"], "critical");
        assert_eq!(a["startsAt"], b["startsAt"]);
        assert_eq!(a["endsAt"], time(first.at_ns + LASTS));
        assert_eq!(b["endsAt"], time(later.at_ns + 5));
    }
}
