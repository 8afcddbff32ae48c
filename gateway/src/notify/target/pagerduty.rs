//! PagerDuty, Events API v2. An incident is one alert there: the key of the message is its `dedup_key`, together with the node.

use super::{Delivery, Target};
use crate::notify::message::{Message, severity, time};
use anyhow::{Context, Result};
use hyper::header::HeaderMap;
use serde_json::{Value, json};

/// Where events are sent unless `url` is set.
pub const URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Longest summary that PagerDuty takes, in characters.
const SUMMARY: usize = 1_024;

fn event(message: &Message, routing_key: &str) -> Value {
    let action = if message.resolved { "resolve" } else { "trigger" };
    let key = format!("failsafe/{}/{}", message.node, message.key);
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": action,
        // It takes 255 characters.
        "dedup_key": key.chars().take(255).collect::<String>(),
        "client": "failsafe",
    });
    if !message.resolved {
        event["payload"] = json!({
            "summary": message.summary.chars().take(SUMMARY).collect::<String>(),
            "source": message.node,
            "severity": severity(message.severity),
            "timestamp": time(message.at_ns),
            "component": message.run.as_ref().map_or("node", |run| run.name.as_str()),
            "class": message.rule.as_deref().unwrap_or(&message.standing),
            "custom_details": super::super::json(message),
        });
    }
    event
}

impl Target {
    pub(super) async fn pagerduty(&self, message: &Message) -> Result<Delivery> {
        let key = self.secret.as_ref().context("there is no routing key")?.read()?;
        let key = String::from_utf8(key).ok().context("secret_file: expected text")?;
        self.post_event(&event(message, &key)).await
    }

    async fn post_event(&self, event: &Value) -> Result<Delivery> {
        self.post("application/json", HeaderMap::new(), serde_json::to_vec(event)?, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::tests::frozen;

    #[test]
    fn an_incident_is_triggered_and_resolved_under_one_key() {
        let mut message = frozen();
        let trigger = event(&message, "R0");
        assert_eq!(
            (&trigger["event_action"], &trigger["payload"]["severity"]),
            (&json!("trigger"), &json!("critical"))
        );
        message.resolved = true;
        let resolve = event(&message, "R0");
        assert_eq!(resolve["event_action"], "resolve");
        assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
        assert_eq!(trigger["dedup_key"], "failsafe/node7/inc-5f0c9a1b2c3d-1");
        message.summary = "ü".repeat(5_000);
        message.resolved = false;
        let long = event(&message, "R0");
        assert_eq!(long["payload"]["summary"].as_str().unwrap().chars().count(), SUMMARY);
    }
}
